"""Captioned files of a user, whatever holds them: `Record`."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

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
