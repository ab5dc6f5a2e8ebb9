"""Weight files: what one says of itself, reading it without surprises, writing it whole or not at all.

Our files are safetensors and carry the whole network config and the noise schedule in their header, as JSON. Others'
may be torch.save's as well; `pickles.py` opens them.
"""

from __future__ import annotations

import json
import os
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path

try:
    import fcntl
except ImportError:  # Windows
    fcntl = None

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from ...errors import CheckpointError, ConfigError, reason, shown, some
from ...files import MAX_SETTINGS, no_file, parse, whole
from ..network.config import UNetConfig
from .pickles import is_pickle, open_pickle

FORMAT = "dreamfactory.format"
CONFIG = "dreamfactory.config"
SCHEDULE = "dreamfactory.schedule"
PARTS_FIELD = "dreamfactory.parts"
PATCH_CODEC = "dreamfactory.patch_codec"  # the small image codec's sizes
# Of a header, far beyond any network's: what is more was made to fill the memory of whoever opens it.
MAX_HEADER = 2**24  # bytes
MAX_ITEMS = 500_000  # entries of lists and objects
MAX_RANK = 16  # dimensions of a weight
MAX_NAME = 500  # characters of a weight's
LONGEST_KIND = 20  # characters
SAFETENSORS = (".safetensors", ".sft")
PICKLES = (".ckpt", ".pt", ".pth", ".bin")  # what torch.save's files are called

# Bits of one number, by safetensors' names of them.
BITS = {
    "BOOL": 8, "U8": 8, "I8": 8, "F8_E4M3": 8, "F8_E5M2": 8, "U16": 16, "I16": 16, "F16": 16, "BF16": 16,
    "U32": 32, "I32": 32, "F32": 32, "U64": 64, "I64": 64, "F64": 64, "C64": 64,
}  # fmt: skip

KINDS_OF = {
    torch.bool: "BOOL", torch.uint8: "U8", torch.int8: "I8", torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2", torch.int16: "I16", torch.float16: "F16", torch.bfloat16: "BF16",
    torch.int32: "I32", torch.float32: "F32", torch.int64: "I64", torch.float64: "F64", torch.complex64: "C64",
}  # fmt: skip
# Not in every torch that a host may bring.
KINDS_OF |= {getattr(torch, f"uint{n}"): f"U{n}" for n in (16, 32, 64) if hasattr(torch, f"uint{n}")}

# Reads a file's weights. A host may bring one of its own, which sends them from the disk straight to the card.
Reader = Callable[[str | os.PathLike], dict[str, Tensor]]


@dataclass(frozen=True)
class Header:
    """What a file says before its weights are read. note: what a pickle holds beside weights, in a sentence."""

    metadata: dict[str, str]
    shapes: dict[str, tuple[int, ...]]
    dtypes: dict[str, str]
    note: str = ""

    @property
    def kind(self) -> str | None:
        """ "unet" or "patch" for our own files, else None."""
        kind = self.metadata.get(FORMAT, "").split("/")[0]
        return kind if kind.isidentifier() and len(kind) <= LONGEST_KIND else None

    @property
    def config(self) -> UNetConfig:
        try:
            return UNetConfig.from_dict(settings(self.metadata, CONFIG))
        except ConfigError as error:
            raise CheckpointError(f"the file's network config cannot be built: {error}") from error

    @property
    def schedule(self) -> dict | None:
        """The noise schedule as plain data (schedulers.ScheduleConfig reads it), if the file names one."""
        return settings(self.metadata, SCHEDULE) if SCHEDULE in self.metadata else None


def settings(metadata: Mapping[str, str], key: str) -> dict:
    """A config in a header. Raises CheckpointError with one sentence."""
    try:
        values = parse(metadata[key].encode(), MAX_SETTINGS)
    except (KeyError, ValueError, RecursionError) as error:
        raise CheckpointError(f"the file's header has no readable {key}; it was not written completely.") from error
    if not isinstance(values, dict):
        raise CheckpointError(f"the file's header says {key} = {shown(values)}; expected settings by their names.")
    return values


