"""Files of `torch.save` (.ckpt, .pt, .pth, .bin), which are pickles: programs that can run code when they are opened.

torch's `weights_only` reader opens them, and nothing else does. What optimizers, callbacks and loggers left beside the
weights becomes empty stand-ins that do nothing. Weights stay in the file's own pages until something touches them, but
for files older than torch 1.6, which are read whole.

    is_pickle(start)    whether a file that begins so is one
    open_pickle(path)   its weights by name, and what was left aside
"""

from __future__ import annotations

import os
import struct
import threading
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import torch
from torch import Tensor

from ...errors import CheckpointError, blameless, place, reason, shown, some
from .pickle_program import MAX_PROGRAM, Program

ZIP, PICKLE = b"PK\x03\x04", b"\x80"
LONGEST = 2**32  # bytes; no safetensors header is that long
# What a file before torch 1.6 begins with: a pickle of torch's magic number.
LEGACY = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."
PICKLES_OF_LEGACY = 5  # magic number, version, system, the object, the storages' keys
END = struct.Struct("<4s4H2LH")  # of a zip archive; the last field is a comment's length
MAX_RECORDS = 100_000
SAFE_SINCE = "2.6"  # of torch: before, its reader ran what old files said
MAX_DEPTH = 8  # of dicts in dicts
_LOCK = threading.Lock()  # what torch may read is known to the whole process
# More numbers than the file has bytes for, made by repeating a few.
SWELL, SMALL = 4, 2**26

# Under which names training scripts keep the weights, averages first; and what wraps each weight's own name.
AVERAGES = ("params_ema", "params-ema", "state_dict_ema", "ema_state_dict", "model_ema", "ema")
WEIGHTS = ("state_dict", "model_state_dict", "params", "model", "module", "net", "unet", "generator")
WRAPPED = ("module.", "_orig_mod.")


@dataclass(frozen=True)
class Pickled:
    """weights: by their names. chosen: under which key of the file they stood ("" for the whole file). beside: the
    other keys, in the file's order."""

    weights: dict[str, Tensor]
    chosen: str
    beside: tuple[str, ...]

    @property
    def note(self) -> str:
        """What was left aside, as a sentence without its end; "" where nothing was."""
        if not self.beside:
            return ""
        found = f"the weights are those under {some([self.chosen])}; " if self.chosen else ""
        return f"{found}left aside: {some(list(self.beside), 8)}; `dreamfactory convert` writes the weights alone"


def is_pickle(start: bytes) -> bool:
    """Of a file's first eight bytes, which a safetensors file has the length of its header in."""
    return start.startswith((ZIP, PICKLE)) and not (len(start) == 8 and int.from_bytes(start, "little") < LONGEST)


def open_pickle(path: str | os.PathLike) -> Pickled:
    """The weights of a file of torch.save. Tensors on the CPU, that may be views of the file.

    Raises CheckpointError with one sentence: damaged, TorchScript, pickled by something else, made to do something, or
    without weights by name.
    """
    path = Path(path)
    if torch.__version__ < SAFE_SINCE:
        raise CheckpointError(
            f"{path.name} is a pickle, which torch {torch.__version__} does not open safely; update torch to "
            f"{SAFE_SINCE} or later, or give what `dreamfactory convert` makes of it where torch is."
        )
    if path.suffix.lower() in (".safetensors", ".sft"):  # torch goes by the name
        raise CheckpointError(f"{place(path)} is no safetensors file but one of torch.save; rename it to .ckpt.")
    try:
        zipped, unknown = _walk(path)
    except CheckpointError as error:
        raise CheckpointError(f"{place(path)} {error}.") from error
    except zipfile.BadZipFile as error:
        raise CheckpointError(f"{place(path)} is damaged; copy or download it again.") from error
    except OSError as error:
        raise CheckpointError(f"{place(path)} cannot be read: {reason(error)}.") from error
    found = _load(path, zipped, unknown)
    try:
        return _checked(found, path)
    except CheckpointError as error:
        raise CheckpointError(f"{place(path)} {error}.") from error


# -- before it is read -------------------------------------------------------------------------------------------------


