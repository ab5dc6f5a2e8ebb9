"""Captioned files of a user, whatever holds them: `Record`; and the captions that lie beside them."""

from __future__ import annotations

import codecs
import json
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

METADATA = ("metadata.jsonl", "metadata.csv", "metadata.parquet")
CAPTIONS = (".motion.txt", ".txt", ".json")  # what may lie beside a file, the longest ending first


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
