"""The work of `dreamfactory generate`: first frames, then clips, some at a time.

A batch is a slice of the list, whatever of it is done: a clip's last bits depend on its neighbours in a pass, so a run
that goes on makes the same batches again and keeps what is missing.
"""

from __future__ import annotations

import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ...model_patches import CheckpointError, ConfigError
from ...model_patches.errors import out_of_memory, reason
from ...model_patches.upscaling import Enlarger, Upscaler, check_dtype, fit
from ...schedulers import ScheduleError
from ..bundle import load_bundle
from ..errors import InputError
from ..image_to_video import animate
from ..lora import apply_lora, check_lora
from ..sheets import clip_sheet
from ..text_to_image import check_text_to_image, open_text_to_image
from ..turns import Turns
from ..upscale import open_upscaler
from ..video_files import check_output, read_image, write_video
from ..video_stream import note
from .folder import ClipFolder, is_drawn, is_made, save_picture
from .plan import Job, Networks, Planner, check_request
from .processes import Processes
from .request import Request, read_prompts, refuse_lines

ENLARGED_AT_ONCE = 4  # frames
ALONE = Processes()


class Failed(Exception):
    """Clips of a list that could not be made; all others are there. The text names them."""


@dataclass
class Studio:
    """The networks, and where they compute."""

    planner: Planner
    turns: Turns
    dtype: torch.dtype
    quiet: bool
    batch: int | None = None  # clips a pass; None: as memory allows
    enlarger: Enlarger | None = None
    problems: dict[Path, str] = field(default_factory=dict)


def generate(
    request: Request,
    networks: Networks,
    *,
    prompts: str | None = None,
    batch: int | None = None,
    sheets: bool = True,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
    quiet: bool = False,
    group: Processes = ALONE,
) -> Path:
    """Make the clip `request.out`, or the clips of a list in a folder of that name; returns its path.

    What a user can get wrong is checked first, before weights are read. prompts: a file of JSON lines; the request is
    then what its lines do not say. batch: clips of a list in one pass; None: as many as memory allows. group: the
    processes that share a list. Raises InputError, CheckpointError, ConfigError; Failed, at the end, where some clips
    of a list could not be made.
    """
    started = time.perf_counter()
    if batch is not None and batch < 1:
        raise InputError(f"batch is {batch}; expected 1 or more.")
    if group.world > 1 and prompts is None:
        raise InputError("several processes share a list, and this is one clip; give --prompts, or start one process.")
    if batch is not None and prompts is None:
        raise InputError("--batch is of a list, and this is one clip; leave it out, or give --prompts.")
    asked = _asked(request, networks, prompts, sheets)
    upscaler = _check_networks(networks)
    turns = Turns(device)
    numbers = {"device": turns.device.type, "dtype": str(dtype)}  # of several cards, each is as good
    studio = _open(networks, upscaler, turns, dtype, quiet, numbers)
    studio.batch = batch
    if prompts is None:
        return _one(studio, asked[0][1], Path(request.out), sheets, started)
    return _list(studio, asked, Path(request.out), Path(prompts), sheets, group, started)


# -- before the work --------------------------------------------------------------------------------------------------


