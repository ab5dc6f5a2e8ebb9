"""Everything a clip needs, in one folder: network, codec, encoders and the settings that suit them.

`bundle.json` names the parts; the demo bundle lies beside this file. Real weights go the same way: point its
entries at a converted network, an AutoencoderKL folder and transformers folders.
"""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from ..errors import InputError, blameless, reason, shown, some
from ..files import no_file, read_json, whole
from ..model_patches import CheckpointError, VideoUNet, load_unet, read_header
from ..model_patches.checkpoints.converters import recognise
from ..model_patches.checkpoints.files import is_pickled, read_weights
from ..model_patches.checkpoints.foreign_config import KL_VAE, check_count, checked, read_headers, weight_files
from ..model_patches.codec import PatchAutoencoder, load_codec, save_codec
from ..schedulers import ScheduleConfig
from .encoders import ImageEncoder, TextEncoder
from .turns import Turns

DEMO = Path(__file__).parent / "demo"
DEMOS = {"demo": DEMO, "demo-text-to-video": Path(__file__).parent / "demo_text_to_video"}
INDEX = "bundle.json"
NAMES = {
    "unet": "network",
    "codec": "VAE",
    "text": "text encoder",
    "motion": "motion encoder",
    "image": "image encoder",
}
UNCOND_IMAGES = (None, "same", "grey", "zeros")
Encoder = TypeVar("Encoder", TextEncoder, ImageEncoder)


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
    uncond_image: str | None = None  # what guidance's empty prompt sees; None: as UNetConfig.image_uncond says


@dataclass
class Bundle:
    """Loaded parts. `motion` and `image` are None where the network does not use them."""

    unet: VideoUNet
    codec: Codec
    text: TextEncoder
    motion: TextEncoder | None = None
    image: ImageEncoder | None = None
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    defaults: Defaults = field(default_factory=Defaults)
    name: str = ""
    turns: Turns | None = None  # None: every part is where it is used

    def turn(self, *parts: nn.Module | None) -> None:
        """It is these parts' turn on the device."""
        if self.turns is not None:
            self.turns(*parts)


class KLCodec(nn.Module):
    """Stable Diffusion's AutoencoderKL with the interface of our codecs: scaled latents, pixels in [-1, 1].

    One frame at a time: a clip at once needs sixteen times the memory and is no faster.
    """

    latent_channels: int
    downscale: int
    vae: Any  # an AutoencoderKL, whose methods return more than one type each

    def __init__(self, vae: Any) -> None:
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


Codec = PatchAutoencoder | KLCodec


def vae_dtype(codec: Codec, dtype: torch.dtype) -> torch.dtype:
    """Stable Diffusion's VAEs may overflow in float16, into black pictures; the small codecs of ours do not."""
    return torch.float32 if dtype is torch.float16 and isinstance(codec, KLCodec) else dtype


def load_vae(path: str | Path) -> Codec:
    """Our codec's file, or a diffusers AutoencoderKL folder."""
    path = Path(path)
    if not path.is_dir():
        return load_codec(path, dtype=torch.float32)
    if not (path / "config.json").exists():
        raise InputError(f"{path} is no codec: give a codec file of ours or a diffusers AutoencoderKL folder.")
    from diffusers import AutoencoderKL  # pyright: ignore[reportPrivateImportUsage] (its types hide it)

    kind: Any = AutoencoderKL  # its makers return what they are asked for, which their types do not say
    files = weight_files(path)
    if not files:
        raise InputError(
            f"{path} has no weights: neither *.safetensors nor diffusion_pytorch_model.bin; download them again."
        )
    headers = read_headers(files)
    values = read_json(path / "config.json", "put the VAE's own config.json there")
    if values.get("quantization_config") is not None:
        raise InputError(f"{path} is quantized, which no VAE is here; give plain weights.")
    count = sum(len(header.shapes) for header in headers)
    config = checked(values, KL_VAE, path / "config.json", count, nulls=False)
    if config.get("scaling_factor") == 0:
        raise InputError(f"{path / 'config.json'} says scaling_factor = 0; put the VAE's own config.json there.")
    try:
        with torch.device("meta"):
            needed = sum(weight.numel() for weight in kind.from_config(config).parameters())
        check_count(needed, headers, path)
        with _quiet():
            if any(map(is_pickled, files)):
                vae, lacking = _vae_of_pickles(kind.from_config(config), files)
            else:
                vae, found = kind.from_pretrained(
                    path, local_files_only=True, use_safetensors=True, output_loading_info=True
                )
                lacking = found["missing_keys"]  # diffusers would go on with random ones
    except CheckpointError:
        raise
    except Exception as error:  # whatever diffusers makes of a checked config and of the weights
        if blameless(error):
            raise
        raise InputError(f"the VAE in {path} cannot be read: {some([reason(error)])}.") from error
    if lacking:
        raise InputError(f"the VAE in {path} lacks {len(lacking)} weights, {some([lacking[0]])} first; save it again.")
    return KLCodec(vae.eval().requires_grad_(False))


