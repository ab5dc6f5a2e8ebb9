"""Image upscalers at work on frames: our RCAN, and every network that spandrel, ComfyUI's library for them, knows.

    upscaler_of(descriptor), load_upscaler(path)    what the network is
    Enlarger(upscaler, device, dtype)(frames)       frames times its scale, in as much memory as there is
    check_target, fit                               an exact size

RCANs run in strips of rows, which give what the undivided image gives, in any memory. Other networks that do not fit
get overlapping tiles whose seams are blended.
"""

from __future__ import annotations

import importlib
import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from types import ModuleType

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..libraries import library
from .errors import CheckpointError, ConfigError, blameless, out_of_memory, reason
from .files import read_header, read_weights
from .kernels import same_bits
from .rcan import RCAN, rcan_config, rcan_of

SCALES = (2, 3, 4, 8)  # that upscalers come in
MIN_TILE = 64  # pixels, a side
# Bytes of one strip of an RCAN's tail, where there is room. A CPU is as fast with small ones, a GPU wants enough to do.
STRIP_ON_CPU, STRIP_ELSEWHERE = 128 * 2**20, 512 * 2**20
MIN_ROWS, RIMS = 2, 4  # of the input: in the thinnest strip, and what a strip sees beyond its own
MAPS = 5  # feature maps of whole frames that an RCAN's body holds at once (benchmarks/upscaling.py)
USED = 0.75  # of the free memory that is planned with: kernels take workspaces of their own
DTYPES = {torch.float32: "fp32", torch.float16: "fp16", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class Upscaler:
    """An image network (n, 3, h, w) in [0, 1] -> (n, 3, scale*h, scale*w), and what may be done with it."""

    network: nn.Module
    scale: int
    name: str  # for sentences
    half: bool  # whether it computes right in float16
    bfloat16: bool
    # How to run it where that is more than calling the network; it then takes one image at a time, as spandrel's do.
    call: Callable[[Tensor], Tensor] | None = None


# -- what the network is --------------------------------------------------------------------------------------------


def upscaler_of(descriptor: object, name: str = "the model") -> Upscaler:
    """From spandrel's ImageModelDescriptor, which is what ComfyUI's "Load Upscale Model" gives.

    An RCAN becomes ours, of the same weights: spandrel's overwrites its input where it shifts means, and knows no
    strips. Raises CheckpointError for what enlarges no images.
    """
    needed = ("model", "scale", "input_channels", "output_channels", "supports_half", "supports_bfloat16", "purpose")
    if not all(hasattr(descriptor, field) for field in needed):
        found = type(descriptor).__name__
        raise CheckpointError(f"{name} is no upscaler ({found}); give a model that enlarges images.")
    scale, channels = descriptor.scale, (descriptor.input_channels, descriptor.output_channels)
    kind = getattr(getattr(descriptor, "architecture", None), "id", "model")
    if descriptor.purpose == "Inpainting":
        raise CheckpointError(f"{name} fills in holes ({kind}); choose a model that enlarges images.")
    if descriptor.purpose == "FaceSR":
        raise CheckpointError(f"{name} restores cut-out faces ({kind}); choose a model that enlarges whole images.")
    if scale < 2:
        raise CheckpointError(f"{name} restores without enlarging ({kind}, x{scale}); choose a model of x2 or more.")
    if channels != (3, 3):
        raise CheckpointError(
            f"{name} takes {channels[0]} and makes {channels[1]} channels ({kind}); choose a model for RGB images."
        )
    network = rcan_of(descriptor.model.state_dict(), name)
    if network is not None:
        return _ours(network, name)
    half, bfloat16 = descriptor.supports_half, descriptor.supports_bfloat16
    return Upscaler(descriptor.model, scale, name, half, bfloat16, descriptor)


def load_upscaler(path: str | os.PathLike) -> Upscaler:
    """From a weight file; what is no RCAN needs spandrel. Raises CheckpointError with one sentence."""
    path = Path(path)
    header = read_header(path)
    if header.kind not in (None, "upscaler"):
        kind = {"unet": "a video network", "patch": "a patch for video networks"}.get(header.kind, header.kind)
        raise CheckpointError(f"{path.name} is no upscaler: it is {kind} of DreamFactory; give an upscaler's file.")
    if rcan_config(header.shapes) is not None:
        return _ours(rcan_of(read_weights(path), path.name), path.name)
    return upscaler_of(_spandrel(path), path.name)


def _ours(network: RCAN, name: str) -> Upscaler:
    return Upscaler(network, network.scale, name, half=False, bfloat16=True)  # as spandrel has it for RCAN


@contextmanager
def _torchvision_or_none() -> Iterator[None]:
    """Lets spandrel be imported without torchvision, or beside one that was made for another torch.

    It is asked for by two of spandrel's networks, for inpainting and for faces; pip would replace torch to have it.
    """
    try:
        importlib.import_module("torchvision")
    except Exception:  # a broken one raises RuntimeError and more
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]  # half of a broken one
        names = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")
        for name in names:
            sys.modules[name] = module = ModuleType(name)
            module.__getattr__ = lambda wanted: _missing(wanted)
        try:
            yield
        finally:
            for name in names:
                sys.modules.pop(name, None)
    else:
        yield


