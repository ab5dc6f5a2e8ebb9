"""The networks of Factorized-Dreamer and VideoFactory, and their checkpoints. torch and einops only.

What a network is:
    config.py, presets.py   every choice as a field, networks by name
    layout.py, parts.py     where everything sits, which weights belong to which part

The network:
    unet.py, path.py        the whole forward pass
    spatial.py              Stable Diffusion's blocks
    temporal.py             ModelScope's temporal half, motion text (FD 3.2), temporal skips (VF 4)
    swap_attention.py       Swap-CA, VF Eq. 2-3
    image_adapter.py        FD Eq. 2
    paca.py                 FD Eq. 3
    predict_net.py          FD Eq. 4
    hooks.py                what a host attaches to a forward pass

Networks on disk:
    load.py, checkpoint.py  read, write
    compose.py              patches on a base, motion on an image model
    files.py                what a file says of itself
    converters/             public weights -> ours
    warm_start.py           grow a network out of another

    rcan.py                 super-resolution, VF 4
    upscaling.py            any image upscaler on frames: memory, tiles, exact sizes
    patch_codec.py          the small image codec of the demo
"""

from ..errors import CheckpointError, ConfigError
from .checkpoints.compose import apply_patch
from .checkpoints.files import read_header
from .checkpoints.load import load_unet
from .checkpoints.save import save_patch, save_unet
from .network.config import ProjectorConfig, UNetConfig
from .network.presets import PRESETS, preset
from .network.unet import VideoUNet

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