def _asked(request: Request, networks: Networks, prompts: str | None, sheets: bool) -> list[tuple[int, Request]]:
    """(line, request) of all that is asked for, as far as it can be checked without a network."""
    if request.out is None:
        raise InputError("--out is missing; name the .mp4 to write, or with --prompts a folder.")
    if request.image is not None and networks.first_frame_from is not None:
        raise InputError("--image names a first frame and --first-frame-from draws one; give one of the two.")
    draws = networks.first_frame_from is not None
    if prompts is None:
        check_request(replace(request, out=None), draws)
        out = check_output(request.out)
        for suffix in [*(["_sheet.png"] if sheets else []), *(["_first_frame.png"] if draws else [])]:
            check_output(out.with_name(out.stem + suffix), ".png")
        return [(0, request)]
    if Path(request.out).suffix.lower() == ".mp4" or Path(request.out).is_file():
        raise InputError(f"--prompts makes many clips, and {request.out} is one file; give a folder as --out.")
    if Path(request.out).resolve().is_relative_to(Path(networks.checkpoint).resolve()):
        raise InputError(f"--out {request.out} lies in the network's own folder; choose a folder of its own.")
    names: dict[str, int] = {}
    looked_at: set[str] = set()

    def check(line: int, one: Request) -> None:
        check_request(one, draws, looked_at)
        name = _name(line, one)
        if names.setdefault(name.lower(), line) != line:
            raise InputError(f"out is {name!r}, as of line {names[name.lower()]}; give each clip its own.")

    return read_prompts(prompts, replace(request, out=None), check)


def _name(line: int, request: Request) -> str:
    return request.out or f"{line:05d}.mp4"


def _check_networks(networks: Networks) -> Upscaler | None:
    """Files that can be refused before the network, the heaviest, is read; the upscaler is small enough to be."""
    for lora in networks.lora:
        check_lora(lora)
    if networks.first_frame_from is not None:
        check_text_to_image(networks.first_frame_from)
    elif networks.first_frame_tokenizer is not None:
        raise InputError("--first-frame-tokenizer is of what --first-frame-from names; give that too.")
    if networks.upscale is None:
        return None
    upscaler = open_upscaler(networks.upscale)
    check_dtype(upscaler, torch.float32)
    return upscaler


def _open(networks: Networks, upscaler, turns: Turns, dtype: torch.dtype, quiet: bool, numbers: dict) -> Studio:
    parts = ("vae", "text_encoder", "motion_encoder", "image_encoder", "text_layer", "attention")
    bundle = load_bundle(networks.checkpoint, dtype=dtype, turns=turns, **{k: getattr(networks, k) for k in parts})
    for lora in networks.lora:
        for told in apply_lora(bundle.unet, bundle.text, lora, bundle.motion):
            note(told)
    painter = None
    if networks.first_frame_from is not None:
        painter = open_text_to_image(
            networks.first_frame_from,
            tokenizer=networks.first_frame_tokenizer,
            like=bundle.text,
            turns=turns,
            dtype=dtype,
            attention=networks.attention,
        )
    return Studio(Planner(networks, bundle, painter, upscaler, numbers), turns, dtype, quiet)


# -- one clip, many clips ---------------------------------------------------------------------------------------------


def _one(studio: Studio, request: Request, out: Path, sheet: bool, started: float) -> Path:
    job = studio.planner.job(0, request, out, sheet=sheet, picture=out.with_name(f"{out.stem}_first_frame.png"))
    for told in studio.planner.notes([job.request]):
        note(told)
    if job.drawn is not None:
        with _bar(studio, "drawing", job.request.first_frame_steps, "step") as bar:
            drawn = _draw(studio, [job], _steps(bar))
        save_picture(job.picture, drawn[0], job.drawn)
        _put_away_painter(studio)
    with _bar(studio, "denoising", job.request.steps, "step") as bar:
        clip = _animate(studio, [job], _steps(bar))[0]
    _write(studio, job, clip)
    if not studio.quiet:
        height, width = job.target
        _say(f"{job.request.frames} frames of {width}x{height}", studio, started)
    return out


