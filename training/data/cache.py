"""What was computed once and need not be again: encoded clips by what they were made from, and what files are.

A key is the hash of everything a value depends on (the file's content, the frames taken, the encoder), so nothing in
a cache is ever out of date: other settings have other keys. Values are written under a temporary name and renamed;
several processes may share a cache, and one that is killed leaves nothing half.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
import shutil
import struct
import threading
import zlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load
from torch import Tensor

from ...errors import CheckpointError, TrainingError, reason
from ...model_patches.checkpoints.files import read_header, write
from ...pipelines.media.decode import Probe
from .records import Record

INDEX = "index.jsonl"
INDEX_VERSION = 2  # of what probing finds out; 2: how frames become pictures (Probe.ways)
CHECKSUM = "crc32"  # in a value's header


def key_of(*parts: object) -> str:
    """A hash of plain data."""
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=20).hexdigest()


def checksum(tensors: Mapping[str, Tensor]) -> str:
    """CRC-32 of all numbers: finds what rots on a disk, at about a gigabyte a second."""
    found = 0
    for name in sorted(tensors):
        found = zlib.crc32(tensors[name].detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data, found)
    return f"{found:08x}"


def _stated(data: bytes) -> str | None:
    """The checksum in a file's header; None: it is from before there was one."""
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]).get("__metadata__", {}).get(CHECKSUM)


class Cache:
    """Tensors by kind and key, one safetensors file each, and the index of files."""

    def __init__(self, folder: str | Path) -> None:
        self.folder = Path(folder).expanduser()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise TrainingError(
                f"data.cache {self.folder} cannot be made ({error.strerror}); choose another."
            ) from error
        self.index = Index(self.folder / INDEX)

    def path(self, kind: str, key: str) -> Path:
        return self.folder / kind / key[:2] / f"{key}.safetensors"

    def has(self, kind: str, key: str) -> bool:
        """Whether it is there and whole, by its header and length."""
        try:
            read_header(self.path(kind, key))
        except CheckpointError:
            return False
        return True

    def load(self, kind: str, key: str) -> dict[str, Tensor] | None:
        """None where it is not there, or damaged; a value whose bits have changed is taken away, to be made again."""
        path = self.path(kind, key)
        try:
            # Read, not mapped: a mapped file that is cut short later would end the process.
            data = path.read_bytes()
            tensors = load(data)
            if _stated(data) in (None, checksum(tensors)):
                return tensors
            path.unlink(missing_ok=True)
            return None
        except (FileNotFoundError, SafetensorError, ValueError):
            return None
        except OSError as error:
            raise TrainingError(f"{path} in the cache cannot be read: {reason(error)}.") from error

    def store(self, kind: str, key: str, tensors: Mapping[str, Tensor], meta: Mapping[str, str] | None = None) -> int:
        """Returns the bytes written."""
        path = self.path(kind, key)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            write(path, tensors, {**(meta or {}), CHECKSUM: checksum(tensors)})
            return path.stat().st_size
        except (OSError, CheckpointError) as error:
            raise TrainingError(
                f"the cache cannot be written to ({error}); free some disk, or move data.cache."
            ) from error

    def check_space(self, needed: float, what: str) -> None:
        """One sentence before a disk runs full."""
        free = shutil.disk_usage(self.folder).free
        if needed > free:
            raise TrainingError(
                f"the cache of {what} needs about {needed / 1e9:.2g} GB more and {self.folder} has {free / 1e9:.2g} GB "
                "free; free some, set data.cache to another disk, or leave it out to encode in every step."
            )


class Index:
    """What readable files are: their content's hash and their probe, a line of JSON each.

    A line holds as long as the file's size and time of change do. Lines that are cut short count for nothing.
    """

    def __init__(self, path: Path) -> None:
        self.path, self.lock = path, threading.Lock()
        self.lines: dict[tuple[str, int], dict] = {}
        for line in path.read_bytes().splitlines() if path.exists() else []:
            try:
                entry = json.loads(line)
                if entry["v"] == INDEX_VERSION:
                    self.lines[entry["path"], entry["offset"]] = entry
            except (ValueError, KeyError, TypeError):
                continue

    def find(self, record: Record) -> tuple[str, Probe] | None:
        """(content, probe), or None where nothing is known of the file as it is now."""
        entry = self.lines.get((os.path.abspath(record.path), record.offset))
        if entry is None or {**entry, **_state(record)} != entry:
            return None
        return entry["content"], _unpacked(entry["probe"])

    def add(self, record: Record, content: str, probe: Probe) -> None:
        entry = {"v": INDEX_VERSION, "path": os.path.abspath(record.path), "offset": record.offset, **_state(record)}
        entry |= {"content": content, "probe": _packed(probe)}
        line = json.dumps(entry).encode() + b"\n"
        with self.lock:
            self.lines[entry["path"], entry["offset"]] = entry
            try:
                with self.path.open("ab+") as file:  # one write at the end of the file: processes may share it
                    if file.tell():
                        file.seek(-1, os.SEEK_END)
                        line = line if file.read(1) == b"\n" else b"\n" + line  # after a killed writer
                    file.write(line)
            except OSError as failed:
                raise TrainingError(
                    f"{self.path} cannot be written to ({failed.strerror}); free some disk."
                ) from failed


def _state(record: Record) -> dict:
    try:
        state = os.stat(record.path)
    except OSError:
        return {"size": None, "mtime_ns": None}
    return {"size": state.st_size if record.size is None else record.size, "mtime_ns": state.st_mtime_ns}


def _packed(probe: Probe) -> dict:
    plain = {"width": probe.width, "height": probe.height, "unit": probe.unit, "counted": probe.counted}
    plain["ways"] = probe.ways
    return plain | {"pts": _text(probe.pts), "keys": _text(probe.keys)}


def _unpacked(plain: dict) -> Probe:
    return Probe(**{**plain, "pts": _numbers(plain["pts"]), "keys": _numbers(plain["keys"])})


def _text(numbers: np.ndarray) -> str:
    """Rising numbers as a short text: their differences are mostly the same."""
    steps = np.diff(numbers.astype("<i8"), prepend=0)
    return base64.b64encode(zlib.compress(steps.tobytes())).decode()


def _numbers(text: str) -> np.ndarray:
    return np.cumsum(np.frombuffer(zlib.decompress(base64.b64decode(text)), "<i8"))
