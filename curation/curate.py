"""SOURCES and settings -> OUT: works on what is not done yet, then puts the set together."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Generator, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from ..errors import CannotWrite, InputError
from ..files import whole
from ..pipelines import page
from . import assemble, begun
from .assemble import Gathered
from .captions import check_captions
from .categories import check_categories
from .config import CurationConfig
from .report import facts
from .report_page import write_report
from .rows import Clip
from .runners.pool import cores
from .runners.worker import Fatal, Job
from .sources import Listed, Sources, read_sources
from .store import Outcome, Store, writing
from .tools import settled

SHOWN_KEPT, SHOWN_REJECTED = 60, 60  # clips on the report's page


@dataclass
class Spent:
    """On this machine, this time."""

    runner: str
    workers: int
    shard: tuple[int, int] | None  # of an array's job
    wall: float = 0.0  # seconds
    core: float = 0.0
    videos: dict[str, float] = field(default_factory=dict)  # hours of each, by key


@dataclass(frozen=True)
class Result:
    """What came of a run. facts: of report.json; None: other jobs of an array are not done yet."""

    facts: dict[str, Any] | None
    done: int  # sources of this job
    failed: list[tuple[str, str]]  # of them, with their problems
    spent: Spent


def curate(
    sources: str, out: Path, config: CurationConfig, *, shard: tuple[int, int] | None = None, quiet: bool = False
) -> Result:
    """Raises DreamFactoryError with one sentence. What is done when it is interrupted stays done."""
    check_captions(config.captions)
    check_categories(config.categories)
    store, name = Store(out), "0" if shard is None else f"{shard[0] % shard[1]}-{shard[1]}"
    known = begun.read(store)
    begun.check(store, known, sources, settled(config, known["rows"] if known else None))
    found = read_sources(sources, leave=out)
    config, versions = begun.join(store, sources, config)
    bar = partial(tqdm, disable=True if quiet else None, dynamic_ncols=True)
    try:
        with begun.alone(store, name):
            store.sweep(name)
            mine = [one for one in found.listed if shard is None or part(one.label, shard[1]) == shard[0] % shard[1]]
            spent = Spent(config.engine.runner, config.engine.workers, shard)
            there = _worked(store, mine, config, name, bar, spent)
            failed = [(o.label, o.problem) for one in mine if (o := store.told(store.key(one))) and o.problem]
            # The jobs of an array share this work too; whoever puts the set together finds it done.
            assemble.speak(store, there, config, bar)
    except BlockingIOError as error:
        raise InputError(f"{out} is being worked on by another run; wait for it, or choose another folder.") from error
    own = {one.label for one in mine}
    with begun.turn(store, "set"):
        if _is_left(store, [one for one in found.listed if one.label not in own], config):
            return Result(None, len(mine), failed, spent)
        return Result(_assemble(store, found, config, bar, spent, versions), len(mine), failed, spent)


def part(label: str, parts: int) -> int:
    """Which job of an array a source is for: by its name, so that all agree on it whatever happens to the file."""
    return (
        int.from_bytes(hashlib.blake2b(label.encode(errors="surrogateescape"), digest_size=8).digest(), "big") % parts
    )


def _is_left(store: Store, others: Sequence[Listed], config: CurationConfig) -> bool:
    """Whether other jobs are not done with their sources, or have to make clips of them anew."""
    if any(store.told(store.key(one)) is None for one in others):
        return True
    there = assemble.gather(store, others)
    return bool(there.damaged | assemble.without_video(store, there, config))


# -- work -------------------------------------------------------------------------------------------------------------


def _worked(store: Store, mine: Sequence[Listed], config: CurationConfig, name: str, bar, spent: Spent) -> Gathered:
    """Rows of these sources, with a video of every clip that may be kept."""
    _work(store, mine, config, name, bar, spent)
    there = assemble.gather(store, mine)
    # Damaged since; or rejected when it was found, and wanted now.
    again = there.damaged | assemble.without_video(store, there, config)
    if again:
        before = {key: outcome for one in mine if (outcome := store.told(key := store.key(one))) is not None}
        for source_id in again:
            store.outdate(source_id)
        _work(store, mine, config, name, bar, spent)
        for key, outcome in before.items():
            now = store.told(key)
            if now is not None and now.problem and outcome.source_id in again - there.damaged:
                store.tell(outcome)  # what there was of it stays
        there = assemble.gather(store, mine)
    return there


def _work(store: Store, mine: Sequence[Listed], config: CurationConfig, name: str, bar, spent: Spent) -> None:
    """Sources of which nothing is there yet, or which failed the last time."""
    spent.workers = 1 if config.engine.runner == "inline" else config.engine.workers or cores()
    waiting = [one for one in mine if store.outcome(store.key(one)) is None]
    if not waiting:
        return
    values = config.to_dict()
    out = os.path.abspath(store.out)
    jobs = [Job(store.key(one), one.label, os.path.abspath(one.path), out, name, values) for one in waiting]
    begun, before, failed = time.monotonic(), spent.wall, 0
    done = len(mine) - len(jobs)
    with (
        bar(total=len(mine), initial=done, desc="sources", unit="source") as progress,
        closing(_run(jobs, config, spent.workers)) as outcomes,
    ):
        for answer in outcomes:
            outcome = Outcome(**answer)
            if outcome.problem:
                store.tell(outcome)
                failed += 1
            spent.core += outcome.seconds
            spent.videos[outcome.key] = outcome.hours
            spent.wall = before + time.monotonic() - begun
            rate = {
                "video": f"{3600 * sum(spent.videos.values()) / spent.wall:.1f} h/h",
                "cores": f"{spent.core / spent.wall:.1f}",
            }
            progress.set_postfix(rate | ({"failed": failed} if failed else {}))
            progress.update()
    lost = [job.label for job in jobs if store.told(job.key) is None]
    if lost:
        raise AssertionError(f"{len(lost)} sources came to nothing, {lost[0]} among them")


def _run(jobs: list[Job], config: CurationConfig, workers: int) -> Generator[dict[str, Any], None, None]:
    from .runners import on_ray, pool

    engine = config.engine
    try:
        if engine.runner == "ray":
            yield from on_ray.run(jobs, engine.workers, timeout=engine.timeout, retries=engine.retries)
        else:
            yield from pool.run(jobs, workers, timeout=engine.timeout, retries=engine.retries)
    except Fatal as error:
        raise CannotWrite(str(error)) from error


# -- the set ----------------------------------------------------------------------------------------------------------


def _assemble(
    store: Store, found: Sources, config: CurationConfig, bar, spent: Spent, versions: Sequence[dict[str, str]]
) -> dict[str, Any]:
    there = assemble.gather(store, found.listed)
    assemble.choose(store, there, config, bar)
    names = assemble.write(store, there, config, bar)
    engine: dict[str, object] = {"runner": spent.runner, "workers": spent.workers, "slowest": there.slowest}
    if spent.shard is not None:
        engine["shard"] = f"{spent.shard[0]}/{spent.shard[1]}"
    if spent.videos:
        engine |= {
            "wall_seconds": round(spent.wall, 2),
            "core_seconds": round(spent.core, 2),
            "worked_on": len(spent.videos),
        }
    counted = facts(
        there.sources,
        there.clips,
        seconds={stage: round(took, 3) for stage, took in there.seconds.items()},
        engine=engine,
        notes=_notes(there, found, config, versions),
        filters=config.filters,
    )
    counted |= {"shards": names, "passed_over": [list(one) for one in found.passed_over]}
    with writing(store.out), whole(store.out / "report.json") as temporary:
        temporary.write_text(json.dumps(counted, indent=1), "utf-8", errors="surrogateescape")
    kept = [clip for clip in there.clips if clip.kept]
    rejected = [clip for clip in there.clips if not clip.kept]
    with writing(store.out):
        write_report(
            store.out / "report.html",
            store.out.resolve().name,
            counted,
            _shown(store, _spread(kept, SHOWN_KEPT)),
            _shown(store, _by_reason(rejected, SHOWN_REJECTED)),
        )
    return counted


def _shown(store: Store, clips: Sequence[Clip]) -> list[tuple[Clip, bytes]]:
    """Those of which there is a picture."""
    found = []
    for clip in clips:
        with suppress(FileNotFoundError):
            number = clip.clip.rpartition("-")[2]
            found.append((clip, (store.clips(clip.source_id) / f"{number}.strip.jpg").read_bytes()))
    return found


def _spread(clips: Sequence[Clip], most: int) -> list[Clip]:
    """Evenly, which is at random: they are in the order of their contents' hashes."""
    return list(clips[:: -(-len(clips) // most) or 1])[:most]


def _by_reason(clips: Sequence[Clip], most: int) -> list[Clip]:
    """Some of each reason."""
    reasons = list(dict.fromkeys(clip.reason for clip in clips))
    each = max(1, most // max(1, len(reasons)))
    return [clip for reason_ in reasons for clip in _spread([c for c in clips if c.reason == reason_], each)]


def _notes(there: Gathered, found: Sources, config: CurationConfig, versions: Sequence[dict[str, str]]) -> list[str]:
    """Sentences that a reader of the numbers must know."""
    notes = []
    if there.clips and config.scores.text == "gradient":
        notes.append(
            "Burned-in text was looked for by the look of letters alone, which misses some and takes other things for "
            "it; a set that is begun where rapidocr is installed has it read."
        )
    for filter_name, one in config.filters.items():
        if there.clips and one is not None and all(getattr(c, one.column) is None for c in there.clips):
            verb = "rejected all" if one.missing == "reject" else "judged none"
            notes.append(f"No clip has a value of {one.column}, so filters.{filter_name} {verb}.")
    if config.captions.kind == "none":
        notes.append("The clips have no captions: training reads them with uncaptioned = true, or give captions.kind.")
    notes += there.notes
    cut = [source.source for source in there.sources if source.problem and source.status == "ok"]
    if cut:
        notes.append(
            f"{_count(len(cut), 'source')} could be read only in part, {cut[0]} among them; what could be read counts."
        )
    if len(versions) > 1:
        named = [{f"{name} {number}" for name, number in one.items()} for one in versions]
        changed = sorted(set.union(*named) - set.intersection(*named))
        notes.append(f"The set was worked on with several versions of its tools ({', '.join(changed)}).")
    lost = sum(clip.reason == assemble.NOT_ENCODED for clip in there.clips)
    if lost:
        notes.append(
            f"Rejected when found and wanted now, but of sources that could not be read again: {_count(lost, 'clip')}; "
            "restore those, and give the same line again."
        )
    if found.passed_over:
        notes.append(f"Passed over: {_count(len(found.passed_over), 'other file')}, named in report.json.")
    return notes


def say(result: Result, out: Path) -> None:
    """What came of it, for a person."""
    counted, spent = result.facts, result.spent
    if spent.videos and spent.wall > 0:
        video = f"{page.time(3600 * sum(spent.videos.values()))} of video"
        busy = f"{spent.core / spent.wall:.1f} cores busy"
        print(f"{_count(len(spent.videos), 'source')} in {page.time(spent.wall)}: {video}, {busy}")
    if counted is None:
        done = _count(result.done, "source")
        print(f"This job is done, with {done}; the set is put together once the others are.")
        return
    found = ", ".join(_count(counted[name], name.removesuffix("s")) for name in ("sources", "scenes", "clips"))
    print(f"{found}, {counted['kept']} kept: {out / 'report.html'}")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' * (number != 1)}"