def _walk(path: Path) -> tuple[bool, dict[str, str]]:
    """Whether it is a zip archive; the classes that torch does not know. Raises the end of a sentence."""
    program, size = Program(), path.stat().st_size
    with path.open("rb") as file:
        start = file.read(len(LEGACY))
        file.seek(0)
        zipped = start.startswith(ZIP)
        if zipped:
            with _archive(file, size) as archive:
                program.walk(archive)
        elif start == LEGACY:
            for _ in range(PICKLES_OF_LEGACY):
                program.walk(file)
        else:
            raise CheckpointError(
                "is a pickle that torch.save did not write, and is never opened here; save its weights as safetensors"
            )
    if any(count > size for count in program.stored.values()) or (not zipped and sum(program.stored.values()) > size):
        raise CheckpointError("is cut short: it states more numbers than it has bytes; copy or download it again")
    return zipped, program.unknown


def _archive(file: IO[bytes], size: int) -> IO[bytes]:
    """The stream of the pickle in an archive of torch.save."""
    _check_end(file, size)
    try:
        archive = zipfile.ZipFile(file)
    except (zipfile.BadZipFile, ValueError, NotImplementedError, UnicodeDecodeError) as error:
        raise CheckpointError("is cut short or damaged; copy or download it again") from error
    infos = archive.infolist()
    names = [info.filename for info in infos]
    inside = {name.partition("/")[2] for name in names}
    if "constants.pkl" in inside or any(name.startswith("code/") for name in inside):
        raise CheckpointError("is TorchScript, a program and no weights alone; give the weights it was made of")
    if "data.pkl" not in inside:
        raise CheckpointError("is a zip archive that torch.save did not write; unpack it, or give what is in it")
    # Readers that find different things under one name, or look into what is packed, could be told different things.
    if len({name.lower() for name in names}) < len(names) or len({name.partition("/")[0] for name in names}) > 1:
        raise CheckpointError("holds several files under one name; download it again")
    if any(info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size for info in infos):
        raise CheckpointError("is packed, which torch.save never does; unpack it, or save it again")
    data = next(info for info in infos if info.filename.partition("/")[2] == "data.pkl")
    if data.file_size > MAX_PROGRAM:
        raise CheckpointError("describes more than any checkpoint holds; do not use it")
    try:
        return archive.open(data)
    except (zipfile.BadZipFile, ValueError, RuntimeError, NotImplementedError) as error:
        raise CheckpointError("is cut short or damaged; copy or download it again") from error


def _check_end(file: IO[bytes], size: int) -> None:
    """The end of an archive, from which all readers begin, before one of them makes an object of each record."""
    file.seek(max(0, size - END.size))
    end = file.read(END.size)
    file.seek(0)
    if len(end) < END.size or not end.startswith(b"PK\x05\x06") or END.unpack(end)[-1]:
        raise CheckpointError("is cut short, or no archive of torch.save; copy or download it again")
    (records, directory, start), place = END.unpack(end)[4:7], size - END.size
    file.seek(max(0, place - 20))
    locator = file.read(20)
    file.seek(0)
    if locator.startswith(b"PK\x06\x07"):  # told before, in the wider form
        place = struct.unpack("<Q", locator[8:16])[0]
        file.seek(min(place, size))
        wide = file.read(56)
        file.seek(0)
        if len(wide) < 56 or not wide.startswith(b"PK\x06\x06"):
            raise CheckpointError("is cut short, or no archive of torch.save; copy or download it again")
        records, directory, start = struct.unpack("<3Q", wide[32:56])
    # Where it begins is found from either end, by different readers.
    if start + directory != place:
        raise CheckpointError("is damaged, or two archives in one; copy or download it again")
    if records > MAX_RECORDS or directory > MAX_RECORDS * 200:
        raise CheckpointError("has more parts than any checkpoint; it was made to keep its reader busy: do not use it")


# -- reading -----------------------------------------------------------------------------------------------------------


def _stand_in(name: str, kind: str) -> type:
    """An empty class under a name: whatever its objects are made of is dropped."""
    made = {"list": list, "dict": OrderedDict}.get(kind)

    def new(cls, *arguments, **named):
        return object.__new__(cls) if made is None else made()

    nothing = {"__new__": new, "__init__": lambda self, *a, **k: None, "__setstate__": lambda self, state: None}
    return type(name.rpartition(".")[2], (), {**nothing, "name": name})


