"""What a user has on disk, as a list of captioned files: `read_records`.

folder      videos and images anywhere below it, each with its caption beside it: clip.mp4 and clip.txt (clip.motion.txt
            where the motion has words of its own), or clip.json with "text" or "caption", and "motion"
metadata    a table with a row for each file, see metadata.py
webdataset  tar shards, see shards.py

Every file that is found is a record, or a caption of one, or left out with a reason. Files whose names do not tell
what they are (kinds.py) and captions are opened here; whether a video can be read is found out by probing.py.
"""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from ...errors import TrainingError
from ...pipelines.media.kinds import media_in, media_of
from ..config import SourceConfig

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")


@dataclass(frozen=True)
class Record:
    """A captioned video or image. `name` tells it from all others of its source, wherever the source lies."""

    name: str
    path: Path
    offset: int  # of its first byte in `path`: members of a tar lie inside it
    size: int | None  # bytes from there; None: the whole file
    media: str  # video | image
    text: str
    motion: str
    suffix: str  # ".mp4"


@dataclass(frozen=True)
class LeftOut:
    file: str
    reason: str  # "kind of reason: what exactly"


class Found(NamedTuple):
    records: list[Record]
    left_out: list[LeftOut]
    captions: int  # files that hold the words of others, and tables

    @property
    def count(self) -> int:
        """Of all files (of a table: rows, and files beside it)."""
        return len(self.records) + len({left.file for left in self.left_out}) + self.captions


class NoCaption(ValueError):
    """Why a file has none."""


def read_records(name: str, source: SourceConfig) -> Found:
    """The files of `[sources.name]` in a fixed order, and those that cannot be used. No file at all: TrainingError."""
    from .metadata import read_metadata
    from .shards import read_shards

    path = Path(source.path).expanduser()
    kind = _kind(name, source, path)
    if kind == "folder":
        found = _folder(path, source.uncaptioned)
    elif kind == "metadata":
        found = read_metadata(name, path, source)
    else:
        found = read_shards(name, str(path), source.uncaptioned)
    if not found.records:
        raise nothing_usable(name, path, found.left_out)
    return found


def nothing_usable(name: str, path: Path, left_out: list[LeftOut]) -> TrainingError:
    found = "nothing of that kind is there"
    if left_out:
        kinds = [left.reason.partition(":")[0] for left in left_out]
        usual = left_out[kinds.index(max(kinds, key=kinds.count))]
        found = f"{len(left_out)} were left out, most of them as {usual.file}, {usual.reason}"
    return TrainingError(
        f"sources.{name}: {path} has nothing to train on; expected videos or images with captions, as clip.mp4 beside "
        f"clip.txt, a metadata.jsonl, or tar shards; {found}."
    )


def _kind(name: str, source: SourceConfig, path: Path) -> str:
    if path.is_dir():
        if source.kind != "auto":
            return source.kind
        if any((path / m).exists() for m in METADATA):
            return "metadata"
        shards = any(path.glob("*.tar"))
        return "webdataset" if shards and not any(_has_words(path, file) for file in files_below(path)) else "folder"
    if source.kind == "folder":
        raise TrainingError(f"sources.{name}.path {path} is no folder; give the folder of videos and their captions.")
    if path.suffix == ".tar" or any(c in str(path) for c in "{*?["):
        return "webdataset"
    if not path.exists():
        raise TrainingError(f"sources.{name}.path {path} does not exist; give a folder, a metadata file or shards.")
    if path.suffix.lower() in (".jsonl", ".csv", ".parquet"):
        return "metadata"
    raise TrainingError(
        f"sources.{name}.path {path} is a {path.suffix or 'file without suffix'}; give a folder, a metadata file "
        "(.jsonl, .csv, .parquet) or .tar shards."
    )


def _has_words(root: Path, file: Path) -> bool:
    """Whether a file is a clip with a caption beside it: a folder that has one is no folder of shards."""
    if media_of(file.suffix.lower()) is None or is_hidden(file.relative_to(root).as_posix()):
        return False
    return any(file.with_name(file.stem + ending).exists() for ending in CAPTIONS)


def is_hidden(label: str) -> bool:
    """Whether a name, or a folder in it, begins with a dot: no data of the user's."""
    return any(part.startswith(".") for part in Path(label).parts)


