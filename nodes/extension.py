"""The list of nodes, for the host."""

from __future__ import annotations

from comfy_api.latest import ComfyExtension, io

from .bundles import LoadBundle, LoadDemo
from .conditioning import ImageToVideo
from .continue_clip import ContinueClip, JoinClips
from .loaders import LoadTextEncoder, LoadVideoUNet
from .long_clip import KSamplerLongClip
from .patches import PACA, ImageAdapter, MotionOnModel, SwapAttention
from .prompts import PromptPerFrame
from .save import SaveVideoUNet
from .schedule import NoiseSchedule, RescaleCFG
from .upscale import UpscaleVideo

NODES: list[type[io.ComfyNode]] = [
    LoadVideoUNet,
    LoadDemo,
    LoadBundle,
    LoadTextEncoder,
    MotionOnModel,
    ImageToVideo,
    PromptPerFrame,
    ContinueClip,
    JoinClips,
    KSamplerLongClip,
    NoiseSchedule,
    RescaleCFG,
    PACA,
    ImageAdapter,
    SwapAttention,
    UpscaleVideo,
    SaveVideoUNet,
]


class DreamFactoryExtension(ComfyExtension):
    async def get_node_list(self) -> list[type[io.ComfyNode]]:
        return NODES
