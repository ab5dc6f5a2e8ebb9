"""Files of any kind: what is none, all below a folder, small ones of JSON, and writing one whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import re
import secrets
import stat
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

from .errors import CheckpointError, place, reason, shown, some

# Far beyond any file of settings: what is more was made to fill the memory of whoever opens it.
MAX_SETTINGS = 20_000  # entries of a config or schedule
MAX_JSON = 2**22  # bytes

# What a name on disk may be besides a file or folder. Opening a pipe waits, reading a device may never end.
KINDS = {
    stat.S_ISDIR: "a folder",
    stat.S_ISFIFO: "a pipe",
    stat.S_ISSOCK: "a socket",
    stat.S_ISCHR: "a device",
    stat.S_ISBLK: "a device",
}


def only_file(path: str | os.PathLike) -> None:
    """Refuse to open, or to write over, what is there and no file: a pipe, a device, a folder. Raises OSError."""
    if os.path.exists(path) and (told := no_file(path)) is not None:
        raise OSError(errno.EINVAL, f"it {told[told.rindex(' is ') + 1 :]}", str(path))


def no_file(path: str | os.PathLike, or_folder: bool = False) -> str | None:
    """Why a path is no file that can be read, the beginning of a sentence ("x is a pipe, no file"); None: it is one.

    or_folder: a folder will do as well. Nothing is opened. Links are followed.
    """
    try:
        mode = os.stat(path).st_mode
    except (FileNotFoundError, NotADirectoryError):
        return f"{place(path)} does not exist"
    except (OSError, ValueError) as error:  # a ring of links, a name too long or with a NUL in it
        return f"{place(path)} cannot be read: {reason(error)}"
    kind = next((kind for is_kind, kind in KINDS.items() if is_kind(mode)), None)
    if kind is None or (or_folder and stat.S_ISDIR(mode)):
        return None
    return f"{place(path)} is {kind}, no file{' or folder' if or_folder else ''}"


def parse(text: bytes, most: int):
    """JSON of at most so many entries. Raises ValueError or RecursionError, and costs little where it does."""
    if sum(text.count(mark) for mark in (b",", b"[", b"{")) > most:
        raise ValueError("more entries than anything has")
    return json.loads(text)


def read_json(path: str | os.PathLike, remedy: str = "download or save it again") -> dict:
    """A small file of JSON, an object. remedy: what to do about one that is damaged.

    Raises CheckpointError with one sentence: missing, no file, unreadable, not JSON, or more than any settings are.
    """
    path = Path(path)
    if (told := no_file(path)) is not None:
        raise CheckpointError(f"{told}; give the file that belongs there.")
    try:
        with path.open("rb") as file:
            text = file.read(MAX_JSON + 1)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}.") from error
    try:
        if len(text) > MAX_JSON:
            raise ValueError(f"more than {MAX_JSON:,} bytes")
        values = parse(text, MAX_SETTINGS)
    except RecursionError as error:
        raise CheckpointError(f"{path} is not valid JSON (nested too deeply); {remedy}.") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not valid JSON ({some([reason(error)])}); {remedy}.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"{path} holds {shown(values)} and no settings by their names; {remedy}.")
    return values


def refuse_onto(target: str | os.PathLike, *inputs: str | os.PathLike) -> None:
    """Refuse to write onto a file that is read, or onto one of a folder that is, however the two are spelt; and onto
    what is no file.

    Raises CheckpointError with one sentence.
    """
    target = Path(target)
    if not target.exists():
        return
    if (told := no_file(target, or_folder=True)) is not None:
        raise CheckpointError(f"{told}, and would be written over; choose another name.")
    for given in map(Path, inputs):
        inside = given.is_dir() and target.resolve().is_relative_to(given.resolve())
        if inside or (given.exists() and target.samefile(given)):
            raise CheckpointError(f"{target} is what is read, and would be written over; choose another name.")


SUFFIX = ".dreamfactory.tmp"
TEMPORARY = re.compile(r"\.(?P<target>.+)\.\w{8}" + re.escape(SUFFIX))


@contextmanager
def whole(path: str | os.PathLike) -> Iterator[Path]:
    """A file beside `path` that takes its place at the end. Nothing is left of it where an error is raised; a killed
    process leaves a hidden file whose name `TEMPORARY` matches, which the next one to write there sweeps away. Raises
    OSError."""
    path = Path(path)
    only_file(path)
    _sweep(path.parent)
    # A name of its own, because another process may be writing the same target; of 255 bytes as any other.
    start = path.name.encode(errors="surrogateescape")[:225].decode(errors="ignore")
    temporary, locked = path.with_name(f".{start}.{secrets.token_hex(4)}{SUFFIX}"), None
    try:  # before there is a file: SIGTERM may come between any two lines
        handle = os.open(temporary, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        if _lock(handle):  # for as long as the handle is open
            locked = handle
        else:
            os.close(handle)
        yield temporary
        os.chmod(temporary, 0o666 & ~umask())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
        if locked is not None:
            os.close(locked)


_SWEPT: set[Path] = set()


def _sweep(folder: Path) -> None:
    """Take away what killed processes left in a folder, once; what others are writing now is locked."""
    if fcntl is None or folder in _SWEPT:
        return
    _SWEPT.add(folder)
    for left in folder.glob(f".*{SUFFIX}"):
        if TEMPORARY.fullmatch(left.name):
            with suppress(OSError), left.open("r+b") as file:
                if _lock(file.fileno()):
                    left.unlink(missing_ok=True)


def _lock(handle: int) -> bool:
    """Whether an open file could be locked; where there are no locks (Windows, some shares) it cannot."""
    if fcntl is None:
        return False
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def umask() -> int:
    """What files made by this process do not allow to others."""
    mask = os.umask(0)
    os.umask(mask)
    return mask


SAMPLE = 2**20  # bytes read of each end of a file


def fingerprint(path: str | Path, *options: object) -> str:
    """Of a file or folder: names, sizes and both ends of its files. Whole encoders are too long to read for this."""
    path = Path(path)
    digest = hashlib.blake2b(repr(options).encode(), digest_size=16)
    if not path.is_dir():
        only_file(path)
    files = sorted(p for p in path.rglob("*") if p.is_file()) if path.is_dir() else [path]
    for file in files:
        size = file.stat().st_size
        digest.update(f"{file.relative_to(path) if path.is_dir() else file.suffix} {size}".encode())
        with file.open("rb") as data:
            digest.update(data.read(SAMPLE))
            data.seek(max(0, size - SAMPLE))
            digest.update(data.read(SAMPLE))
    return digest.hexdigest()


def is_hidden(label: str) -> bool:
    """Whether a name, or a folder in it, begins with a dot: no data of the user's."""
    return any(part.startswith(".") for part in Path(label).parts)


def files_below(
    root: Path, skip: Callable[[Path], bool] | None = None, unreadable: Callable[[OSError], None] | None = None
) -> Iterator[Path]:
    """All files below a folder, sorted. Links to folders are followed, once.

    skip: whether a folder below is left alone, asked of each once. unreadable: told of each folder that cannot be
    listed, which otherwise is as one that is empty.
    """
    seen = set()
    for folder, inner, names in os.walk(root, followlinks=True, onerror=unreadable):
        real = os.path.realpath(folder)
        if real in seen:
            inner.clear()
            continue
        seen.add(real)
        inner[:] = [n for n in sorted(inner) if skip is None or not skip(Path(folder, n))]
        yield from (Path(folder, n) for n in sorted(names))
