"""A folder that one process at a time writes to."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ..files import only_file, umask


@contextmanager
def sole(path: Path) -> Iterator[None]:
    """Hold a lock file; the system lets it go with the process, killed or not, wherever it knows locks. Raises
    BlockingIOError if another process holds it, OSError if it cannot be made."""
    only_file(path)
    lock = FileLock(path, timeout=0, mode=0o666 & ~umask())  # the next user of a shared folder holds it as well
    try:
        lock.acquire()
    except Timeout as error:
        raise BlockingIOError(errno.EWOULDBLOCK, "another process holds it", str(path)) from error
    except NotImplementedError as error:  # how older versions of filelock say that a filesystem knows no locks
        raise OSError(errno.ENOLCK, "no locks are known there", str(path)) from error
    try:
        yield
    finally:
        lock.release()