def _missing(wanted: str) -> type:
    """Stands for whatever torchvision would give."""
    if wanted.startswith("__"):
        raise AttributeError(wanted)
    return type(wanted, (), {"__getattr__": lambda self, name: _missing(name)})


def _spandrel(path: Path) -> object:
    """The descriptor of a file of any architecture."""
    with _torchvision_or_none():
        spandrel = library("spandrel", f"{path.name} is no RCAN, and an upscaler of another kind")
    weights = read_weights(path)
    try:
        return spandrel.ModelLoader().load_from_state_dict(weights)
    except spandrel.UnsupportedModelError as error:
        raise CheckpointError(
            f"{path.name} is no upscaler: its {len(weights)} weights are of no image network that spandrel knows."
        ) from error
    except Exception as error:  # its loaders read weights by name and shape, and raise whatever comes of it
        if blameless(error):
            raise
        raise CheckpointError(
            f"{path.name} looks like an upscaler, but spandrel cannot build one of its weights ({reason(error)}): they "
            "are not whole, or of a variant that it does not know."
        ) from error


# -- sizes and precision ----------------------------------------------------------------------------------------------


def check_dtype(upscaler: Upscaler, dtype: torch.dtype) -> None:
    """Raises ConfigError where the network computes wrongly in numbers of this kind."""
    allowed = {torch.float32: True, torch.float16: upscaler.half, torch.bfloat16: upscaler.bfloat16}
    if not allowed.get(dtype, False):
        others = " or ".join(DTYPES[d] for d, right in allowed.items() if right)
        raise ConfigError(f"{upscaler.name} does not compute in {DTYPES.get(dtype, dtype)}; choose {others}.")


def check_target(scale: int, h: int, w: int, height: int, width: int) -> None:
    """Raises ConfigError where height x width is more than a network makes of h x w."""
    if height <= scale * h and width <= scale * w:
        return
    factor = math.ceil(round(100 * max(height / h, width / w), 6)) / 100
    larger = next((made for made in SCALES if made >= factor), None)
    remedy = "choose a smaller size" if larger is None else f"choose a x{larger} model or a smaller size"
    raise ConfigError(
        f"{w}x{h} times {scale} is {scale * w}x{scale * h}; {width}x{height} asks for x{factor:g}: {remedy}."
    )


