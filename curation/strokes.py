"""Lines of text by their shape: short strokes in a row that stay on the same pixels for a while. Without weights."""

from __future__ import annotations

from .still import Frames, Rectangle


def lines(frames: Frames) -> list[Rectangle]:
    """Boxes around them, wherever they are for two frames in a row while the rest moves."""
    return []