def _load(path: Path, zipped: bool, unknown: Mapping[str, str]) -> object:
    stand_ins: list[Callable | tuple[Callable, str]] = [(_stand_in(name, kind), name) for name, kind in unknown.items()]
    known = torch.serialization.get_safe_globals
    try:
        with _LOCK:  # what a host allows itself stays out of it: of two with one name either would be taken
            before = known()
            torch.serialization.clear_safe_globals()
            try:
                torch.serialization.add_safe_globals(stand_ins)
                return torch.load(str(path), map_location="cpu", weights_only=True, mmap=zipped)
            finally:
                torch.serialization.clear_safe_globals()
                torch.serialization.add_safe_globals(before)
    except Exception as error:  # whatever torch makes of a file
        if blameless(error):
            raise
        raise CheckpointError(
            f"{place(path)} cannot be opened by torch's weights_only reader ({some([reason(error)])}); download it "
            "again, or give a .safetensors file of these weights."
        ) from error


def _checked(found: object, path: Path) -> Pickled:
    """The weights of what a file held. Raises the end of a sentence."""
    if not isinstance(found, Mapping):
        what = shown(getattr(type(found), "name", type(found).__name__))
        raise CheckpointError(f"holds an object ({what}) and no weights by name; save its state_dict() instead")
    chosen: list[str] = []
    beside: list[str] = []
    inner = found
    while (key := _key(inner)) is not None and len(chosen) < MAX_DEPTH:
        beside += [".".join([*chosen, str(other)]) for other in inner if other != key]
        chosen.append(key)
        inner = inner[key]
    passed_over: list[str] = []
    # Tensors alone, without what a file may have hung onto them.
    weights = {name: Tensor.detach(weight) for name, weight in _flat(inner, passed_over)}
    beside += [".".join([*chosen, name]) for name in passed_over]
    if not weights:
        raise CheckpointError("holds no weights; give the file that does")
    while (wrap := next((w for w in WRAPPED if all(name.startswith(w) for name in weights)), None)) is not None:
        weights = {name.removeprefix(wrap): weight for name, weight in weights.items()}
    _check_tensors(weights, path)
    return Pickled(weights, ".".join(chosen), tuple(beside))


def _key(values: Mapping) -> str | None:
    """Under which key the weights stand; None: they are these. Averages are taken where they are those of all weights.
    A loss or a score may lie beside; but more tensors than under the key are the weights themselves."""
    key, bare = _known_key(values), sum(isinstance(value, Tensor) for value in values.values())
    return key if key is not None and bare <= sum(1 for _ in _flat(values[key])) else None


def _known_key(values: Mapping) -> str | None:
    raw = next((k for k in WEIGHTS if _filled(values.get(k))), None)
    averages = next((k for k in AVERAGES if _filled(values.get(k))), None)
    if averages is not None and (raw is None or values[averages].keys() == values[raw].keys()):
        return averages
    if raw is None and len(values) == 1:
        key, value = next(iter(values.items()))
        return key if isinstance(key, str) and _filled(value) else None
    return raw


def _filled(value: object) -> bool:
    """Whether dicts in dicts hold tensors by names."""
    return isinstance(value, Mapping) and next(_flat(value), None) is not None


def _flat(values: Mapping, passed_over: list[str] | None = None) -> Iterator[tuple[str, Tensor]]:
    """Dicts in dicts, as IP-Adapter's files are, under joined names. A dict that is in itself is seen once.

    passed_over: gets the names of what is no tensor, nor holds one.
    """
    waiting, seen = [("", values)], {id(values)}
    while waiting:
        prefix, inner = waiting.pop()
        for key, value in inner.items():
            if isinstance(key, str) and isinstance(value, Tensor):
                yield prefix + key, value
            elif isinstance(key, str) and isinstance(value, Mapping) and id(value) not in seen:
                if passed_over is not None and not _filled(value):
                    passed_over.append(prefix + key)
                    continue
                seen.add(id(value))
                waiting.append((f"{prefix}{key}.", value))
            elif passed_over is not None:
                passed_over.append(f"{prefix}{key}")


def _check_tensors(weights: Mapping[str, Tensor], path: Path) -> None:
    for name, weight in weights.items():
        plain = weight.layout is torch.strided and not weight.is_quantized and weight.device.type == "cpu"
        if not plain:
            raise CheckpointError(
                f"holds {some([name])} as a sparse, quantized or empty tensor; save it again as dense tensors"
            )
    if sum(_bytes(weights.values())) > SWELL * path.stat().st_size + SMALL:
        raise CheckpointError("states far more numbers than it has; it was made to fill the memory: do not use it")


def _bytes(weights: Iterable[Tensor]) -> Iterator[int]:
    for weight in weights:
        yield weight.numel() * weight.element_size()
