"""A node pack for the tests: core's loaders of big files, in small. The templates run with these in their place."""

import sys
from pathlib import Path
from typing import Any

import comfy.cldm.cldm
import comfy.controlnet
import comfy.model_base
import comfy.model_management
import comfy.model_patcher
import comfy.sd
import comfy.supported_models
import torch

DEMO = Path(__file__).resolve().parents[3] / "pipelines" / "demo"


def pack(module: str):
    """A module of the pack under test, which the host has loaded under a name of its own."""
    return next(m for name, m in sys.modules.items() if name.endswith(f"ComfyUI-DreamFactory.nodes.bridge.{module}"))


class TinySD(comfy.supported_models.SD20):
    """Stable Diffusion 2 of two narrow levels, as core would build it."""

    unet_config = {}  # noqa: RUF012 (the host's form)
    unet_extra_config = {"num_heads": -1, "num_head_channels": 16}  # noqa: RUF012


class TinySD15(TinySD):
    """The same with eight heads at every level, as Stable Diffusion 1."""

    unet_extra_config = {"num_heads": 8, "num_head_channels": -1}  # noqa: RUF012 (the host's form)


SHAPE = {
    "image_size": 32,
    "in_channels": 4,
    "out_channels": 4,
    "model_channels": 32,
    "num_res_blocks": [1, 1],
    "channel_mult": [1, 2],
    "transformer_depth": [1, 1],
    "transformer_depth_middle": 1,
    "transformer_depth_output": [1, 1, 1, 1],
    "use_spatial_transformer": True,
    "use_linear_in_transformer": True,
    "context_dim": 64,
    "legacy": False,
    "adm_in_channels": None,
    "use_temporal_attention": False,
}


def tiny_sd(context_dim: int = 64, adm_in_channels: int | None = None, kind=TinySD, **further):
    """A MODEL of random weights; with adm_in_channels one that takes a label, as SDXL does."""
    shape = {**SHAPE, "context_dim": context_dim, "adm_in_channels": adm_in_channels, **further}
    if adm_in_channels:
        shape |= {"num_classes": "sequential", "transformer_depth": [1, 2], "transformer_depth_output": [1, 1, 2, 2]}
    config = kind(shape)
    config.set_inference_dtype(torch.float32, None)
    model = comfy.model_base.BaseModel(config, comfy.model_base.ModelType.EPS, device=torch.device("cpu"))
    torch.manual_seed(0)
    for name, weight in model.diffusion_model.named_parameters():
        torch.nn.init.normal_(weight, mean=float(name.endswith("norm.weight")), std=0.02)
    return comfy.model_patcher.CoreModelPatcher(
        model, load_device=comfy.model_management.get_torch_device(), offload_device=torch.device("cpu")
    )


class Checkpoint:
    CATEGORY, FUNCTION = "tests", "load"
    RETURN_TYPES = ("MODEL", "CLIP", "VAE")

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {}}

    def load(self):
        return tiny_sd(), pack("text_encoder").load_text_encoder(DEMO / "text_encoder"), tiny_vae()


class Checkpoint15(Checkpoint):
    """As Stable Diffusion 1.5, without attention to the text on the coarsest level: AnimateDiff is for such."""

    def load(self):
        shape: dict[str, Any] = {"transformer_depth": [1, 0], "transformer_depth_output": [1, 1, 0, 0]}
        return tiny_sd(kind=TinySD15, **shape), *super().load()[1:]


class LabelledCheckpoint(Checkpoint):
    RETURN_TYPES = ("MODEL",)

    def load(self):
        return (tiny_sd(adm_in_channels=16),)


class Text(Checkpoint):
    RETURN_TYPES = ("CLIP",)

    def load(self):
        return (pack("text_encoder").load_text_encoder(DEMO / "text_encoder"),)


class Vision(Checkpoint):
    RETURN_TYPES = ("CLIP_VISION",)

    def load(self):
        return (pack("vision_encoder").load_vision_encoder(DEMO / "image_encoder"),)


class Vae(Checkpoint):
    RETURN_TYPES = ("VAE",)

    def load(self):
        return (tiny_vae(),)


class Control(Checkpoint):
    """A ControlNet of Checkpoint15's shape; its weights are large enough for a hint to count."""

    RETURN_TYPES = ("CONTROL_NET",)

    def load(self):
        shape = {k: v for k, v in SHAPE.items() if k not in ("out_channels", "adm_in_channels")}
        shape["transformer_depth"] = [1, 0]
        network = comfy.cldm.cldm.ControlNet(**shape, hint_channels=3, num_heads=8)
        torch.manual_seed(0)
        for name, weight in network.named_parameters():
            torch.nn.init.normal_(weight, mean=float(name.endswith("norm.weight")), std=0.1)
        return (comfy.controlnet.ControlNet(network, load_device=comfy.model_management.get_torch_device()),)


class NoFrames(Checkpoint):
    RETURN_TYPES = ("IMAGE",)

    def load(self):
        return (torch.zeros(0, 64, 64, 3),)


class Anything:
    """A text or number that fits every input, as switches and primitives of other packs give them."""

    CATEGORY, FUNCTION, RETURN_TYPES = "stand-ins", "give", ("*",)

    @classmethod
    def INPUT_TYPES(cls):
        return {"required": {"text": ("STRING", {})}}

    def give(self, text):
        try:
            return (float(text),)
        except ValueError:
            return (text,)


def tiny_vae() -> comfy.sd.VAE:
    """TAESD's network with random weights: a VAE of four channels that core builds itself."""
    import comfy.taesd.taesd

    torch.manual_seed(0)
    taesd = comfy.taesd.taesd.TAESD(latent_channels=4)
    state = taesd.state_dict()
    for name, weight in state.items():
        if weight.ndim > 1:
            torch.nn.init.kaiming_normal_(weight)
        elif name.endswith("bias"):
            weight.zero_()
    return comfy.sd.VAE(sd=state)


NODE_CLASS_MAPPINGS = {
    "StandInCheckpoint": Checkpoint,
    "StandInCheckpoint15": Checkpoint15,
    "StandInLabelledCheckpoint": LabelledCheckpoint,
    "StandInText": Text,
    "StandInVision": Vision,
    "StandInVae": Vae,
    "StandInControlNet": Control,
    "StandInNoFrames": NoFrames,
    "StandInAnything": Anything,
}
