"""Stable Diffusion 1.5 and 2.1 as they are published, drawing single pictures.

one whole checkpoint in LDM's names, or a diffusers folder  ->  CLIP text -> UNet -> VAE  ->  pictures

The UNet is our own spatial half, a clip of one frame; text encoder and VAE are transformers' and diffusers' classes.
"""

from __future__ import annotations

import copy
import inspect
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn

from ..errors import InputError
from ..files import read_json
from ..model_patches import CheckpointError, VideoUNet, load_unet
from ..model_patches.checkpoints.converters import convert_file_in_memory
from ..model_patches.checkpoints.converters.folders import BETAS, PREDICTIONS
from ..model_patches.checkpoints.converters.report import Report
from ..model_patches.checkpoints.converters.sd import SD1_CONTEXT
from ..model_patches.checkpoints.files import read_weights
from ..model_patches.checkpoints.foreign_config import weight_files
from ..model_patches.checkpoints.save import build
from ..schedulers import ScheduleConfig
from .bundle import Codec, KLCodec, load_vae, vae_dtype
from .encoders import TextEncoder, load_tokenizer
from .sampling import Prompt, sample
from .turns import Turns

SCALING = 0.18215  # of the latents; LDM keeps it outside the weights
HEAD = 64  # every CLIP's
BASE, LARGE = 512, 768  # pixels: SD 1.x and 2.x base, SD 2.x 768-v
UNET_CONFIG, SCHEDULER_CONFIG = "unet/config.json", "scheduler/scheduler_config.json"
UNET_SIZE = 64  # of a folder that states none: diffusers' reading of SD 1.x's first releases

# Parts of a whole checkpoint: LDM's name -> ours in a sentence. OpenCLIP's text encoder is SD 2.x's.
VAE, CLIP, OPEN_CLIP = "first_stage_model.", "cond_stage_model.transformer.", "cond_stage_model.model."

# The parts of a StableDiffusionPipeline that our own network stands in for.
OURS = {"unet": "UNet2DConditionModel", "vae": "AutoencoderKL", "text_encoder": "CLIPTextModel"}
# What may differ between one Stable Diffusion UNet and another; all else is as diffusers' class has it by itself.
FREE = (
    "sample_size", "block_out_channels", "layers_per_block", "cross_attention_dim", "attention_head_dim",
    "num_attention_heads", "use_linear_projection", "upcast_attention", "down_block_types", "up_block_types",
    "dropout",
)  # fmt: skip
BLOCKS = {"CrossAttnDownBlock2D", "DownBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"}
FEW_STEPS = ("LCMScheduler", "TCDScheduler")  # of networks that were distilled for them and know no other


