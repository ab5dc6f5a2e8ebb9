"""Captions and categories of a source's clips, asked once and kept: .work/captions/ASKED/ID.json.

What is asked for are all clips that the filters would keep, be they duplicates or not, a source at a
time: so the batches are the same ones whoever works, and what a kill interrupts is one source's words.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from ..files import whole
from ..pipelines.media.decode import Probe, Stored, probe, read_frames
from .captions import Shown
from .rows import Clip
from .shards import video_of
from .store import Store, told

Ask = Callable[[Sequence[Shown]], list[str | None]]


class Words:
    """Of one captioner or classifier."""

    def __init__(self, store: Store, asked: Any, ask: Ask, batch: int, frames: int) -> None:
        self.store, self.ask, self.batch, self.frames = store, ask, batch, frames
        self.folder = store.work / "captions" / asked.fingerprint() if asked.kept else None

    def of(self, source_id: str, clips: Sequence[Clip], columns: dict[str, object]) -> dict[str, str | None]:
        """By clip. Raises what the captioner raises, CannotWrite."""
        known: dict[str, str | None] = {}
        path = None if self.folder is None else self.folder / f"{source_id}.json"
        if path is not None:
            with suppress(OSError, ValueError):
                known = json.loads(path.read_text("utf-8"))
        new = [clip for clip in clips if clip.clip not in known]
        for start in range(0, len(new), self.batch):
            part = new[start : start + self.batch]
            found = self.ask([self._shown(clip, columns) for clip in part])
            known |= {clip.clip: text for clip, text in zip(part, found, strict=True)}
        if new and path is not None:
            with told(self.store.out):
                path.parent.mkdir(parents=True, exist_ok=True)
                with whole(path) as temporary:
                    temporary.write_text(json.dumps(known), "utf-8")
        return known

    def _shown(self, clip: Clip, columns: dict[str, object]) -> Shown:
        video = video_of(self.store, clip)
        image = video.with_suffix(".jpg")
        return Shown(clip, partial(pictures, video, image, self.frames), image, video, columns)


class _File:
    """A clip's file, for pipelines.media.decode."""

    offset, size, media = 0, None, "video"

    def __init__(self, path: Path) -> None:
        self.path = path


def pictures(video: Path, image: Path, count: int) -> list[Image.Image]:
    """The centre frame, or so many, evenly over the clip."""
    if count == 1:
        with Image.open(image) as opened:
            return [opened.convert("RGB")]
    record: Stored = _File(video)
    seen: Probe = probe(record)
    picks = np.linspace(0, len(seen.pts) - 1, count).round().astype(int).tolist()
    return [Image.fromarray(frame) for frame in read_frames(record, seen, picks)]
