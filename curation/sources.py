"""SOURCES, as videos by name: `read_sources`.

folder   videos anywhere below it, whatever they are called (pipelines/media/kinds.py)
video    itself
list     a .txt, one path a line; empty lines and those that begin with # are none
table    a .jsonl, .csv or .parquet whose rows name a video by file_name, path or video; other columns come along

Paths of a list or table are relative to it. A video without a caption of its own has that of the .txt or .json beside
it. Every file that is found and every row is a source or passed over with a reason. What a row names is a source
whether it is there or not: it fails later, and by its name.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

from ..errors import InputError, place, reason, shown, some
from ..files import files_below, is_hidden, no_file, only_file
from ..pipelines import tables
from ..pipelines.media.kinds import media_in, media_of
from ..pipelines.media.sidecars import CAPTIONS, NoCaption, sidecar_captions, tidy
from .words import LONGEST

FILE_COLUMNS = ("file_name", "path", "video")  # what names the video, the first that a row has
EXPECTED = "give a folder of videos, a video, a list of paths (.txt) or a table (.jsonl, .csv, .parquet)"
CHUNK = 2**20  # bytes
LARGEST = 2**20  # bytes of a file with a caption
HIDDEN = "hidden: its name begins with a dot"
FOLDERS = 1024  # whose names are kept at a time: the captions of a list are looked for in them


@dataclass(frozen=True)
class Listed:
    """A source. There may be no such file."""

    label: str  # below SOURCES, or as the list spells it; no other source has it. UTF-8 can write it
    path: Path
    # Of the table, and "caption": texts, numbers, truth values, None. Lists and tables within are JSON, of bytes their
    # number is told, and what is no number is None.
    columns: dict[str, Any] = field(default_factory=dict, hash=False)


class PassedOver(NamedTuple):
    label: str
    reason: str  # "kind of reason: what exactly"


class Sources(NamedTuple):
    listed: list[Listed]  # by label
    passed_over: list[PassedOver]  # also captions that cannot be read


def read_sources(sources: str | os.PathLike, leave: Path | None = None) -> Sources:
    """Videos, in an order that is the same on every machine, and all else.

    leave: the folder that the set is written to. What lies in it is no source, unless SOURCES lies in it as a whole.

    Raises InputError with one sentence: SOURCES is missing, cannot be read, is `leave`, or has no videos.
    """
    if not os.fspath(sources).strip():  # a variable that is not set; it would be the current folder
        raise InputError(f"SOURCES is empty; {EXPECTED}.")
    path = Path(sources)
    if (told := no_file(path, or_folder=True)) is not None:
        raise InputError(f"{_within(path) or told}; {EXPECTED}.")
    found = _Finder(path, _inside(path, leave))
    if path.is_dir():
        found.folder()
    elif path.suffix.lower() == ".txt":
        found.rows((number, {"path": line}) for number, line in _lines(path))
    elif path.suffix.lower() in tables.KINDS:
        found.rows(tables.rows(path))
    else:
        found.video()
    if not found.listed:
        raise _nothing(path, found.passed_over)
    return Sources(sorted(found.listed, key=lambda listed: listed.label), found.passed_over)


def key(listed: Listed) -> str:
    """32 hexadecimal digits that change with a source's name, size or time; a missing one has some too."""
    try:
        state = os.stat(listed.path)
        seen = (state.st_size, state.st_mtime_ns)
    except (OSError, ValueError):  # a NUL in the name
        seen = None
    return hashlib.blake2b(repr((listed.label, seen)).encode(), digest_size=16).hexdigest()


def content_id(path: str | os.PathLike, step: Callable[[], object] = lambda: None) -> str:
    """40 hexadecimal digits of all bytes of a file. step: called with every piece of it, to show that work goes on.
    Raises OSError, of a pipe, device or folder too."""
    only_file(path)
    digest = hashlib.blake2b(digest_size=20)
    with open(path, "rb", buffering=0) as file:
        while chunk := file.read(CHUNK):
            digest.update(chunk)
            step()
    return digest.hexdigest()


