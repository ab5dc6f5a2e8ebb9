"""What is known of a made video, and truth.json, which keeps it beside the videos."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import NamedTuple

from ...files import whole
from .reel import Box, Span

NAME = "truth.json"


class Overlay(NamedTuple):
    """What lies on the picture from start to end, seconds."""

    kind: str  # logo, see-through logo, watermark, subtitle, title
    box: Box
    start: float
    end: float


class Picture(NamedTuple):
    """Where the picture is between black bars, from start to end, seconds."""

    box: Box
    start: float
    end: float


@dataclass
class Truth:
    """One file. Times are seconds from its first frame on."""

    file: str  # below the folder
    part: str
    group: str  # what it was made to show; results are told by it
    width: int = 0  # as shown
    height: int = 0
    rate: float = 0.0  # frames a second
    frames: int = 0
    seconds: float = 0.0
    transitions: list[Span] = field(default_factory=list)
    events: list[Span] = field(default_factory=list)  # what looks like a transition and is none
    bars: list[Picture] = field(default_factory=list)  # none: the picture fills the frame
    overlays: list[Overlay] = field(default_factory=list)
    text: bool | None = False  # burned in, at any time; none: letters that belong to a logo or watermark
    expected: str = "ok"  # damaged: what can be read is read, and it is said; failed: nothing can
    family: str = ""  # what a duplicate is of; none: unlike all others
    how: str = ""  # what was done to it, of a duplicate
    twin: str = ""  # the same without what the group is about


def save(folder: Path, truths: Sequence[Truth]) -> None:
    with whole(folder / NAME) as temporary:
        temporary.write_text(json.dumps([asdict(truth) for truth in truths], indent=1))


def load(folder: Path) -> list[Truth]:
    """What `make` has written into a folder."""
    found = []
    for values in json.loads((folder / NAME).read_text()):
        values["transitions"] = [Span(*v) for v in values["transitions"]]
        values["events"] = [Span(*v) for v in values["events"]]
        values["bars"] = [Picture(Box(*box), *times) for box, *times in values["bars"]]
        values["overlays"] = [Overlay(kind, Box(*box), *times) for kind, box, *times in values["overlays"]]
        found.append(Truth(**values))
    return found
