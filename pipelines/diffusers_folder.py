"""A folder of a diffusers pipeline: which one it is, whether it draws from text alone, and opening it.

No code out of a folder or a pickle is run, and nothing is built that is larger than the folder's weights.
"""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import InputError, blameless, reason, shown, some
from ..files import read_json
from ..model_patches.checkpoints.files import PICKLES
from ..model_patches.checkpoints.foreign_config import (
    check_count,
    check_sizes,
    check_tokenizer_files,
    read_headers,
    weight_files,
)
from .encoders import TOKENIZER_FILES, TOKENIZER_SETTINGS
from .stable_diffusion import OURS, is_stable_diffusion

INDEX = "model_index.json"
WANTED = "give a whole checkpoint of Stable Diffusion 1.5 or 2.1, or a diffusers folder of a text-to-image pipeline"

LONGEST_CLASS = 100  # characters of a class's name
MOST_STEPS = 1_000_000  # as any whole number in a part's config: timesteps of training, words, widths

# Arguments of a pipeline's call: without the first it cannot be steered, with any of the second it needs a picture
# (but for classes that do without), with the third it makes video.
NEEDS = ("prompt", "height", "width", "num_inference_steps", "generator", "output_type")
PICTURES = ("image", "control_image", "mask_image", "image_embeds", "image_embeddings")
PICTURE_OR_NOT = ("FluxKontextPipeline", "Flux2Pipeline", "Flux2KleinPipeline", "GlmImagePipeline")
VIDEO = ("num_frames", "video_length", "num_videos_per_prompt")


def load_pipeline(folder: Path, dtype: torch.dtype, variant: str | None) -> Any:
    """diffusers' pipeline, without its progress bars and transformers'."""
    # Pickles were checked (`check_parts`), and are opened by torch's weights_only reader there too.
    safetensors = True if not _pickles(folder) else None
    from diffusers import DiffusionPipeline  # pyright: ignore[reportPrivateImportUsage] (its types hide it)
    from diffusers.utils import logging as ours
    from transformers.utils import logging as theirs

    bars = [logging for logging in (ours, theirs) if logging.is_progress_bar_enabled()]
    for logging in bars:
        logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", FutureWarning)  # of `torch_dtype`, the only name that all versions know
            pipeline = DiffusionPipeline.from_pretrained(
                folder, local_files_only=True, use_safetensors=safetensors, torch_dtype=dtype, variant=variant
            )
    except Exception as error:  # whatever a library makes of a folder
        if blameless(error):
            raise
        raise InputError(f"{folder} cannot be read: diffusers says {some([reason(error)])!r}.") from error
    finally:
        for logging in bars:
            logging.enable_progress_bar()
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _pickles(folder: Path) -> list[Path]:
    """Of parts that have no other weights."""
    parts = [folder, *(part for part in folder.iterdir() if part.is_dir())]
    return [
        file
        for part in parts
        if not any(part.glob("*.safetensors"))
        for file in sorted(part.iterdir())
        if file.suffix.lower() in PICKLES
    ]


def check_parts(folder: Path, parts: Mapping[str, tuple[str, str]]) -> None:
    """Refuse parts that are larger than their weights, before diffusers builds them. Raises CheckpointError."""
    for part, (library, kind) in parts.items():
        inside = folder / part
        check_tokenizer_files(inside, TOKENIZER_FILES, TOKENIZER_SETTINGS)
        files = weight_files(inside) if any(inside.glob("*.safetensors")) else _pickles(inside)
        headers = read_headers(files)
        for file in sorted(inside.glob("*config.json")):
            check_sizes(read_json(file), file, sum(len(header.shapes) for header in headers), MOST_STEPS)
        if headers:
            check_count(_numbers_of(inside, library, kind), headers, inside)


def _numbers_of(inside: Path, library: str, kind: str) -> int:
    """Of a part's network, all weights' numbers together, counted without making one."""
    import diffusers
    import transformers

    known = {"diffusers": diffusers, "transformers": transformers}
    network = getattr(known.get(library) or getattr(diffusers.pipelines, library, None), kind, None)
    if network is None:
        raise InputError(f"{inside} is a {some([kind])}, which {some([library])} as installed here does not have.")
    try:
        with torch.device("meta"), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if library == "diffusers":
                built = network.from_config(read_json(inside / "config.json"))
            else:
                built = network(network.config_class.from_pretrained(inside, local_files_only=True))
            return sum(weight.numel() for weight in built.parameters())
    except Exception as error:  # whatever a library makes of a config
        if blameless(error):
            raise
        raise InputError(f"{inside} cannot be read: {library} says {some([reason(error)])!r}.") from error


