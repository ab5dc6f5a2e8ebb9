"""Everything a clip needs, in one folder: network, codec, encoders and the settings that suit them.

`bundle.json` names the parts; the demo bundle lies beside this file. Real weights go the same way: point its
entries at a converted network, an AutoencoderKL folder and transformers folders.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

import torch
from torch import Tensor, nn

from ..model_patches import VideoUNet, load_unet
from ..model_patches.patch_codec import load_codec, save_codec
from ..schedulers import ScheduleConfig
from .encoders import ImageEncoder, TextEncoder
from .errors import InputError

DEMO = Path(__file__).parent / "demo"
INDEX = "bundle.json"


@dataclass(frozen=True)
class Defaults:
    """Settings that suit the bundle's network."""

    frames: int = 16
    height: int = 512
    width: int = 512
    fps: int = 8
    steps: int = 50
    guidance_scale: float = 7.5
    sampler: str = "ddim"
    uncond_image: str = "same"  # what guidance's empty prompt sees: the "same" image tokens, or those of "grey"


@dataclass
class Bundle:
    """Loaded parts. `motion` and `image` are None where the network does not use them."""

    unet: VideoUNet
    codec: nn.Module
    text: TextEncoder
    motion: TextEncoder | None = None
    image: ImageEncoder | None = None
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    defaults: Defaults = field(default_factory=Defaults)
    name: str = ""


class KLCodec(nn.Module):
    """Stable Diffusion's AutoencoderKL with the interface of our codecs: scaled latents, pixels in [-1, 1].

    One frame at a time: a clip at once needs sixteen times the memory and is no faster.
    """

    def __init__(self, vae: nn.Module) -> None:
        super().__init__()
        self.vae = vae
        self.latent_channels = vae.config.latent_channels
        self.downscale = 2 ** (len(vae.config.block_out_channels) - 1)

    def encode(self, images: Tensor) -> Tensor:
        latents = [self.vae.encode(image).latent_dist.mode() for image in images.split(1)]
        return torch.cat(latents) * self.vae.config.scaling_factor

    def decode(self, latents: Tensor) -> Tensor:
        latents = latents / self.vae.config.scaling_factor
        return torch.cat([self.vae.decode(latent).sample for latent in latents.split(1)])


def load_vae(path: str | Path) -> nn.Module:
    """Our codec's file, or a diffusers AutoencoderKL folder."""
    path = Path(path)
    if path.is_file():
        return load_codec(path, dtype=torch.float32)
    if not (path / "config.json").exists():
        raise InputError(f"{path} is no codec: give a codec file of ours or a diffusers AutoencoderKL folder.")
    from diffusers import AutoencoderKL

    try:
        vae = AutoencoderKL.from_pretrained(path, local_files_only=True, use_safetensors=True)
    except (OSError, ValueError, RuntimeError) as error:
        raise InputError(f"the VAE in {path} cannot be read: {str(error).splitlines()[0]}") from error
    return KLCodec(vae.eval().requires_grad_(False))


