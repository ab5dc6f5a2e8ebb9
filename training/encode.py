"""The frozen encoders of a run as one thing a cache can ask: what a clip becomes, and by whose weights."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from ..errors import TrainingError
from ..files import fingerprint
from ..pipelines.bundle import Codec
from .codec import codec_file
from .config import RunConfig


class FrozenEncoders:
    """What the network reads, made of captions and frames. Results are on the CPU, in half precision."""

    def __init__(self, config: RunConfig, codec: Codec, encoders: Mapping[str, nn.Module], device: torch.device):
        trained = [k for k, m in encoders.items() if any(p.requires_grad for p in m.parameters())]
        if trained:
            raise TrainingError(
                f"data.cache keeps what frozen encoders make, and encoders.{trained[0]} trains ('fresh'); name its "
                "folder, or leave data.cache out."
            )
        self.codec, self.encoders, self.device = codec, encoders, device
        given = config.encoders
        self.fingerprints: dict[str, str | None] = {"codec": fingerprint(codec_file(config))}
        for name in ("text", "motion", "image"):
            encoder = encoders.get(name)
            # What it computes depends on the layer that is read, and on the precision.
            options = (getattr(encoder, "layer", None), getattr(encoder, "features", None), config.precision)
            self.fingerprints[name] = fingerprint(getattr(given, name), *options) if name in encoders else None

    @torch.no_grad()
    def latents(self, frames: Tensor) -> Tensor:
        """(t, 3, h, w) in [0, 1] -> (t, c, h/8, w/8)."""
        like = next(self.codec.parameters())
        return torch.cat([self.codec.encode(f.to(like) * 2 - 1) for f in frames.split(8)]).half().cpu()

    def text(self, caption: str) -> Tensor:
        return self._one("text", [caption])

    def motion(self, caption: str) -> Tensor:
        return self._one("motion", [caption])

    def image(self, frame: Tensor) -> Tensor:
        return self._one("image", frame[None].to(self.device))

    @torch.no_grad()
    def _one(self, name: str, value) -> Tensor:
        return self.encoders[name](value)[0].half().cpu()
