"""A list of clips, some at a time: first all pictures that are drawn, then the clips.

A batch is a slice of the list, whatever of it is done: a clip's last bits depend on its neighbours in a pass, so a run
that goes on makes the same batches again and keeps what is missing.
"""

from __future__ import annotations

import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor

from ...errors import InputError, out_of_memory, reason
from ...model_patches import CheckpointError, ConfigError
from ...schedulers import ScheduleError
from ..media.transcode import note
from .folder import ClipFolder, is_drawn, is_made, save_picture
from .plan import Job
from .processes import Processes
from .request import Request
from .studio import Studio


class Failed(Exception):
    """Clips of a list that could not be made; all others are there. The text names them."""


def name_of(line: int, request: Request) -> str:
    """A clip's file in the folder of its list."""
    return request.out or f"{line:05d}.mp4"


def files_of_clip(name: str) -> list[str]:
    """The names of all files that a clip may have, whatever a run is asked for."""
    return [name, *(f"{Path(name).stem}_{part}.png" for part in ("sheet", "first_frame"))]


def make_list(studio: Studio, jobs: list[Job], folder: ClipFolder, run: dict, prompts: str, group: Processes) -> Path:
    """Make what is not there yet of a list's clips. run: what they share, as the folder was begun; batch may be None.

    Raises InputError where the folder is another's; Failed, at the end, where clips could not be made.
    """
    if run["batch"] is None:
        run["batch"] = min(_at_once(studio, job) for job in jobs)
    group.wait()  # all have seen the folder as it was
    with ExitStack() as stack:
        group.agree(lambda: stack.enter_context(folder.held(run)))
        batch = folder.begun({})["batch"]  # the main process's: on what it has, others may see otherwise
        work = Work(studio, jobs, batch, folder, group)
        problems, before = work.make()
        folder.rewrite([_row(job, problems.get(job)) for job in jobs])
    if group.main:
        studio.say(f"{len(jobs) - len(problems)} of {len(jobs)} clips, {before} of them there before")
    group.wait()  # a launcher stops all processes when the first of them ends with a failure
    if problems:
        raise Failed(_told(problems, prompts) if group.main else "")
    return folder.path


@dataclass
class Work:
    """This process's share of a list."""

    studio: Studio
    jobs: list[Job]
    size: int  # clips a pass
    folder: ClipFolder
    group: Processes
    done: set[Path] = field(default_factory=set)  # clips that are there
    drawn: set[Path] = field(default_factory=set)  # clips whose first frame is there
    problems: dict[Path, str] = field(default_factory=dict)
    fits: dict[tuple, int] = field(default_factory=dict)  # clips a pass, where fewer than asked for fit the memory

    def make(self) -> tuple[dict[Job, str], int]:
        """Returns what could not be made, by any process, and how many clips there were before.

        What one process is refused, all end with: on the disk, or in what lies there.
        """
        self.group.agree(self._look)
        self.studio.quiet = self.studio.quiet or not self.group.main
        try:
            self.group.agree(self._draw)
            self.studio.put_away_painter()
            self.problems |= {job.out: told for job, told in self._all_problems().items()}
            self.group.agree(self._animate)
        except KeyboardInterrupt:
            if self.group.main:
                there = sum("error" not in row for row in self.folder.rows().values())
                note(f"{there} of {len(self.jobs)} clips are there; the same command goes on")
            raise
        rows = self.folder.rows()
        lost = {job: "it was not made" for job in self.jobs if job.out.name not in rows}
        return lost | self._all_problems(), len(self.done)

    def _look(self) -> None:
        """What is there already. Every picture is looked at: one of another run must not become a clip of this one."""
        self.done = {job.out for job in self.jobs if is_made(job.out, job.record)}
        drawings = [(job.out, job.drawing) for job in self.jobs if job.drawing is not None]
        self.drawn = {out for out, drawing in drawings if is_drawn(drawing.out, drawing.record)}
        self.folder.rewrite([_row(job) for job in self.jobs if job.out in self.done])
        if self.group.main:
            self._tell()

    def _tell(self) -> None:
        for told in self.studio.planner.notes([job.request for job in self.jobs]):
            note(told)
        bare = [job for job in self.jobs if job.out in self.done and job.sheet is not None and not job.sheet.exists()]
        if bare:
            note(f"{len(bare)} of the clips that are there have no sheet; a clip that is deleted is made with one.")
        wanted = {job.out.name for job in self.jobs}
        others = sorted(path.name for path in self.folder.path.glob("[!.]*.mp4") if path.name not in wanted)
        if others:
            note(f"{len(others)} clips in {self.folder.path} are of no line of the list, {others[0]} first; they stay.")

    def _draw(self) -> None:
        """First frames that are not there yet and wanted, of clips to make and of their neighbours in a pass."""
        passes = _batches(self.jobs, self.size, _alike)
        wanted = {job.out for batch in passes if not self._is_done(batch) for job in batch}
        drawn = [job for job in self.jobs if job.drawing is not None]
        missing = wanted - self.drawn
        mine = _batches(drawn, self.size, _drawn_alike)[self.group.rank :: self.group.world]
        left = [batch for batch in mine if any(job.out in missing for job in batch)]
        if not left:
            return
        with self.studio.bar("drawing", sum(map(len, left)), "picture") as bar:
            for batch in left:
                for part, pictures in self._in_parts(batch, self.studio.draw, ("pictures", *_drawn_alike(batch[0]))):
                    for job, picture in zip(part, pictures, strict=True):
                        if job.out in missing and job.drawing is not None:
                            save_picture(job.drawing.out, picture, job.drawing.record)
                self._add_problems(batch)
                bar.update(len(batch))

    def _animate(self) -> None:
        with self.studio.bar("clips", len(self.jobs), "clip") as bar:
            bar.update(len(self.done))
            for batch in _batches(self.jobs, self.size, _alike)[self.group.rank :: self.group.world]:
                if self._is_done(batch):
                    continue
                able = [job for job in batch if job.out not in self.problems]
                for part, clips in self._in_parts(able, self.studio.animate, ("clips", *_alike(batch[0]))):
                    for job, clip in zip(part, clips, strict=True):
                        if job.out not in self.done and self._is_written(job, clip):
                            self.folder.add(_row(job))
                self._add_problems([job for job in batch if job.out not in self.done])
                bar.n = min(len(self.jobs), self.folder.count())  # of all processes
                bar.refresh()

    def _is_done(self, batch: list[Job]) -> bool:
        return all(job.out in self.done for job in batch)

    def _in_parts(
        self, jobs: list[Job], work: Callable[[list[Job]], Tensor], kind: tuple
    ) -> Iterator[tuple[list[Job], Tensor]]:
        """A batch in one pass; in smaller ones where that fails, down to single clips, whose failure is kept.

        kind: "clips" or "pictures", and what else the memory of a pass depends on besides its length.
        """
        waiting = [jobs] if jobs else []
        while waiting:
            part = waiting.pop(0)
            most = self.fits.get(kind, len(part))
            if len(part) > most:
                waiting = _slices(part, most) + waiting
                continue
            try:
                made = work(part)
            except Exception as error:
                problem, short = _problem(error), out_of_memory(error)
                if problem is None:
                    raise
                traceback.clear_frames(error.__traceback__)  # what the failed pass held
            else:
                yield part, made
                continue
            if self.studio.turns.device.type == "cuda":
                torch.cuda.empty_cache()
            if len(part) == 1:
                self._fail(part[0], problem)
                continue
            fewer = len(part) // 2
            if short:
                self.fits[kind] = fewer
                note(f"{len(part)} {kind[0]} at once do not fit the memory; {fewer} from here on for these.")
            waiting = _slices(part, fewer) + waiting

    def _is_written(self, job: Job, clip: Tensor) -> bool:
        """A clip in its file. Enlarging may fail for one clip alone; a full disk ends the list."""
        try:
            self.studio.write(job, clip)
        except Exception as error:
            problem = None if isinstance(error, InputError) else _problem(error)
            if problem is None:
                raise
            self._fail(job, problem)
            traceback.clear_frames(error.__traceback__)
            return False
        return True

    def _fail(self, job: Job, problem: str) -> None:
        self.problems[job.out] = problem
        note(f"line {job.line}: {problem}")

    def _add_problems(self, batch: list[Job]) -> None:
        for job in batch:
            if job.out in self.problems:
                self.folder.add(_row(job, self.problems[job.out]))

    def _all_problems(self) -> dict[Job, str]:
        """What all processes could not make: the newest line of the index on a clip says so, whatever lies there."""
        rows = self.folder.rows()
        told = {job: rows.get(job.out.name, {}).get("error") for job in self.jobs}
        return {job: problem for job, problem in told.items() if problem is not None}


