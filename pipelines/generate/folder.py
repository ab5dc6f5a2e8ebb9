"""The folder of a list of clips: what is done already, what it was begun with, and the index of it all.

A clip is done when its mp4 is there, which comes last and whole, and says that it was made as it is asked for now. So a
killed run goes on by looking; nothing else is kept but `run.json`, the networks and settings that all clips share.
"""

from __future__ import annotations

import json
import os
from collections.abc import Collection, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from PIL import Image
from PIL.PngImagePlugin import PngInfo
from torch import Tensor

from ...errors import InputError, reason, some
from ...files import MAX_SETTINGS, TEMPORARY, no_file, parse, read_json, whole
from ..lock import sole
from ..media.files import is_whole, kept_settings, read_settings
from ..media.sheets import save_image, to_uint8

INDEX, RUN, LOCK = "index.jsonl", "run.json", ".lock"
NOTE = "dreamfactory"  # under which a picture keeps how it was made


class ClipFolder:
    """Where the clips of a list go. main: whether this process is the one that keeps order."""

    def __init__(self, path: str | Path, main: bool = True, files: Collection[str] = ()) -> None:
        """files: the names of all that is to be made."""
        self.path, self.main, self.files = Path(path), main, {RUN, INDEX, *files}
        self._read, self._lines = 0, 0  # of the index: bytes seen, and lines in them

    def begun(self, run: dict) -> dict:
        """Refuse a folder that holds another run's clips; returns the run as it was begun, or else this one.

        run: what all clips share; {} only reads. A batch of None was not asked for: it is then as it was.
        """
        before = self._begun()
        if before is not None:
            for key in {**before, **run} if run else ():
                was, value = before.get(key), run.get(key)
                if was == value or (key == "batch" and value is None):
                    continue
                raise InputError(
                    f"{self.path} holds clips of {_other(key, was, value)}; choose another --out, or make them as they "
                    "were."
                )
        return before or run

    @contextmanager
    def held(self, run: dict) -> Iterator[None]:
        """Nobody else's while the clips are made; run: written down. What a killed run left half-written goes."""
        if not self.main:
            yield
            return
        with ExitStack() as stack:
            try:
                self.path.mkdir(parents=True, exist_ok=True)
                stack.enter_context(sole(self.path / LOCK))
                for left in self.path.glob(".*.tmp"):
                    found = TEMPORARY.fullmatch(left.name)
                    if found is not None and found["target"] in self.files:
                        left.unlink()
            except BlockingIOError as error:
                raise InputError(
                    f"another run is writing to {self.path}; wait for it, or choose another --out."
                ) from error
            except OSError as error:
                raise InputError(f"{self.path} cannot be written: {reason(error)}; choose another place.") from error
            _write(self.path / RUN, json.dumps(run, indent=2).encode() + b"\n")
            yield

    def _begun(self) -> dict | None:
        for name in sorted({INDEX, LOCK, *self.files}):  # a pipe would be waited for
            if (self.path / name).exists() and (told := no_file(self.path / name)) is not None:
                raise InputError(f"{told}; choose another --out.")
        if not os.path.lexists(self.path / RUN):
            inside = sorted(path.name for path in self.path.iterdir()) if self.path.is_dir() else []
            foreign = [name for name in inside if name.endswith(".mp4") or name in self.files]
            if foreign:
                raise InputError(f"{self.path} holds {foreign[0]} and no {RUN}; choose a folder of its own.")
            return None
        values = read_json(self.path / RUN, "choose another --out, or delete it")
        batch = values.get("batch")
        if not isinstance(batch, int) or batch < 1:
            raise InputError(f"{self.path / RUN} is damaged; choose another --out, or delete it.")
        return values

    # -- the index

    def rewrite(self, rows: list[dict]) -> None:
        """The index anew, in the order of the list."""
        if self.main:
            _write(self.path / INDEX, b"".join(_line(row) for row in rows))

    def add(self, row: dict) -> None:
        """One more line at the end, by one write: processes share the index."""
        try:
            handle = os.open(self.path / INDEX, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
            try:
                os.write(handle, _line(row))
            finally:
                os.close(handle)
        except OSError as error:
            raise InputError(f"{self.path / INDEX} cannot be written: {reason(error)}.") from error

    def count(self) -> int:
        """Lines of the index, by all processes."""
        with open(self.path / INDEX, "rb") as file:
            file.seek(self._read)
            new = file.read()
        self._read, self._lines = self._read + len(new), self._lines + new.count(b"\n")
        return self._lines

    def rows(self) -> dict[str, dict]:
        """The newest line of every file."""
        try:
            # Not splitlines: captions may hold other separators of lines; a kill may cut a letter through.
            lines = (self.path / INDEX).read_text("utf-8", "replace").split("\n")
        except FileNotFoundError:
            return {}
        found = {}
        for line in lines:
            try:
                row = parse(line.encode(), MAX_SETTINGS)
                found[row["file"]] = row
            except (ValueError, KeyError, TypeError, RecursionError):
                continue  # cut through by a kill; its clip is looked for on the disk
        return found


def _other(key: str, was: object, value: object) -> str:
    """What is another than it was, in words."""
    if key == "weights":
        before, here = (files if isinstance(files, dict) else {} for files in (was, value))
        changed = next((file for file in here if before.get(file) != here[file]), "a file that is not used now")
        return f"other weights: {changed} has changed since"
    return f"another {some([key.replace('_', ' ')])} ({_short(was)}, here {_short(value)})"


def is_made(path: Path, record: dict) -> bool:
    """Whether a clip is there whole, made as it is asked for. Raises InputError where another one is."""
    if not path.exists() or not is_whole(path):  # a run leaves whole files only; a copy may have been cut short
        return False
    return _same(path, read_settings(path), record)


def is_drawn(path: Path, record: dict) -> bool:
    """The same of a picture."""
    if not path.exists():
        return False
    try:
        with Image.open(path) as file:
            kept = kept_settings(file.info.get(NOTE))
    except (OSError, ValueError):
        kept = {}
    return _same(path, kept, record)


def save_picture(path: Path, image: Tensor, record: dict) -> None:
    """A picture (3, h, w) in [0, 1] as PNG, with how it was made."""
    told = PngInfo()
    told.add_itxt(NOTE, json.dumps(record))
    save_image(Image.fromarray(to_uint8(image)), path, pnginfo=told)


def _same(path: Path, kept: dict, record: dict) -> bool:
    wanted = json.loads(json.dumps(record))
    if kept == wanted:
        return True
    if not kept:
        raise InputError(f"{path} does not say how it was made; choose another --out, or delete it.")
    key = next((k for k in {**kept, **wanted} if kept.get(k) != wanted.get(k)), "")
    was, now = _short(kept.get(key)), _short(wanted.get(key))
    if key.endswith("image_fingerprint"):
        raise InputError(f"{path} was made from a picture that has changed since; choose another --out, or delete it.")
    name = some([key.replace("_", " ")])
    raise InputError(f"{path} was made with another {name} ({was}, here {now}); choose another --out, or delete it.")


def _short(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 60 else text[:57] + "..."


def _line(row: dict) -> bytes:
    # Names of files may hold bytes that are no text; a backslash and their number is JSON as well.
    return json.dumps(row, ensure_ascii=False).encode(errors="backslashreplace") + b"\n"


def _write(path: Path, data: bytes) -> None:
    try:
        with whole(path) as temporary:
            temporary.write_bytes(data)
    except OSError as error:
        raise InputError(f"{path} cannot be written: {reason(error)}.") from error
