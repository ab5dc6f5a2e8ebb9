"""The networks of Factorized-Dreamer and VideoFactory, and their checkpoints. torch and einops only.

config.py, presets.py   what a network is                 layout.py           where everything sits
unet.py                 the whole forward pass            checkpoint.py       read, write, recognise files
spatial.py              Stable Diffusion's blocks         temporal.py         ModelScope's temporal half
swap_attention.py       VF Eq. 2-3                        paca.py             FD Eq. 3
image_adapter.py        FD Eq. 2                          converters/         public weights -> ours
"""

from .checkpoint import apply_patch, load_unet, read_header, save_patch, save_unet
from .config import ProjectorConfig, UNetConfig
from .errors import CheckpointError, ConfigError
from .presets import PRESETS, preset
from .unet import VideoUNet

__all__ = [
    "PRESETS",
    "CheckpointError",
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
