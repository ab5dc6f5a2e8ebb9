"""safetensors files: what one says of itself, reading it without surprises, writing it whole or not at all.

Our files carry the whole network config and the noise schedule in their header, as JSON.
"""

from __future__ import annotations

import json
import os
import struct
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from .config import UNetConfig
from .errors import CheckpointError, ConfigError

FORMAT = "dreamfactory.format"
CONFIG = "dreamfactory.config"
SCHEDULE = "dreamfactory.schedule"
PARTS_FIELD = "dreamfactory.parts"
PICKLES = (".ckpt", ".pt", ".pth", ".bin", ".pkl")


@dataclass(frozen=True)
class Header:
    """What a safetensors file says before its weights are read."""

    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]

    @property
    def kind(self) -> str | None:
        """ "unet" or "patch" for our own files, else None."""
        return self.metadata.get(FORMAT, "").split("/")[0] or None

    @property
    def config(self) -> UNetConfig:
        try:
            return UNetConfig.from_dict(_json(self.metadata, CONFIG))
        except ConfigError as error:
            raise CheckpointError(f"the file's network config cannot be built: {error}") from error

    @property
    def schedule(self) -> dict | None:
        """The noise schedule as plain data (schedulers.ScheduleConfig reads it), if the file names one."""
        return _json(self.metadata, SCHEDULE) if SCHEDULE in self.metadata else None


def _json(metadata: Mapping[str, str], key: str) -> dict:
    try:
        return json.loads(metadata[key])
    except (KeyError, json.JSONDecodeError) as error:
        raise CheckpointError(f"the file's header has no readable {key}; it was not written completely.") from error


def read_header(path: str | os.PathLike) -> Header:
    """Read a safetensors header without its weights.

    Raises CheckpointError with one sentence: missing, a folder, a pickle, cut short, or no safetensors file.
    """
    path = Path(path)
    if not path.exists():
        raise CheckpointError(f"{path} does not exist; check the path.")
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give a .safetensors file.")
    if path.suffix.lower() in PICKLES:
        raise CheckpointError(
            f"{path.name} is a pickle, which can run code when it is opened; give a .safetensors file of these weights."
        )
    try:
        with path.open("rb") as file:
            (length,) = struct.unpack("<Q", file.read(8))
            if length > 100_000_000:
                raise ValueError("header too long")
            header = json.loads(file.read(length))
        entries = {k: v for k, v in header.items() if k != "__metadata__"}
        end = max((v["data_offsets"][1] for v in entries.values()), default=0)
        shapes = {k: tuple(v["shape"]) for k, v in entries.items()}
        dtypes = {k: v["dtype"] for k, v in entries.items()}
    except (OSError, ValueError, struct.error, KeyError, TypeError, AttributeError) as error:
        if isinstance(error, PermissionError):
            raise CheckpointError(f"{path} cannot be read: permission denied.") from error
        raise CheckpointError(f"{path} is no safetensors file, or is damaged; download or save it again.") from error
    missing = 8 + length + end - path.stat().st_size
    if missing > 0:
        raise CheckpointError(f"{path} is cut short by {missing:,} bytes; copy or download it again.")
    return Header(header.get("__metadata__") or {}, shapes, dtypes)


def read_weights(path: str | os.PathLike) -> dict[str, Tensor]:
    """All weights of a file; raises CheckpointError where they do not fit its header."""
    try:
        return load_file(path)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path} is damaged ({error}); download or save it again.") from error


def write(
    path: str | os.PathLike, state: Mapping[str, Tensor], metadata: dict[str, str], dtype: torch.dtype | None = None
) -> None:
    """safetensors through a temporary file in the same folder and one rename."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path.name} must end in .safetensors, the only format written here.")
    tensors = {k: v.detach().to("cpu", dtype or v.dtype).contiguous() for k, v in state.items()}
    temporary = None
    try:
        handle, temporary = tempfile.mkstemp(suffix=".tmp", prefix=path.name, dir=path.parent)
        os.close(handle)
        save_file(tensors, temporary, metadata)
        os.chmod(temporary, 0o666 & ~umask())
        os.replace(temporary, path)
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or error
        raise CheckpointError(f"{path} cannot be written: {reason}.") from error
    finally:
        if temporary and os.path.exists(temporary):
            os.unlink(temporary)


def umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask
