"""Folders of transformers models, whatever their class: looked at without their weights, then opened.

Nothing is asked of a hub, no code of a folder is run, and pickles are opened as weights alone.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ..errors import (
    DreamFactoryError,
    InputError,
    LibraryError,
    SettingsError,
    blameless,
    out_of_memory,
    place,
    reason,
    shown,
    some,
)
from ..files import no_file, read_json
from ..libraries import library, pip, version

if TYPE_CHECKING:
    import torch

    from ..model_patches.checkpoints.files import Header

CONFIG, GENERATION = "config.json", "generation_config.json"
INDICES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")  # which file holds which weight
VOCABULARIES = ("vocab.txt", "tokenizer.model", "sentencepiece.bpe.model", "tekken.json")  # beside encoders' own
PREPARE = ("preprocessor_config.json", "processor_config.json")
# What transformers asks for when it reads some folders, by words of its complaint.
ASKED_FOR = ("torchvision", "num2words", "sentencepiece", "protobuf", "timm", "bitsandbytes", "accelerate")
OTHER_HEADS = re.compile(r"Retrieval|QuestionAnswering|Classification")  # on the same body, by `architectures`
MOST_INDEX = 2**26  # bytes
UNUSED = ("pooler.",)  # weights that published folders lack, and that nothing here looks at


@dataclass(frozen=True)
class Wanted:
    """What a setting's folder is to hold."""

    setting: str  # "captions.path"
    what: str  # "a captioner such as BLIP-2"
    does: str  # "writes captions", as a sentence about another model denies it
    without: str  # how to do without
    classes: Mapping[str, str]  # transformers' classes, by the model_type of config.json


@dataclass(frozen=True)
class ModelFolder:
    """A folder that was looked at. kind: its model_type."""

    path: Path
    kind: str
    class_name: str
    values: dict
    files: list[Path]
    headers: list[Header]


def transformers_classes(setting: str, without: str) -> Mapping[str, str]:
    """What this transformers knows that turns pictures into text, by model_type. Raises LibraryError."""
    library("transformers", setting, without)
    from transformers.models.auto import modeling_auto

    known = getattr(modeling_auto, "MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING_NAMES", None)
    if known is None:
        raise LibraryError(f"{setting} needs a newer transformers than {version('transformers')}; {_upgrade()}.")
    return {kind: name if isinstance(name, str) else name[0] for kind, name in known.items()}


def _upgrade() -> str:
    return pip("install", "--upgrade", "transformers")


def look(path: str, wanted: Wanted) -> ModelFolder:
    """What a folder holds, its weights unread. Raises SettingsError, InputError or CheckpointError, one sentence."""
    from ..model_patches.checkpoints.foreign_config import read_headers, weight_files

    setting, or_else = wanted.setting, f"give the folder of {wanted.what}, or {wanted.without}"
    if not path.strip():
        raise SettingsError(f"{setting} is not given; {or_else}.")
    folder = Path(path)
    if not os.path.lexists(folder):
        raise SettingsError(f"{setting}: {place(path)} does not exist, and nothing is downloaded; {or_else}.")
    if (told := no_file(folder, or_folder=True)) is not None or not folder.is_dir():
        raise SettingsError(f"{setting}: {told or f'{place(path)} is a file, no folder'}; {or_else}.")
    try:
        names = os.listdir(folder)
    except OSError as error:
        raise SettingsError(f"{setting}: {place(path)} cannot be read: {reason(error)}.") from error
    if CONFIG not in names:
        if "snapshots" in names:
            raise SettingsError(f"{setting}: {place(path)} is a hub's cache; give the folder in its snapshots.")
        raise SettingsError(f"{setting}: {place(path)} has no {CONFIG}, so it is no model's; {or_else}.")
    values = read_json(folder / CONFIG, "put the model's own config.json there")
    kind = values.get("model_type")
    class_name = wanted.classes.get(kind) if isinstance(kind, str) else None
    if class_name is None:
        raise InputError(_not_wanted(folder, values, wanted))
    built = values.get("architectures")
    if isinstance(built, list) and built and OTHER_HEADS.search(str(built[0])):
        told = f"{place(path)} holds a {some([str(built[0])])}, which is none that {wanted.does}"
        raise InputError(f"{setting}: {told}; {or_else}.")
    if values.get("quantization_config") is not None:
        raise InputError(f"{setting}: {place(path)} is quantized, which no model is here; give plain weights.")
    files = weight_files(folder)
    if not files:
        raise InputError(f"{folder} has no weights: neither *.safetensors nor pytorch_model.bin; download them again.")
    _check_index(folder)
    headers = read_headers(files)
    _check_layers(values, folder / CONFIG, sum(len(header.shapes) for header in headers))
    return ModelFolder(folder, str(kind), class_name, values, files, headers)