def _list(
    studio: Studio,
    asked: Sequence[tuple[int, Request]],
    out: Path,
    prompts: Path,
    sheets: bool,
    group: Processes,
    started: float,
) -> Path:
    jobs = _jobs(studio, asked, out, prompts, sheets)
    folder = ClipFolder(out, group.main)
    run = {**studio.planner.networks.record(), **studio.planner.numbers, "batch": studio.batch}
    run["weights"] = studio.planner.networks.fingerprints()
    run = folder.begun(run)
    if run["batch"] is None:
        run["batch"] = min(_at_once(studio, job) for job in jobs)
    group.wait()  # all have seen the folder as it was
    with folder.held(run):
        group.wait()
        batch = folder.begun({})["batch"]  # the main process's: what memory is free, others may see otherwise
        problems, before = _make(studio, jobs, batch, folder, group)
        folder.rewrite([_row(job, problems.get(job)) for job in jobs])
    if group.main and not studio.quiet:
        _say(f"{len(jobs) - len(problems)} of {len(jobs)} clips, {before} of them there before", studio, started)
    group.wait()  # a launcher stops all processes when the first of them ends with a failure
    if problems:
        raise Failed(_told(problems, prompts) if group.main else "")
    return out


def _make(
    studio: Studio, jobs: list[Job], batch: int, folder: ClipFolder, group: Processes
) -> tuple[dict[Job, str], int]:
    """Whatever of a list is not there yet; returns what could not be made, and how many clips there were before."""
    done = {job.out for job in jobs if is_made(job.out, job.record)}
    folder.rewrite([_row(job) for job in jobs if job.out in done])
    if group.main:
        for told in studio.planner.notes([job.request for job in jobs]):
            note(told)
    group.wait()
    studio.quiet = studio.quiet or not group.main
    try:
        drawn = [job for job in jobs if job.drawn is not None]
        _draw_all(studio, _batches(drawn, batch, _drawn_alike)[group.rank :: group.world], done, folder)
        _put_away_painter(studio)
        group.wait()  # pictures that this process animates may be another's
        studio.problems |= {job.out: told for job, told in _problems(jobs, folder).items()}
        mine = _batches(jobs, batch, _alike)[group.rank :: group.world]
        _make_all(studio, mine, done, folder, len(jobs))
    except KeyboardInterrupt:
        there = sum("error" not in row for row in folder.rows().values())
        note(f"{there} of {len(jobs)} clips are there; the same command goes on")
        raise
    group.wait()
    problems = {job: "it was not made" for job in jobs if not job.out.exists()}
    return problems | _problems(jobs, folder), len(done)


def _jobs(studio: Studio, asked: Sequence[tuple[int, Request]], out: Path, prompts: Path, sheets: bool) -> list[Job]:
    jobs, wrong = [], []
    for line, request in asked:
        name = _name(line, request)
        try:
            picture = out / f"{Path(name).stem}_first_frame.png"
            jobs.append(studio.planner.job(line, request, out / name, sheet=sheets, picture=picture))
        except (InputError, ConfigError) as error:
            wrong.append((line, str(error)))
    refuse_lines(prompts, wrong)
    return jobs


def _at_once(studio: Studio, job: Job) -> int:
    bundle, (height, width) = studio.planner.bundle, job.size
    cells = height // bundle.codec.downscale, width // bundle.codec.downscale
    return studio.turns.clips_at_once(bundle.unet.config, job.request.frames, *cells, studio.dtype.itemsize)


def _batches(jobs: Sequence[Job], size: int, alike: Callable[[Job], tuple]) -> list[list[Job]]:
    """Slices of jobs that can share a pass, in the order of the list."""
    groups: dict[tuple, list[Job]] = {}
    for job in jobs:
        groups.setdefault(alike(job), []).append(job)
    return [group[i : i + size] for group in groups.values() for i in range(0, len(group), size)]


def _alike(job: Job) -> tuple:
    """What clips of one pass must have in common."""
    return (job.size, job.request.last_image is None, replace(job.request.settings, seed=0))


def _drawn_alike(job: Job) -> tuple:
    request = job.request
    return (job.drawn_size, request.first_frame_steps, request.first_frame_guidance_scale)


