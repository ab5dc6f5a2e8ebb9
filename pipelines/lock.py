"""A folder that one process at a time writes to."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from filelock import FileLock, Timeout

from ..files import only_file


@contextmanager
def sole(path: Path) -> Iterator[None]:
    """Hold a lock file; the system lets it go with the process, killed or not. Raises BlockingIOError if another
    process holds it, OSError if it cannot be made."""
    only_file(path)
    lock = FileLock(path, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise BlockingIOError(f"{path} is held by another process") from error
    try:
        yield
    finally:
        lock.release()
