"""What a video network's run trains: its stages, batches, losses, and the files and bundle that come out."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import cast

import torch
from torch import Tensor, nn

from ...errors import CheckpointError, TrainingError
from ...model_patches import UNetConfig, VideoUNet
from ...model_patches.checkpoints.save import save_patch, save_unet
from ...model_patches.dtypes import DTYPES
from ...pipelines.bundle import Bundle, Codec, Defaults, save_bundle
from ...pipelines.encoders import ImageEncoder, TextEncoder
from ...schedulers import NoiseSchedule
from ..batch import Batch, Bucket
from ..checkpoint import Checkpoint, disk_errors
from ..checks import encoders_of
from ..config import VideoStageConfig
from ..data.mix import BatchPlan
from ..data.source import Source
from ..encode import FrozenEncoders
from ..sources import open_sources
from ..start import Start
from ..state import freeze_at_average, load_weights
from ..task import Loss, Stage, Task
from . import lora, models
from .objective import Continued, DiffusionObjective, Draws, draw
from .prompts import Asked, read_prompts
from .validation import Validation

Encoders = dict[str, TextEncoder | ImageEncoder]  # "text", "motion", "image"


class VideoTask(Task[DiffusionObjective]):
    """Diffusion (FD Eq. 7) with PredictNet's flow beside it (FD Eq. 4), stage by stage."""

    headline = "diffusion"
    stage: VideoStageConfig
    codec: Codec

    def build(self, index: int, found: Checkpoint | None) -> Stage[DiffusionObjective]:
        config = self.config
        origin = Start(config.start)  # read once, and let go of
        network = models.start(config, origin, self.run.say if found is None else lambda text: None)
        for i in range(1, found.stage + 1 if found else 1):
            network = models.advance(network, config, i)
        reads = encoders_of(network.unet.config)
        encoders = {n: models.make_encoder(config, n, network.unet.config, origin) for n in reads}
        if found is not None:
            own = {f"unet.{n}": p for n, p in network.unet.named_parameters()}
            for name, encoder in encoders.items():
                own |= {f"trained.{name}.{n}": p for n, p in encoder.named_parameters()}
            load_weights(found.tensors("weights"), own)
            if index > found.stage:
                network = models.advance(network, config, index)
                freeze_at_average(found, network.unet, models.trainable(network.unet, config.video_stages[index]))
        self.stage = config.video_stages[index]
        return self._stage(network, encoders)

    def _stage(self, network: models.Network, encoders: Encoders) -> Stage[DiffusionObjective]:
        stage, config, device = self.stage, self.config, self.run.device
        learns = models.trainable(network.unet, stage)
        models.set_trainable(network.unet, stage, config.precision, network.untouched)
        # What is no longer as the run's starting file has it, or never was in it, is kept as well.
        changed = {n for n, _ in network.unet.named_parameters()} - network.untouched
        saved = {f"unet.{n}" for n, _ in network.unet.named_parameters() if n in learns | changed}
        self.codec = models.make_codec(config, network.unet.config).to(device)
        encoders = {n: e.to(device) for n, e in encoders.items()}
        grey = self._grey(encoders, network.unet.config)
        self.reach = network.unet.config.first_frame_reach if stage.continuation.share else 0
        self.continued = None
        if stage.continuation.share:
            self.continued = Continued(stage.continuation.share, network.unet.config.known_frames, self.reach)
        sources, prompts, empty = self._open(network.unet.config, encoders)
        objective = DiffusionObjective(network.unet, self.codec, encoders, stage.loss, stage.dropout, grey)
        saved |= {f"trained.{n}" for n, _ in objective.trained.named_parameters()}
        stills = self._takes_stills(learns, encoders, sources)
        self.schedule = lru_cache(maxsize=64)(self._schedule)
        validation = Validation(sources, stage, config.output, empty, config.seed, prompts)
        return Stage(objective, saved, sources, validation, stills)

    def _open(
        self, network: UNetConfig, encoders: Encoders
    ) -> tuple[Mapping[str, Source], list[Asked], dict[str, Tensor]]:
        """The stage's sources, its prompts, and tokens of the empty caption where captions come as tokens. With a cache
        the frozen encoders are let go of when it is full."""
        frozen, empty, stage, run = None, {}, self.stage, self.run
        if stage.data.cache:
            frozen = FrozenEncoders(self.config, self.codec, encoders, run.device)
            empty = {n: getattr(frozen, n)("")[None].float() for n in ("text", "motion") if n in encoders}
        prompts = read_prompts(self.config.output.prompts, stage.data, network, frozen)
        sources = open_sources(
            self.config,
            replace(stage, data=replace(stage.data, frames=stage.data.frames + self.reach)),
            network,
            self.codec.downscale,
            frozen,
            rank=run.rank,
            world=run.world,
            first=run.accelerator.main_process_first,
            readers={n: e for n, e in encoders.items() if isinstance(e, TextEncoder)},
            say=run.say,
        )
        made_up = any(None in source.counts.values() for source in sources.values())
        if frozen is not None and not made_up:
            run.accelerator.wait_for_everyone()
            encoders.clear()
        return sources, prompts, empty

    def _takes_stills(self, learns: set[str], encoders: Encoders, sources: Mapping[str, Source]) -> bool:
        """Whether a still image teaches anything in this stage; if not and there are some, says so."""
        trained = any(p.requires_grad for e in encoders.values() for p in e.parameters())
        takes = trained or models.learns_from_stills(learns)
        if not takes and any(bucket.frames == 1 for s in sources.values() for bucket in s.counts):
            self.run.say(f"{self.stage.name}: {models.NO_STILLS}")
        return takes

    @torch.no_grad()
    def _grey(self, encoders: Encoders, network: UNetConfig) -> Tensor | None:
        """Features of a grey picture, where that is what a left-out image means."""
        encoder = encoders.get("image")
        if self.stage.dropout.image_means != "grey" or encoder is None:
            return None
        if any(p.requires_grad for p in encoder.parameters()):
            raise TrainingError("dropout.image_means 'grey' needs a frozen encoders.image; name its folder.")
        if network.uncond_image != "grey":  # else sampling would do without the picture in another way
            raise TrainingError("dropout.image_means 'grey' needs model.config.image_uncond = 'grey' beside it.")
        data = self.stage.data
        return encoder(torch.full((1, 3, data.height, data.width), 0.5, device=self.run.device))

    # -- a step

    def _schedule(self, bucket: Bucket) -> NoiseSchedule:
        """The noise of a bucket: its shift is that of its own size (FD Eq. 5)."""
        return self.stage.noise.build(self._seen(bucket), bucket.height, bucket.width)

    def _seen(self, bucket: Bucket) -> int:
        """Frames of a bucket's clips that the network sees at once; the others lie between it and the picture."""
        return min(bucket.frames, self.stage.data.frames)

    def batch(self, plan: BatchPlan, rows: range, step: int) -> tuple[Batch, Draws]:
        codec, bucket = self.codec, plan.bucket
        seen, height, width = self._seen(bucket), bucket.height // codec.downscale, bucket.width // codec.downscale
        latents = (seen, codec.latent_channels, height, width)
        steps = len(self.schedule(bucket).alphas_cumprod)
        reach = bucket.frames - seen
        continued = None if self.continued is None else replace(self.continued, reach=reach)
        draws = draw(self.config.seed, step, rows, latents, steps, self.stage.dropout, continued)
        clips = plan.source.batch(
            bucket, [plan.indices[r] for r in rows], draws.drop_text.tolist(), draws.drop_motion.tolist()
        )
        return clips if draws.start is None else clips.window(draws.start, seen), draws

    def loss(self, module: nn.Module, batch: Batch, draws: Draws, bucket: Bucket, step: int) -> Loss:
        return module(batch, draws, self.schedule(bucket))

    # -- what comes out

    def result(self, objective: DiffusionObjective, weights: Mapping[str, Tensor]) -> DiffusionObjective:
        unet = VideoUNet(objective.unet.config, device="meta")
        if self.stage.model.lora is not None:
            lora.inject(unet, self.stage.model.lora, self.config.seed)
        own = {n.removeprefix("unet."): w for n, w in weights.items() if n.startswith("unet.")}
        unet.load_state_dict(own, assign=True)
        unet.schedule = self.stage.noise.to_dict()
        encoders = {n: e for n in models.FRESH if (e := objective.encoder(n)) is not None}
        for name in objective.trained:
            prefix = f"trained.{name}."
            length = getattr(objective.trained[name], "length", None)
            encoder = models.make_encoder(self.config, name, unet.config, length=length).to(self.run.device)
            own = {n.removeprefix(prefix): w for n, w in weights.items() if n.startswith(prefix)}
            encoder.load_state_dict(own, strict=False)
            encoders[name] = encoder
        stage = self.stage
        made = DiffusionObjective(unet, self.codec, encoders, stage.loss, stage.dropout, objective.grey)
        return made.requires_grad_(False).eval()

    def export(self, result: DiffusionObjective, folder: Path, title: str) -> None:
        """The LoRA, or the network; and the trained parts alone as a patch, where others stayed as they were."""
        model, dtype = self.stage.model, DTYPES[self.config.output.dtype]
        try:
            if model.lora is not None:
                lora.save_lora(dict(result.unet.named_parameters()), model.lora, folder / "lora.safetensors", dtype)
                return
            save_unet(result.unet, folder / "unet.safetensors", dtype=dtype, metadata={"modelspec.title": title})
            if "all" not in model.train:
                save_patch(result.unet, folder / "patch.safetensors", model.train, dtype=dtype)
        except CheckpointError as error:
            raise TrainingError(str(error)) from error

    def export_size(self, result: DiffusionObjective) -> int:
        return 0 if self.stage.model.lora is not None else super().export_size(result)

    def save_bundle(self, result: DiffusionObjective, folder: Path) -> str:
        """A bundle for the headless pipeline, but of a LoRA, which needs its base."""
        if self.stage.model.lora is not None:
            return f"the LoRA is {folder / 'lora.safetensors'}"
        target = folder / "bundle"
        staged = target.with_name(target.name + ".tmp")  # whole, then one rename
        shutil.rmtree(staged, ignore_errors=True)
        with disk_errors(target):
            parts = models.external_parts(self.config, result.unet.config)
            save_bundle(self._bundle(result), staged, elsewhere=parts)
            shutil.rmtree(target, ignore_errors=True)
            staged.rename(target)
        return f"the bundle for `dreamfactory generate` is in {target}"

    def _bundle(self, result: DiffusionObjective) -> Bundle:
        stage, output = self.stage, self.config.output
        data = stage.data
        defaults = Defaults(
            frames=data.frames,
            height=data.height,
            width=data.width,
            fps=round(data.fps or 8),
            steps=output.validation_steps,
            guidance_scale=output.guidance_scale,
        )
        # None where a cache was filled and they were let go of: then the bundle names their folders (external_parts).
        text = cast("TextEncoder", result.encoder("text"))
        motion = cast("TextEncoder | None", result.encoder("motion"))
        image = cast("ImageEncoder | None", result.encoder("image"))
        return Bundle(result.unet, self.codec, text, motion, image, stage.noise, defaults, "run")