# diffusers' names of a VAE's attention before 0.15, as published pickles have them.
OLD_ATTENTION = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def _vae_of_pickles(vae: nn.Module, files: Sequence[Path]) -> tuple[nn.Module, list[str]]:
    """A VAE with the weights of pickles, and which it lacks. diffusers would open them in its own way."""
    weights = {}
    for name, weight in (item for file in files for item in read_weights(file).items()):
        *parts, last, kind = name.split(".")
        weights[".".join([*parts, OLD_ATTENTION.get(last, last), kind])] = weight
    return vae, list(vae.load_state_dict(weights, strict=False).missing_keys)


@contextmanager
def _quiet() -> Iterator[None]:
    """Without what diffusers thinks of a VAE, which would stand between a user and our one sentence."""
    from diffusers.utils import logging

    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)


def _check_network(path: Path) -> None:
    """Raises CheckpointError where a file is no network that `load_unet` could read, by its header."""
    header = read_header(path)
    if header.kind in (None, "upscaler"):
        try:
            recognise(header)
        except CheckpointError as error:
            raise CheckpointError(f"{path}: {error}") from error


def load_bundle(
    where: str | Path,
    *,
    vae: str | None = None,
    text_encoder: str | None = None,
    motion_encoder: str | None = None,
    image_encoder: str | None = None,
    text_layer: str | None = None,
    attention: str = "sdpa",
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    turns: Turns | None = None,
) -> Bundle:
    """Read a bundle: a demo by its name, a folder with bundle.json, or a network file with its other parts named.

    The keyword arguments replace parts of the bundle. turns: the parts stay on the CPU until it is their turn on its
    device. Raises InputError or CheckpointError with one sentence.
    """
    device = "cpu" if turns is not None else device
    folder = DEMOS.get(str(where)) or Path(where)
    index: dict[str, Any] = _read_index(folder) if folder.is_dir() else {"unet": str(folder)}
    if not folder.is_dir():
        _check_network(folder)  # a missing or damaged file, or no network at all, is told before its companions
    base = folder if folder.is_dir() else folder.parent
    for key, value in (("codec", vae), ("text", text_encoder), ("motion", motion_encoder), ("image", image_encoder)):
        if value is not None:
            kept = index.get(key)
            kept = kept if isinstance(kept, dict) else {}
            index[key] = {**kept, "path": str(Path(value).resolve())} if key != "codec" else str(Path(value).resolve())

    if text_layer is not None and "text" in index:
        index["text"] = {**_entry(index, "text"), "layer": text_layer}
    if "codec" not in index:
        raise InputError(f"{where} comes without a VAE; name one with --vae (an AutoencoderKL folder).")
    if "text" not in index:
        raise InputError(f"{where} comes without a text encoder; name one with --text-encoder (a transformers folder).")

    def encoder(cls: type[Encoder], key: str) -> Encoder:
        entry = _entry(index, key)
        return cls.load(_located(base, entry.pop("path"), key), dtype=dtype, **entry).to(device)

    # The network, the heaviest part, comes after everything that may be refused.
    codec = load_vae(_located(base, _text(index, "codec"), "codec"))
    codec = codec.to(device, vae_dtype(codec, dtype))

    text = encoder(TextEncoder, "text")
    motion = encoder(TextEncoder, "motion") if "motion" in index else None
    image = encoder(ImageEncoder, "image") if "image" in index else None
    network = _located(base, _text(index, "unet"), "unet") if folder.is_dir() else folder
    unet = load_unet(network, attention=attention, dtype=dtype)
    unet = unet.to(device)
    projector = unet.config.image_projector
    if image is not None and projector is not None and not _names_features(index):
        image.features = projector.reads
    defaults = Defaults(**_defaults(index))
    if unet.schedule is None:
        raise InputError(f"{where} does not say with which noise schedule it was trained; save it with its schedule.")
    schedule = ScheduleConfig.from_dict(unet.schedule)
    bundle = Bundle(unet, codec, text, motion, image, schedule, defaults, str(where), turns)
    _check(bundle)
    return bundle


def files_of(where: str | Path) -> list[Path]:
    """The files and folders that a bundle is read from: its own folder, and what its index names elsewhere."""
    folder = DEMOS.get(str(where)) or Path(where)
    if not folder.is_dir():
        return [folder]
    index = _read_index(folder)
    named = {key: _text(index, key) for key in ("unet", "codec") if key in index}
    named |= {key: _entry(index, key)["path"] for key in ("text", "motion", "image") if key in index}
    paths = [_located(folder, path, key) for key, path in named.items()]
    return [folder, *(path for path in paths if not path.resolve().is_relative_to(folder.resolve()))]


