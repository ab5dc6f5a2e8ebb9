"""`make`: a folder of videos whose truth is known, and truth.json beside them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from tqdm import tqdm

from ...errors import InputError, nearest
from . import transitions
from .plan import SCALES
from .truth import Truth, load, save

__all__ = ["PARTS", "Truth", "load", "make"]

PARTS = ("transitions",)


def make(
    folder: Path, scale: str = "quick", seed: int = 0, parts: Sequence[str] | None = None, previews: Path | None = None
) -> list[Truth]:
    """Videos below a folder, one folder a part, and what is true of them, which truth.json keeps.

    scale: quick, in a minute of one core; full, some hundred transitions of each kind. The same arguments make the same
    files. Raises InputError.
    """
    for kind, given, known in (("scale", [scale], SCALES), ("part", parts or (), PARTS)):
        for name in given:
            if name not in known:
                hint = f"did you mean {near!r}?" if (near := nearest(name, known)) else f"known: {', '.join(known)}."
                raise InputError(f"the corpus has no {kind} {name!r}; {hint}")
    folder = Path(folder)
    planned = [
        plan for part in parts or PARTS for plan in {"transitions": transitions}[part].plans(SCALES[scale], seed)
    ]
    truths = [plan.make(folder / plan.file) for plan in tqdm(planned, desc="made", unit="video")]
    save(folder, truths)
    return truths