class _Finder:
    """What SOURCES holds, as it is found."""

    def __init__(self, path: Path, leave: Path | None) -> None:
        self.path, self.leave = path, leave
        self.listed: list[Listed] = []
        self.passed_over: list[PassedOver] = []
        self.labels: set[str] = set()
        self.names_in = lru_cache(FOLDERS)(_names_in)
        self.is_output = lru_cache(FOLDERS)(self._is_output)

    def video(self) -> None:
        """SOURCES is a file."""
        kind = _kind(self.path)
        if kind == "video":
            self.add(self.path.name, self.path, {})
        else:
            self.pass_over(self.path.name, "text: it is no list, which is called .txt" if kind == "text" else kind)

    def folder(self) -> None:
        """SOURCES is one."""
        files = {self.label(file): file for file in files_below(self.path, self.skip, self.unreadable)}
        kinds = {label: HIDDEN if is_hidden(file.name) else _kind(file) for label, file in files.items()}
        stems = {label[: len(label) - len(files[label].suffix)] for label, kind in kinds.items() if kind == "video"}
        for label, kind in kinds.items():
            if kind == "video":
                self.add(label, files[label], {})
            elif kind != "text":
                self.pass_over(label, kind)
            elif not any(label.endswith(e) and label[: -len(e)] in stems for e in CAPTIONS):
                self.pass_over(label, "text: no video of its name lies beside it")
        self.passed_over.sort()

    def rows(self, rows: Iterable[tuple[int, tables.Row]]) -> None:
        """SOURCES is a list or a table."""
        row_of: dict[str, int] = {}
        for number, row in rows:
            where = f"{self.path.name}:{number}"
            if isinstance(row, str):
                self.pass_over(where, f"no row: {row}")
                continue
            column = next((c for c in FILE_COLUMNS if isinstance(row.get(c), str) and row[c].strip()), None)
            if column is None:
                self.pass_over(where, f"no file: {_nameless(row)}")
                continue
            given = Path(row[column].strip())
            file, label = self.path.parent / given, given.as_posix()
            first = row_of.setdefault(os.path.normcase(os.path.normpath(file)), number)
            if first != number:
                self.pass_over(where, f"twice: row {first} names {label} already")
            elif media_of(file.suffix.lower()) == "image":
                self.pass_over(where, f"picture: {label} is no video")
            elif self.is_output(file.parent):
                self.pass_over(where, f"output: {label} lies where the set is written to")
            else:
                self.add(label, file, {_text(str(c)): _plain(value) for c, value in row.items() if c != column})

    def add(self, label: str, file: Path, columns: dict[str, Any]) -> None:
        """A source, with the caption beside it where it has none of its own."""
        label = _text(label)
        if label in self.labels:  # of names that are no text
            self.pass_over(label, "twice: the name of another is written in the same way")
            return
        self.labels.add(label)
        if not tidy(columns.get("caption")) and (caption := self.caption(label, file)):
            columns["caption"] = caption
        self.listed.append(Listed(label, file, columns))

    def caption(self, label: str, file: Path) -> str:
        """From the .txt or .json beside a video; "": there is none."""
        names = self.names_in(file.parent)
        for ending in (".txt", ".json"):
            name = file.stem + ending
            if names is not None and name not in names:
                continue
            beside = file.parent / name
            if beside in (file, self.path):
                continue
            try:
                raw = _bytes(beside)
                if raw is not None:
                    text = sidecar_captions(file.stem, {ending: raw}.get)[0]
                    if len(text) > LONGEST:
                        raise NoCaption(f"no caption: {name} has {len(text):,} characters, more than {LONGEST:,}")
                    return _text(text)
            except NoCaption as error:
                self.pass_over(label[: len(label) - len(file.suffix)] + ending, str(error))
        return ""

    def pass_over(self, label: str, why: str) -> None:
        self.passed_over.append(PassedOver(_text(label), _text(why)))

    def label(self, file: Path) -> str:
        return file.relative_to(self.path).as_posix()

    def skip(self, folder: Path) -> bool:
        """Whether a folder is told of and left alone."""
        if is_hidden(folder.name):
            self.pass_over(self.label(folder), f"{HIDDEN}, and nothing in it is looked at")
        elif self.is_output(folder):
            self.pass_over(self.label(folder), "output: the set is written there")
        else:
            return False
        return True

    def unreadable(self, error: OSError) -> None:
        folder = Path(error.filename or self.path)
        if folder == self.path:
            raise InputError(f"{place(folder)} cannot be read: {reason(error)}; {EXPECTED}.") from error
        self.pass_over(self.label(folder), f"unreadable folder: {reason(error)}")

    def _is_output(self, folder: Path) -> bool:
        try:
            return self.leave is not None and Path(os.path.realpath(folder)).is_relative_to(self.leave)
        except (OSError, ValueError):  # no folder has such a name
            return False


def _inside(path: Path, leave: Path | None) -> Path | None:
    """The folder to leave alone; None: there is none, or the sources lie in it."""
    if leave is None:
        return None
    sources, real = Path(os.path.realpath(path)), Path(os.path.realpath(leave))
    if sources == real:
        raise InputError(f"{place(path)} is where the set is to be written to as well; give the set another folder.")
    return None if sources.is_relative_to(real) else real


