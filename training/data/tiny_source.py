"""The tiny world as a source: endless clips, or endless stills for joint image training. A clip is its number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor

from ..batch import Batch, Bucket
from ..config import DataConfig
from ..errors import TrainingError
from ..evaluation.held_out import held_out
from .source import Example
from .tiny_measure import measure
from .tiny_render import ClipSpec, coverage, flow, render
from .tiny_world import captions, sample_specs


class TinySource:
    def __init__(self, name: str, data: DataConfig, *, stills: bool, with_flow: bool, downscale: int) -> None:
        if data.height != data.width:
            raise TrainingError(f"tiny_world clips are square, not {data.width}x{data.height}; set height = width.")
        self.name, self.data, self.with_flow, self.downscale = name, data, with_flow, downscale
        self.bucket = Bucket(1 if stills else data.frames, data.height, data.width)
        self.counts: dict[Bucket, int | None] = {self.bucket: None}
        self._held_out = None

    def batch(
        self, bucket: Bucket, indices: Sequence[int], drop_text: Sequence[bool], drop_motion: Sequence[bool]
    ) -> Batch:
        made = [self._clip(index) for index in indices]
        specs = _concatenated([specs for specs, _, _ in made])
        text = ["" if drop else t for (_, t, _), drop in zip(made, drop_text, strict=True)]
        motion = ["" if drop else m for (_, _, m), drop in zip(made, drop_motion, strict=True)]
        return self._batch(specs, text, motion)

    def examples(self, count: int) -> list[Example]:
        if self.bucket.frames == 1 or not count:
            return []
        clips = self._held_out = held_out(count, frames=self.bucket.frames, size=self.bucket.height)
        return [Example(self.bucket, i, t, m) for i, (t, m) in enumerate(zip(clips.text, clips.motion, strict=True))]

    def example_batch(self, bucket: Bucket, indices: Sequence[int]) -> Batch:
        clips = self._held_out
        return self._batch(self._specs(indices), [clips.text[i] for i in indices], [clips.motion[i] for i in indices])

    def measure(self, clips: Tensor, indices: Sequence[int]) -> dict[str, float]:
        """Validation clips (b, t, 3, h, w) as the network made them: what they show, measured from pixels."""
        specs = self._specs(indices)
        scores = measure(clips, specs).summary()
        scores["flow_epe"] = flow_error(clips, specs)
        return scores

    def _specs(self, indices: Sequence[int]) -> ClipSpec:
        rows = torch.tensor(indices)
        return ClipSpec(**{f.name: getattr(self._held_out.specs, f.name)[rows] for f in fields(ClipSpec)})

    def _clip(self, index: int) -> tuple[ClipSpec, str, str]:
        specs = sample_specs(1, torch.Generator().manual_seed(index), "train")
        (text,), (motion,) = captions(specs)
        return specs, text, motion

    def _batch(self, specs: ClipSpec, text: list[str], motion: list[str]) -> Batch:
        frames, size = self.bucket.frames, self.bucket.height
        batch = Batch(text, motion, render(specs, frames, size))
        if self.with_flow and frames > 1:
            from .flow import to_latent_units

            pairs = [to_latent_units(f, v, self.downscale) for f, v in zip(*flow(specs, frames, size), strict=True)]
            batch.flow, batch.flow_weight = (torch.stack(x) for x in zip(*pairs, strict=True))
        return batch


def _concatenated(specs: list[ClipSpec]) -> ClipSpec:
    return ClipSpec(**{f.name: torch.cat([getattr(s, f.name) for s in specs]) for f in fields(ClipSpec)})


def flow_error(clips: Tensor, specs: ClipSpec) -> float:
    """End-point error in pixels per frame, on the shape: optical flow measured in the clips against the true one."""
    from .flow import clip_flow

    frames, size = clips.shape[1], clips.shape[-1]
    truth, valid = flow(specs, frames, size)
    on_shape = valid & (coverage(specs, frames, size)[:, :-1] > 0.5)
    errors = []
    for clip, true, where in zip(clips, truth, on_shape, strict=True):
        pixels = (clip.clamp(0, 1) * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        seen, _ = clip_flow(pixels)
        errors.append((torch.as_tensor(seen) - true).norm(dim=1)[where])
    return torch.cat(errors).mean().item()
