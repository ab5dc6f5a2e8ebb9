"""A run: its stages one after the other, small enough to read, resumable to the bit.

Everything random comes from the seed and the step, everything else from the newest checkpoint; going from one stage to
the next and coming back after a kill are the same thing, `Trainer.enter`.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from functools import cached_property, lru_cache
from pathlib import Path

import torch
from torch import Tensor, nn

from ..errors import InputError, TrainingError, some
from ..model_patches import UNetConfig
from ..model_patches.checkpoints.files import fingerprint
from ..schedulers import NoiseSchedule
from . import checkpoint as disk, results, state
from .batch import Batch, Bucket
from .checks import encoders_of
from .config import RunConfig, StageConfig
from .data.mix import Mix, Take
from .data.open import open_sources
from .encode import FrozenEncoders
from .optimizer import Average, learning_rate, make_optimizer
from .parallel import accelerator, of_every_process, prepare, whole
from .start import Start, settled
from .video import models
from .video.objective import Continued, Draws, Learner, draw, generator
from .video.prompts import read_prompts
from .video.validation import Validation

Load = list[tuple[Batch, Draws]]
PATIENCE = 50  # steps in a row that fp16 may skip


class Trainer:
    """A run in memory, at some step of some stage.

    What is particular to video networks, and to super-resolution otherwise (`super_resolution.trainer`): `enter`,
    `averaged`, `share`, `compute`, `result`, `export` and `deliver`.
    """

    headline = "diffusion"  # the loss to show, of those a step has

    def __init__(self, config: RunConfig, say: Callable[[str], object] = print, resume: bool = True) -> None:
        self.config = config
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

    # -- where the run stands ---------------------------------------------------------------------------------

    @property
    def stage(self) -> StageConfig:
        return self.config.stages[self.stage_index]

    @property
    def step(self) -> int:
        """Steps done, over all stages."""
        return self.config.first_step(self.stage_index) + self.stage_step

    @property
    def learner(self) -> Learner:
        """The trained module itself, out of whatever spreads it over processes."""
        return self.accelerator.unwrap_model(self.wrapped)

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
            state.same_recipe(found, self.config, self.origin, self.encoder_marks)
        self.enter(found)
        if found is not None and found.stage == self.stage_index:
            for changed in state.changed_data(found.facts["data"], self.data_marks):
                self.say(f"{changed} have changed since step {found.step}; the run goes on with what is there")
        return found is not None

    def enter(self, found: disk.Checkpoint | None) -> None:
        """Build everything at a checkpoint, or at the beginning; at the end of a stage, the next one begins."""
        config = self.config
        self._let_go()
        origin = Start(config.start)  # read once, and let go of
        network = models.start(config, origin, self.say if found is None else lambda text: None)
        if found is not None:
            for i in range(1, found.stage + 1):
                network = models.advance(network, config, i)
        reads = encoders_of(network.unet.config)
        encoders = {n: models.make_encoder(config, n, network.unet.config, origin) for n in reads}
        self.stage_index, self.stage_step = (found.stage, found.facts["stage_step"]) if found else (0, 0)
        if found is not None:
            own = {f"unet.{n}": p for n, p in network.unet.named_parameters()}
            for name, encoder in encoders.items():
                own |= {f"trained.{name}.{n}": p for n, p in encoder.named_parameters()}
            state.put(found.tensors("weights"), own)
            if self.stage_done and not self.done:
                self.stage_index, self.stage_step = self.stage_index + 1, 0
                network = models.advance(network, config, self.stage_index)
                state.settle(found, network.unet, models.trainable(network.unet, self.stage))
        self._build(network, encoders, found)

    def _let_go(self) -> None:
        """The last stage's network makes room for the next one's."""
        self.wrapped = self.optimizer = self.average = self.validation = None
        self.accelerator.free_memory()

    def _build(self, network: models.Network, encoders: dict[str, nn.Module], found: disk.Checkpoint | None) -> None:
        stage, config, device = self.stage, self.config, self.accelerator.device
        learns = models.trainable(network.unet, stage)
        models.set_trainable(network.unet, stage, config.precision, network.untouched)
        self.saved = {f"unet.{n}" for n, _ in network.unet.named_parameters() if n in learns | self._changed(network)}
        codec = models.make_codec(config, network.unet.config).to(device)
        encoders = {n: e.to(device) for n, e in encoders.items()}
        self.codec, self.empty = codec, {}
        grey = self._grey(encoders, network.unet.config)
        self.reach = network.unet.config.first_frame_reach if stage.continuation.share else 0
        self.continued = None
        if stage.continuation.share:
            self.continued = Continued(stage.continuation.share, network.unet.config.known_frames, self.reach)
        self.sources = self._open(stage, network.unet.config, codec, encoders)
        learner = Learner(network.unet, codec, encoders, stage.loss, stage.dropout, grey)
        self.saved |= {f"trained.{n}" for n, _ in learner.trained.named_parameters()}
        self._begin(learner, found, self._takes_stills(learns, encoders))
        self.schedule = lru_cache(maxsize=64)(self._schedule)
        self.validation = Validation(self.sources, stage, config.output, self.empty, config.seed, self.prompts)

    def _begin(self, learner: nn.Module, found: disk.Checkpoint | None, stills: bool) -> None:
        """What learns, over the processes; with its optimizer, averages and order of clips."""
        stage = self.stage
        self.begun_with = {"origin": self.origin, "encoders": self.encoder_marks}
        optimizer = make_optimizer({n: p for n, p in learner.named_parameters() if p.requires_grad}, stage.optim)
        self.wrapped, self.optimizer = prepare(self.accelerator, learner.to(self.accelerator.device), optimizer)
        self.average = Average(self.averaged(), stage.optim.ema, self.step) if stage.optim.ema else None
        if found is not None:
            state.carry(self, found)
        seed = int(generator(self.config.seed, "mix", self.stage_index).initial_seed())
        self.mix = Mix(self.sources, stage.data.mix, stage.optim.steps, self.rows, seed, stills=stills)

    def _takes_stills(self, learns: set[str], encoders: dict[str, nn.Module]) -> bool:
        """Whether a still image teaches anything in this stage; if not and there are some, says so."""
        trained = any(p.requires_grad for e in encoders.values() for p in e.parameters())
        takes = trained or models.learns_from_stills(learns)
        if not takes and any(bucket.frames == 1 for s in self.sources.values() for bucket in s.counts):
            self.say(f"{self.stage.name}: {models.NO_STILLS}")
        return takes

    def _open(self, stage: StageConfig, network, codec: nn.Module, encoders: dict[str, nn.Module]):
        """The stage's sources; with a cache the frozen encoders are let go of when it is full."""
        frozen = None
        if stage.data.cache:
            frozen = FrozenEncoders(self.config, codec, encoders, self.accelerator.device)
            self.empty = {n: getattr(frozen, n)("")[None].float() for n in ("text", "motion") if n in encoders}
        self.prompts = read_prompts(self.config.output.prompts, stage.data, network, frozen)
        sources = open_sources(
            self.config,
            replace(stage, data=replace(stage.data, frames=stage.data.frames + self.reach)),
            network,
            codec.downscale,
            frozen,
            rank=self.rank,
            world=self.world,
            first=self.accelerator.main_process_first,
            readers={n: encoders[n] for n in ("text", "motion") if n in encoders},
            say=self.say,
        )
        self.data_marks = {n: getattr(s, "marks", {}) for n, s in sources.items()} if self.main else {}
        self.accelerator.wait_for_everyone()
        made_up = any(None in source.counts.values() for source in sources.values())
        if frozen is not None and not made_up:
            encoders.clear()
        return sources

    @torch.no_grad()
    def _grey(self, encoders: dict[str, nn.Module], network: UNetConfig) -> Tensor | None:
        """Features of a grey picture, where that is what a left-out image means."""
        encoder = encoders.get("image")
        if self.stage.dropout.image_means != "grey" or encoder is None:
            return None
        if any(p.requires_grad for p in encoder.parameters()):
            raise TrainingError("dropout.image_means 'grey' needs a frozen encoders.image; name its folder.")
        if network.uncond_image != "grey":  # else sampling would do without the picture in another way
            raise TrainingError("dropout.image_means 'grey' needs model.config.image_uncond = 'grey' beside it.")
        data = self.stage.data
        return encoder(torch.full((1, 3, data.height, data.width), 0.5, device=self.accelerator.device))

    def _changed(self, network: models.Network) -> set[str]:
        """Weights that are no longer as the run's starting file has them, or never were in it."""
        return {n for n, _ in network.unet.named_parameters()} - network.untouched

    def learning(self) -> dict[str, nn.Parameter]:
        """What trains, by name."""
        return {n: p for n, p in self.learner.named_parameters() if p.requires_grad}

    def averaged(self) -> dict[str, nn.Parameter]:
        """What is averaged of it: all."""
        return self.learning()

    @cached_property
    def origin(self) -> dict[str, str]:
        """The files the run starts from, by what they hold: another file under the same name would be another run."""
        given = self.config.start
        paths = [*Start(given).files, *given.patches]
        return {Path(p).name: fingerprint(p) for p in paths}

    @cached_property
    def encoder_marks(self) -> dict[str, str]:
        return models.encoder_marks(self.config)

    # -- a step -----------------------------------------------------------------------------------------------

    def rows(self, bucket: Bucket) -> int:
        """Clips of a whole batch; several images take a clip's place."""
        stills = bucket.frames == 1 and self.stage.data.frames > 1
        return self.stage.optim.batch_size * (self.stage.data.images_per_clip if stills else 1)

    def _schedule(self, bucket: Bucket) -> NoiseSchedule:
        """The noise of a bucket: its shift is that of its own size (FD Eq. 5)."""
        return self.stage.noise.build(self.seen(bucket), bucket.height, bucket.width)

    def seen(self, bucket: Bucket) -> int:
        """Frames of a bucket's clips that the network sees at once; the others lie between it and the picture."""
        return min(bucket.frames, self.stage.data.frames)

    def load(self, stage_step: int) -> Load:
        """This process's share of a step's batch, by rounds; a pure function of the step."""
        take = self.mix.at(stage_step)
        share = len(take.indices) // self.world
        size = share // self.stage.optim.accumulate
        step = self.config.first_step(self.stage_index) + stage_step
        firsts = range(self.rank * share, (self.rank + 1) * share, size)
        return [self.share(take, range(first, first + size), step) for first in firsts]

    def share(self, take: Take, rows: range, step: int) -> tuple[Batch, Draws]:
        """These rows of a step's batch, and their random numbers."""
        codec, bucket = self.codec, take.bucket
        latents = (
            self.seen(bucket), codec.latent_channels, bucket.height // codec.downscale, bucket.width // codec.downscale,
        )  # fmt: skip
        steps = len(self.schedule(bucket).alphas_cumprod)
        reach = bucket.frames - self.seen(bucket)
        continued = None if self.continued is None else replace(self.continued, reach=reach)
        draws = draw(self.config.seed, step, rows, latents, steps, self.stage.dropout, continued)
        clips = take.source.batch(
            bucket, [take.indices[r] for r in rows], draws.drop_text.tolist(), draws.drop_motion.tolist()
        )
        return clips if draws.start is None else clips.window(draws.start, self.seen(bucket)), draws

    def compute(self, batch: Batch, draws: Draws, bucket: Bucket) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of a round and its parts."""
        return self.wrapped(batch, draws, self.schedule(bucket))

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

    def advance(self, load: Load | None = None) -> dict[str, Tensor | float]:
        """One step of the optimizer; returns its numbers, the losses still on the device."""
        load = load or self.load(self.stage_step)
        optim, device = self.stage.optim, self.accelerator.device
        bucket = self.mix.at(self.stage_step).bucket
        sums: dict[str, Tensor] = {}
        for i, (batch, draws) in enumerate(load):
            # Dropout inside modules draws from the global generator: tie it to the step as well.
            torch.manual_seed(generator(self.config.seed, self.step, "modules", self.rank, i).initial_seed())
            last = i == len(load) - 1
            with self.accelerator.no_sync(self.wrapped) if not last else nullcontext():
                with self.accelerator.autocast():  # FSDP's forward is not in it by itself
                    loss, parts = self.compute(batch.to(device), draws, bucket)
                self.accelerator.backward(loss / len(load))
            for name, value in parts.items():
                sums[name] = sums.get(name, 0.0) + value / len(load)
        weights = [p for group in self.optimizer.param_groups for p in group["params"]]
        norm = whole(self.accelerator.clip_grad_norm_(weights, optim.clip or math.inf)).item()
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
        take, told = self.mix.at(self.stage_step), f"a gradient became {norm} at step {self.step}"
        size, first = len(take.indices) // self.world // len(load), self.rank * (len(take.indices) // self.world)
        names = [take.source.clip_name(take.bucket, i) for i in take.indices[first : first + size * len(load)]]
        for i, (batch, _) in enumerate(load):
            for field, value in vars(batch).items():
                if not isinstance(value, Tensor) or not value.is_floating_point():
                    continue
                bad = [k for k in range(len(value)) if not torch.isfinite(value[k]).all()]
                if bad:
                    clips = some([names[i * size + k] for k in bad])
                    return True, (
                        f"{told}: the {field} of {clips} ({take.source.name}) hold numbers that are none; take the "
                        "clip out, or delete data.cache so that it is encoded anew, and resume."
                    )
        return False, f"{told}; its clips are sound ({take.source.name}: {some(names)}), so lower optim.lr and resume."

    # -- what comes out ---------------------------------------------------------------------------------------

    def result(self) -> Learner | None:
        """The network with averaged weights, and its encoders, to look at; for the first process. All ask together."""
        return results.result(self)

    def export(self, made: Learner, folder: Path) -> None:
        """The files that ComfyUI's nodes load."""
        results.export(self, made, folder)

    def deliver(self, made: Learner) -> str:
        """What a finished run leaves in its folder besides; says where."""
        return results.deliver(self, made)

    def validate(self) -> tuple[dict[str, float], dict[str, float], Path | None, str | None]:
        """Losses at fixed timesteps, measures of clips of fixed noise, and their sheet; by the first process.

        The last is what went wrong with it, a full disk or clips that are no pictures, in a sentence.
        """
        losses, scores, sheet, problem = {}, {}, None, None
        if self.validation:
            learner = self.result()
            if self.main:
                with self.accelerator.autocast():
                    device = self.accelerator.device
                    try:
                        losses = self.validation.loss(learner, device)
                        scores, sheet = self.validation.sample(learner, device, self.step, self.folder / "validation")
                    except (InputError, OSError) as error:
                        problem = str(error)
            self.accelerator.wait_for_everyone()
        return losses, scores, sheet, problem

    def save(self) -> Path:
        """Write a checkpoint; returns its place. All processes ask together.

        Raises TrainingError, on all of them, where the disk is full; everything then is as it was.
        """
        problem = [None]
        contents = state.gather(self)
        result = self.result()
        if self.main:
            try:
                state.write(self, contents, result)
            except TrainingError as error:
                problem = [str(error)]
        if self.world > 1:
            from accelerate.utils import broadcast_object_list

            broadcast_object_list(problem)
        if problem[0]:
            raise TrainingError(problem[0])
        return self.folder / disk.FOLDER / f"step-{self.step:09d}"
