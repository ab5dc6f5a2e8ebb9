"""A run: its stages one after the other, small enough to read, resumable to the bit.

Everything random comes from the seed and the step, everything else from the newest checkpoint; going from one stage to
the next and coming back after a kill are the same thing, `Trainer.setup_stage`. What is trained is a `Task`'s business.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from functools import cached_property
from pathlib import Path
from typing import Any, final

import torch
from torch import Tensor, nn

from ..errors import InputError, TrainingError, some
from ..files import fingerprint
from . import checkpoint as disk, recipe, state
from .batch import Batch
from .config import RunConfig, StageConfig, UpscalerStageConfig
from .data.mix import Mix
from .data.source import Source
from .optimizer import Average, learning_rate, make_optimizer
from .parallel import accelerator, of_every_process, prepare, whole
from .random import generator
from .start import Start, settled
from .super_resolution.task import UpscalerTask
from .task import Run, Task, Validation
from .video import models
from .video.task import VideoTask

Load = list[tuple[Batch, Any]]  # a step's rounds: batches, and what is drawn for them
PATIENCE = 50  # steps in a row that fp16 may skip


@final
class Trainer:
    """A run in memory, at some step of some stage. `resume` or `setup_stage` comes first."""

    task: Task[Any]
    # Of the present stage:
    ddp_module: nn.Module  # the objective, as it is spread over processes
    optimizer: torch.optim.Optimizer
    average: Average | None
    validation: Validation[Any]
    sources: Mapping[str, Source]
    mix: Mix

    def __init__(self, config: RunConfig, say: Callable[[str], object] = print, resume: bool = True) -> None:
        if config.threads:
            torch.set_num_threads(config.threads)
        self.accelerator = accelerator(config)
        self.rank, self.world = self.accelerator.process_index, self.accelerator.num_processes
        self.main = self.accelerator.is_main_process
        self.say = say if self.main else lambda text: None
        self.folder = Path(config.output.folder)
        config = settled(config, self.say, resume)
        if self.world > 1 and config.start.network is not None:  # one checkpoint for all, should the other run go on
            config = of_every_process(self.accelerator, config)[0]
        self.config = config
        self.stage_index, self.stage_step, self.skipped = 0, 0, 0
        for i, stage in enumerate(config.stages, start=1):
            if stage.optim.batch_size % (self.world * stage.optim.accumulate):
                raise TrainingError(
                    f"stage {i}: optim.batch_size {stage.optim.batch_size} does not divide among {self.world} "
                    f"processes of {stage.optim.accumulate} rounds each; choose a multiple of their product."
                )
        kind = UpscalerTask if isinstance(config.stages[0], UpscalerStageConfig) else VideoTask
        self.task = kind(Run(config, self.accelerator, self.say))

    # -- where the run stands ---------------------------------------------------------------------------------

    @property
    def stage(self) -> StageConfig:
        return self.config.stages[self.stage_index]

    @property
    def step(self) -> int:
        """Steps done, over all stages."""
        return self.config.first_step(self.stage_index) + self.stage_step

    @property
    def objective(self) -> nn.Module:
        """The trained module itself, out of whatever spreads it over processes."""
        return self.accelerator.unwrap_model(self.ddp_module)

    @property
    def stage_done(self) -> bool:
        return self.stage_step >= self.stage.optim.steps

    @property
    def done(self) -> bool:
        return self.stage_done and self.stage_index == len(self.config.stages) - 1

    # -- entering a stage -------------------------------------------------------------------------------------

    def resume(self) -> bool:
        """Go to where the newest whole checkpoint stands, or to the beginning; whether there was one."""
        found = disk.newest(self.folder / disk.FOLDER, self.say)
        if found is not None:
            recipe.check_same(found, self.config, self.origin, self.encoder_fingerprints)
        self.setup_stage(found)
        if found is not None and found.stage == self.stage_index:
            for changed in recipe.changed_data(found.facts["data"], self.data_fingerprints):
                self.say(f"{changed} have changed since step {found.step}; the run goes on with what is there")
        return found is not None

    def setup_stage(self, found: disk.Checkpoint | None) -> None:
        """Build everything at a checkpoint, or at the beginning; at the end of a stage, the next one begins."""
        self.release_stage()
        self.stage_index, self.stage_step = (found.stage, found.facts["stage_step"]) if found else (0, 0)
        if found is not None and self.stage_done and not self.done:
            self.stage_index, self.stage_step = self.stage_index + 1, 0
        built = self.task.build(self.stage_index, found)
        self.sources, self.validation, self.saved = built.sources, built.validation, built.saved
        self.data_fingerprints = {n: s.fingerprints() for n, s in built.sources.items()} if self.main else {}
        self.accelerator.wait_for_everyone()
        self.begun_with = {"origin": self.origin, "encoders": self.encoder_fingerprints}
        named, optim = dict(built.objective.named_parameters()), self.stage.optim
        optimizer = make_optimizer({n: p for n, p in named.items() if p.requires_grad}, optim)
        objective = built.objective.to(self.accelerator.device)
        self.ddp_module, self.optimizer = prepare(self.accelerator, objective, optimizer)
        self.average = Average(self.averaged(), optim.ema, self.step) if optim.ema else None
        if found is not None:
            self.restore_optimizer_and_ema(found)
        seed = int(generator(self.config.seed, "mix", self.stage_index).initial_seed())
        self.mix = Mix(self.sources, self.stage.data.mix, optim.steps, self._rows, seed, stills=built.stills)

    def release_stage(self) -> None:
        """The last stage's network makes room for the next one's."""
        for name in ("ddp_module", "optimizer", "average", "validation"):
            vars(self).pop(name, None)
        self.accelerator.free_memory()

    def restore_optimizer_and_ema(self, found: disk.Checkpoint) -> None:
        """The averages and moments of a checkpoint, where the present stage has their weights."""
        if self.average is not None:
            self.average.load_state_dict(found.tensors("averaged"), found.facts.get("born", {}), self.learning())
        if found.config["stages"][found.stage]["optim"]["optimizer"] == self.stage.optim.optimizer:
            rates = found.facts.get("rates", [])
            state.load_optimizer(self.optimizer, self.learning(), found.tensors("optimizer"), rates)
        if self.accelerator.scaler is not None and "scaler" in found.facts:
            self.accelerator.scaler.load_state_dict(found.facts["scaler"])

    def learning(self) -> dict[str, nn.Parameter]:
        """What trains, by name."""
        return {n: p for n, p in self.objective.named_parameters() if p.requires_grad}

    def averaged(self) -> dict[str, nn.Parameter]:
        """What is averaged of it."""
        return self.task.averaged(self.learning())

    @cached_property
    def origin(self) -> dict[str, str]:
        """The files the run starts from, by what they hold: another file under the same name would be another run."""
        given = self.config.start
        paths = [*Start(given).files, *given.patches]
        return {Path(p).name: fingerprint(p) for p in paths}

    @cached_property
    def encoder_fingerprints(self) -> dict[str, str]:
        return models.encoder_fingerprints(self.config)

    # -- a step -----------------------------------------------------------------------------------------------

    def _rows(self, bucket) -> int:
        """Clips of a whole batch; several images take a clip's place."""
        stills = bucket.frames == 1 and self.stage.data.frames > 1
        return self.stage.optim.batch_size * (self.stage.data.images_per_clip if stills else 1)

    def load(self, stage_step: int) -> Load:
        """This process's share of a step's batch, by rounds; a pure function of the step."""
        plan = self.mix.at(stage_step)
        share = len(plan.indices) // self.world
        size = share // self.stage.optim.accumulate
        step = self.config.first_step(self.stage_index) + stage_step
        firsts = range(self.rank * share, (self.rank + 1) * share, size)
        return [self.task.batch(plan, range(first, first + size), step) for first in firsts]

    def loads(self) -> Iterator[Load]:
        """The batches from here to the end of the stage, read ahead by threads."""
        workers, last = self.stage.data.workers, self.stage.optim.steps
        if not workers or all(None in source.counts.values() for source in self.sources.values()):
            for step in range(self.stage_step, last):  # made-up clips are computed, and threads would only contend
                yield self.load(step)
            return
        with ThreadPoolExecutor(workers) as pool:
            ahead: list[Future] = []
            try:
                for step in range(self.stage_step, last):
                    while len(ahead) < workers + 1 and step + len(ahead) < last:
                        ahead.append(pool.submit(self.load, step + len(ahead)))
                    yield ahead.pop(0).result()
            finally:
                for future in ahead:
                    future.cancel()

    def train_step(self, load: Load | None = None) -> dict[str, Tensor | float]:
        """One step of the optimizer; returns its numbers, the losses still on the device."""
        load = load or self.load(self.stage_step)
        optim, device = self.stage.optim, self.accelerator.device
        bucket = self.mix.at(self.stage_step).bucket
        sums: dict[str, Tensor] = {}
        for i, (batch, draws) in enumerate(load):
            # Dropout inside modules draws from the global generator: tie it to the step as well.
            torch.manual_seed(generator(self.config.seed, self.step, "modules", self.rank, i).initial_seed())
            last = i == len(load) - 1
            with self.accelerator.no_sync(self.ddp_module) if not last else nullcontext():
                with self.accelerator.autocast():  # FSDP's forward is not in it by itself
                    loss, parts = self.task.loss(self.ddp_module, batch.to(device), draws, bucket, self.step)
                self.accelerator.backward(loss / len(load))
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value / len(load)
        weights = [p for group in self.optimizer.param_groups for p in group["params"]]
        clipped = self.accelerator.clip_grad_norm_(weights, optim.clip or math.inf)
        assert clipped is not None  # DeepSpeed alone has none
        norm = whole(clipped).item()
        self.skipped = 0 if math.isfinite(norm) else self.skipped + 1
        # In fp16 the scale of the loss is searched for: a step or a few without numbers are part of that.
        if self.skipped > (0 if self.accelerator.scaler is None else PATIENCE):
            found = of_every_process(self.accelerator, self._why_no_number(norm, load))  # one of them has the clip
            raise TrainingError(next((told for is_clip, told in found if is_clip), found[0][1]))
        rate = learning_rate(optim, self.stage_step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate * group["scale"]
        self.optimizer.step()
        rate *= self.optimizer.param_groups[0].get("d", 1.0)  # what Prodigy has found
        self.optimizer.zero_grad(set_to_none=True)
        self.stage_step += 1
        if self.average is not None:
            self.average.update(self.averaged(), self.step)
        return {**sums, "grad_norm": norm, "lr": rate}

    def _why_no_number(self, norm: float, load: Load) -> tuple[bool, str]:
        """Whether one of this process's clips is to blame for a gradient that is no number, and a sentence."""
        plan, told = self.mix.at(self.stage_step), f"a gradient became {norm} at step {self.step}"
        size, first = len(plan.indices) // self.world // len(load), self.rank * (len(plan.indices) // self.world)
        names = [plan.source.clip_name(plan.bucket, i) for i in plan.indices[first : first + size * len(load)]]
        for i, (batch, _) in enumerate(load):
            for field, value in vars(batch).items():
                if not isinstance(value, Tensor) or not value.is_floating_point():
                    continue
                bad = [k for k in range(len(value)) if not torch.isfinite(value[k]).all()]
                if bad:
                    clips = some([names[i * size + k] for k in bad])
                    return True, (
                        f"{told}: the {field} of {clips} ({plan.source.name}) hold numbers that are none; take the "
                        "clip out, or delete data.cache so that it is encoded anew, and resume."
                    )
        return False, f"{told}; its clips are sound ({plan.source.name}: {some(names)}), so lower optim.lr and resume."

    # -- what comes out ---------------------------------------------------------------------------------------

    def result(self) -> nn.Module | None:
        """The objective with averaged weights, to look at; for the first process, the others only lend their shards.
        All ask together."""
        averages = self.average.weights if self.average else {}
        weights = {}
        for name, weight in self.objective.named_parameters():
            full = whole(averages.get(name, weight))
            if self.main:
                weights[name] = full
        return self.task.result(self.objective, weights) if self.main else None

    def export(self, result: nn.Module, folder: Path) -> None:
        """The files that ComfyUI's nodes load."""
        self.task.export(result, folder, f"{self.folder.name}, step {self.step}")

    def validate(self) -> tuple[dict[str, float], dict[str, float], Path | None, str | None]:
        """Losses at fixed timesteps, measures of clips of fixed noise, and their sheet; by the first process.

        The last is what went wrong with it, a full disk or clips that are no pictures, in a sentence.
        """
        losses, scores, sheet, problem = {}, {}, None, None
        if self.validation:
            result = self.result()
            if result is not None:
                with self.accelerator.autocast():
                    device = self.accelerator.device
                    try:
                        losses = self.validation.loss(result, device)
                        scores, sheet = self.validation.sample(result, device, self.step, self.folder / "validation")
                    except (InputError, OSError) as error:
                        problem = str(error)
            self.accelerator.wait_for_everyone()
        return losses, scores, sheet, problem

    def state_dict(self) -> state.Contents:
        """{file of a checkpoint: tensors by name}, on the first process's CPU; the others hold nothing. All processes
        ask together."""
        objective = self.objective
        named = {n: t for n, t in [*objective.named_parameters(), *objective.named_buffers()] if n in self.saved}
        averages = self.average.weights if self.average is not None else {}
        tables = {
            "weights": named,
            "averaged": averages,
            "optimizer": state.optimizer_state(self.optimizer, self.learning()),
        }
        return {name: state.gathered(table, self.main) for name, table in tables.items()}

    def save(self) -> Path:
        """Write a checkpoint; returns its place. All processes ask together.

        Raises TrainingError, on all of them, where the disk is full; everything then is as it was.
        """
        problem = [None]
        contents, result = self.state_dict(), self.result()
        if result is not None:
            try:
                self._write(contents, result)
            except TrainingError as error:
                problem = [str(error)]
        if self.world > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(problem)
        if problem[0]:
            raise TrainingError(problem[0])
        return self.folder / disk.FOLDER / f"step-{self.step:09d}"

    def _write(self, contents: state.Contents, result: nn.Module) -> None:
        """One checkpoint, whole or not at all. Raises TrainingError."""
        folder, output = self.folder / disk.FOLDER, self.config.output
        facts = {
            "stage_step": self.stage_step,
            "ends_stage": self.stage_done,
            "data": self.data_fingerprints,
            **self.begun_with,
            **({} if self.average is None else self.average.facts()),
            **state.optimizer_facts(self.optimizer),
        }
        if self.accelerator.scaler is not None:
            facts["scaler"] = self.accelerator.scaler.state_dict()
        size = sum(tensor.nbytes for table in contents.values() for tensor in table.values())
        size += self.task.export_size(result)
        with disk.disk_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
            disk.check_room(folder, size)
            with disk.Staged(folder, self.step, self.stage_index, facts) as staged:
                for name, tensors in contents.items():
                    staged.tensors(name, tensors)
                self.export(result, staged.path)
                (staged.path / "run.json").write_text(json.dumps(self.config.to_dict(), indent=2) + "\n", "utf-8")
        disk.keep_newest(folder, output.keep)
