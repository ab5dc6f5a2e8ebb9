"""Captions and categories of a source's clips, asked once and kept: .work/captions/ASKED/ID.json.

What is asked for are all clips that the filters would keep, be they duplicates or not, a source at a time and of it a
batch at a time: so the batches are the same ones whoever works, and what a kill interrupts is one batch's words.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
from PIL import Image

from ..files import whole
from ..pipelines.media.decode import Probe, Stored, probe, read_frames
from .captions import Shown
from .rows import Clip
from .shards import video_of
from .store import Store, writing
from .words import NoWords

Ask = Callable[[Sequence[Shown]], list[str | None]]
TRIED = 4  # clips without words before the first with some: then it is not the clips that are to blame

# Why clips have no words, by who was asked: within a run, which asks twice (its part, then the whole set), they are
# not asked for again; the next run asks.
_silent: WeakKeyDictionary[Store, dict[str, dict[str, NoWords]]] = WeakKeyDictionary()


class Words:
    """Of one captioner or classifier.

    failed: a sentence for every clip that has no words because asking for them failed.
    """

    def __init__(self, store: Store, asked: Any, ask: Ask, batch: int, frames: int) -> None:
        self.store, self.ask, self.batch, self.frames = store, ask, batch, frames
        name = asked.fingerprint()
        self.folder = store.work / "captions" / name if asked.kept else None
        self.silent = _silent.setdefault(store, {}).setdefault(name, {})
        self.failed: list[str] = []
        self.first: NoWords | None = None
        self.answered = self.folder is not None and any(self.folder.glob("*.json"))

    def of(self, source_id: str, clips: Sequence[Clip], columns: dict[str, object]) -> dict[str, str | None]:
        """By clip. Raises what the captioner raises, of NoWords only what `check` does; CannotWrite."""
        known: dict[str, str | None] = {}
        path = None if self.folder is None else self.folder / f"{source_id}.json"
        if path is not None:
            with suppress(OSError, ValueError):
                known = json.loads(path.read_text("utf-8"))
        new = [clip for clip in clips if clip.clip not in known]
        for start in range(0, len(new), self.batch):
            part = new[start : start + self.batch]
            found = self._asked(part, columns)
            known |= found
            if found and path is not None:
                with writing(self.store.out):
                    path.parent.mkdir(parents=True, exist_ok=True)
                    with whole(path) as temporary:
                        temporary.write_text(json.dumps(known), "utf-8")
        return {clip.clip: known.get(clip.clip) for clip in clips}

    def check(self, least: int = 1) -> None:
        """Raises the first NoWords where no clip ever had words, and so many have none."""
        if self.first is not None and not self.answered and len(self.failed) >= least:
            raise self.first

    def _asked(self, clips: Sequence[Clip], columns: dict[str, object]) -> dict[str, str | None]:
        """By clip; without those that have no words."""
        error = next((self.silent[clip.clip] for clip in clips if clip.clip in self.silent), None)
        if error is None:
            try:
                found = self.ask([self._shown(clip, columns) for clip in clips])
            except NoWords as caught:
                error = caught
            else:
                self.answered = True
                return {clip.clip: text for clip, text in zip(clips, found, strict=True)}
        self.silent.update((clip.clip, error) for clip in clips)
        self.failed += [str(error)] * len(clips)
        self.first = self.first or error
        self.check(TRIED)
        return {}

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