def _draw_all(studio: Studio, batches: list[list[Job]], done: set[Path], folder: ClipFolder) -> None:
    """First frames that are not there yet, of clips that are not."""
    # Every picture is looked at: one of another run must not become a clip of this one.
    there = {job.out for batch in batches for job in batch if is_drawn(job.picture, job.drawn)}
    left = [batch for batch in batches if any(job.out not in there | done for job in batch)]
    if not left:
        return
    with _bar(studio, "drawing", sum(map(len, left)), "picture") as bar:
        for batch in left:
            for part, drawn in _in_parts(studio, batch, lambda part: _draw(studio, part)):
                for job, picture in zip(part, drawn, strict=True):
                    if job.out not in there | done:
                        save_picture(job.picture, picture, job.drawn)
            _add_problems(studio, batch, folder)
            bar.update(len(batch))


def _make_all(studio: Studio, batches: list[list[Job]], done: set[Path], folder: ClipFolder, count: int) -> None:
    with _bar(studio, "clips", count, "clip") as bar:
        bar.update(len(done))
        for batch in batches:
            if all(job.out in done for job in batch):
                continue
            able = [job for job in batch if job.out not in studio.problems]
            for part, clips in _in_parts(studio, able, lambda part: _animate(studio, part)):
                for job, clip in zip(part, clips, strict=True):
                    if job.out not in done and _is_written(studio, job, clip):
                        folder.add(_row(job))
            _add_problems(studio, [job for job in batch if job.out not in done], folder)
            bar.n = min(count, folder.count())  # of all processes
            bar.refresh()


def _put_away_painter(studio: Studio) -> None:
    """Its memory is the video's from here on."""
    studio.turns.over()
    studio.planner = replace(studio.planner, painter=None)


def _problems(jobs: list[Job], folder: ClipFolder) -> dict[Job, str]:
    """What all processes could not make."""
    rows = folder.rows()
    problems = {job: rows[job.out.name]["error"] for job in jobs if "error" in rows.get(job.out.name, {})}
    return {job: told for job, told in problems.items() if not job.out.exists()}


def _add_problems(studio: Studio, batch: list[Job], folder: ClipFolder) -> None:
    for job in batch:
        if job.out in studio.problems:
            folder.add(_row(job, studio.problems[job.out]))


def _in_parts(
    studio: Studio, jobs: list[Job], work: Callable[[list[Job]], Tensor]
) -> Iterator[tuple[list[Job], Tensor]]:
    """A batch in one pass; in halves where that fails, down to single clips, whose failure is noted and kept."""
    if not jobs:
        return
    try:
        made = work(jobs)
    except Exception as error:
        short = out_of_memory(error)
        if not short and not isinstance(error, (InputError, CheckpointError, ConfigError, ScheduleError)):
            raise
        problem = f"memory ran out ({reason(error)})" if short else str(error)
        traceback.clear_frames(error.__traceback__)  # what the failed pass held
    else:
        yield jobs, made
        return
    if studio.turns.device.type == "cuda":
        torch.cuda.empty_cache()
    if len(jobs) == 1:
        _fail(studio, jobs[0], problem)
        return
    if short:
        note(f"{len(jobs)} clips at once do not fit the memory; {len(jobs) // 2} from here on for these.")
    half = len(jobs) // 2
    yield from _in_parts(studio, jobs[:half], work)
    yield from _in_parts(studio, jobs[half:], work)


def _fail(studio: Studio, job: Job, problem: str) -> None:
    studio.problems[job.out] = problem
    note(f"line {job.line}: {problem}")


def _is_written(studio: Studio, job: Job, clip: Tensor) -> bool:
    """A clip of a list in its file. Enlarging may fail for one clip alone; a full disk ends the list."""
    try:
        _write(studio, job, clip)
    except Exception as error:
        short = out_of_memory(error)
        if not short and not isinstance(error, (CheckpointError, ConfigError)):
            raise
        _fail(studio, job, f"memory ran out ({reason(error)})" if short else str(error))
        traceback.clear_frames(error.__traceback__)
        return False
    return True


# -- the work itself --------------------------------------------------------------------------------------------------


