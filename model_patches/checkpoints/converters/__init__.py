"""Public weights -> ours: Stable Diffusion, ModelScope, VideoCrafter, DynamiCrafter, AnimateDiff and IP-Adapter.

recognise.py says what a file holds; one module per source says how it becomes ours:

    sd.py           Stable Diffusion 1.5 / 2.1, single file or diffusers     modelscope.py   ModelScope, both names
    lvdm.py         VideoCrafter1 I2V, VideoCrafter2, DynamiCrafter          ip_adapter.py   IP-Adapter, as a patch
    animatediff.py  AnimateDiff motion modules, as a patch                   keys, infer     what they share
    folders.py      what a diffusers folder says beside its weights
    lora.py         LoRAs in PEFT's names, renamed for the host's LoRA loader
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ....errors import CheckpointError
from ....files import refuse_onto
from ...network.config import UNetConfig
from ..files import Header, Reader, read_header, read_weights, write
from ..save import build, save_parts, save_unet
from .folders import config_overrides, diffusers_files
from .keys import contents
from .lora import is_peft, rename_lora
from .recognise import SOURCES, Source, recognise, source_of
from .report import Report


def convert_file_in_memory(
    path: str | os.PathLike,
    header: Header | None = None,
    source: str = "auto",
    overrides: Mapping | None = None,
    read: Reader = read_weights,
) -> tuple[UNetConfig, dict | None, dict[str, Tensor], Report]:
    """Read public weights and convert them: (config, noise schedule, weights under our names, report).

    path: a file, or a diffusers folder (the pipeline's or its `unet`), sharded or not.
    header: of the file, if it has been read already. source: "auto" recognises the weights; one of SOURCES makes it an
    error if they are something else.
    overrides: fields of the config or of the schedule that weights do not tell (heads, prediction, ...).
    read: how a file's weights are read.
    Weights keep the file's dtype. Raises CheckpointError with one sentence; so do additions to a network, which
    `convert_addition` reads.
    """
    found = _open(Path(path), header, source)
    if found.source.part is not None:
        raise CheckpointError(
            f"{path}: {found.source.what}, an addition to a Stable Diffusion network and none itself; "
            "`dreamfactory convert` turns it into a patch."
        )
    config, weights, schedule, report = _convert(found, overrides, read)
    return config, schedule, weights, report


def is_addition(header: Header) -> bool:
    """Whether a public file holds an addition to a network (`convert_addition`)."""
    try:
        return source_of(header).part is not None
    except CheckpointError:
        return False


def convert_addition(
    path: str | os.PathLike,
    header: Header | None = None,
    source: str = "auto",
    overrides: Mapping | None = None,
    read: Reader = read_weights,
) -> tuple[UNetConfig, dict | None, dict[str, Tensor], str, Report]:
    """Read a public addition (AnimateDiff, IP-Adapter) and convert it, as `convert_file_in_memory` does networks.

    Returns the config of the base with it, the noise schedule it was trained with (None: the base's), its weights
    under our names, the part of a network that they are, and the report.
    """
    found = _open(Path(path), header, source)
    if found.source.part is None:
        raise CheckpointError(
            f"{path}: it holds {found.source.kind} weights, a whole network; give an addition to one."
        )
    config, weights, schedule, report = _convert(found, overrides, read)
    return config, schedule, weights, found.source.part, report


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
    refuse_onto(dst, src)
    if Path(src).is_file() and is_peft(header := read_header(src)):
        renamed, report = rename_lora(Path(src), header, read_weights(src))
        report.notes += [header.note] if header.note else []
        write(dst, renamed, {k: v for k, v in header.metadata.items() if k != "lora_adapter_metadata"}, dtype)
        return report
    found = _open(Path(src), None, source)
    config, weights, schedule, report = _convert(found, overrides)
    if check_schedule is not None and schedule is not None:
        check_schedule(schedule)
    more = {"schedule": schedule, "dtype": dtype, "metadata": {"dreamfactory.source": report.source}}
    if found.source.part is None:
        save_unet(build(config, weights, str(src)), dst, **more)
    else:
        save_parts(config, weights, dst, [found.source.part], **more)
    return report


@dataclass(frozen=True)
class _Found:
    """A public file or folder whose weights were recognised and not yet read."""

    path: Path
    source: Source
    header: Header  # of all its files
    headers: Mapping[Path, Header]
    folder: Path | None  # of diffusers


def _open(path: Path, header: Header | None, source: str) -> _Found:
    if source not in ("auto", *SOURCES):
        raise CheckpointError(f"there is no source {source!r}; choose from auto, {', '.join(SOURCES)}.")
    if path.is_dir():
        folder, files = diffusers_files(path)
        headers = {file: read_header(file) for file in files}
        shapes = {k: s for h in headers.values() for k, s in h.shapes.items()}
        dtypes = {k: d for h in headers.values() for k, d in h.dtypes.items()}
        header = Header({}, shapes, dtypes)
    else:
        header = header or read_header(path)
        folder, headers = None, {path: header}
    try:
        found = source_of(header)
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    if source not in ("auto", found.name):
        raise CheckpointError(
            f"{path}: it holds {found.kind} weights, not {source}; convert it with source auto or {found.name}."
        )
    return _Found(path, found, header, headers, folder)


def _convert(found: _Found, overrides: Mapping | None, read: Reader = read_weights):
    """What the converter answers, in sentences that name the file."""
    try:
        known = {} if found.folder is None else config_overrides(found.source.kind, found.path, found.folder)
        state = _read(found.headers, read, everything=found.source.part is not None)
        *made, report = found.source.convert(state, found.header, {**known, **(overrides or {})})
    except CheckpointError as error:
        raise CheckpointError(f"{found.path}: {error}") from error
    report.notes += [header.note for header in found.headers.values() if header.note]
    return *made, report


def _read(headers: Mapping[Path, Header], read: Reader, everything: bool) -> dict[str, Tensor]:
    """The weights a converter may need; encoders and VAE of whole checkpoints stand in as empty tensors."""
    state: dict[str, Tensor] = {}
    keys = [k for header in headers.values() for k in header.shapes]
    found = contents(keys)
    wanted = keys if everything else [*found.unet.values(), *found.projector.values(), *found.buffers.values()]
    wanted = set(wanted)
    for path, header in headers.items():
        loaded = read(path)
        for key, shape in header.shapes.items():
            state[key] = loaded[key] if key in wanted else torch.empty(shape, device="meta")
    return state


__all__ = [
    "SOURCES",
    "Report",
    "convert_addition",
    "convert_file",
    "convert_file_in_memory",
    "is_addition",
    "recognise",
]
