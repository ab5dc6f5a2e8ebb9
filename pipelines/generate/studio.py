"""The networks at work: first frames drawn, clips denoised, enlarged and written."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ...errors import InputError
from ...model_patches.upscaling.enlarge import Enlarger
from ...model_patches.upscaling.sizes import resize_cover_crop
from ...model_patches.upscaling.upscaler import Upscaler
from ..image_to_video import animate
from ..media.files import read_image, write_video
from ..media.sheets import clip_sheet
from ..media.transcode import note
from ..turns import Turns
from .plan import Job, Planner

ENLARGED_AT_ONCE = 4  # frames


@dataclass
class Studio:
    """The networks, and where they compute."""

    planner: Planner
    turns: Turns
    quiet: bool
    started: float = field(default_factory=time.perf_counter)
    enlarger: Enlarger | None = None

    def draw(self, jobs: Sequence[Job], on_step: Callable[[int, int], None] | None = None) -> Tensor:
        """(b, 3, h, w) in [0, 1], drawn as the jobs say."""
        asked, painter = [job.request for job in jobs], self.planner.painter
        drawings = [job.drawing for job in jobs if job.drawing is not None]
        assert painter is not None  # until it is put away, which comes after the last picture
        drawn = painter.draw(
            [r.text for r in asked],
            [r.first_frame_negative for r in asked],
            [drawing.seed for drawing in drawings],
            drawings[0].size,
            steps=drawings[0].steps,
            guidance_scale=drawings[0].guidance_scale,
            on_step=on_step,
        )
        if not torch.isfinite(drawn).all():
            raise InputError(f"{painter.name} drew numbers that are no picture; try --dtype bf16 or fp32.")
        return drawn

    def put_away_painter(self) -> None:
        """Its memory is the video's from here on."""
        self.turns.over()
        self.planner = replace(self.planner, painter=None)

    def animate(self, jobs: Sequence[Job], on_step: Callable[[int, int], None] | None = None) -> Tensor:
        """(b, t, 3, h, w) in [0, 1] as the jobs say. A picture that was drawn is read from its file, as any other."""
        asked, size = [job.request for job in jobs], jobs[0].size
        return animate(
            self.planner.bundle,
            _read([job.request.image if job.drawing is None else job.drawing.out for job in jobs], size),
            [r.text for r in asked],
            [r.motion for r in asked],
            asked[0].settings,
            size=size,
            negative=[r.negative for r in asked],
            negative_motion=[r.negative_motion for r in asked],
            seeds=[r.seed for r in asked],
            last_images=_read([r.last_image for r in asked], size),
            on_step=on_step,
        )

    def write(self, job: Job, clip: Tensor) -> None:
        """The sheet, and then the clip, which says that all is there."""
        upscaler = self.planner.upscaler
        frames = clip if upscaler is None else self._enlarged(upscaler, job, clip)
        if job.sheet is not None:
            clip_sheet(job.sheet, clip[None], [job.caption], tile=128)
        try:
            write_video(job.out, frames, job.fps, settings=job.record, scale=job.request.scale)
        except BaseException:
            if job.sheet is not None and not job.out.exists():
                job.sheet.unlink(missing_ok=True)
            raise

    def _enlarged(self, upscaler: Upscaler, job: Job, clip: Tensor) -> Iterator[Tensor]:
        self.turns(upscaler.network)
        if self.enlarger is None:
            alone = self.turns.over  # the video network's memory, where strips cannot be thin enough
            self.enlarger = Enlarger(upscaler, self.turns.device, make_room=lambda: alone(upscaler.network), say=note)
        with self.bar("upscaling", len(clip), "frame") as bar:
            for frames in clip.split(ENLARGED_AT_ONCE):
                yield resize_cover_crop(self.enlarger(frames), *job.target)
                bar.update(len(frames))

    # -- what is told

    def bar(self, what: str, total: int, unit: str) -> tqdm:
        return tqdm(total=total, desc=what, unit=unit, disable=self.quiet, leave=None)

    def say(self, what: str) -> None:
        """What was made, in what time and memory."""
        if not self.quiet:
            seconds = time.perf_counter() - self.started
            print(f"{what} in {seconds:.1f} s; peak memory {self.turns.peak()}", file=sys.stderr)


def _read(pictures: Sequence[str | Path | None], size: tuple[int, int]) -> Tensor | None:
    """(b, 3, h, w): clips of one pass all have one, or none has."""
    if pictures[0] is None:
        return None
    return torch.cat([read_image(there, *size) for there in pictures if there is not None])


def steps(bar: tqdm) -> Callable[[int, int], None]:
    """Steps of sampling, on a bar."""

    def on_step(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return on_step
