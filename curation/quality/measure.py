"""How well is curation done? Held against made-up videos of which all is known: `dreamfactory curate-quality`."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from .. import duplicates as alike
from ..assemble import gather
from ..config import CurationConfig, Filter
from ..curate import curate
from ..rows import Clip, Source
from ..runners.pool import cores
from ..sources import read_sources
from ..store import Store
from ..transnet import open_transnet
from . import columns, scenes
from .corpus import PARTS, make
from .overlays import REAL
from .scenes import EVENTS
from .truth import Truth

SHORTEST = 0.5  # seconds of a scene in the part "files", which has to be a clip


def measure(
    scale: str, seed: int, config: CurationConfig, previews: Path | None = None, *, quiet: bool = False
) -> dict[str, Any]:
    """Plain data: recall and precision by what was looked for, with counts. Arguments: of `corpus.make`; config is what
    is measured, of which filters and words have no say."""
    workers = config.engine.workers or cores()
    with tempfile.TemporaryDirectory(prefix="curate-quality-") as name:
        folder = Path(name)
        # A folder each, as it is a set's own.
        truths = {part: make(folder / part, scale, seed, [part], previews, workers=workers) for part in PARTS}
        found = _transitions(folder, truths, config, workers, quiet)
        rows = {p: _rows(folder, p, config, workers, quiet) for p in ("overlays", "duplicates", "files")}
    laid = {real: [t for t in truths["overlays"] if t.group.startswith(REAL) is real] for real in (False, True)}
    of_overlays = columns.by_source(rows["overlays"].clips)
    found |= columns.overlays(laid[False], of_overlays)
    found["over_real"] = columns.overlays(laid[True], of_overlays) if laid[True] else None
    alike.mark(rows["duplicates"].clips, config.duplicates)
    found["duplicates"] = columns.duplicates(truths["duplicates"], rows["duplicates"].clips)
    of_files = rows["files"]
    found["files"] = columns.files(
        truths["files"], of_files.sources, of_files.passed_over, columns.by_source(of_files.clips)
    )
    return {"scale": scale, "seed": seed, **found}


def _transitions(
    folder: Path, truths: dict[str, list[Truth]], config: CurationConfig, workers: int, quiet: bool
) -> dict[str, Any]:
    made, real = truths["transitions"], truths["real"]
    seen = scenes.look_at_all(folder / "transitions", made, config, workers, quiet)
    seen_real = scenes.look_at_all(folder / "real", real, config, workers, quiet)
    net = "transnetv2" if open_transnet(config.scenes.detector) is not None else "content"
    return {
        "detector": net,
        **scenes.summed(made, seen),
        "real": {**scenes.summed(real, seen_real), "groups": scenes.groups(real, seen_real)} if real else None,
        "events": scenes.events(made, seen),
        "groups": {name: row for name, row in scenes.groups(made, seen).items() if not name.startswith(EVENTS)},
        "cost": scenes.cost([*seen, *seen_real]),
    }


@dataclass
class _Rows:
    sources: list[Source]
    clips: list[Clip]
    passed_over: Sequence[str]


def _rows(folder: Path, part: str, config: CurationConfig, workers: int, quiet: bool) -> _Rows:
    """Those that `curate` makes. Nothing is encoded, since nothing is kept."""
    videos, out = folder / part / part, folder / f"{part}-set"
    least = min(config.clips.min_seconds, SHORTEST) if part == "files" else config.clips.min_seconds
    config = replace(
        config,
        clips=replace(config.clips, min_seconds=least, encode="kept"),
        filters={"measured": Filter("frames", max=0)},
        engine=replace(config.engine, runner="processes", workers=workers),
    )
    curate(str(videos), out, config, quiet=quiet)
    found = read_sources(str(videos))
    there = gather(Store(out), found.listed)
    for row in (*there.sources, *there.clips):
        row.source = f"{part}/{row.source}"
    return _Rows(there.sources, there.clips, [f"{part}/{one.label}" for one in found.passed_over])