@dataclass
class StableDiffusion:
    """A `TextToImage` (text_to_image.py) of loaded parts, which take turns on a device."""

    text: TextEncoder
    unet: VideoUNet
    codec: Codec
    turns: Turns
    name: str
    size: tuple[int, int]
    notes: list[str] = field(default_factory=list)
    ignores: dict[str, str] = field(default_factory=dict)
    steps: int = 30
    guidance_scale: float = 7.5

    @property
    def unit(self) -> int:
        return self.codec.downscale

    def is_cut(self, text: str) -> bool:
        """As `TextToImage.is_cut`."""
        return self.text.is_cut(text)

    @torch.no_grad()
    def draw(
        self,
        text: list[str],
        negative: list[str],
        seeds: list[int],
        size: tuple[int, int],
        *,
        steps: int,
        guidance_scale: float,
        on_step: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """As `TextToImage.draw`: (b, 3, h, w) float32 on the CPU, in [0, 1]."""
        check_drawing(self.name, self.unit, size, steps, guidance_scale)
        schedule = ScheduleConfig.from_dict(self.unet.schedule)
        shape = (1, self.unet.config.in_channels, *(side // self.unit for side in size))
        noise = torch.cat([torch.randn(shape, generator=torch.Generator().manual_seed(seed)) for seed in seeds])
        try:
            self.turns(self.text)
            prompt = Prompt(text=self.text(text), uncond_text=self.text(negative))
            self.turns(self.unet)
            like = next(self.unet.parameters())
            latents = sample(
                self.unet,
                schedule.build(1, *size),
                prompt.to(like),
                noise.to(like),
                1,
                steps=steps,
                guidance_scale=max(guidance_scale, 1.0),  # below 1 diffusers guides no more, and users know it so
                guidance_rescale=schedule.guidance_rescale,
                spacing=schedule.spacing,
                on_step=on_step,
            )
            self.turns(self.codec)
            pixels = self.codec.decode(latents.to(next(self.codec.parameters())))
        except BaseException:
            self.turns.over()
            raise
        return ((pixels.float() + 1) / 2).clamp(0, 1).cpu()


def check_drawing(name: str, unit: int, size: tuple[int, int], steps: int, guidance_scale: float) -> None:
    """Refuse what no model could draw."""
    height, width = size
    if height % unit or width % unit or height < unit or width < unit:
        raise InputError(f"{name} would draw {width}x{height}; both sides must be multiples of {unit}.")
    if not 1 <= steps <= 1000:
        raise InputError(f"{name} would draw in {steps} steps; expected 1 to 1000.")
    if not 0 <= guidance_scale <= 100:  # nan is in no range
        raise InputError(f"{name} would draw with guidance {guidance_scale}; expected 0 to 100.")


def is_stable_diffusion(folder: Path, kind: str, parts: Mapping[str, tuple[str, str]]) -> bool:
    """Whether our network computes what a folder's UNet does, and DDIM on its noise draws what its sampler would.

    kind: the class of its pipeline. parts: library and class of each.
    """
    if kind != "StableDiffusionPipeline" or any(parts.get(part, ("", ""))[1] != name for part, name in OURS.items()):
        return False
    needed = (*OURS, "scheduler")
    if any(part not in parts or not (folder / part).is_dir() for part in needed):
        return False
    if any(half_only(folder / part) for part in ("vae", "text_encoder")):
        return False
    from diffusers import UNet2DConditionModel  # pyright: ignore[reportPrivateImportUsage] (its types hide it)

    usual = {k: p.default for k, p in inspect.signature(UNet2DConditionModel.__init__).parameters.items()}
    unet, noise = (read_json(folder / name) for name in (UNET_CONFIG, SCHEDULER_CONFIG))
    blocks = [unet.get(name, []) for name in ("down_block_types", "up_block_types")]
    if not all(isinstance(names, list) and all(isinstance(name, str) for name in names) for names in blocks):
        return False
    return (
        all(unet[name] == value for name, value in usual.items() if name in unet and name not in FREE)
        and {name for names in blocks for name in names} <= BLOCKS
        and all(isinstance(unet.get(name), int | None) for name in ("layers_per_block", "cross_attention_dim"))
        and any(noise.get("beta_schedule") == known for known in BETAS)
        and noise.get("trained_betas") is None
        and any(noise.get("prediction_type", "epsilon") == known for known in PREDICTIONS)
        and parts["scheduler"][1] not in FEW_STEPS
    )


def half_only(folder: Path) -> bool:
    """Whether a part's weights are there in their half-precision variant alone, which only diffusers' loader reads."""
    names = [file.name for file in weight_files(folder)]
    return bool(names) and all(".fp16" in name for name in names)


def open_file(
    path: Path, tokenizer, like: TextEncoder | None, turns: Turns, dtype: torch.dtype, attention: str
) -> StableDiffusion:
    """A whole checkpoint that was checked; arguments as `open_text_to_image`."""
    weights = read_weights(path)  # untouched, they cost no memory
    open_clip = any(OPEN_CLIP in key for key in weights)
    state = _within(weights, OPEN_CLIP if open_clip else CLIP)
    state = _from_open_clip(state) if open_clip else {k.removeprefix("text_model."): v for k, v in state.items()}
    vocabulary = _shape(state, "embeddings.token_embedding.weight", path)[0]
    words = _tokenizer(tokenizer, like, vocabulary, path)
    # What CLIP was trained with, whatever a tokenizer of another model says.
    words.pad_token = words.convert_ids_to_tokens(0) if open_clip else words.eos_token

    model = _clip(state, "gelu" if open_clip else "quick_gelu", path).to(dtype).requires_grad_(False).eval()
    text = TextEncoder(model, words, min(words.model_max_length, model.config.max_position_embeddings))
    codec = KLCodec(_vae(_within(weights, VAE), path).requires_grad_(False).eval())
    codec = codec.to(vae_dtype(codec, dtype))
    unet = load_unet(path, attention=attention, dtype=dtype)
    second = unet.config.context_dim != SD1_CONTEXT
    large = second and ScheduleConfig.from_dict(unet.schedule).prediction == "v"
    side = LARGE if large else BASE
    kind = f"2.x {'768-v' if large else 'base'}" if second else "1.x"
    notes = [f"taken as SD {kind} by its weights, at home at {side}x{side}; a diffusers folder would say outright"]
    # The converter sees a network alone: VAE and text encoder are of use here, and nothing can be overridden.
    used = ("first_stage_model", "cond_stage_model", "override")
    assert isinstance(unet.report, Report)  # a whole checkpoint is converted
    notes += [note for note in unet.report.notes if not any(word in note for word in used)]
    return _assemble(path, text, unet, codec, turns, (side, side), notes)


def open_folder(
    folder: Path, parts: Mapping[str, tuple[str, str]], tokenizer, turns: Turns, dtype: torch.dtype, attention: str
) -> StableDiffusion:
    """A diffusers folder that `is_stable_diffusion`; arguments as there and as `open_text_to_image`."""
    text = TextEncoder.load(folder / "text_encoder", tokenizer=tokenizer or folder / "tokenizer", dtype=dtype)
    codec = load_vae(folder / "vae")
    codec = codec.to(vae_dtype(codec, dtype))
    config, schedule, state, report = convert_file_in_memory(folder)  # which reads the folder's scheduler as well
    state = {key: weight.to(dtype) for key, weight in state.items()}
    unet = build(config, state, str(folder), attention=attention, dtype=dtype).eval()
    unet.schedule, unet.report = schedule, report
    sides = read_json(folder / UNET_CONFIG).get("sample_size") or UNET_SIZE
    height, width = (sides, sides) if isinstance(sides, int) else sides
    notes, sampler = [], parts["scheduler"][1]
    if sampler != "DDIMScheduler":
        notes.append(f"sampled with DDIM on the folder's own noise; its {sampler} is left aside")
    aside = [part for part in parts if part not in (*OURS, "tokenizer", "scheduler", "feature_extractor")]
    if aside:
        notes.append(f"the folder's {' and '.join(aside)} left aside")
    return _assemble(folder, text, unet, codec, turns, (height * codec.downscale, width * codec.downscale), notes)


def _assemble(where, text, unet, codec, turns, size, notes) -> StableDiffusion:
    """The parts as one, or one sentence that says which do not fit."""
    if codec.latent_channels != unet.config.in_channels:
        raise InputError(
            f"the VAE of {where} makes {codec.latent_channels} latent channels, its UNet takes "
            f"{unet.config.in_channels}; give a checkpoint whose parts belong together."
        )
    if text.width != unet.config.context_dim:
        raise InputError(
            f"the text encoder of {where} is {text.width} wide, its UNet reads {unet.config.context_dim}; "
            "give a checkpoint whose parts belong together."
        )
    return StableDiffusion(text, unet, codec, turns, str(where), size, notes)


def _within(weights: Mapping[str, Tensor], prefix: str) -> dict[str, Tensor]:
    """The weights of one part by their names inside it, whatever wraps the checkpoint."""
    return {key.split(prefix, 1)[1]: weight for key, weight in weights.items() if prefix in key}


def _tokenizer(named: str | Path | None, like: TextEncoder | None, vocabulary: int, path: Path):
    """A file holds no tokenizer: the one that was named, or that of another encoder with as many tokens."""
    if named is not None:
        words = load_tokenizer(named)
        if len(words) != vocabulary:
            raise InputError(
                f"the tokenizer in {named} has {len(words):,} tokens, the text encoder in {path} {vocabulary:,}; "
                "name a folder with the tokenizer it was trained with."
            )
        return words
    if like is None or like.is_t5 or len(like.tokenizer) != vocabulary:
        raise InputError(
            f"{path} holds no tokenizer, and there is no other for its {vocabulary:,} tokens here; name a transformers "
            "folder with its tokenizer with --first-frame-tokenizer."
        )
    return copy.deepcopy(like.tokenizer)


def _from_open_clip(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """OpenCLIP's text encoder in transformers' names, up to the layer that SD 2.x reads: the last but one.

    Whole encoders, of 24 layers or with their projection, hold a last layer that has no use; those that were saved
    from diffusers hold 23 layers and no projection.
    """
    from diffusers.loaders.single_file_utils import convert_open_clip_checkpoint

    block = re.compile(r"transformer\.resblocks\.(\d+)\.")
    layers = {key: int(found[1]) for key in state if (found := block.match(key))}
    count = 1 + max(layers.values(), default=-1)
    last = count - 1 if count == 24 or "text_projection" in state else count
    kept = {k: v for k, v in state.items() if layers.get(k, -1) < last and k != "text_projection"}
    width = state["token_embedding.weight"].shape[1] if "token_embedding.weight" in state else 0
    encoder = SimpleNamespace(config=SimpleNamespace(hidden_size=width))
    renamed = convert_open_clip_checkpoint(encoder, kept, prefix="")
    return {k.removeprefix("text_model."): v for k, v in renamed.items()}


def _clip(state: Mapping[str, Tensor], activation: str, path: Path) -> Any:
    """CLIP's text model of the sizes that the weights have."""
    from transformers import CLIPTextConfig, CLIPTextModel

    vocabulary, width = _shape(state, "embeddings.token_embedding.weight", path)
    config = CLIPTextConfig(
        vocab_size=vocabulary,
        hidden_size=width,
        intermediate_size=_shape(state, "encoder.layers.0.mlp.fc1.weight", path)[0],
        num_hidden_layers=_count(state, "encoder.layers.{}.layer_norm1.weight"),
        num_attention_heads=max(1, width // HEAD),
        max_position_embeddings=_shape(state, "embeddings.position_embedding.weight", path)[0],
        hidden_act=activation,
    )
    with torch.device("meta"):  # or half a minute went into random numbers
        model = CLIPTextModel(config)
    inner: Any = getattr(model, "text_model", model)  # transformers 5 took a floor out
    _fill(inner, state, path, "text encoder")
    inner.embeddings.position_ids = torch.arange(config.max_position_embeddings)[None]  # no weight, so in no file
    return model


def _vae(state: Mapping[str, Tensor], path: Path) -> nn.Module:
    """AutoencoderKL of the sizes that the weights have."""
    from diffusers import AutoencoderKL  # pyright: ignore[reportPrivateImportUsage] (its types hide it)
    from diffusers.loaders.single_file_utils import convert_ldm_vae_checkpoint

    first = "encoder.down.{}.block.0.conv1.weight"
    levels = max(1, _count(state, first))
    widths = [_shape(state, first.format(level), path)[0] for level in range(levels)]
    config = {
        "in_channels": _shape(state, "encoder.conv_in.weight", path)[1],
        "out_channels": _shape(state, "decoder.conv_out.weight", path)[0],
        "down_block_types": ["DownEncoderBlock2D"] * levels,
        "up_block_types": ["UpDecoderBlock2D"] * levels,
        "block_out_channels": widths,
        "layers_per_block": _count(state, "encoder.down.0.block.{}.conv1.weight"),
        "latent_channels": _shape(state, "decoder.conv_in.weight", path)[1],
        "scaling_factor": SCALING,
    }
    with torch.device("meta"):
        vae = AutoencoderKL(**config)
    _fill(vae, convert_ldm_vae_checkpoint(state, config), path, "VAE")
    return vae


def _fill(model: nn.Module, state: Mapping[str, Tensor], path: Path, part: str) -> None:
    """Put the weights in; what the model has no place for (positions, projections, losses) stays out."""
    expected = {k: tuple(v.shape) for k, v in model.state_dict().items()}
    wrong = [k for k, shape in expected.items() if k not in state or tuple(state[k].shape) != shape]
    if wrong:
        raise CheckpointError(
            f"{path} lacks {len(wrong)} weights of its {part}, {wrong[0]} first, or has them of another shape; "
            "download or save the whole checkpoint again."
        )
    model.load_state_dict({k: state[k] for k in expected}, assign=True)


def _shape(state: Mapping[str, Tensor], key: str, path: Path) -> tuple[int, ...]:
    if key not in state:
        raise CheckpointError(f"{path} is not complete: it lacks {key}; download or save the whole checkpoint again.")
    return tuple(state[key].shape)


def _count(state: Mapping[str, Tensor], key: str) -> int:
    """How many numbers from 0 on a name is there with."""
    number = 0
    while key.format(number) in state:
        number += 1
    return number