def _kind(file: Path) -> str:
    """video; text, which may be a caption; or why a file is neither."""
    suffix = file.suffix.lower()
    try:
        mode = os.stat(file).st_mode
    except OSError as error:
        if os.path.islink(file):
            return "missing file: the link leads nowhere"
        return "video" if media_of(suffix) == "video" else f"unreadable: {reason(error)}"
    if not stat.S_ISREG(mode):
        return "no regular file: a pipe or device is not read"
    if suffix in (".txt", ".json"):
        return "text"
    if suffix in tables.KINDS:
        return "table: give it in place of the folder, and its rows are the sources"
    if suffix == ".tar":
        return "archive: what is in it is not looked at; unpack it"
    kind = media_in(file)
    if kind == "image":
        return "picture: it is no video"
    if kind is None and not os.access(file, os.R_OK):
        return "unreadable: it may not be opened"
    return kind or "no video: what it holds is none"


def _lines(path: Path) -> Iterator[tuple[int, str]]:
    """The paths of a list, by their lines. Raises InputError."""
    try:
        for number, line in enumerate(tables.lines(path), start=1):
            if line.strip() and not line.lstrip().startswith("#"):
                yield number, line.strip()
    except OSError as error:
        raise InputError(f"{place(path)} cannot be read: {reason(error)}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{place(path)} cannot be read ({error}); save it as UTF-8.") from error


def _names_in(folder: Path) -> frozenset[str] | None:
    """None: they cannot be told, and files have to be asked for."""
    try:
        return frozenset(os.listdir(folder))
    except (FileNotFoundError, NotADirectoryError, ValueError):
        return frozenset()
    except OSError:
        return None


def _bytes(beside: Path) -> bytes | None:
    """Of a caption's file; None: there is none. Raises NoCaption."""
    if (told := no_file(beside)) is not None:
        if not os.path.exists(beside) and not os.path.islink(beside):
            return None
        raise NoCaption(f"no caption: {told}")
    try:
        with open(beside, "rb") as file:
            raw = file.read(LARGEST + 1)
    except OSError as error:
        raise NoCaption(f"no caption: {beside.name} cannot be read ({reason(error)})") from error
    if len(raw) > LARGEST:
        raise NoCaption(f"no caption: {beside.name} has more than {LARGEST:,} bytes")
    return raw


def _nameless(row: dict[str, Any]) -> str:
    """Why a row names no video."""
    column = next((column for column in FILE_COLUMNS if column in row), None)
    if column is None:
        has = some(list(map(str, row)), 6) or "nothing"
        told = f"the row has no file_name, path or video, only {has}"
        return f"{told}; {hint}" if (hint := tables.parted(list(map(str, row)))) else told
    value = row[column]
    if value is None or (isinstance(value, str) and not value.strip()):
        return f"the row's {column} is empty"
    return f"the row's {column} is {shown(value)}, which is no text"


def _within(path: Path) -> str | None:
    """The beginning of a sentence on a path that goes on after a file; None: it does not."""
    try:
        file = next((above for above in path.parents if above.is_file()), None)
    except (OSError, ValueError):
        return None
    return None if file is None else f"{place(path)} does not exist: {place(file)} is a file, no folder"


def _plain(value: object) -> str | int | float | bool | None:
    """What parquet, JSON and a page can all show."""
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int) and abs(value) < 2**63:
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, list | tuple | dict):
        try:
            return _text(json.dumps(value, ensure_ascii=False, default=str))
        except RecursionError:
            return f"a {type(value).__name__}"
    return _text(str(value))


def _text(words: str) -> str:
    """What UTF-8 cannot write, which names on disk and JSON may have, in its place spelt out."""
    return words.encode(errors="backslashreplace").decode()


def _nothing(path: Path, passed_over: list[PassedOver]) -> InputError:
    """One sentence that says what is there instead of videos."""
    first: dict[str, PassedOver] = {}
    for over in passed_over:
        first.setdefault(over.reason.partition(":")[0], over)
    counts = Counter(over.reason.partition(":")[0] for over in passed_over)
    told = [
        f"{count} × {kind} ({place(first[kind].label)}: {place(first[kind].reason.partition(': ')[2])})"
        for kind, count in counts.most_common(4)
    ]
    return InputError(
        f"{place(path)} has no video to curate; {EXPECTED}; found instead: {', '.join(told) or 'nothing at all'}."
    )
