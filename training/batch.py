"""What a training step sees, whatever the data came from."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import torch
from torch import Tensor


@dataclass(frozen=True, order=True)
class Bucket:
    """A clip size that a batch may have: frames, height and width in pixels. One frame: a still image."""

    frames: int
    height: int
    width: int

    def __str__(self) -> str:
        return f"{self.frames}x{self.height}x{self.width}"


@dataclass
class Batch:
    """b clips of t frames: raw, or encoded as far as frozen encoders and a cache could.

    Captions are strings or the tokens of a frozen encoder. Flow is forward, in latent pixels per frame; a clip's last
    frame has none. In super-resolution latent pixels are pixels.
    """

    text: list[str] | Tensor  # or (b, n, context_dim)
    motion: list[str] | Tensor | None = None  # or (b, m, motion_dim)
    frames: Tensor | None = None  # (b, t, 3, h, w) in [0, 1]
    latents: Tensor | None = None  # (b, t, c, h/8, w/8), instead of frames
    image: Tensor | None = None  # the image encoder's features of the first frame, (b, d) or (b, n, d)
    flow: Tensor | None = None  # (b, t-1, 2, h/8, w/8)
    flow_weight: Tensor | None = None  # (b, t-1, h/8, w/8), the valid share of each cell, in [0, 1]
    frame_rate: Tensor | None = None  # (b,) frames a second, or stride, as the network's embedding reads
    picture: Tensor | None = None  # (b, 3, h, w) or latents, what `frames` or `latents` began with before `window`

    def __len__(self) -> int:
        return len(self.clips)

    @property
    def clips(self) -> Tensor:
        """Its frames, or the latents instead."""
        clips = self.latents if self.frames is None else self.frames
        assert clips is not None  # it has one of both
        return clips

    @property
    def pixels(self) -> Tensor:
        """Its frames, where nothing was encoded."""
        assert self.frames is not None  # asked where there are no latents, or of super-resolution, which has none
        return self.frames

    @property
    def moves(self) -> tuple[Tensor, Tensor]:
        """Flow and its weight, of one that has them."""
        assert self.flow is not None  # asked where the loss has a term for it, for which it was read
        assert self.flow_weight is not None
        return self.flow, self.flow_weight

    def window(self, start: Tensor, frames: int) -> Batch:
        """So many frames of each clip, from its own start (b,) on; the picture it began with is kept beside them."""
        every = self.clips
        if frames >= every.shape[1]:
            return self

        def cut(values: Tensor | None, length: int) -> Tensor | None:
            if values is None:
                return None
            return torch.stack([clip[s : s + length] for clip, s in zip(values, start.tolist(), strict=True)])

        return replace(
            self,
            frames=cut(self.frames, frames),
            latents=cut(self.latents, frames),
            flow=cut(self.flow, frames - 1),
            flow_weight=cut(self.flow_weight, frames - 1),
            picture=every[:, 0],
        )

    def to(self, device: torch.device) -> Batch:
        """On a device; numbers keep their dtype."""
        moved = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {k: v.to(device, non_blocking=True) if isinstance(v, Tensor) else v for k, v in moved.items()}
        return replace(self, **moved)