def _not_wanted(folder: Path, values: Mapping, wanted: Wanted) -> str:
    """Why a folder with such a config cannot be used."""
    from transformers.models.auto import configuration_auto

    kind, start = values.get("model_type"), f"{wanted.setting}: {folder}"
    or_else = f"give the folder of {wanted.what}, or {wanted.without}"
    if not isinstance(kind, str):
        return f"{folder / CONFIG} does not name a model_type; {or_else}."
    if kind in configuration_auto.CONFIG_MAPPING_NAMES:  # pyright: ignore[reportPrivateImportUsage] (types hide it)
        return f"{start} holds a {shown(kind)} model, which is none that {wanted.does}; {or_else}."
    if values.get("auto_map"):
        return f"{start} asks for code of its own to be run, which is never done; {or_else}."
    told = f"{start} holds a {shown(kind)} model, which transformers {version('transformers')} does not know; "
    return f"{told}{or_else}, or upgrade: {_upgrade()}."


def _check_index(folder: Path) -> None:
    """Every file among which a model's weights are shared out is there."""
    for name in INDICES:
        if not (folder / name).exists():
            continue
        named = _named(folder / name)
        if not any((folder / file).exists() for file in named):
            continue  # of the other format, whose files were not downloaded
        lacking = [file for file in named if not (folder / file).exists()]
        if lacking:
            raise InputError(f"{folder} lacks {some(lacking)}, which its {name} names; download the rest.")


def _named(path: Path) -> list[str]:
    """The files that an index of weights names; it may be longer than any settings."""
    try:
        with path.open("rb") as file:
            entries = json.loads(file.read(MOST_INDEX))["weight_map"].values()
        return sorted({file for file in entries if isinstance(file, str) and "/" not in file})
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise InputError(f"{path} cannot be read ({some([reason(error)])}); download it again.") from error


def _check_layers(values: object, file: Path, weights: int) -> None:
    """Far more layers than there are weights, anywhere in a config, would all be built before the first is read."""
    from ..model_patches.checkpoints.foreign_config import COUNTS, MOST_LAYERS

    waiting: list[object] = [values]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            for name, count in value.items():
                if COUNTS.search(str(name)) and type(count) is int and count > weights + MOST_LAYERS:
                    raise InputError(
                        f"{file} says {some([str(name)])} = {count:,}, and there are {weights:,} weights; "
                        "download both again."
                    )
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value


@contextmanager
def reading(folder: Path, what: str = "the model", remedy: str = "download it again") -> Iterator[None]:
    """Whatever transformers makes of a folder, as one sentence; without its own bars and reports."""
    from ..pipelines.encoders import quiet

    try:
        with quiet():
            yield
    except DreamFactoryError:
        raise
    except ImportError as error:
        for name in ASKED_FOR:
            if name in str(error).lower():
                library(name, f"{what} in {folder}")
        raise LibraryError(f"{what} in {folder} needs a library that is not here: {reason(error)}.") from error
    except Exception as error:  # of classes of its own
        if blameless(error):
            raise
        raise InputError(f"{what} in {folder} cannot be read ({briefly(error)}); {remedy}.") from error


def briefly(error: Exception) -> str:
    """What a library says, in a sentence of ours."""
    told = reason(error)
    return told if len(told) <= 200 else f"{told[:199]}…"


