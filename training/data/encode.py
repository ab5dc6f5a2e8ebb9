"""Clips as frozen encoders see them, computed once: which cached values a clip has, and making those it lacks.

Each kind of value has a key of its own, so that another T5 encodes the motion captions anew and nothing else:
latents  content, frames taken, size, codec       text, motion  caption, encoder
flow     content, frames taken, size, downscale   image         content, first frame, size, encoder

The size is with how pixels come to it. For HDR, interlaced and some transparent videos that names what is done to them
(Viewer.ways), so that what was cached before it was done counts for nothing; other keys are as they were.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from ...errors import TrainingError
from ...metrics.flow import METHOD, clip_flow, to_latent_units
from ...model_patches.upscaling.sizes import resize_cover_crop
from ...pipelines.media.decode import Unreadable, read_frames
from ..batch import Bucket
from .cache import Cache, key_of
from .probing import Probed

RESIZE = "cover-bicubic/1"  # of cached values; a change of resize_crop changes it
TRAINED = "trained"  # fingerprint of an encoder that learns: what it makes is not kept
CAPTIONS = ("text", "motion")


class Encoders(Protocol):
    """Frozen networks. A fingerprint of None: the trained network does not read what this encoder makes."""

    fingerprints: dict[str, str | None]  # of "codec", "text", "motion", "image"

    def latents(self, frames: Tensor) -> Tensor: ...  # (t, 3, h, w) in [0, 1] -> (t, c, h/d, w/d)

    def text(self, caption: str) -> Tensor: ...  # (n, d)

    def motion(self, caption: str) -> Tensor: ...  # (m, d)

    def image(self, frame: Tensor) -> Tensor: ...  # (3, h, w) in [0, 1] -> features


def resize_crop(frames: np.ndarray, height: int, width: int) -> Tensor:
    """(t, h, w, 3) uint8 -> (t, 3, height, width) in [0, 1]: scaled to cover that size, cropped at its centre."""
    out = torch.empty(len(frames), 3, height, width)
    for i, frame in enumerate(frames):  # one by one: a large video as floating point numbers is larger still
        out[i] = resize_cover_crop(torch.from_numpy(frame).permute(2, 0, 1)[None].float() / 255, height, width)[0]
    return out


@dataclass(frozen=True, eq=False)
class Item:
    """A clip: a bucket's worth of frames of a file."""

    file: Probed
    bucket: Bucket
    picks: tuple[int, ...]

    def frames(self) -> Tensor:
        """(t, 3, h, w) in [0, 1]. Raises Unreadable."""
        frames = read_frames(self.file.record, self.file.probe, self.picks)
        return resize_crop(frames, self.bucket.height, self.bucket.width)

    def flow(self, frames: Tensor, downscale: int) -> dict[str, Tensor]:
        """In latent pixels, in half precision: as it is cached."""
        pixels = (frames * 255).round().to(torch.uint8).permute(0, 2, 3, 1).numpy()
        flow, weight = to_latent_units(*clip_flow(pixels), downscale)
        return {"flow": flow.half(), "weight": weight.half()}


class Encodings:
    """A source's values in its cache, made by the encoders of these fingerprints."""

    def __init__(self, cache: Cache, fingerprints: dict[str, str | None], downscale: int, with_flow: bool) -> None:
        self.cache, self.stated, self.downscale, self.with_flow = cache, fingerprints, downscale, with_flow
        self.frozen = {k: f for k, f in fingerprints.items() if f not in (None, TRAINED)}

    def keys(self, item: Item) -> dict[str, str]:
        """Of what is made from an item's pixels."""
        ways = item.file.probe.ways
        size = (f"{RESIZE}+{ways}" if ways else RESIZE, item.bucket.height, item.bucket.width)
        whole = (item.file.content, item.picks, *size)
        keys = {}
        if "codec" in self.frozen:
            keys["latents"] = key_of("latents", *whole, self.frozen["codec"])
        if "image" in self.frozen:
            keys["image"] = key_of("image", item.file.content, item.picks[0], *size, self.frozen["image"])
        if self.with_flow and item.bucket.frames > 1:
            keys["flow"] = key_of("flow", *whole, self.downscale, METHOD)
        return keys

    def caption_key(self, kind: str, caption: str) -> str:
        return key_of(kind, caption, self.frozen[kind])

    def lacking(self, item: Item) -> list[str]:
        """Kinds of an item's values that are not in the cache."""
        record = item.file.record
        captions = {kind: self.caption_key(kind, getattr(record, kind)) for kind in CAPTIONS if kind in self.frozen}
        return [kind for kind, key in {**self.keys(item), **captions}.items() if not self.cache.has(kind, key)]

    def make(self, kind: str, item: Item, frames: Tensor, encoders: Encoders | None) -> tuple[dict[str, Tensor], int]:
        """A value from an item's pixels, stored; and its bytes."""
        if kind == "flow":
            value = item.flow(frames, self.downscale)
        else:
            assert encoders is not None  # flow alone is made without
            value = {kind: _kept(encoders.latents(frames) if kind == "latents" else encoders.image(frames[0]))}
        return value, self.cache.store(kind, self.keys(item)[kind], value, {"file": item.file.record.name})

    def make_tokens(self, kind: str, caption: str, encoders: Encoders) -> tuple[Tensor, int]:
        tokens = _kept(encoders.text(caption) if kind == "text" else encoders.motion(caption))
        return tokens, self.cache.store(kind, self.caption_key(kind, caption), {kind: tokens}, {"caption": caption})

    def read(self, item: Item, encoders: Encoders | None) -> dict[str, Tensor]:
        """What an item's pixels were made into; what is not there is made now, if the encoders are here still."""
        values: dict[str, Tensor] = {}
        frames = None
        for kind, key in self.keys(item).items():
            value = self.cache.load(kind, key)
            if value is None:
                if kind != "flow" and encoders is None:
                    raise Unreadable(f"not in the cache: its {kind} are missing or damaged; start the run again")
                frames = item.frames() if frames is None else frames
                value, _ = self.make(kind, item, frames, encoders)
            values |= value
        return values

    def tokens(self, kind: str, caption: str, encoders: Encoders | None) -> Tensor:
        value = self.cache.load(kind, self.caption_key(kind, caption))
        if value is not None:
            return value[kind]
        if encoders is None and not caption:  # of no use to look for it in another clip
            raise TrainingError(
                f"{self.cache.folder} has lost the {kind} tokens of the empty caption; start the run again."
            )
        if encoders is None:
            raise Unreadable(f"not in the cache: its {kind} tokens are missing or damaged; start the run again")
        return self.make_tokens(kind, caption, encoders)[0]


def _kept(value: Tensor) -> Tensor:
    return value.detach().cpu().contiguous()
