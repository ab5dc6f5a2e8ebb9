"""The sizes batches may have, and which of them a clip takes: its nearest shape, and the longest length it fills."""

from __future__ import annotations

import math

from ...errors import TrainingError
from ...pipelines.media.decode import Probe
from ..batch import Bucket
from ..config import DataConfig
from .picks import frames_at

WIDEST = 2.0  # width / height, or height / width
AREA = 1.15  # ratio to the configured area, either way
SLOW = 0.9  # share of the asked frame rate below which frames would repeat too often


class DoesNotFit(ValueError):
    """Why a clip takes no bucket: "kind of reason: what exactly"."""


def buckets_for(data: DataConfig) -> list[Bucket]:
    """All sizes of a stage, of clips and of still images."""
    for length in data.frame_buckets:
        if not 2 <= length <= data.frames:
            raise TrainingError(
                f"data.frame_buckets has {length}; expected lengths from 2 to data.frames, which is {data.frames}."
            )
    lengths = {1, data.frames, *data.frame_buckets}
    return sorted(Bucket(t, h, w) for t in lengths for h, w in _sizes(data))


def _sizes(data: DataConfig) -> set[tuple[int, int]]:
    sizes, area = {(data.height, data.width)}, data.height * data.width
    if data.aspect == "fixed":
        return sizes
    step = 64 if area >= 256**2 else 8
    for width in range(step, int(math.sqrt(area * AREA * WIDEST)) + 1, step):
        height = round(area / width / step) * step
        if height and 1 / WIDEST <= width / height <= WIDEST and 1 / AREA <= width * height / area <= AREA:
            sizes |= {(height, width), (width, height)}
    return sizes


def assign(probe: Probe, media: str, data: DataConfig, buckets: list[Bucket]) -> Bucket:
    """Raises DoesNotFit."""
    if media == "image":
        fitting = [b for b in buckets if b.frames == 1]
    else:
        lengths = [b.frames for b in buckets if b.frames > 1] or [1]
        length = frames_at(probe, data.fps, data.stride)
        if length < min(lengths):
            raise DoesNotFit(f"too short: {_said(probe, data, length)}; the shortest bucket has {min(lengths)}")
        if data.fps and max(lengths) > 1 and probe.interval * data.fps * SLOW > 1:
            raise DoesNotFit(
                f"too slow: it has {1 / probe.interval:.3g} frames a second, data.fps asks for {data.fps:g}, so frames "
                "would repeat"
            )
        longest = max(n for n in lengths if n <= length)
        fitting = [b for b in buckets if b.frames == longest]
    shape = math.log(probe.width / probe.height)
    return min(fitting, key=lambda b: (abs(math.log(b.width / b.height) - shape), b))


def _said(probe: Probe, data: DataConfig, length: int) -> str:
    if data.fps:
        return f"{probe.duration:.1f} s at {data.fps:g} fps are {length} frames"
    return f"{len(probe.times)} frames at stride {data.stride} are {length}"