def _problem(error: Exception) -> str | None:
    """The sentence of an error that one clip may have and its neighbours not; None: a bug, or the end of all work."""
    if out_of_memory(error):
        return f"memory ran out ({reason(error)})"
    return str(error) if isinstance(error, (InputError, CheckpointError, ConfigError, ScheduleError)) else None


def _at_once(studio: Studio, job: Job) -> int:
    bundle, (height, width) = studio.planner.bundle, job.size
    cells = height // bundle.codec.downscale, width // bundle.codec.downscale
    return studio.turns.clips_at_once(bundle.unet, job.frames, *cells)


def _batches(jobs: Sequence[Job], size: int, alike: Callable[[Job], tuple]) -> list[list[Job]]:
    """Slices of jobs that can share a pass, in the order of the list."""
    groups: dict[tuple, list[Job]] = {}
    for job in jobs:
        groups.setdefault(alike(job), []).append(job)
    return [part for group in groups.values() for part in _slices(group, size)]


def _slices(jobs: list[Job], size: int) -> list[list[Job]]:
    return [jobs[i : i + size] for i in range(0, len(jobs), size)]


def _alike(job: Job) -> tuple:
    """What clips of one pass must have in common."""
    return (job.size, job.request.last_image is None, replace(job.request.settings, seed=0))


def _drawn_alike(job: Job) -> tuple:
    drawing = job.drawing
    return () if drawing is None else (drawing.size, drawing.steps, drawing.guidance_scale)


def _row(job: Job, problem: str | None = None) -> dict:
    """A line of the index."""
    row = {"line": job.line, "file": job.out.name}
    if problem is not None:
        return {**row, "error": problem, **job.record}
    sheet = job.out.with_name(f"{job.out.stem}_sheet.png")  # there or not, whatever this run was asked for
    return {**row, **({"sheet": sheet.name} if sheet.exists() else {}), **job.record}


def _told(problems: dict[Job, str], prompts: str) -> str:
    told = [f"line {job.line}, {job.out.name}: {problem}" for job, problem in problems.items()]
    count = "1 clip" if len(told) == 1 else f"{len(told)} clips"
    return "\n".join([f"{count} of {prompts} could not be made; the same command tries again:", *told])
