"""The loop around a Trainer: progress, numbers, checkpoints, validation, and stopping when asked."""

from __future__ import annotations

import contextlib
import itertools
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tqdm import tqdm

from ..errors import TrainingError
from . import checkpoint as disk
from .config import RunConfig
from .libraries import check_libraries
from .logs import METRICS, Log
from .means import Means
from .parallel import any_process, mean_over_processes, of_every_process
from .summary import write_summary
from .trainer import Trainer

# What a run leaves in its folder.
MADE = (disk.FOLDER, METRICS, "tensorboard", "wandb", "validation", "data", "bundle", "summary.md", "curves.png")
MADE += ("unet.safetensors", "patch.safetensors", "lora.safetensors", "upscaler.safetensors")
PACE = 50  # steps that the shown speed is a mean of


def train(config: RunConfig, *, resume: bool = True) -> Trainer:
    """Train to the end, or to the first Ctrl-C or SIGTERM, which saves and stops. Returns the trainer.

    resume: go on from the newest whole checkpoint of `output.folder`; False moves what is there aside.
    Raises TrainingError or LibraryError with one sentence.
    """
    check_libraries(config)
    trainer = Trainer(config, resume=resume)
    folder = trainer.folder
    check_places(config, resume)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise TrainingError(f"output.folder {folder} cannot be made: {error.strerror}.") from error
    with contextlib.ExitStack() as stack:
        if trainer.main:
            stack.enter_context(disk.only_run(folder))
            if not resume:
                _set_aside(folder)
            disk.sweep(folder / disk.FOLDER)
        trainer.accelerator.wait_for_everyone()
        if trainer.resume():
            trainer.say(f"resuming {folder} at step {trainer.step}")
        saved = trainer.step
        with disk.disk_errors(folder, METRICS):
            log = Log(folder, trainer.step, config.output.loggers, trainer.say) if trainer.main else None
        if log is not None:
            stack.callback(log.close)
        if trainer.step == 0 and trainer.validation:
            _validate(trainer, log)  # what is there before anything is learnt
        stop = stack.enter_context(Stop())
        bar = stack.enter_context(tqdm(total=config.steps, initial=trainer.step, disable=not trainer.main, unit="step"))
        while not trainer.done and not stop.asked:
            saved = _run_stage(trainer, stop, log, bar, saved)
            if trainer.stage_done and not trainer.done and not stop.asked:
                with stop.suspended():  # nothing is lost while files are read and encoded
                    trainer.setup_stage(disk.checkpoints(folder / disk.FOLDER)[-1])  # written and hashed just now
        if trainer.done:
            finish(trainer)
        else:
            if saved != trainer.step:
                _save(trainer)
            trainer.say(f"stopped at step {trainer.step}; run the same command to go on")
    return trainer