def load_bundle(
    where: str | Path,
    *,
    vae: str | None = None,
    text_encoder: str | None = None,
    motion_encoder: str | None = None,
    image_encoder: str | None = None,
    attention: str = "sdpa",
) -> Bundle:
    """Read a bundle: "demo", a folder with bundle.json, or a network file with its other parts named.

    The keyword arguments replace parts of the bundle. Raises InputError or CheckpointError with one sentence.
    """
    folder = DEMO if str(where) == "demo" else Path(where)
    index = _read_index(folder) if folder.is_dir() else {"unet": str(folder)}
    base = folder if folder.is_dir() else folder.parent
    for key, value in (("codec", vae), ("text", text_encoder), ("motion", motion_encoder), ("image", image_encoder)):
        if value is not None:
            kept = index.get(key) if isinstance(index.get(key), dict) else {}
            index[key] = {**kept, "path": str(Path(value).resolve())} if key != "codec" else str(Path(value).resolve())

    unet = load_unet(base / index["unet"] if folder.is_dir() else folder, attention=attention)
    if "codec" not in index:
        raise InputError(f"{where} comes without a VAE; name one with --vae (an AutoencoderKL folder).")
    if "text" not in index:
        raise InputError(f"{where} comes without a text encoder; name one with --text-encoder (a transformers folder).")
    codec = load_vae(base / index["codec"])

    def encoder(cls, key: str):
        if key not in index:
            return None
        entry = dict(index[key]) if isinstance(index[key], dict) else {"path": index[key]}
        return cls.load(base / entry.pop("path"), **entry)

    text, motion, image = encoder(TextEncoder, "text"), encoder(TextEncoder, "motion"), encoder(ImageEncoder, "image")
    projector = unet.config.image_projector
    if image is not None and projector is not None and not _names_features(index):
        # A linear projector reads the pooled embedding, a resampler all patches of the last layer (LVDM).
        image.features = "pooled" if projector.kind == "linear" else "last"
    known = {f.name for f in fields(Defaults)}
    stated = {k: v for k, v in index.get("defaults", {}).items() if k in known}
    if unet.config.image_tokens_per_frame:
        stated.setdefault("uncond_image", "grey")  # how DynamiCrafter was trained to do without a picture
    defaults = Defaults(**stated)
    schedule = ScheduleConfig.from_dict(unet.schedule) if unet.schedule else ScheduleConfig()
    bundle = Bundle(unet, codec, text, motion, image, schedule, defaults, str(where))
    _check(bundle)
    return bundle


def save_bundle(bundle: Bundle, folder: str | Path, *, dtype: torch.dtype = torch.float16) -> None:
    """Write every part and the index; the index comes last, so a folder with one is whole."""
    from ..model_patches import save_unet

    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).unlink(missing_ok=True)
    index: dict = {"unet": "unet.safetensors", "codec": "codec.safetensors", "defaults": asdict(bundle.defaults)}
    save_unet(bundle.unet, folder / index["unet"], schedule=bundle.schedule.to_dict(), dtype=dtype)
    save_codec(bundle.codec, folder / index["codec"], dtype=dtype)
    for key, encoder in (("text", bundle.text), ("motion", bundle.motion), ("image", bundle.image)):
        if encoder is not None:
            encoder.to(dtype).save(folder / f"{key}_encoder")
            index[key] = {"path": f"{key}_encoder"}
            encoder.float()
    if bundle.image is not None:
        index["image"]["features"] = bundle.image.features
    if bundle.text.layer != "last":
        index["text"]["layer"] = bundle.text.layer
    temporary = folder / (INDEX + ".tmp")
    temporary.write_text(json.dumps(index, indent=2) + "\n")
    temporary.replace(folder / INDEX)


def _names_features(index: dict) -> bool:
    return isinstance(index.get("image"), dict) and "features" in index["image"]


def _read_index(folder: Path) -> dict:
    try:
        index = json.loads((folder / INDEX).read_text())
    except OSError as error:
        raise InputError(f"{folder} is no bundle: it has no {INDEX}.") from error
    except ValueError as error:
        raise InputError(f"{folder / INDEX} is not valid JSON: {error}.") from error
    if "unet" not in index:
        raise InputError(f"{folder / INDEX} names no 'unet'.")
    return index


def _check(bundle: Bundle) -> None:
    """The parts fit together, or one sentence says which do not."""
    config = bundle.unet.config
    if bundle.codec.latent_channels != config.in_channels:
        raise InputError(
            f"the VAE makes {bundle.codec.latent_channels} latent channels, the network takes {config.in_channels}; "
            "choose the VAE the network was trained with."
        )
    if bundle.text.width != config.context_dim:
        raise InputError(
            f"the text encoder is {bundle.text.width} wide, the network reads {config.context_dim}; "
            "choose the text encoder the network was trained with."
        )
    if bundle.motion is not None and config.motion_text != "off" and bundle.motion.width != config.motion_dim:
        raise InputError(
            f"the motion encoder is {bundle.motion.width} wide, the network reads {config.motion_dim}; "
            "choose the motion encoder the network was trained with."
        )
    if config.motion_text != "off" and bundle.motion is None:
        raise InputError("this network reads motion text; name its T5 encoder with --motion-encoder.")