def open_processor(folder: ModelFolder) -> Any:
    """What prepares pictures and words for a model. Raises InputError, CheckpointError or LibraryError."""
    from ..model_patches.checkpoints.foreign_config import check_tokenizer_files
    from ..pipelines.encoders import TOKENIZER_FILES, TOKENIZER_SETTINGS, TOKENIZERS

    path, local = folder.path, {"local_files_only": True, "trust_remote_code": False}
    if not any((path / name).exists() for name in (*TOKENIZERS, *VOCABULARIES)):  # transformers would make up one
        raise InputError(f"{path} has no tokenizer; put the model's own tokenizer.json there.")
    if not any((path / name).exists() for name in PREPARE):
        raise InputError(f"{path} does not say how pictures are prepared; put the model's own {PREPARE[0]} there.")
    check_tokenizer_files(path, TOKENIZER_FILES, TOKENIZER_SETTINGS)
    remedy = f"put the model's own tokenizer.json, tokenizer_config.json and {PREPARE[0]} there"
    with reading(path, "what prepares words and pictures for the model", remedy):
        from transformers import AutoImageProcessor, AutoProcessor, AutoTokenizer

        if folder.kind == "vision-encoder-decoder":  # of two models, and no processor of its own
            return Both(AutoImageProcessor.from_pretrained(path, **local), AutoTokenizer.from_pretrained(path, **local))
        processor = AutoProcessor.from_pretrained(path, **local)
    if not (hasattr(processor, "tokenizer") and hasattr(processor, "image_processor")):
        raise InputError(f"{path} does not say how words and pictures are prepared; {remedy}.")
    return processor


@dataclass(frozen=True)
class Both:
    image_processor: Any
    tokenizer: Any


def open_model(folder: ModelFolder, device: str, dtype: torch.dtype) -> Any:
    """The model with its weights, on its device, to be used and not trained."""
    import torch
    import transformers

    from ..model_patches.checkpoints.files import is_pickled, read_weights
    from ..model_patches.checkpoints.foreign_config import check_count

    path = folder.path
    model_class = getattr(transformers, folder.class_name)
    with reading(path):
        config = transformers.AutoConfig.from_pretrained(path, local_files_only=True, trust_remote_code=False)
        with torch.device("meta"):
            empty = model_class(config)
    check_count(sum(weight.numel() for weight in empty.parameters()), folder.headers, path)
    # transformers would open pickles in its own way: they are opened here.
    pickled = [file for file in folder.files if is_pickled(file)]
    state = {name: weight for file in pickled for name, weight in read_weights(file).items()}
    source = (
        {"pretrained_model_name_or_path": None, "state_dict": state}
        if pickled
        else {"pretrained_model_name_or_path": path, "local_files_only": True, "use_safetensors": True}
    )
    numbers = {"dtype" if _release() >= (4, 56) else "torch_dtype": dtype}
    with reading(path):
        model, found = model_class.from_pretrained(
            **source, **numbers, config=config, ignore_mismatched_sizes=True, output_loading_info=True
        )
        if pickled and (path / GENERATION).exists():
            model.generation_config = transformers.GenerationConfig.from_pretrained(path, local_files_only=True)
    # transformers only warns of these, and goes on with random weights.
    for kind, told in (("missing_keys", "lacks"), ("mismatched_keys", "has another shape than config.json of")):
        wrong = sorted(key if isinstance(key, str) else key[0] for key in found[kind])
        wrong = [key for key in wrong if not any(part in key for part in UNUSED)]
        if wrong:
            raise InputError(f"the model in {path} {told} {len(wrong)} weights ({some(wrong)}); download it again.")
    return model.to(device).eval().requires_grad_(False)


def _release() -> tuple[int, ...]:
    """Of transformers, as numbers."""
    return tuple(int(part) for part in version("transformers").split(".")[:2] if part.isdigit())


@contextmanager
def using(folder: ModelFolder, doing: str, remedy: str) -> Iterator[None]:
    """Whatever transformers makes of an opened model and its input, as one sentence. remedy: where memory runs out."""
    from ..pipelines.encoders import quiet

    try:
        with quiet():
            yield
    except Exception as error:
        if out_of_memory(error):
            raise InputError(f"memory ran out while {doing} ({briefly(error)}); {remedy}.") from error
        if blameless(error) or isinstance(error, DreamFactoryError):
            raise
        raise InputError(f"the {folder.kind} model in {folder.path} failed while {doing}: {briefly(error)}.") from error


def as_tensor(output: Any, *names: str) -> torch.Tensor:
    """What a method of transformers gives: a tensor, or an object that has it in a field of one of these names."""
    import torch

    if isinstance(output, torch.Tensor):
        return output
    return next(value for name in names if (value := getattr(output, name, None)) is not None)
