"""Folders: videos and images anywhere below, each with its caption beside it."""

from __future__ import annotations

from pathlib import Path

from ...files import files_below, is_hidden
from ...pipelines.media.kinds import media_in
from ...pipelines.media.sidecars import CAPTIONS, NoCaption, sidecar_captions
from .records import Found, LeftOut, Record


def read_folder(root: Path, uncaptioned: bool) -> Found:
    """Every file below a folder: a record, a caption of one, or left out with a reason."""
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


def _bytes(file: Path, ending: str) -> bytes | None:
    path = file.with_name(file.stem + ending)
    try:
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise NoCaption(f"no caption: {path.name} cannot be read ({error.strerror})") from error