def arguments_of_call(folder: Path, kind: str) -> dict[str, inspect.Parameter]:
    """Of the call of a pipeline that draws from text alone. Raises InputError with one sentence for all others."""
    import diffusers
    from diffusers import DiffusionPipeline  # pyright: ignore[reportPrivateImportUsage] (its types hide it)

    pipeline = getattr(diffusers, kind, None)
    if not (inspect.isclass(pipeline) and issubclass(pipeline, DiffusionPipeline)):
        raise InputError(
            f"{folder} is a {kind}, which diffusers {diffusers.__version__} as installed here does not have; update "
            "it, or give another folder."
        )
    known = dict(inspect.signature(pipeline.__call__).parameters)
    if any(name in known for name in VIDEO):
        raise InputError(f"{folder} is a {kind}, which makes video and no single pictures; {WANTED}.")
    if kind not in PICTURE_OR_NOT and any(name in known for name in PICTURES):
        raise InputError(f"{folder} is a {kind}, which needs a picture to start from; {WANTED}.")
    lacking = [name for name in NEEDS if name not in known]
    if lacking:
        raise InputError(f"{folder} is a {kind}, which takes no {lacking[0]}; {WANTED}.")
    return known


def check_folder(folder: Path) -> tuple[str, dict[str, tuple[str, str]]]:
    """The class of a folder's pipeline, and library and class of its parts, if it can be used."""
    kind, parts = read_index(folder)
    ours = is_stable_diffusion(folder, kind, parts)
    if not ours:
        arguments_of_call(folder, kind)
    for part, (library, _) in parts.items():
        inside = folder / part
        if ours and part not in (*OURS, "scheduler"):  # the tokenizer may be another, what else there is stays aside
            continue
        if not inside.is_dir():
            raise InputError(f"{folder} lacks its part {part}; download the whole folder.")
        if (inside / "config.json").is_file() and not weight_files(inside):
            raise InputError(f"{inside} has no weights: neither .safetensors nor .bin; download the whole folder.")
        code = sorted(file.name for file in (*folder.glob("*.py"), *inside.glob("*.py")))
        if not ours and (code or not _is_known(library)):
            raise InputError(
                f"{folder} brings code of its own ({code[0] if code else library}), which is never run here; give a "
                "folder of diffusers' and transformers' classes alone."
            )
    return kind, parts


def _is_known(library: str) -> bool:
    """Whether classes of a library may be loaded: diffusers', transformers', those beside a pipeline of diffusers."""
    from diffusers import pipelines

    return library in ("diffusers", "transformers") or hasattr(pipelines, library)


def read_index(folder: Path) -> tuple[str, dict[str, tuple[str, str]]]:
    """{part: (library, class)} of a diffusers folder, and its pipeline's class."""
    if not (folder / INDEX).is_file():
        raise InputError(f"{folder} is no folder of a diffusers pipeline: it has no {INDEX}; {WANTED}.")
    index = read_json(folder / INDEX)
    kind = index.get("_class_name")
    if not isinstance(kind, str) or not kind.isidentifier() or len(kind) > LONGEST_CLASS:
        raise InputError(
            f"{folder / INDEX} names no pipeline of diffusers (its _class_name is {shown(kind)}); {WANTED}."
        )
    parts = {k: tuple(v) for k, v in index.items() if isinstance(v, list) and len(v) == 2 and None not in v}
    for part, named in parts.items():
        if not all(isinstance(name, str) and 0 < len(name) <= LONGEST_CLASS for name in (part, *named)):
            raise InputError(
                f"{folder / INDEX} says {some([part])} is {shown(list(named))}; download the folder again."
            )
        if Path(part).name != part:
            raise InputError(f"{folder / INDEX} names {some([part])}, outside of its folder; download it again.")
    return kind, parts
