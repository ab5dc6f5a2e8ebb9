"""A first frame out of words: any text-to-image model, the first step of Factorized-Dreamer.

a whole checkpoint of Stable Diffusion 1.5 or 2.1              our own network (stable_diffusion.py)
a diffusers folder of StableDiffusionPipeline                  our own network, where its parts are Stable Diffusion's
a diffusers folder of any other pipeline that draws from text  diffusers, with the folder's own sampler

Nothing is downloaded, and no code out of a folder or a pickle is run.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from ..errors import InputError, blameless, reason, some
from ..model_patches import CheckpointError, read_header
from ..model_patches.checkpoints.converters import recognise
from ..model_patches.checkpoints.converters.keys import contents
from ..model_patches.checkpoints.converters.recognise import Pattern
from ..model_patches.tokens import UNBOUNDED
from .diffusers_folder import INDEX, WANTED, arguments_of_call, check_folder, check_parts, load_pipeline, read_index
from .encoders import TextEncoder, is_cut, stated_length
from .stable_diffusion import (
    CLIP,
    OPEN_CLIP,
    VAE,
    check_drawing,
    half_only,
    is_stable_diffusion,
    open_file,
    open_folder,
)
from .turns import Turns

# What recognise.py would call by its network. First match wins there and here.
REFUSED = (
    Pattern(
        (r"^conditioner\.embedders\.0\.model\.",),
        refusal=f"this is SDXL's refiner, which goes over a picture and draws none; {WANTED}",
    ),
    Pattern(
        (r"(^|\.)(label_emb|add_embedding)\.", r"\.transformer_blocks\.1\."),
        refusal=f"this is SDXL in one file; give its diffusers folder, the one with {INDEX}",
    ),
    Pattern(
        (r"^(\w+\.)*(double_blocks|joint_blocks|single_transformer_blocks)\.\d+\.|^transformer_blocks\.\d+\.",),
        refusal="this is a diffusion transformer (as Flux or SD3) in one file; if it draws pictures, give its "
        f"diffusers folder, the one with {INDEX}",
    ),
)
OTHERS = {
    "diffusers-unet2d": "this is a UNet alone",
    "animatediff": "these are AnimateDiff motion modules, an addition to a network",
    "ip-adapter": "this is an IP-Adapter, an addition to a network",
}

GUIDANCE = ("guidance_scale", "true_cfg_scale")  # the first that is a number by itself


class TextToImage(Protocol):
    """A model that draws pictures of what texts say."""

    name: str  # for metadata and messages
    size: tuple[int, int]  # height and width it was trained at
    steps: int  # by default
    guidance_scale: float
    notes: list[str]  # what was left aside or assumed, in sentences
    ignores: dict[str, str]  # settings that change nothing here ("negative", "guidance_scale"): a sentence each

    @property
    def unit(self) -> int:
        """Both sides of a picture are multiples of it."""
        ...

    def is_cut(self, text: str) -> bool:
        """Whether a text is longer than what is read of it."""
        ...

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
        """Pictures (b, 3, h, w), float32 on the CPU, in [0, 1], for b texts and as many negative ones ("" is none).

        size: (h, w). The same seed draws the same picture, whatever else is drawn with it. A guidance scale up to 1
        is none. on_step(done, total) is called after every step; raise from it to cancel, and the device is free.
        Raises InputError with one sentence.
        """
        ...


def check_text_to_image(where: str | Path, tokenizer: str | Path | None = None) -> None:
    """Whether a file or folder can be used, before any weight is read. Raises InputError or CheckpointError."""
    path = Path(where)
    if path.is_dir():
        kind, parts = check_folder(path)
        if tokenizer is not None and not is_stable_diffusion(path, kind, parts):
            raise InputError(f"{path} is a {kind}, which brings its own tokenizers; name no other.")
    else:
        _check_file(path)


def open_text_to_image(
    where: str | Path,
    *,
    tokenizer: str | Path | None = None,
    like: TextEncoder | None = None,
    turns: Turns | None = None,
    dtype: torch.dtype = torch.float32,
    attention: str = "sdpa",
) -> TextToImage:
    """Read a text-to-image model from a file or folder.

    tokenizer: a transformers folder, for files, which hold none. like: another text encoder, whose tokenizer serves
    where none is named and it has as many tokens as the file's encoder. turns: where the networks take turns; None:
    on the CPU. Raises InputError or CheckpointError with one sentence.
    """
    path, turns = Path(where), turns or Turns()
    if not path.is_dir():
        _check_file(path)
        return open_file(path, tokenizer, like, turns, dtype, attention)
    kind, parts = check_folder(path)
    if is_stable_diffusion(path, kind, parts):
        return open_folder(path, parts, tokenizer, turns, dtype, attention)
    drawer = AnyPipeline(path, turns, dtype)
    if attention != "sdpa":
        drawer.notes.append(f"{kind} computes attention as diffusers does; {attention} is not used for the picture")
    return drawer


class AnyPipeline:
    """A `TextToImage` that is one of diffusers' pipelines, one picture after the other.

    Alone each picture, because a batch's negative prompts are all there or none is, and an SDXL pipeline looks
    elsewhere where none is.
    """

    def __init__(self, folder: Path, turns: Turns, dtype: torch.dtype) -> None:
        kind, parts = read_index(folder)
        self.arguments = arguments_of_call(folder, kind)
        check_parts(folder, parts)
        variant = "fp16" if any(half_only(folder / part) for part in parts) else None
        self.pipeline = load_pipeline(folder, dtype, variant)
        for tokenizer in self._tokenizers():
            stated_length(tokenizer, folder, UNBOUNDED)
        self.turns, self.name, self.notes, self.ignores = turns, str(folder), [], {}
        self._offloaded = False
        self._cancelled: Exception | None = None  # what a caller's on_step raised, which is no fault of the folder
        self.networks = [part for part in self.pipeline.components.values() if isinstance(part, nn.Module)]
        for network in self.networks:
            lacking = [name for name, weight in network.named_parameters() if weight.is_meta]
            if lacking:  # diffusers would only warn of these
                raise InputError(f"{folder} lacks {len(lacking)} weights ({some(lacking)}); download it again.")
        inner = getattr(self.pipeline, "unet", None) or getattr(self.pipeline, "transformer", None)
        config = {} if inner is None else inner.config
        scale = getattr(self.pipeline, "vae_scale_factor", 8)
        pixels = getattr(getattr(self.pipeline, "image_processor", None), "config", {}).get("vae_scale_factor", 8)
        patch = config.get("patch_size")
        # Many check for multiples of 8, whatever their VAE.
        self.unit = math.lcm(8, pixels, scale * (patch if isinstance(patch, int) else 1))
        self.size = self._trained_size(config, scale)
        self.steps = self.arguments["num_inference_steps"].default or 30
        numbers = [name for name in GUIDANCE if isinstance(self._default(name), int | float)]
        self.guidance = next(iter(numbers), None)
        self.guidance_scale = float(self._default(self.guidance)) if self.guidance else 1.0
        if "negative_prompt" not in self.arguments:
            self.ignores["negative"] = f"{kind} knows no negative prompt"
        elif self.guidance != "true_cfg_scale" and (self._default("true_cfg_scale") or 2) <= 1:
            self.ignores["negative"] = f"{kind} reads a negative prompt only with a true_cfg_scale, which is not set"
        if self.guidance is None:
            self.ignores["guidance_scale"] = f"{kind} knows no guidance scale"

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
        """As `TextToImage.draw`."""
        check_drawing(self.name, self.unit, size, steps, guidance_scale)
        drawn: list[Tensor] = []

        def told(step: int) -> None:
            if on_step is not None:
                each = getattr(self.pipeline, "num_timesteps", steps)  # samplers of second order take more of them
                try:
                    on_step(len(drawn) * each + step + 1, len(text) * each)
                except Exception as error:
                    self._cancelled = error
                    raise

        def step_end(pipeline, step: int, timestep, values: dict) -> dict:
            told(step)
            return values

        known = {"height": size[0], "width": size[1], "num_inference_steps": steps, "output_type": "pt"}
        known |= {"callback_on_step_end": step_end, self.guidance: guidance_scale}
        if "callback_on_step_end" not in self.arguments:  # diffusers' older form
            known["callback"] = lambda step, timestep, latents: told(step)
        known = {name: value for name, value in known.items() if name in self.arguments}
        try:
            self._to_device()
            for words, unwanted, seed in zip(text, negative, seeds, strict=True):
                generator = torch.Generator().manual_seed(seed)
                drawn.append(self._call(prompt=words, generator=generator, **self._away_from(unwanted), **known))
        except BaseException:
            self.turns.over()
            if self._offloaded:
                self.pipeline.maybe_free_model_hooks()
            raise
        return torch.cat(drawn).float().clamp(0, 1).cpu()

    def _tokenizers(self) -> list:
        from transformers import PreTrainedTokenizerBase

        return [part for part in self.pipeline.components.values() if isinstance(part, PreTrainedTokenizerBase)]

    def is_cut(self, text: str) -> bool:
        """As `TextToImage.is_cut`: of several encoders the one that reads most counts."""
        longest = max(self._tokenizers(), key=lambda tokenizer: tokenizer.model_max_length, default=None)
        if longest is None or not longest.model_max_length < UNBOUNDED:
            return False
        return is_cut(longest, text, longest.model_max_length)

    def _to_device(self) -> None:
        """All at once where they fit the card; else one after the other, as diffusers does it."""
        if not self.turns.too_large(*self.networks):
            self.turns(*self.networks)
            return
        self.turns.over()
        if not self._offloaded:
            self.pipeline.enable_model_cpu_offload(device=self.turns.device)
            self._offloaded = True

    def _call(self, **arguments) -> Tensor:
        try:
            made = self.pipeline(**arguments)
        except (ValueError, TypeError, RuntimeError, ArithmeticError, LookupError, AttributeError) as error:
            if error is self._cancelled or isinstance(error, InputError) or blameless(error):
                raise
            raise InputError(f"{self.name} does not draw this: diffusers says {some([reason(error)])!r}.") from error
        if any(getattr(made, "nsfw_content_detected", None) or []):
            raise InputError(
                f"the safety checker in {self.name} takes the picture for an unsafe one and blackened it; try another "
                "seed or text."
            )
        return made.images

    def _away_from(self, unwanted: str) -> dict[str, str]:
        """The negative prompt. Left out where it is empty, because a pipeline may know better than an empty text,
        but for those that guide only where there is one."""
        if self.guidance == "true_cfg_scale":
            unwanted = unwanted or " "
        return {"negative_prompt": unwanted} if unwanted and "negative_prompt" in self.arguments else {}

    def _default(self, name: str) -> Any:
        return self.arguments[name].default if name in self.arguments else None

    def _trained_size(self, config, scale: int) -> tuple[int, int]:
        stated = self._default("height"), self._default("width")
        if all(isinstance(side, int) for side in stated):
            return stated
        sides = getattr(self.pipeline, "default_sample_size", None) or config.get("sample_size")
        if sides is None:
            self.notes.append("the folder does not state its size; 1024x1024 is assumed")
            return 1024, 1024
        height, width = (sides, sides) if isinstance(sides, int) else sides
        return height * scale, width * scale


def _check_file(path: Path) -> None:
    """A whole SD 1.5 or 2.1 checkpoint, by its header; CheckpointError with one sentence for all else."""
    header = read_header(path)
    if header.kind is not None:
        raise CheckpointError(f"{path}: this is a DreamFactory {header.kind}, which draws no pictures alone; {WANTED}.")
    names = "\n".join(header.shapes)
    for pattern in REFUSED:
        if all(re.search(need, names, re.MULTILINE) for need in pattern.needs):
            raise CheckpointError(f"{path}: {pattern.refusal}.")
    try:
        kind = recognise(header)
    except CheckpointError as error:  # its sentence says what the file is; its remedy is for those who want a network
        raise CheckpointError(f"{path}: {str(error).split(';')[0]}; {WANTED}.") from error
    if kind != "sd":
        what = OTHERS.get(kind, "this is a video network, as its temporal weights say")
        raise CheckpointError(f"{path}: {what}; {WANTED}.")
    unet = contents(header.shapes).unet
    first, last = (header.shapes.get(unet.get(key, "")) for key in ("input_blocks.0.0.weight", "out.2.weight"))
    if first and last and first[1] != last[0]:
        raise CheckpointError(
            f"{path}: it takes {first[1]} channels and answers {last[0]}, an inpainting, depth or editing variant "
            f"of Stable Diffusion; {WANTED}."
        )
    parts = {"VAE": (VAE,), "text encoder": (CLIP, OPEN_CLIP)}
    lacking = [part for part, prefixes in parts.items() if not any(prefix in names for prefix in prefixes)]
    if lacking:
        raise CheckpointError(f"{path}: this is a UNet without {' and '.join(lacking)}; {WANTED}.")
