"""Public weights -> ours: Stable Diffusion, ModelScope, VideoCrafter and DynamiCrafter.

recognise.py says what a file holds; one module per source says how it becomes ours:

    sd.py           Stable Diffusion 1.5 / 2.1, single file or diffusers     modelscope.py   ModelScope, both names
    lvdm.py         VideoCrafter1 I2V, VideoCrafter2, DynamiCrafter          keys, infer     what they share
    lora.py         LoRAs in PEFT's names, renamed for the host's LoRA loader
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..checkpoint import build, save_unet
from ..config import UNetConfig
from ..errors import CheckpointError, some
from ..files import PICKLES, Header, read_header, read_weights, write
from . import lvdm, modelscope, sd
from .infer import heads_from_counts
from .keys import contents
from .lora import is_peft, rename_lora
from .recognise import recognise
from .report import Report

# kind: (the source a user names, the converter)
CONVERTERS = {
    "sd": ("sd", sd.convert),
    "diffusers-unet2d": ("sd", sd.convert_diffusers),
    "modelscope": ("modelscope", modelscope.convert),
    "modelscope-diffusers": ("modelscope", modelscope.convert_diffusers),
    "lvdm": ("lvdm", lvdm.convert),
}
SOURCES = ("auto", "sd", "modelscope", "lvdm")
PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}  # diffusers' names
DIFFUSERS_WEIGHTS = "diffusion_pytorch_model"


def convert_file_in_memory(
    path: str | os.PathLike,
    header: Header | None = None,
    source: str = "auto",
    overrides: Mapping | None = None,
) -> tuple[UNetConfig, dict | None, dict[str, Tensor], Report]:
    """Read public weights and convert them: (config, noise schedule, weights under our names, report).

    path: a safetensors file, or a diffusers folder (the pipeline's or its `unet`), sharded or not.
    header: of the file, if it has been read already. source: one of SOURCES; "auto" recognises the weights, another
    name makes it an error if they are something else.
    overrides: fields of the config or of the schedule that weights do not tell (heads, prediction, ...).
    Weights keep the file's dtype. Raises CheckpointError with one sentence.
    """
    path = Path(path)
    told: dict = {}  # what a diffusers folder says beside its weights
    if source not in SOURCES:
        raise CheckpointError(f"there is no source {source!r}; choose from {', '.join(SOURCES)}.")
    if path.is_dir():
        folder, files = _diffusers_files(path)
        headers = {file: read_header(file) for file in files}
        shapes = {k: s for h in headers.values() for k, s in h.shapes.items()}
        dtypes = {k: d for h in headers.values() for k, d in h.dtypes.items()}
        header = Header({}, shapes, dtypes)
    else:
        header = header or read_header(path)
        folder, headers = None, {path: header}
    try:
        kind = recognise(header)
        family, convert = CONVERTERS[kind]
        if source not in ("auto", family):
            raise CheckpointError(f"it holds {kind} weights, not {source}; convert it with source auto or {family}.")
        if folder is not None:
            told = _schedule_of(path / "scheduler" / "scheduler_config.json")
            told |= _heads_of(folder / "config.json") if kind == "diffusers-unet2d" else {}
        state = _read(headers)
        config, weights, schedule, report = convert(state, header, {**told, **(overrides or {})})
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    return config, schedule, weights, report


def convert_file(
    src: str | os.PathLike,
    dst: str | os.PathLike,
    source: str = "auto",
    overrides: Mapping | None = None,
    dtype: torch.dtype | None = None,
    check_schedule: Callable[[dict], object] | None = None,
) -> Report:
    """Convert public weights into a file of ours, or a LoRA in PEFT's names into one that ComfyUI maps.

    Arguments as `convert_file_in_memory`.

    dst: the .safetensors file to write, whole or not at all. dtype: of the weights on disk; None as in the source.
    check_schedule: raises where the noise schedule is none (schedulers.ScheduleConfig.from_dict), before writing.
    """
    dst = Path(dst)
    # Said before minutes of reading, not after them.
    if dst.suffix != ".safetensors":
        raise CheckpointError(f"{dst.name} must end in .safetensors, the only format written here.")
    if not dst.parent.is_dir():
        raise CheckpointError(f"{dst} cannot be written: there is no folder {dst.parent}.")
    if Path(src).is_file() and is_peft(header := read_header(src)):
        renamed, report = rename_lora(Path(src), header, read_weights(src))
        write(dst, renamed, {k: v for k, v in header.metadata.items() if k != "lora_adapter_metadata"}, dtype)
        return report
    config, schedule, weights, report = convert_file_in_memory(src, source=source, overrides=overrides)
    if check_schedule is not None and schedule is not None:
        check_schedule(schedule)
    unet = build(config, weights, str(src))
    save_unet(unet, dst, schedule=schedule, dtype=dtype, metadata={"dreamfactory.source": report.source})
    return report


def _read(headers: Mapping[Path, Header]) -> dict[str, Tensor]:
    """The weights a converter may need; encoders and VAE of whole checkpoints stand in as empty tensors."""
    state: dict[str, Tensor] = {}
    found = contents(k for header in headers.values() for k in header.shapes)
    wanted = {*found.unet.values(), *found.projector.values(), *found.buffers.values()}
    for path, header in headers.items():
        try:
            with safe_open(path, framework="pt") as file:
                for key, shape in header.shapes.items():
                    state[key] = file.get_tensor(key) if key in wanted else torch.empty(shape, device="meta")
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"{path.name} cannot be read: {error}.") from error
    return state


def _diffusers_files(path: Path) -> tuple[Path, list[Path]]:
    """The folder of a diffusers UNet and its weight files, from the shard index where there is one."""
    folder = path / "unet" if (path / "unet").is_dir() else path
    for index in sorted(folder.glob(f"{DIFFUSERS_WEIGHTS}*.safetensors.index*.json"), key=lambda p: len(p.name)):
        try:
            names = sorted(set(json.loads(index.read_text("utf-8"))["weight_map"].values()))
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise CheckpointError(f"{index} is damaged; download it again.") from error
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(f"{folder} lacks {len(missing)} of {len(names)} weight files: {some(missing)}.")
        return folder, [folder / name for name in names]
    # The plain file before its half-precision and EMA variants.
    files = [f for f in folder.glob(f"{DIFFUSERS_WEIGHTS}*.safetensors") if "-of-" not in f.name]
    if files:
        return folder, [min(files, key=lambda f: (len(f.name), f.name))]
    if any(f.suffix in PICKLES for f in folder.glob(f"{DIFFUSERS_WEIGHTS}*")):
        raise CheckpointError(f"{folder} holds pickles only, which can run code; give safetensors weights.")
    raise CheckpointError(f"{path} is no diffusers folder: it holds no {DIFFUSERS_WEIGHTS}*.safetensors.")


def _heads_of(config_file: Path) -> dict:
    """Heads from diffusers' config.json, where UNet2D's `attention_head_dim` is really their number."""
    values = _json(config_file)
    counts = values.get("num_attention_heads") or values.get("attention_head_dim")
    widths = values.get("block_out_channels")
    if not counts or not widths:
        return {}
    return heads_from_counts(widths, [counts] * len(widths) if isinstance(counts, int) else counts)


def _schedule_of(scheduler_file: Path) -> dict:
    """The noise schedule from a pipeline's scheduler: the only place where SD 2.x says v-prediction outright."""
    values = _json(scheduler_file)
    told: dict = {}
    prediction = values.get("prediction_type")
    if prediction is not None:
        told["prediction"] = PREDICTIONS.get(prediction, prediction)
    if values.get("rescale_betas_zero_snr"):
        told["rescale"] = "lin"
    if values.get("timestep_spacing") is not None:
        told["spacing"] = values["timestep_spacing"]
    if values.get("beta_schedule") == "scaled_linear":
        names = ("num_train_timesteps", "beta_start", "beta_end")
        told |= {name: values[name] for name in names if name in values}
    return told


def _json(path: Path) -> dict:
    """A JSON object; {} where there is no such file."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{path.name} is damaged; download it again.") from error
    return values if isinstance(values, dict) else {}


__all__ = ["SOURCES", "Report", "convert_file", "convert_file_in_memory", "recognise"]
