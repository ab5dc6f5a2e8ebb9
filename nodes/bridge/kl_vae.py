"""diffusers' AutoencoderKL folders as the host's VAE: Stable Diffusion's architecture, of any width.

The host's own loader takes single files and guesses the shape from a few weights; here config.json says it. Encoding,
decoding, tiling and memory are the host's.
"""

from __future__ import annotations

import json
from pathlib import Path

import comfy.diffusers_convert
import comfy.latent_formats
import comfy.model_patcher
import comfy.sd
import torch
from comfy.ldm.models.autoencoder import AutoencoderKL

from ...errors import NodeError, reason, some
from ...model_patches.checkpoints.files import read_header
from .codec import CodecLatents
from .folders import read_file

WEIGHTS = ("diffusion_pytorch_model.safetensors", "diffusion_pytorch_model.bin")  # the first that is there
LEVELS = 4  # as the host's table of diffusers' names has them
LAYERS = (1, 2)
WIDEST = 2**14
FIXED = {"_class_name": "AutoencoderKL", "act_fn": "silu", "norm_num_groups": 32}  # of the host's network


def load_kl_vae(folder: str | Path) -> tuple[comfy.sd.VAE, comfy.latent_formats.LatentFormat]:
    """A VAE socket from an AutoencoderKL folder, and the format of its latents: their scale is the folder's.

    Raises NodeError or CheckpointError with one sentence.
    """
    folder = Path(folder)
    config = _read_config(folder)
    shape = _shape(folder, config)
    # The host converts these names by itself; done here, they can be checked, of which it would only log.
    weights = comfy.diffusers_convert.convert_vae_state_dict(_read_weights(folder))
    _check(folder, shape, weights)
    vae = comfy.sd.VAE(sd=weights, config={"params": shape})
    vae.latent_channels = shape["embed_dim"]
    vae.patcher.cached_patcher_init = (_patcher, (folder,))  # for a second copy, on another device
    return vae, _latent_format(shape["embed_dim"], float(config["scaling_factor"]))


def _patcher(folder: Path, disable_dynamic: bool = False) -> comfy.model_patcher.ModelPatcher:
    return load_kl_vae(folder)[0].patcher


def _read_config(folder: Path) -> dict:
    """config.json, with diffusers' defaults for what it leaves out."""
    file = folder / "config.json"
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise NodeError(f"{file} cannot be read: {reason(error)}; give a diffusers AutoencoderKL folder.") from error
    except (ValueError, RecursionError) as error:
        raise NodeError(f"{file} is not valid JSON ({reason(error)}); put the VAE's own config.json there.") from error
    if not isinstance(config, dict):
        raise NodeError(f"{file} does not describe a VAE; put the VAE's own config.json there.")
    defaults = {
        "block_out_channels": [64],
        "layers_per_block": 1,
        "latent_channels": 4,
        "scaling_factor": 0.18215,
        "act_fn": "silu",
        "norm_num_groups": 32,
    }
    return defaults | config


def _shape(folder: Path, config: dict) -> dict:
    """What the host's AutoencoderKL is built with."""
    for name, value in FIXED.items():
        if config.get(name) != value:
            raise NodeError(f"{folder} says {name} = {config.get(name)!r} in config.json; ComfyUI's VAE has {value!r}.")
    widths, layers, z = (config[k] for k in ("block_out_channels", "layers_per_block", "latent_channels"))
    scale, groups = config["scaling_factor"], config["norm_num_groups"]
    whole = isinstance(widths, list) and all(type(n) is int and 0 < n <= WIDEST for n in [*widths, z])
    if not whole or not isinstance(scale, int | float) or not scale > 0:
        raise NodeError(f"{folder} has a config.json without sensible sizes or scale; put the VAE's own there.")
    even = len(widths) == LEVELS and not widths[0] % groups and not any(width % widths[0] for width in widths)
    if not even or layers not in LAYERS:
        raise NodeError(
            f"{folder} has {len(widths)} levels of {layers} layers, {widths[:LEVELS]} wide; ComfyUI opens Stable "
            f"Diffusion's shape: {LEVELS} levels of 1 or 2 layers, the first {groups} wide or a multiple of it, the "
            "others multiples of the first."
        )
    ddconfig = {
        "double_z": True, "z_channels": z, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": widths[0],
        "ch_mult": [width // widths[0] for width in widths], "num_res_blocks": layers, "attn_resolutions": [],
        "dropout": 0.0,
    }  # fmt: skip
    return {"ddconfig": ddconfig, "embed_dim": z}


def _read_weights(folder: Path) -> dict[str, torch.Tensor]:
    file = next((folder / name for name in WEIGHTS if (folder / name).is_file()), None)
    if file is None:
        raise NodeError(f"{folder} has no {WEIGHTS[0]} (or .bin); download the VAE's weights again.")
    read_header(file)  # damaged files are told in a sentence, by the host's own reader they are not
    return read_file(file)


def _check(folder: Path, shape: dict, weights: dict[str, torch.Tensor]) -> None:
    with torch.device("meta"):
        expected = {k: v.shape for k, v in AutoencoderKL(**shape).state_dict().items()}
    found = {k: v.shape for k, v in weights.items()}
    wrong = [k for k in {**expected, **found} if expected.get(k) != found.get(k)]
    if wrong:
        raise NodeError(
            f"{folder} has {len(wrong)} weights that are missing, unknown or of another shape than config.json asks "
            f"for ({some(wrong)}); download it again."
        )


def _latent_format(channels: int, scale: float) -> comfy.latent_formats.LatentFormat:
    latents = comfy.latent_formats.SD15() if channels == 4 else CodecLatents(channels)
    latents.scale_factor = scale
    return latents
