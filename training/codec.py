"""The codec (VAE) of a run: between pictures and latents, never trained."""

from __future__ import annotations

from pathlib import Path

from ..pipelines.bundle import DEMO, Codec, load_vae
from .config import RunConfig


def codec_file(config: RunConfig) -> Path:
    """A codec of ours, or a folder of Stable Diffusion's VAE."""
    where = config.encoders.codec
    return DEMO / "codec.safetensors" if where == "demo" else Path(where)


def open_codec(config: RunConfig) -> Codec:
    """Frozen. Raises InputError or CheckpointError."""
    return load_vae(codec_file(config)).eval().requires_grad_(False)