def fit(frames: Tensor, height: int, width: int) -> Tensor:
    """(k, 3, h, w) in [0, 1] -> (k, 3, height, width): scaled to cover that size, cropped at the centre."""
    h, w = frames.shape[-2:]
    if (h, w) == (height, width):
        return frames
    factor = max(height / h, width / w)
    size = max(height, round(h * factor)), max(width, round(w * factor))
    if size != (h, w):
        frames = F.interpolate(frames, size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    return frames[..., top : top + height, left : left + width]


# -- at work ----------------------------------------------------------------------------------------------------------


class Enlarger:
    """An upscaler on a device: frames (k, 3, h, w) in [0, 1] -> (k, 3, scale*h, scale*w), float32 on the CPU.

    An RCAN's strips are as large as is good for the device, thinner where less memory is free, down to two rows. Where
    memory runs out all the same, the work is divided further, which is remembered: one frame at a time, then thinner
    strips, or for other networks tiles of half the side down to 64 pixels. Moves the upscaler's network to the device.

    tile: the side of a tile in pixels of the input; for an RCAN a strip has as many pixels as a tile of that side.
        None: undivided; RCANs in strips of 128 MiB on a CPU, of 512 MiB a frame elsewhere.
    at_once: frames in one pass. None: all that come; one on a CPU, where more take longer, and for spandrel's networks.
    is_oom: whether an error is of too little memory. make_room: called before another try, when all that the failed
        one held is freed. free: bytes that are free on the device; None: asked of CUDA, and no limit elsewhere.
    say: told when the work is divided further.

    Raises ConfigError for a tile or precision that cannot be, and when nothing is left to divide; CheckpointError for a
    network whose images have the wrong size or are no numbers.
    """

    def __init__(
        self,
        upscaler: Upscaler,
        device: torch.device | str,
        dtype: torch.dtype = torch.float32,
        *,
        tile: int | None = None,
        at_once: int | None = None,
        is_oom: Callable[[Exception], bool] = out_of_memory,
        make_room: Callable[[], object] = lambda: None,
        free: Callable[[], int] | None = None,
        say: Callable[[str], object] = lambda text: None,
    ) -> None:
        check_dtype(upscaler, dtype)
        check_tile(tile)
        self.upscaler, self.device, self.dtype = upscaler, torch.device(device), dtype
        self.is_oom, self.make_room, self.say = is_oom, make_room, say
        self.free = partial(_free_on_gpu, self.device) if free is None and self.device.type == "cuda" else free
        self.at_once = 1 if at_once is None and one_by_one(upscaler, self.device) else at_once
        self.tile = tile
        self.step = 0  # frames in the last pass
        self.rows: int | None = None  # of the last strip of an RCAN
        if isinstance(upscaler.network, RCAN):
            ample = STRIP_ON_CPU if self.device.type == "cpu" else STRIP_ELSEWHERE
            self.strip = ample // self._pixel() if tile is None else tile**2  # pixels of the input
        self._place()

    def __call__(self, frames: Tensor) -> Tensor:
        """frames stay as they are."""
        while (enlarged := self._try(frames)) is None:
            self._divide(*frames.shape[-2:], frames.shape[0])
        return enlarged

    # -- an RCAN's strips: what they cost, and what there is

    def _pixel(self) -> int:
        """Bytes of the tail for a pixel of the input: it is widest on both sides of its last shuffle."""
        network = self.upscaler.network
        return 2 * network.config.features * network.scale**2 * self.dtype.itemsize

    def _whole(self, h: int, w: int) -> int:
        """Bytes a frame that no strip saves: the body's maps and the result."""
        network = self.upscaler.network
        return h * w * self.dtype.itemsize * (MAPS * network.config.features + 3 * network.scale**2)

    def _rows(self, k: int, h: int, w: int) -> int:
        """Rows of a strip of k frames: as many as are good, fewer where less is free."""
        rows = self.strip // w
        if self.free is not None:
            room = USED * self.free() - k * self._whole(h, w)
            rows = min(rows, int(room // (k * w * self._pixel())) - RIMS)
        return max(MIN_ROWS, rows)

    def _frames(self, k: int, h: int, w: int) -> int:
        """Frames in one pass: all that may, fewer where not even their maps are free."""
        step = min(self.at_once or k, k)
        if self.free is not None and isinstance(self.upscaler.network, RCAN):
            each = self._whole(h, w) + (MIN_ROWS + RIMS) * w * self._pixel()
            step = min(step, int(USED * self.free() // each))
        return max(1, step)

    def _place(self) -> None:
        try:
            self.upscaler.network.to(self.device, self.dtype).eval()
        except Exception as error:
            if not self.is_oom(error):
                raise
            raise ConfigError(
                f"{self.upscaler.name} does not fit the memory of {self.device}; free some, or compute on the CPU."
            ) from None

    def _try(self, frames: Tensor) -> Tensor | None:
        """None: out of memory, and nothing that the failed pass held is there any more."""
        try:
            return self._enlarge(frames)
        except Exception as error:
            if not self.is_oom(error):
                raise
            traceback.clear_frames(error.__traceback__)
        return None

    def _divide(self, h: int, w: int, k: int) -> None:
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        self.make_room()
        thin = isinstance(self.upscaler.network, RCAN)
        side = max(h, w) if self.tile is None else min(self.tile, max(h, w))
        if self.step > 1:
            self.at_once = 1
            self.say(f"{self.step} frames at once do not fit the memory of {self.device}: one at a time from here on.")
        elif thin and self.rows is not None and self.rows > MIN_ROWS:
            rows = max(MIN_ROWS, min(self.rows, h) // 4)
            self.strip = rows * w
            self.say(f"{w}x{h} does not fit the memory of {self.device}: strips of {rows} rows from here on.")
        elif thin:
            raise ConfigError(
                f"{w}x{h} cannot be enlarged x{self.upscaler.scale} in the memory of {self.device}, not even in strips "
                f"of {MIN_ROWS} rows: free some, give smaller frames, or choose a smaller model."
            )
        elif side > MIN_TILE:
            self.tile = max(MIN_TILE, side // 2)
            self.say(f"{w}x{h} does not fit the memory of {self.device}: tiles of {self.tile} pixels from here on.")
        else:
            raise ConfigError(
                f"{w}x{h} cannot be enlarged x{self.upscaler.scale} in the memory of {self.device}, not even in tiles "
                f"of {side} pixels: free some, give smaller frames, or choose a smaller model."
            )

    def _enlarge(self, frames: Tensor) -> Tensor:
        k, _, h, w = frames.shape
        scale, step = self.upscaler.scale, self._frames(k, h, w)
        self.step = step
        out = torch.empty(k, 3, scale * h, scale * w)  # an ordinary tensor, for whoever gets it
        # fp32 is float32: in TF32 strips of another height would differ by more than rounding.
        with torch.inference_mode(), same_bits(tf32=self.dtype != torch.float32):
            for first in range(0, k, step):
                self._enlarge_into(out[first : first + step], frames[first : first + step])
            if not torch.isfinite(out).all():
                raise self._no_numbers(frames)
            return out.clamp_(0, 1)

    def _no_numbers(self, frames: Tensor) -> ValueError:
        """Whose fault it is that there are none in the result."""
        name = self.upscaler.name
        if not torch.isfinite(frames).all():
            return ConfigError("the frames to enlarge hold numbers that are no picture (NaN or infinite); give others.")
        if not all(torch.isfinite(w).all() for w in self.upscaler.network.parameters()):
            return CheckpointError(f"{name} holds weights that are no numbers (NaN); choose another file.")
        remedy = "choose another model" if self.dtype == torch.float32 else "choose fp32"
        return ConfigError(f"{name} computes no numbers of these frames in {DTYPES[self.dtype]}; {remedy}.")

    def _enlarge_into(self, out: Tensor, frames: Tensor) -> None:
        """out, on the CPU, becomes the enlarged frames, not clamped."""
        h, w = frames.shape[-2:]
        if isinstance(self.upscaler.network, RCAN):
            self.rows = self._rows(len(frames), h, w)
            out.copy_(self.upscaler.network(self._moved(frames), self.rows))
        elif self.tile is None or self.tile >= max(h, w):
            out.copy_(self._run(frames))
        else:
            blend_tiles(out, frames, self._run, self.upscaler.scale, self.tile)

    def _run(self, frames: Tensor) -> Tensor:
        enlarged = self._called(self._moved(frames))
        scale, (h, w) = self.upscaler.scale, frames.shape[-2:]
        if enlarged.shape != (len(frames), 3, scale * h, scale * w):
            raise CheckpointError(
                f"{self.upscaler.name} makes {tuple(enlarged.shape)} of {tuple(frames.shape)}, which is not x{scale}; "
                "choose another model."
            )
        return enlarged

    def _called(self, frames: Tensor) -> Tensor:
        call = self.upscaler.call or self.upscaler.network
        if self.dtype == torch.float32:
            return call(frames)
        try:
            with torch.autocast(self.device.type, self.dtype):  # some networks, as SwinIR, make fp32 on their way
                return call(frames)
        except RuntimeError as error:
            if self.is_oom(error) or not self._runs_in_float32(frames):
                raise
            number = DTYPES[self.dtype]
            raise ConfigError(f"{self.upscaler.name} fails in {number} ({reason(error)}); choose fp32.") from error

    def _runs_in_float32(self, frames: Tensor) -> bool:
        """Whether what failed in half precision was the precision: a corner of the same frames goes through in fp32."""
        network = self.upscaler.network.float()
        try:
            (self.upscaler.call or network)(frames[:1, :, :MIN_TILE, :MIN_TILE].float())
        except RuntimeError:
            return False
        finally:
            network.to(self.dtype)
        return True

    def _moved(self, frames: Tensor) -> Tensor:
        # A copy in any case: some networks compute in place on what they are given.
        return frames.to(self.device, self.dtype, copy=True)


def _free_on_gpu(device: torch.device) -> int:
    """Bytes that CUDA gives, and those that torch keeps and does not use."""
    return torch.cuda.mem_get_info(device)[0] + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def one_by_one(upscaler: Upscaler, device: torch.device) -> bool:
    """Whether frames had better pass alone: spandrel's networks take one, and on a CPU more only take longer."""
    return upscaler.call is not None or device.type == "cpu"


def check_tile(tile: int | None) -> None:
    """Raises ConfigError for a side that no tile can have."""
    if tile is not None and tile < MIN_TILE:
        raise ConfigError(f"tile is {tile}; expected {MIN_TILE} pixels or more.")


def blend_tiles(out: Tensor, frames: Tensor, run: Callable[[Tensor], Tensor], scale: int, tile: int) -> None:
    """out (k, 3, scale*h, scale*w), on the CPU, becomes run(frames), made of tiles that run over into each other.

    All tiles have the same size. The outer quarter of an overlap, where a network sees the cut, counts nothing; from
    there one tile fades into the next.
    """
    h, w = frames.shape[-2:]
    overlap = 16 if tile <= 128 else 32
    height, width = min(tile, h), min(tile, w)
    tops, lefts = starts(h, height, overlap), starts(w, width, overlap)
    rows = [ramp(top, height, h, overlap, scale) for top in tops]
    columns = [ramp(left, width, w, overlap, scale) for left in lefts]
    out.zero_()
    for top, row in zip(tops, rows, strict=True):
        for left, column in zip(lefts, columns, strict=True):
            enlarged = run(frames[..., top : top + height, left : left + width]).float().cpu()
            place = out[..., scale * top : scale * (top + height), scale * left : scale * (left + width)]
            place += enlarged * row[:, None] * column
    out /= _summed(tops, rows, h, scale)[:, None] * _summed(lefts, columns, w, scale)


def starts(length: int, tile: int, overlap: int) -> list[int]:
    """Where tiles of this size begin that cover a length: spread evenly, with at least this overlap."""
    if length <= tile:
        return [0]
    steps = math.ceil((length - tile) / (tile - overlap))
    return [round(i * (length - tile) / steps) for i in range(steps + 1)]


def ramp(start: int, tile: int, length: int, overlap: int, scale: int) -> Tensor:
    """(scale*tile,) the weights of a tile's output along one axis, 1 but towards its neighbours."""
    place = (torch.arange(scale * tile) + 0.5) / scale  # in pixels of the input
    weights = torch.ones_like(place)
    if start > 0:
        weights *= ((place - overlap / 4) / (overlap / 2)).clamp(0, 1)
    if start + tile < length:
        weights *= ((tile - place - overlap / 4) / (overlap / 2)).clamp(0, 1)
    return weights


def _summed(begins: list[int], weights: list[Tensor], length: int, scale: int) -> Tensor:
    total = torch.zeros(scale * length)
    for begin, weight in zip(begins, weights, strict=True):
        total[scale * begin : scale * begin + len(weight)] += weight
    return total