def read_header(path: str | os.PathLike) -> Header:
    """Read a safetensors header without its weights; of a pickle, what its weights are. The content counts, no name.

    Raises CheckpointError with one sentence: missing, a folder, unreadable, cut short, damaged, no safetensors file, or
    a pickle that cannot be opened safely.
    """
    path = Path(path)
    if (told := no_file(path)) is not None:
        remedy = "check the path" if told.endswith("does not exist") else "give a .safetensors file"
        raise CheckpointError(f"{told}; {remedy}.")
    try:
        with path.open("rb") as file:
            first = file.read(8)
            if is_pickle(first):
                return _header_of(path)
            size = os.fstat(file.fileno()).st_size
            length = struct.unpack("<Q", first)[0] if len(first) == 8 else None
            if length is None or length > MAX_HEADER:
                kind = "file of torch.save" if path.suffix.lower() in PICKLES else "safetensors file"
                raise CheckpointError(f"{path} is no {kind}, or is damaged; download or save it again.")
            text = file.read(length) if 8 + length <= size else b""
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}.") from error
    if len(text) < length:
        raise CheckpointError(f"{path} is cut short, or is no safetensors file; copy or download it again.")
    try:
        header = parse(text, MAX_ITEMS)
        entries = {k: v for k, v in header.items() if k != "__metadata__"}
        shapes = {k: tuple(v["shape"]) for k, v in entries.items()}
        dtypes = {k: v["dtype"] for k, v in entries.items()}
        spans = {k: (v["data_offsets"][0], v["data_offsets"][1]) for k, v in entries.items()}
        metadata = header.get("__metadata__") or {}
        if not all(isinstance(text, str) for text in (*metadata, *metadata.values(), *dtypes.values())):
            raise ValueError("metadata and kinds of numbers are texts")
        "".join(header).encode()  # half a surrogate pair is no name
        if max(map(len, header), default=0) > MAX_NAME:
            raise ValueError("a name longer than any")
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise CheckpointError(f"{path} is no safetensors file, or is damaged; download or save it again.") from error
    _check_spans(path, shapes, dtypes, spans)
    missing = 8 + length + max((end for _, end in spans.values()), default=0) - size
    if missing > 0:
        raise CheckpointError(f"{path} is cut short by {missing:,} bytes; copy or download it again.")
    return Header(metadata, shapes, dtypes)


def _header_of(path: Path) -> Header:
    """Of a pickle."""
    found = open_pickle(path)
    unknown = [name for name, weight in found.weights.items() if weight.dtype not in KINDS_OF]
    if unknown:
        raise CheckpointError(
            f"{path} keeps {some(unknown)} as {found.weights[unknown[0]].dtype}, a kind of number that is not known "
            "here; give the file in float16, bfloat16 or float32."
        )
    shapes = {name: tuple(weight.shape) for name, weight in found.weights.items()}
    return Header({}, shapes, {n: KINDS_OF[w.dtype] for n, w in found.weights.items()}, found.note)


def _check_spans(path: Path, shapes: Mapping, dtypes: Mapping, spans: Mapping) -> None:
    """Every weight as long as its shape says. After this a failure to read the file is no fault of the file."""
    for key, (start, end) in spans.items():
        bits, shape = BITS.get(dtypes[key]), shapes[key]
        if bits is None:
            raise CheckpointError(
                f"{path} keeps {some([key])} as {shown(dtypes[key])}, a kind of number that is not known here; "
                "give the file in float16, bfloat16 or float32."
            )
        numbers = (*shape[: MAX_RANK + 1], start, end)
        whole = len(shape) <= MAX_RANK and all(type(n) is int and 0 <= n < 2**63 for n in numbers)
        if not whole or prod(shape) * bits != 8 * (end - start):
            raise CheckpointError(
                f"{path} is damaged: {some([key])} of shape {shown(list(shape))} does not have the length that its "
                "header states; download or save it again."
            )


def is_pickled(path: str | os.PathLike) -> bool:
    """Whether a file is one of torch.save, by its content. Raises OSError."""
    with open(path, "rb") as file:
        return is_pickle(file.read(8))


def read_weights(path: str | os.PathLike) -> dict[str, Tensor]:
    """All weights of a file whose header was read; they lie in the file's own pages until something touches them.

    Raises CheckpointError where the system or safetensors does not give them, with their own words.
    """
    try:
        return open_pickle(path).weights if is_pickled(path) else load_file(path)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read: {reason(error)}.") from error
    except SafetensorError as error:
        raise CheckpointError(f"{path} cannot be read: safetensors says {reason(error)!r}.") from error


def write(
    path: str | os.PathLike, state: Mapping[str, Tensor], metadata: dict[str, str], dtype: torch.dtype | None = None
) -> None:
    """safetensors through a temporary file in the same folder and one rename."""
    path = Path(path)
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path.name} must end in .safetensors, the only format written here.")
    try:
        with whole(path) as temporary:
            save(state, temporary, metadata, dtype)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {reason(error)}.") from error


def save(
    tensors: Mapping[str, Tensor],
    path: str | os.PathLike,
    metadata: Mapping[str, str],
    dtype: torch.dtype | None = None,
) -> None:
    """A safetensors file, written into the one that is there, weight after weight. dtype: of them; None keeps theirs.

    safetensors' own function writes a hidden file beside it, which nobody takes away where the process is killed, and
    wants all weights in memory as they are to be written. Raises OSError.
    """
    kinds = {name: dtype or tensor.dtype for name, tensor in tensors.items()}
    names = sorted(tensors, key=lambda name: (-kinds[name].itemsize, name))  # large numbers first, all aligned
    header: dict = {"__metadata__": dict(metadata)}
    end = 0
    for name in names:
        tensor, start = tensors[name], end
        end += tensor.numel() * kinds[name].itemsize
        header[name] = {"dtype": KINDS_OF[kinds[name]], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)
    with open(path, "wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        for name in names:
            weight = tensors[name].detach().to("cpu", kinds[name]).contiguous()
            file.write(weight.reshape(-1).view(torch.uint8).numpy().data)
