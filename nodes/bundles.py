"""Bundles: everything that makes a clip, opened whole from one folder; the demos that ship with the pack are two."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from comfy_api.latest import io
from comfy_execution.graph import ExecutionBlocker
from PIL import Image

from ..errors import NodeError
from ..model_patches import UNetConfig
from .bridge.bundle_files import INDEX, NAMES, BundleFiles, bundles, listed, model_folders, read_bundle
from .bridge.codec import codec_latent_format, load_codec_vae
from .bridge.folders import name_input_in_errors
from .bridge.kl_vae import load_kl_vae
from .bridge.loading import load_video_model
from .bridge.text_encoder import load_text_encoder
from .bridge.vision_encoder import load_vision_encoder
from .checked import CheckedNode
from .loaders import WEIGHT_DTYPES
from .upscale import load_upscale_model

DEMOS = Path(__file__).parents[1] / "pipelines"
DEMO = DEMOS / "demo"
# The demos by what they do. An old workflow, which does not say, means the first.
DEMO_FOLDERS = {"picture to video": DEMO, "text to video": DEMOS / "demo_text_to_video"}

# The outputs of a bundle in their order, and the parts they come from.
OUTPUTS = {"model": "unet", "text": "text", "motion text": "motion", "clip vision": "image", "vae": "codec"}
# The nodes that load a part alone.
LOADERS = {
    "unet": "Load Video UNet",
    "codec": "Load VAE",
    "text": "Load Text Encoder (any size)",
    "motion": "Load Text Encoder (any size)",
    "image": "Load CLIP Vision",
}


class LoadBundle(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DreamFactoryLoadBundle",
            display_name="Load Bundle",
            category="DreamFactory/loaders",
            description="Open everything a trained video network needs in one node: the bundle that `dreamfactory "
            "train` writes. Copy its folder (with bundle.json in it) into models/diffusion_models.",
            search_aliases=["trained model", "run", "bundle.json", "load all", "checkpoint loader", "t2v", "i2v"],
            inputs=[
                io.Combo.Input(
                    "bundle_name",
                    options=list(bundles()),
                    tooltip="A folder with bundle.json in models/diffusion_models or models/checkpoints. The size, "
                    "frames, steps and guidance that suit it stand in bundle.json, under defaults.",
                ),
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="default",
                    tooltip="How the network's weights are kept in memory. default lets ComfyUI choose for your "
                    "device. fp8 halves the memory of fp16 and costs some quality.",
                ),
            ],
            outputs=[
                io.Model.Output(
                    display_name="model", tooltip="The video network, for KSampler and everything that patches models."
                ),
                io.Clip.Output(display_name="text", tooltip="Text encoder for what is seen, to CLIP Text Encode."),
                io.Clip.Output(
                    display_name="motion text",
                    tooltip="Text encoder (T5) for what happens. Only for networks that read motion text; leave it "
                    "unwired for others.",
                ),
                io.ClipVision.Output(
                    display_name="clip vision",
                    tooltip="Image encoder, to Image to Video. Only for networks with an image adapter; leave it "
                    "unwired for others.",
                ),
                io.Vae.Output(display_name="vae", tooltip="Pictures to latents and back."),
            ],
        )

    @classmethod
    def fingerprint_inputs(cls, bundle_name, **_):
        try:
            return _listed_bundle(bundle_name).stamp()
        except NodeError as error:
            return str(error)

    @classmethod
    def execute(cls, bundle_name, weight_dtype) -> io.NodeOutput:
        with name_input_in_errors("bundle_name"):
            bundle = _listed_bundle(bundle_name)
        with name_input_in_errors("bundle_name", str(bundle.folder), bundle.name):
            return io.NodeOutput(*load_parts(bundle, WEIGHT_DTYPES[weight_dtype]))


class LoadDemo(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DreamFactoryLoadDemo",
            display_name="Load Demo Bundle",
            category="DreamFactory/loaders",
            description="Everything the demo workflows need, in one node and without any download: small networks "
            "that ship with the pack, trained on a world of coloured shapes. One animates a picture of a shape "
            "(Factorized-Dreamer), one makes the clip from words alone (VideoFactory): 8 frames of 64x64, enlarged to "
            "256x256, in seconds on a CPU.",
            search_aliases=["demo", "example", "tiny", "first steps", "text to video"],
            inputs=[
                io.Combo.Input(
                    "weight_dtype",
                    options=list(WEIGHT_DTYPES),
                    default="default",
                    tooltip="How the network's weights are kept in memory. default lets ComfyUI choose.",
                ),
                io.Combo.Input(
                    "picture",
                    options=list(_pictures()),
                    tooltip="A first frame to begin with; none of them was in the training set. Text to video needs "
                    "none.",
                ),
                io.Combo.Input(
                    "demo",
                    options=list(DEMO_FOLDERS),
                    default=next(iter(DEMO_FOLDERS)),
                    optional=True,
                    tooltip="picture to video animates the picture as motion text says. text to video makes the clip "
                    "from one prompt alone: leave motion text, clip vision and picture unwired.",
                ),
            ],
            outputs=[
                io.Model.Output(display_name="model", tooltip="The video network."),
                io.Clip.Output(display_name="text", tooltip="Text encoder for what is seen: 'a red circle on grey'."),
                io.Clip.Output(
                    display_name="motion text",
                    tooltip="Text encoder (T5) for what happens: 'the red circle moves left'. Only in picture to "
                    "video.",
                ),
                io.ClipVision.Output(
                    display_name="clip vision",
                    tooltip="Image encoder through which the network looks at the picture. Only in picture to video.",
                ),
                io.Vae.Output(display_name="vae", tooltip="Pictures to latents and back."),
                io.Image.Output(
                    display_name="picture", tooltip="The chosen first frame, 64x64. Only in picture to video."
                ),
                io.UpscaleModel.Output(
                    display_name="upscale model", tooltip="An RCAN that enlarges frames of this world four times."
                ),
            ],
        )

    @classmethod
    def execute(cls, weight_dtype, picture, demo="picture to video") -> io.NodeOutput:
        folder, name = DEMO_FOLDERS[demo], f"the demo {demo!r}"
        with name_input_in_errors("demo", str(folder), name):
            parts = load_parts(read_bundle(folder, name, allowed=[DEMOS]), WEIGHT_DTYPES[weight_dtype])
        if folder == DEMO:
            shown = np.asarray(Image.open(_pictures()[picture]).convert("RGB"), dtype=np.float32) / 255
            frame = torch.from_numpy(shown)[None]
        else:
            frame = Absent(f"picture: {name} begins without a picture; disconnect this wire.")
        return io.NodeOutput(*parts, frame, load_upscale_model(DEMO / "upscaler.safetensors"))


def _pictures() -> dict[str, Path]:
    return {path.stem.replace("_", " "): path for path in sorted((DEMO / "pictures").glob("*.png"))}


def _listed_bundle(name: str) -> BundleFiles:
    return read_bundle(listed(name), name, model_folders())


# -- parts to sockets -------------------------------------------------------------------------------------------------


class Absent(ExecutionBlocker):
    """In place of an output that a bundle does not have. A node that is wired to it fails with the sentence.

    The host stops at a blocker and asks for its message. Told one, it shows it in the browser, but calls the run a
    success where others ask; an error reaches everybody, and names the node at the wire's other end.
    """

    def __init__(self, sentence: str) -> None:
        self.sentence = sentence

    @property
    def message(self) -> str:
        raise NodeError(self.sentence)


def load_parts(bundle: BundleFiles, dtype: torch.dtype | None) -> list:
    """OUTPUTS of a bundle, the absent ones as Absent. Raises NodeError or CheckpointError with one sentence."""
    ready = {key: part for key, part in bundle.parts.items() if not part.outside}
    made, latents, config = {}, None, None
    # The network, the heaviest part, comes after everything that may be refused.
    if "codec" in ready:
        made["codec"], latents = _load_codec(ready["codec"].path)
    for key in ("text", "motion"):
        if key in ready:
            # As headless: where a bundle names no layer it means the last.
            made[key] = load_text_encoder(ready[key].path, layer=ready[key].options.get("layer", "last"))
    if "image" in ready:
        made["image"] = load_vision_encoder(ready["image"].path)
    if "unet" in ready:
        seen = {"uncond": bundle.uncond_image, **(ready["image"].options if "image" in ready else {})}
        made["unet"] = load_video_model(str(ready["unet"].path), dtype, latent_format=latents, seen=seen)
        config = made["unet"].model.video_config
    if "codec" in made and config is not None and made["codec"].latent_channels != config.in_channels:
        raise NodeError(
            f"the VAE of {bundle.name} makes {made['codec'].latent_channels} latent channels, its network takes "
            f"{config.in_channels}; put the VAE there that the network was trained with."
        )
    return [
        made[key] if key in made else Absent(f"{output}: {_why(key, bundle, config)}")
        for output, key in OUTPUTS.items()
    ]


def _load_codec(path: Path):
    """(VAE, format of its latents) of our codec's file or an AutoencoderKL folder."""
    if path.is_dir():
        return load_kl_vae(path)
    vae = load_codec_vae(path)
    return vae, codec_latent_format(vae.first_stage_model)


def _why(key: str, bundle: BundleFiles, config: UNetConfig | None) -> str:
    """Why an output is absent, and what to do."""
    what = NAMES[key]
    if key in bundle.parts:
        return (
            f"{bundle.name}/{INDEX} puts the {what} at {bundle.parts[key].entry!r}, outside of ComfyUI's model "
            f"folders; copy it into the bundle and name it there, or load it with {LOADERS[key]}."
        )
    if _reads(config)[key]:
        return f"{bundle.name} comes without the {what} that its network reads; load it with {LOADERS[key]}."
    return f"{bundle.name} has no {what}, and its network reads none; disconnect this wire."


def _reads(config: UNetConfig | None) -> Mapping[str, bool]:
    """Whether a network needs a part."""
    return {
        "codec": True,
        "text": True,
        "motion": config is None or config.motion_text != "off",
        "image": config is None or (config.image_adapter != "off" and config.image_projector is not None),
    }
