"""The networks of Factorized-Dreamer and VideoFactory, and their checkpoints. torch and einops only.

network/        the network of both papers
checkpoints/    networks on disk, public weights converted
upscaling/      super-resolution (VF 4), and any image upscaler
codec.py        the small image codec of the demo
kernels.py      kernels that give the same bits
tokens.py       what is taken for granted of a tokenizer
"""

from ..errors import CheckpointError, ConfigError
from .checkpoints.compose import apply_patch
from .checkpoints.files import read_header
from .checkpoints.load import load_unet
from .checkpoints.save import save_patch, save_unet
from .network.conditions import Conditions
from .network.config import ProjectorConfig, UNetConfig
from .network.presets import PRESETS, preset
from .network.unet import VideoUNet

__all__ = [
    "PRESETS",
    "CheckpointError",
    "Conditions",
    "ConfigError",
    "ProjectorConfig",
    "UNetConfig",
    "VideoUNet",
    "apply_patch",
    "load_unet",
    "preset",
    "read_header",
    "save_patch",
    "save_unet",
]