def save_bundle(
    bundle: Bundle,
    folder: str | Path,
    *,
    dtype: torch.dtype = torch.float16,
    elsewhere: Mapping[str, str | dict] | None = None,
) -> None:
    """Write every part and the index; the index comes last, so a folder with one is whole.

    elsewhere: entries of the index for parts that stay where they are (codec, text, motion, image), by path.
    """
    from ..model_patches import save_unet

    elsewhere = elsewhere or {}
    codec = None if "codec" in elsewhere else bundle.codec
    if isinstance(codec, KLCodec):
        raise ValueError("Stable Diffusion's VAE stays where it is: name its folder in `elsewhere`.")
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / INDEX).unlink(missing_ok=True)
    index: dict = {"unet": "unet.safetensors", "codec": "codec.safetensors", "defaults": asdict(bundle.defaults)}
    save_unet(bundle.unet, folder / index["unet"], schedule=bundle.schedule.to_dict(), dtype=dtype)
    if codec is not None:
        save_codec(codec, folder / index["codec"], dtype=dtype)
    for key, encoder in (("text", bundle.text), ("motion", bundle.motion), ("image", bundle.image)):
        if encoder is None or key in elsewhere:
            continue
        copy.deepcopy(encoder).to(dtype).save(folder / f"{key}_encoder")
        index[key] = {"path": f"{key}_encoder"}
        if key == "image":
            index[key]["features"] = encoder.features
        elif key == "text" and encoder.layer != "last":
            index[key]["layer"] = encoder.layer
    index |= elsewhere
    with whole(folder / INDEX) as temporary:
        temporary.write_text(json.dumps(index, indent=2) + "\n")


def _entry(index: dict, key: str) -> dict:
    """A part of the index as {"path": ..., options}."""
    entry = index[key] if isinstance(index[key], dict) else {"path": index[key]}
    allowed = {"path", "layer"} if key != "image" else {"path", "features"}
    if not _is_path(entry.get("path")) or set(entry) - allowed:
        raise InputError(f"{INDEX} says {key!r}: {shown(index[key])}; expected {', '.join(sorted(allowed))}.")
    return dict(entry)


def _text(index: dict, key: str) -> str:
    if not _is_path(index[key]):
        raise InputError(f"{INDEX} says {key!r}: {shown(index[key])}; expected a path.")
    return index[key]


def _is_path(value: object) -> bool:
    return isinstance(value, str) and value.isprintable() and value != ""


def _located(base: Path, path: str, key: str) -> Path:
    """Of a part, from the bundle's folder on."""
    found = base / path
    if (told := no_file(found, or_folder=True)) is not None:
        raise InputError(f"the bundle's {NAMES[key]} is not there: {told}; check its path.")
    return found


def _defaults(index: dict) -> dict:
    """The stated defaults, each of its field's type."""
    stated = index.get("defaults", {})
    if not isinstance(stated, dict):
        raise InputError(f"{INDEX} says defaults = {shown(stated)}; expected settings by their names.")
    types = {f.name: type(f.default) for f in fields(Defaults)} | {"uncond_image": str | None}
    for name, value in stated.items():
        expected = types.get(name, ())
        if isinstance(value, bool) or not isinstance(value, expected if expected is not float else int | float):
            raise InputError(
                f"{INDEX} says defaults.{some([name])} = {shown(value)}; known: {', '.join(types)}, numbers as numbers."
            )
    if stated.get("uncond_image") not in UNCOND_IMAGES:
        raise InputError(
            f"{INDEX} says defaults.uncond_image = {shown(stated['uncond_image'])}; expected one of "
            f"{', '.join(filter(None, UNCOND_IMAGES))}."
        )
    return dict(stated)


def _names_features(index: dict) -> bool:
    return isinstance(index.get("image"), dict) and "features" in index["image"]


def _read_index(folder: Path) -> dict:
    if not (folder / INDEX).exists():
        raise InputError(f"{folder} is no bundle: it has no {INDEX}.")
    index = read_json(folder / INDEX, "save the bundle again")
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
    projector = config.image_projector
    if config.image_adapter != "off" and projector is not None:
        if bundle.image is None:
            raise InputError("this network reads image tokens; name its CLIP vision encoder with --image-encoder.")
        if bundle.image.width != projector.embedding_dim:
            raise InputError(
                f"the image encoder's {bundle.image.features} features are {bundle.image.width} wide, the network "
                f"reads {projector.embedding_dim}; choose the image encoder the network was trained with."
            )
