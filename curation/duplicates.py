"""Clips that look the same, wherever they come from: all compared with all, exactly.

A clip is three 64-bit hashes (scores.hashes). As signs +1 and -1, the bits that differ between two clips are
(192 - their product) / 2, so that comparing every clip with every other is one product of matrices, by blocks.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from .config import DuplicatesConfig
from .rows import Clip

BLOCK = 4096  # clips compared with as many at a time
FRAMES, BITS = 3, 64


def mark(clips: Sequence[Clip], config: DuplicatesConfig) -> None:
    """Write `duplicate_of` into every clip that looks like a better one; of those alike the best stays.

    clips: of which each may stay. The larger is better, then the one of more frames, then the sharper, then the name
    that comes first: whatever order they come in, and how many there are of each, the same ones stay.
    """
    for clip in clips:
        clip.duplicate_of = None
    ranked = sorted((c for c in clips if len(c.hashes) == 2 * FRAMES), key=_rank)
    if len(ranked) < 2:
        return
    own, mirrored = _signs(ranked, 0), _signs(ranked, FRAMES)
    sources = np.array([clip.source_id for clip in ranked])
    least = FRAMES * (BITS - 2 * config.max_distance)  # of a product, for clips that are alike
    stays = np.ones(len(ranked), bool)
    for begin in range(0, len(ranked), BLOCK):
        block = slice(begin, begin + BLOCK)
        for start in range(0, begin + 1, BLOCK):
            before = slice(start, start + BLOCK)
            product = own[block] @ own[before].T
            if config.mirrored:
                product = np.maximum(product, own[block] @ mirrored[before].T)
            alike = product >= least
            if not config.within_source:
                alike &= sources[block, None] != sources[None, before]
            for row in np.flatnonzero(alike.any(1)):
                one = begin + int(row)
                if not stays[one]:
                    continue
                better = start + np.flatnonzero(alike[row])
                better = better[(better < one) & stays[better]]
                if better.size:
                    ranked[one].duplicate_of, stays[one] = ranked[int(better[0])].clip, False


def _rank(clip: Clip) -> tuple:
    return -clip.crop_width * clip.crop_height, -clip.frames, -(clip.sharpness or 0.0), clip.clip


def _signs(clips: Sequence[Clip], first: int) -> np.ndarray:
    """(n, 192) of +1 and -1."""
    words = np.array([[int(h, 16) for h in clip.hashes[first : first + FRAMES]] for clip in clips], dtype=np.uint64)
    bits = (words[:, :, None] >> np.arange(BITS, dtype=np.uint64)) & np.uint64(1)
    return bits.reshape(len(clips), -1).astype(np.float32) * 2 - 1