def _draw(studio: Studio, jobs: Sequence[Job], on_step=None) -> Tensor:
    """(b, 3, h, w) in [0, 1], drawn as the jobs say."""
    asked = [job.request for job in jobs]
    drawn = studio.planner.painter.draw(
        [r.text for r in asked],
        [r.first_frame_negative for r in asked],
        [r.first_frame_seed for r in asked],
        jobs[0].drawn_size,
        steps=asked[0].first_frame_steps,
        guidance_scale=asked[0].first_frame_guidance_scale,
        on_step=on_step,
    )
    if not torch.isfinite(drawn).all():
        raise InputError(f"{studio.planner.painter.name} drew numbers that are no picture; try --dtype bf16 or fp32.")
    return drawn


def _animate(studio: Studio, jobs: Sequence[Job], on_step=None) -> Tensor:
    """(b, t, 3, h, w) in [0, 1] as the jobs say. A picture that was drawn is read from its file, as any other."""
    asked, size = [job.request for job in jobs], jobs[0].size
    firsts = [job.picture or job.request.image for job in jobs]
    lasts = [r.last_image for r in asked]
    return animate(
        studio.planner.bundle,
        None if firsts[0] is None else torch.cat([read_image(picture, *size) for picture in firsts]),
        [r.text for r in asked],
        [r.motion for r in asked],
        asked[0].settings,
        size=size,
        negative=[r.negative for r in asked],
        negative_motion=[r.negative_motion for r in asked],
        seeds=[r.seed for r in asked],
        last_images=None if lasts[0] is None else torch.cat([read_image(picture, *size) for picture in lasts]),
        on_step=on_step,
    )


def _write(studio: Studio, job: Job, clip: Tensor) -> None:
    """The sheet, and then the clip, which says that all is there."""
    frames: Tensor | Iterator[Tensor] = clip
    if studio.planner.upscaler is not None:
        frames = _enlarged(studio, job, clip)
    if job.sheet is not None:
        clip_sheet(job.sheet, clip[None], [job.caption], tile=128)
    write_video(job.out, frames, job.request.fps, settings=job.record, scale=job.request.scale)


def _enlarged(studio: Studio, job: Job, clip: Tensor) -> Iterator[Tensor]:
    upscaler = studio.planner.upscaler
    studio.turns(upscaler.network)
    if studio.enlarger is None:
        alone = studio.turns.over  # the video network's memory, where strips cannot be thin enough
        studio.enlarger = Enlarger(upscaler, studio.turns.device, make_room=lambda: alone(upscaler.network), say=note)
    with _bar(studio, "upscaling", len(clip), "frame") as bar:
        for frames in clip.split(ENLARGED_AT_ONCE):
            yield fit(studio.enlarger(frames), *job.target)
            bar.update(len(frames))


# -- what is told -----------------------------------------------------------------------------------------------------


def _row(job: Job, problem: str | None = None) -> dict:
    """A line of the index."""
    files = {"file": job.out.name}
    if problem is not None:
        return {"line": job.line, **files, "error": problem, **job.record}
    files |= {} if job.sheet is None else {"sheet": job.sheet.name}
    return {"line": job.line, **files, **job.record}


def _told(problems: dict[Job, str], prompts: Path) -> str:
    told = [f"line {job.line}, {job.out.name}: {problem}" for job, problem in problems.items()]
    count = "1 clip" if len(told) == 1 else f"{len(told)} clips"
    return "\n".join([f"{count} of {prompts} could not be made; the same command tries again:", *told])


def _say(what: str, studio: Studio, started: float) -> None:
    seconds = time.perf_counter() - started
    print(f"{what} in {seconds:.1f} s; peak memory {studio.turns.peak()}", file=sys.stderr)


def _bar(studio: Studio, what: str, total: int, unit: str) -> tqdm:
    return tqdm(total=total, desc=what, unit=unit, disable=studio.quiet, leave=None)


def _steps(bar: tqdm) -> Callable[[int, int], None]:
    def on_step(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return on_step