def decoded(raw: bytes) -> str:
    """Text in UTF-8, or UTF-16 where it begins by saying so. Raises UnicodeDecodeError."""
    return raw.decode("utf-16" if raw.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) else "utf-8-sig")


def tidy(caption: object) -> str:
    """One line without needless space; what is no text has none."""
    return " ".join(caption.split()) if isinstance(caption, str) else ""


def sidecar_captions(stem: str, read: Callable[[str], bytes | None]) -> tuple[str, str]:
    """(text, motion) from the files beside a video; `read` gives the bytes of stem + suffix, or None. NoCaption."""

    def words(suffix: str) -> str | None:
        raw = read(suffix)
        if raw is None:
            return None
        try:
            return decoded(raw)
        except UnicodeDecodeError as error:
            raise NoCaption(f"no caption: {stem}{suffix} is no UTF-8 text") from error

    stated, text, motion = words(".json"), words(".txt"), words(".motion.txt")
    said = {}
    if stated is not None:
        try:
            said = json.loads(stated)
        except (ValueError, RecursionError) as error:
            raise NoCaption(f"no caption: {stem}.json is no valid JSON") from error
        said = said if isinstance(said, dict) else {}
    caption = tidy(text) or tidy(said.get("text")) or tidy(said.get("caption"))
    if not caption:
        if text is None and stated is None:
            raise NoCaption(f"no caption: there is no {stem}.txt or {stem}.json")
        where = f"{stem}.txt is empty" if stated is None else f'{stem}.json has no "text" or "caption"'
        raise NoCaption(f"no caption: {where}")
    return caption, tidy(motion) or tidy(said.get("motion")) or caption


# -- folders -------------------------------------------------------------------------------------------------------


CAPTIONS = (".motion.txt", ".txt", ".json")  # what may lie beside a file, the longest ending first


def _folder(root: Path, uncaptioned: bool) -> Found:
    records, left_out, captions = [], [], 0
    files = {file.relative_to(root).as_posix(): file for file in files_below(root)}
    kinds = {label: _kind_of(label, file) for label, file in files.items()}
    media = {label: kind for label, kind in kinds.items() if kind in ("video", "image")}
    stems = {_stem(label) for label in media}
    videos = {_stem(label) for label, kind in media.items() if kind == "video"}
    for label, file in files.items():
        kind, suffix = kinds[label], file.suffix.lower()
        if kind not in ("video", "image"):
            ending = next((e for e in CAPTIONS if label.endswith(e)), None)
            if kind is None and ending and label[: -len(ending)] in stems:
                captions += 1
            elif kind is None and ending:
                left_out.append(LeftOut(label, "caption alone: no video or image of its name lies beside it"))
            else:
                left_out.append(LeftOut(label, kind or "no video or image: what it holds is neither"))
            continue
        if kind == "image" and _stem(label) in videos:
            left_out.append(LeftOut(label, "thumbnail: a video of the same name lies beside it"))
            continue
        try:
            text, motion = sidecar_captions(file.stem, lambda ending, file=file: _bytes(file, ending))
        except NoCaption as error:
            if not uncaptioned:
                left_out.append(LeftOut(label, str(error)))
                continue
            text = motion = ""
        records.append(Record(label, file, 0, None, kind, text, motion, suffix))
    return Found(records, left_out, captions)


def _stem(label: str) -> str:
    return label[: len(label) - len(Path(label).suffix)]


def _kind_of(label: str, file: Path) -> str | None:
    """video | image | why a file is neither; None: a text, or what no decoder opens."""
    if is_hidden(label):
        return "hidden: its name or folder begins with a dot"
    if not file.exists():
        return "missing file: the link leads nowhere"
    if not file.is_file():
        return "no regular file: a pipe or device is not read"
    if file.suffix.lower() == ".tar":
        return "tar shard: clips lie beside it; give it as the path of a source of its own"
    return None if file.suffix.lower() in (".txt", ".json") else media_in(file)


def files_below(root: Path) -> Iterator[Path]:
    """All files below a folder, sorted. Links to folders are followed, once."""
    seen = set()
    for folder, inner, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        inner[:] = sorted(inner) if real not in seen else []
        if real in seen:
            continue
        seen.add(real)
        yield from (Path(folder, n) for n in sorted(names))


def _bytes(file: Path, ending: str) -> bytes | None:
    path = file.with_name(file.stem + ending)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NoCaption(f"no caption: {path.name} cannot be read ({error.strerror})") from error
