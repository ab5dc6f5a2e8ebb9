"""What a user has on disk, as a list of captioned files: `read_records`.

folder      videos and images anywhere below it, each with its caption beside it: clip.mp4 and clip.txt (clip.motion.txt
            where the motion has words of its own), or clip.json with "text" or "caption", and "motion": folder.py
metadata    a table with a row for each file: metadata.py
webdataset  tar shards: shards.py

Every file that is found is a record, or a caption of one, or left out with a reason. Files whose names do not tell
what they are (pipelines/media/kinds.py) and captions are opened here; whether a video can be read is found out by
probing.py.
"""

from __future__ import annotations

from pathlib import Path

from ...errors import TrainingError
from ...files import files_below, is_hidden
from ...pipelines.media.kinds import media_of
from ...pipelines.media.sidecars import CAPTIONS
from ..config import SourceConfig
from .folder import read_folder
from .metadata import read_metadata
from .records import METADATA, Found, LeftOut
from .shards import read_shards


def read_records(name: str, source: SourceConfig) -> Found:
    """The files of `[sources.name]` in a fixed order, and those that cannot be used. No file at all: TrainingError."""
    path = Path(source.path).expanduser()
    kind = _kind(name, source, path)
    if kind == "folder":
        found = read_folder(path, source.uncaptioned)
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
