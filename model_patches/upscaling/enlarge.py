"""Upscalers at work on frames, in as much memory as there is.

RCANs run in strips of rows, which give what the undivided image gives, in any memory. Other networks that do not fit
get overlapping tiles whose seams are blended.
"""

from __future__ import annotations

import math
import traceback
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from ...errors import CheckpointError, ConfigError, out_of_memory, reason
from ..dtypes import NAMES
from ..kernels import same_bits
from .rcan import RCAN
from .upscaler import Upscaler, check_dtype

MIN_TILE = 64  # pixels, a side
# Bytes of one strip of an RCAN's tail, where there is room. A CPU is as fast with small ones, a GPU wants enough to do.
STRIP_ON_CPU, STRIP_ELSEWHERE = 128 * 2**20, 512 * 2**20
MIN_ROWS, RIMS = 2, 4  # of the input: in the thinnest strip, and what a strip sees beyond its own
MAPS = 5  # feature maps of whole frames that an RCAN's body holds at once (benchmarks/upscaling.py)
USED = 0.75  # of the free memory that is planned with: kernels take workspaces of their own


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
            height, width = frames.shape[-2:]
            self._divide(height, width, frames.shape[0])
        return enlarged

    # -- an RCAN's strips: what they cost, and what there is

    def _rcan(self) -> RCAN:
        assert isinstance(self.upscaler.network, RCAN)  # what has no strips is not asked for their cost
        return self.upscaler.network

    def _pixel(self) -> int:
        """Bytes of the tail for a pixel of the input: it is widest on both sides of its last shuffle."""
        network = self._rcan()
        return 2 * network.config.features * network.scale**2 * self.dtype.itemsize

    def _whole(self, h: int, w: int) -> int:
        """Bytes a frame that no strip saves: the body's maps and the result."""
        network = self._rcan()
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
        return ConfigError(f"{name} computes no numbers of these frames in {NAMES[self.dtype]}; {remedy}.")

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
            number = NAMES[self.dtype]
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
