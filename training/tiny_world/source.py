"""The tiny world as a source: endless clips, or endless stills for joint image training. A clip is its number."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import fields

import torch
from torch import Tensor

from ...errors import TrainingError
from ...pipelines.encoders import one_caption
from ..batch import Batch, Bucket
from ..config import DataConfig
from ..data.source import Example
from ..data.statistics import Sample
from .held_out import HeldOut, held_out
from .measure import MOVES, centroids, measure
from .render import ClipSpec, coverage, flow, render
from .world import DIRECTIONS, captions, sample_specs

NEAR = 0.3  # colour distance from which a pixel is none of the shape's
SMALLEST = 0.005  # share of the picture below which the shape counts as gone


class TinySource:
    """merge_captions: both captions become one, for a network without motion text."""

    def __init__(
        self,
        name: str,
        data: DataConfig,
        *,
        stills: bool,
        with_flow: bool,
        downscale: int,
        merge_captions: bool = False,
    ) -> None:
        if data.height != data.width:
            raise TrainingError(f"tiny_world clips are square, not {data.width}x{data.height}; set height = width.")
        self.name, self.data, self.with_flow, self.downscale, self.merge_captions = (
            name,
            data,
            with_flow,
            downscale,
            merge_captions,
        )
        self.bucket = Bucket(1 if stills else data.frames, data.height, data.width)
        self.counts: dict[Bucket, int | None] = {self.bucket: None}
        self._held_out: HeldOut | None = None

    def fingerprints(self) -> dict[str, str]:
        return {}

    def batch(
        self, bucket: Bucket, indices: Sequence[int], drop_text: Sequence[bool], drop_motion: Sequence[bool]
    ) -> Batch:
        specs, text, motion = self._made(indices)
        text = ["" if drop else t for t, drop in zip(text, drop_text, strict=True)]
        motion = ["" if drop else m for m, drop in zip(motion, drop_motion, strict=True)]
        return self._batch(specs, text, motion)

    def examples(self, count: int) -> list[Example]:
        if self.bucket.frames == 1 or not count:
            return []
        clips = self._held_out = held_out(count, frames=self.bucket.frames, size=self.bucket.height)
        pairs = enumerate(zip(self._texts(clips.text, clips.motion), clips.motion, strict=True))
        return [Example(self.bucket, i, t, m) for i, (t, m) in pairs]

    def _texts(self, text: list[str], motion: list[str]) -> list[str]:
        # A still shows no motion to speak of.
        if not self.merge_captions or self.bucket.frames == 1:
            return text
        return [one_caption(*pair) for pair in zip(text, motion, strict=True)]

    def clip_name(self, bucket: Bucket, index: int) -> str:
        return f"made-up clip {index}"

    def failures(self) -> list:
        return []

    def finish_report(self, failures: Iterable = ()) -> None:
        """Made-up clips have none."""

    def example_batch(self, bucket: Bucket, indices: Sequence[int]) -> Batch:
        clips = self._shown()
        text, motion = [clips.text[i] for i in indices], [clips.motion[i] for i in indices]
        return self._batch(self._specs(indices), self._texts(text, motion), motion)

    def measure(self, clips: Tensor, indices: Sequence[int]) -> dict[str, float]:
        """Validation clips (b, t, 3, h, w) as the network made them: what they show, measured from pixels."""
        specs = self._specs(indices)
        return {**measure(clips, specs).summary(), **colour_scores(clips, specs), **flow_error(clips, specs)}

    def samples(self, count: int) -> list[Sample]:
        """The first clips, to look at."""
        rows = range(count)
        specs, text, motion = self._made(rows)
        frames = render(specs, self.bucket.frames, self.bucket.height)
        return [Sample(self.clip_name(self.bucket, i), text[i], motion[i], frames[i]) for i in rows]

    def _shown(self) -> HeldOut:
        """What `examples` named."""
        assert self._held_out is not None
        return self._held_out

    def _specs(self, indices: Sequence[int]) -> ClipSpec:
        rows = torch.tensor(indices)
        return ClipSpec(**{f.name: getattr(self._shown().specs, f.name)[rows] for f in fields(ClipSpec)})

    def _made(self, indices: Sequence[int]) -> tuple[ClipSpec, list[str], list[str]]:
        """Clips by number, and their captions: text and motion."""
        made = [self._clip(index) for index in indices]
        motion = [m for _, _, m in made]
        return _concatenated([specs for specs, _, _ in made]), self._texts([t for _, t, _ in made], motion), motion

    def _clip(self, index: int) -> tuple[ClipSpec, str, str]:
        specs = sample_specs(1, torch.Generator().manual_seed(index), "train")
        (text,), (motion,) = captions(specs)
        return specs, text, motion

    def _batch(self, specs: ClipSpec, text: list[str], motion: list[str]) -> Batch:
        frames, size = self.bucket.frames, self.bucket.height
        batch = Batch(text, motion, render(specs, frames, size))
        if self.with_flow and frames > 1:
            from ...metrics.flow import to_latent_units

            pairs = [to_latent_units(f, v, self.downscale) for f, v in zip(*flow(specs, frames, size), strict=True)]
            batch.flow, batch.flow_weight = (torch.stack(x) for x in zip(*pairs, strict=True))
        return batch


def _concatenated(specs: list[ClipSpec]) -> ClipSpec:
    return ClipSpec(**{f.name: torch.cat([getattr(s, f.name) for s in specs]) for f in fields(ClipSpec)})


def colour_scores(clips: Tensor, specs: ClipSpec) -> dict[str, float]:
    """Motion of whatever has the asked colour: needs no picture to compare with, so also for clips made from text.

    Of the clips whose caption asks for a direction: colour_direction is the share that goes there, of the 8 ways;
    velocity_error the distance of the mean velocity from the asked one, pixels per frame.
    """
    frames, size = clips.shape[1], clips.shape[-1]
    distance = (clips - specs.rgb[:, None, :, None, None]).norm(dim=2)
    mask = ((NEAR - distance) / NEAR).clamp(0, 1)
    path, area = centroids(mask)
    seen = (area[:, 0] > SMALLEST) & (area[:, -1] > SMALLEST)
    moved = torch.where(seen[:, None], path[:, -1] - path[:, 0], 0.0)
    eighth = math.pi / 4
    way = torch.round(torch.atan2(-moved[:, 1], moved[:, 0]) / eighth).long() % len(DIRECTIONS)
    directed = specs.motion < len(DIRECTIONS)
    right = (way == specs.motion) & (moved.norm(dim=1) > MOVES)
    error = (moved / (frames - 1) - specs.velocity).norm(dim=1) * size
    return {
        "colour_direction": right[directed].float().mean().item(),
        "velocity_error": error[directed].mean().item(),
    }


def flow_error(clips: Tensor, specs: ClipSpec) -> dict[str, float]:
    """flow_epe: end-point error, where the true clip's shape is, in pixels per frame, of optical flow (DIS)."""
    from ...metrics.flow import clip_flow

    frames, size = clips.shape[1], clips.shape[-1]
    truth, valid = flow(specs, frames, size)
    on_shape = valid & (coverage(specs, frames, size)[:, :-1] > 0.5)
    errors = []
    for clip, true, where in zip(clips, truth, on_shape, strict=True):
        pixels = (clip.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        errors.append((torch.as_tensor(clip_flow(pixels)[0]) - true).norm(dim=1)[where])
    return {"flow_epe": torch.cat(errors).mean().item()}
