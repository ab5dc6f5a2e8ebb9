"""What a user has on disk, as a list of captioned files: `read_records`.

folder      videos and images anywhere below it, each with its caption beside it: clip.mp4 and clip.txt (clip.motion.txt
            where the motion has words of its own), or clip.json with "text" or "caption", and "motion"
metadata    a table with a row for each file, see metadata.py
webdataset  tar shards, see shards.py

Nothing is opened here but captions; whether a video can be read is found out by survey.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ..config import SourceConfig
from ..errors import TrainingError

VIDEOS = (".mp4", ".mov", ".mkv", ".webm", ".avi", ".gif", ".m4v")
IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp")
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


class NoCaption(ValueError):
    """Why a file has none."""


def read_records(name: str, source: SourceConfig) -> tuple[list[Record], list[LeftOut]]:
    """The files of `[sources.name]` in a fixed order, and those that cannot be used. No file at all: TrainingError."""
    from .metadata import read_metadata
    from .shards import read_shards

    path = Path(source.path).expanduser()
    kind = _kind(name, source, path)
    if kind == "folder":
        records, left_out = _folder(path, source.uncaptioned)
    elif kind == "metadata":
        records, left_out = read_metadata(name, path, source)
    else:
        records, left_out = read_shards(name, str(path), source.uncaptioned)
    if not records:
        raise nothing_usable(name, path, left_out)
    return records, left_out


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
        return "webdataset" if any(path.glob("*.tar")) else "folder"
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


def media_of(suffix: str) -> str | None:
    return "video" if suffix in VIDEOS else "image" if suffix in IMAGES else None


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
            return raw.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise NoCaption(f"no caption: {stem}{suffix} is no UTF-8 text") from error

    stated, text, motion = words(".json"), words(".txt"), words(".motion.txt")
    said = {}
    if stated is not None:
        try:
            said = json.loads(stated)
        except ValueError as error:
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


def _folder(root: Path, uncaptioned: bool) -> tuple[list[Record], list[LeftOut]]:
    records, left_out = [], []
    files = list(_files(root))
    videos = {file.with_suffix("") for file in files if file.suffix.lower() in VIDEOS}
    for file in files:
        label, suffix = file.relative_to(root).as_posix(), file.suffix.lower()
        media = media_of(suffix)
        if media is None:
            continue
        if media == "image" and file.with_suffix("") in videos:
            left_out.append(LeftOut(label, "thumbnail: a video of the same name lies beside it"))
            continue
        try:
            text, motion = sidecar_captions(file.stem, lambda ending, file=file: _bytes(file, ending))
        except NoCaption as error:
            if not uncaptioned:
                left_out.append(LeftOut(label, str(error)))
                continue
            text = motion = ""
        records.append(Record(label, file, 0, None, media, text, motion, suffix))
    return records, left_out


def _files(root: Path) -> Iterator[Path]:
    """All files below a folder, sorted; hidden ones are not the user's data. Links to folders are followed, once."""
    seen = set()
    for folder, inner, names in os.walk(root, followlinks=True):
        real = os.path.realpath(folder)
        inner[:] = sorted(n for n in inner if not n.startswith(".")) if real not in seen else []
        if real in seen:
            continue
        seen.add(real)
        yield from (Path(folder, n) for n in sorted(names) if not n.startswith("."))


def _bytes(file: Path, ending: str) -> bytes | None:
    path = file.with_name(file.stem + ending)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NoCaption(f"no caption: {path.name} cannot be read ({error.strerror})") from error