def _run_stage(trainer: Trainer, stop: Stop, log: Log | None, bar: tqdm, saved: int) -> int:
    """The rest of the present stage; a checkpoint at its end. saved: step of the last one; returns the newest's."""
    output, stage = trainer.config.output, trainer.stage
    bar.set_description(stage.name)
    moments = [(time.perf_counter(), trainer.step)]
    means = Means()
    for load in trainer.loads():
        means.loaded()
        take = trainer.mix.at(trainer.stage_step)
        means.add(trainer.train_step(load), trainer.task.headline, f"{take.source.name} {take.bucket}")
        bar.update()
        step, ends = trainer.step, trainer.stage_done
        stop.asked = any_process(trainer.accelerator, stop.asked)
        if step % output.log_every == 0 or ends:
            numbers, by_bucket, seconds = means.take()
            numbers = mean_over_processes(trainer.accelerator, numbers)
            by_bucket = mean_over_processes(trainer.accelerator, by_bucket)
            moments = [*moments[-(PACE // output.log_every + 1) :], (time.perf_counter(), step)]
            pace = (moments[-1][1] - moments[0][1]) / (moments[-1][0] - moments[0][0])
            clips = pace * stage.optim.batch_size
            bar.set_postfix(loss=f"{numbers[trainer.task.headline]:.4f}", clips_per_s=f"{clips:.3g}")
            if log is not None:
                memory = _memory(trainer.accelerator.device)
                pace_of = {"clips_per_s": round(clips, 3), **seconds, **memory}
                log.write(step, stage=stage.name, **numbers, **pace_of, buckets=by_bucket)
        if ends:
            _save(trainer)
            saved = step
        elif step % output.checkpoint_every == 0:
            try:
                _save(trainer)
                saved = step
            except TrainingError as error:  # a full disk is no reason to lose what is in memory
                trainer.say(f"{error} Training goes on; the next attempt is at step {step + output.checkpoint_every}.")
        if (step % output.validate_every == 0 or ends) and trainer.validation:
            _validate(trainer, log)
        if stop.asked:
            break
    return saved


def _save(trainer: Trainer) -> None:
    place = trainer.save()
    if trainer.main:
        tqdm.write(f"step {trainer.step}: saved {place}")


def _validate(trainer: Trainer, log: Log | None) -> None:
    losses, scores, sheet, problem = trainer.validate()
    if log is None:
        return
    if problem is not None:
        tqdm.write(f"step {trainer.step}: validation failed, training goes on: {problem}")
        return
    shown = {**{name: losses[name] for name in ("loss", "flow") if name in losses}, **scores}
    told = ", ".join(f"{k} {v:.3f}" for k, v in shown.items()) or "your prompts"
    tqdm.write(f"step {trainer.step}: validation {told}, see {sheet}")
    log.write(trainer.step, validation_loss=losses, validation=scores)
    if sheet is not None:
        log.picture(trainer.step, "validation", sheet)


def finish(trainer: Trainer) -> None:
    """The result in the run's folder, and a summary to look at."""
    made = trainer.result()
    failed = {name: of_every_process(trainer.accelerator, s.failures()) for name, s in trainer.sources.items()}
    if made is not None:
        trainer.export(made, trainer.folder)
        out = trainer.task.save_bundle(made, trainer.folder)
        with disk.disk_errors(trainer.folder, "summary"):
            for name, source in trainer.sources.items():
                try:
                    source.finish_report(itertools.chain(*failed[name]))
                except OSError as error:  # a table that is open elsewhere costs the table alone
                    trainer.say(f"the data report of {source.name} is not up to date: {error.strerror or error}")
            summary = write_summary(trainer)
        trainer.say(f"done: {summary}; {out}")
    trainer.accelerator.wait_for_everyone()


def check_places(config: RunConfig, resume: bool = True) -> None:
    """Refuse a run that would write over what it is made from, however the two are spelt."""
    made = [name for name in MADE if name != "data" or not resume]  # reports go into "data", beside what is there
    folder = Path(config.output.folder).resolve()
    read = {"start.network": config.start.network}
    read |= {f"start.patches[{i}]": path for i, path in enumerate(config.start.patches)}
    read |= {f"sources.{name}.path": source.path for name, source in config.sources.items()}
    read |= {f"encoders.{name}": getattr(config.encoders, name) for name in ("codec", "text", "motion", "image")}
    for name, path in read.items():
        real = Path(path).resolve() if path and Path(path).exists() else None
        itself = name == "start.network" and real == folder
        if real is not None and (itself or any(real.is_relative_to(folder / m) for m in made)):
            raise TrainingError(
                f"{name} is {path}, which this run would write over; choose another output.folder, or copy it first."
            )


def _set_aside(folder: Path) -> None:
    """What an earlier run left keeps its bytes under another name."""
    if (folder / disk.FOLDER).exists() or (folder / METRICS).exists():
        number = next(i for i in range(1, 10**6) if not (folder / f"before-{i}").exists())
        (folder / f"before-{number}").mkdir()
        for name in MADE:
            if (folder / name).exists():
                os.replace(folder / name, folder / f"before-{number}" / name)


def _memory(device: torch.device) -> dict[str, float]:
    if device.type != "cuda":
        return {}
    return {"peak_gib": round(torch.cuda.max_memory_allocated(device) / 2**30, 3)}


class Stop:
    """Turns the first SIGTERM or Ctrl-C into a request; a second one acts at once."""

    def __init__(self) -> None:
        self.asked, self.before = False, {}

    def __enter__(self) -> Stop:
        self.before = {name: signal.signal(name, self._ask) for name in (signal.SIGTERM, signal.SIGINT)}
        return self

    def __exit__(self, *error) -> None:
        for name, handler in self.before.items():
            signal.signal(name, handler)

    @contextlib.contextmanager
    def suspended(self) -> Iterator[None]:
        """Signals act at once, as outside."""
        self.__exit__()
        try:
            yield
        finally:
            self.__enter__()

    def _ask(self, number, frame) -> None:
        self.asked = True
        tqdm.write("stopping after this step; again to stop now")
        signal.signal(number, self.before[number])
