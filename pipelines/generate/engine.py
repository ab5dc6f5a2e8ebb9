"""The work of `dreamfactory generate`: everything checked, the networks read, one clip made or a list of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import torch

from ...errors import InputError
from ...files import no_file
from ...libraries import library
from ...model_patches import ConfigError
from ...model_patches.upscaling.upscaler import Upscaler, check_dtype
from ..bundle import load_bundle
from ..lora import apply_lora, check_lora
from ..media.files import check_output
from ..media.transcode import note
from ..text_to_image import check_text_to_image, open_text_to_image
from ..turns import Turns
from ..upscale import open_upscaler
from .batches import Failed, files_of_clip, make_list, name_of
from .folder import ClipFolder, save_picture
from .plan import Job, Networks, Planner, check_request
from .processes import Processes
from .request import Request, is_text, read_prompts, refuse_lines
from .studio import Studio, steps

__all__ = ["Failed", "generate"]

ALONE = Processes()


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
    turns = Turns(device)
    numbers = {"device": turns.device.type, "dtype": str(dtype)}  # of several cards, each is as good

    def prepare() -> tuple[Studio, list[Job], ClipFolder | None, dict]:
        if batch is not None and batch < 1:
            raise InputError(f"batch is {batch}; expected 1 or more.")
        if batch is not None and prompts is None:
            raise InputError("--batch is of a list, and this is one clip; leave it out, or give --prompts.")
        out = _named(request)
        lines = _asked(request, out, networks, prompts, sheets)
        _check_libraries(networks, [one for _, one in lines])
        upscaler = _check_networks(networks)
        folder, run = None, {}
        if prompts is not None:
            files = [file for line, one in lines for file in files_of_clip(name_of(line, one))]
            folder = ClipFolder(out, group.main, files)
            _spare(folder, prompts, lines)
            run = folder.begun({**networks.record(), **numbers, "batch": batch, "weights": networks.fingerprints()})
        planner = _read(networks, upscaler, turns, dtype, numbers)
        return Studio(planner, turns, quiet, started), _jobs(planner, lines, out, prompts, sheets), folder, run

    studio, jobs, folder, run = group.agree(prepare)
    if folder is None or prompts is None:
        return _one(studio, jobs[0])
    return make_list(studio, jobs, folder, run, prompts, group)


def _named(request: Request) -> str:
    """Where to."""
    if request.out is None:
        raise InputError("--out is missing; name the .mp4 to write, or with --prompts a folder.")
    if not is_text(request.out):
        raise InputError("--out holds characters that are no text; choose another name.")
    return request.out


def _asked(
    request: Request, to: str, networks: Networks, prompts: str | None, sheets: bool
) -> list[tuple[int, Request]]:
    """(line, request) of all that is asked for, as far as it can be checked without a network."""
    if request.image is not None and networks.first_frame_from is not None:
        raise InputError("--image names a first frame and --first-frame-from draws one; give one of the two.")
    draws = networks.first_frame_from is not None
    if prompts is None:
        check_request(replace(request, out=None), draws)
        out = check_output(to)
        for suffix in [*(["_sheet.png"] if sheets else []), *(["_first_frame.png"] if draws else [])]:
            check_output(out.with_name(out.stem + suffix), ".png")
        return [(0, request)]
    if Path(to).exists() and (told := no_file(to, or_folder=True)) is not None:
        raise InputError(f"{told}; give a folder as --out.")
    if Path(to).suffix.lower() == ".mp4" or Path(to).is_file():
        raise InputError(f"--prompts makes many clips, and {to} is one file; give a folder as --out.")
    for folder in networks.files():
        if Path(to).resolve().is_relative_to(Path(folder).resolve()):
            raise InputError(f"--out {to} lies in {folder}, which is read; choose a folder of its own.")
    names: dict[str, int] = {}
    looked_at: set[str] = set()

    def check(line: int, one: Request) -> None:
        check_request(one, draws, looked_at)
        name = name_of(line, one)
        if names.setdefault(name.lower(), line) != line:
            raise InputError(f"out is {name!r}, as of line {names[name.lower()]}; give each clip its own.")

    return read_prompts(prompts, replace(request, out=None), check)


def _spare(folder: ClipFolder, prompts: str, lines: Sequence[tuple[int, Request]]) -> None:
    """What a list reads is not written over by what it makes."""
    made = {(folder.path / name).resolve() for name in folder.files}
    read = [prompts, *(path for _, one in lines for path in (one.image, one.last_image) if path is not None)]
    for path in read:
        if Path(path).resolve() in made:
            raise InputError(f"{path} would be written over by what the list makes; choose another --out.")


def _check_libraries(networks: Networks, requests: Sequence[Request]) -> None:
    """What is imported long after the start. Raises LibraryError with one sentence."""
    if networks.attention == "xformers":
        library("xformers.ops", "--attention xformers", "choose --attention sdpa")
    for name in sorted({one.sampler for one in requests if one.sampler is not None} - {"ddim"}):
        library("diffusers", f"sampler {name}", "choose ddim")


def _check_networks(networks: Networks) -> Upscaler | None:
    """Files that can be refused before the network, the heaviest, is read; the upscaler is small enough to be."""
    for lora in networks.lora:
        check_lora(lora)
    if networks.first_frame_from is not None:
        check_text_to_image(networks.first_frame_from, networks.first_frame_tokenizer)
    elif networks.first_frame_tokenizer is not None:
        raise InputError("--first-frame-tokenizer is of what --first-frame-from names; give that too.")
    if networks.upscale is None:
        return None
    upscaler = open_upscaler(networks.upscale)
    check_dtype(upscaler, torch.float32)
    return upscaler


def _read(networks: Networks, upscaler: Upscaler | None, turns: Turns, dtype: torch.dtype, numbers: dict) -> Planner:
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
    return Planner(networks, bundle, painter, upscaler, numbers)


def _jobs(
    planner: Planner, lines: Sequence[tuple[int, Request]], out: str, prompts: str | None, sheets: bool
) -> list[Job]:
    """What is asked for with nothing of it left open; one sentence for all that the networks cannot make."""
    if prompts is None:
        return [planner.job(0, lines[0][1], Path(out), sheets)]
    jobs, wrong = [], []
    for line, request in lines:
        try:
            jobs.append(planner.job(line, request, Path(out) / name_of(line, request), sheets))
        except (InputError, ConfigError) as error:
            wrong.append((line, str(error)))
    refuse_lines(prompts, wrong)
    return jobs


def _one(studio: Studio, job: Job) -> Path:
    for told in studio.planner.notes([job.request]):
        note(told)
    if job.drawing is not None:
        with studio.bar("drawing", job.drawing.steps, "step") as bar:
            drawn = studio.draw([job], steps(bar))
        save_picture(job.drawing.out, drawn[0], job.drawing.record)
        studio.put_away_painter()
    with studio.bar("denoising", job.steps, "step") as bar:
        clip = studio.animate([job], steps(bar))[0]
    studio.write(job, clip)
    height, width = job.target
    count = "1 frame" if job.frames == 1 else f"{job.frames} frames"
    studio.say(f"{count} of {width}x{height}")
    return job.out
