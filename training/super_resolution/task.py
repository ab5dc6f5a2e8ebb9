"""What a run of super-resolution trains: RCAN, by the same steps, checkpoints and resuming as a video network."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import CheckpointError, TrainingError
from ...model_patches.checkpoints.files import read_header, read_weights
from ...model_patches.dtypes import DTYPES
from ...model_patches.upscaling.rcan import RCAN, rcan_of, save_rcan, start_bilinear
from ...pipelines.bundle import Codec
from ..batch import Batch, Bucket
from ..checkpoint import Checkpoint
from ..codec import open_codec
from ..config import RunConfig, UpscalerStageConfig
from ..data.buckets import buckets_for
from ..data.mix import BatchPlan
from ..sources import open_sources
from ..start import Start
from ..state import load_weights
from ..task import Loss, Run, Stage, Task
from .discriminator import Discriminator
from .objective import SuperResolution
from .patches import cut, with_flow
from .validation import Validation

Seeds = list[tuple]


class UpscalerTask(Task[SuperResolution]):
    """The absolute error, with a GAN and the change along the motion beside it (VF 4)."""

    headline = "l1"
    stage: UpscalerStageConfig
    codec: Codec

    def __init__(self, run: Run) -> None:
        super().__init__(run)
        for stage in self.config.upscaler_stages:
            least = min(min(bucket.height, bucket.width) for bucket in buckets_for(stage.data))
            if stage.upscaler.patch > least:
                raise TrainingError(
                    f"stage {stage.name!r}: upscaler.patch is {stage.upscaler.patch}, and data.aspect 'buckets' makes "
                    f"clips of {least} pixels on their shorter side; choose a smaller patch, or aspect 'fixed'."
                )

    def build(self, index: int, found: Checkpoint | None) -> Stage[SuperResolution]:
        config, run = self.config, self.run
        if getattr(run.accelerator.state, "fsdp_plugin", None) is not None:
            raise TrainingError("super-resolution networks are small: launch without FSDP, each GPU holds all of it.")
        self.stage = stage = config.upscaler_stages[index]
        self.codec = open_codec(config).to(run.device)
        objective = self._objective(start_network(config, run.say if found is None else lambda text: None))
        own = {**dict(objective.named_parameters()), **dict(objective.named_buffers())}
        load_weights(Start(config.start).learned if found is None else found.tensors("weights"), own)
        sources = open_sources(
            config,
            stage,
            None,
            self.codec.downscale,
            None,
            rank=run.rank,
            world=run.world,
            first=run.accelerator.main_process_first,
            say=run.say,
        )
        validation = Validation(sources, stage, config.output, config.seed)
        if config.output.validation_clips and not validation:
            run.say(f"{stage.name}: there is no clip to validate on; pictures and measures are left out")
        return Stage(objective.train(), set(own), sources, validation, stills=True)

    def _objective(self, network: RCAN) -> SuperResolution:
        stage, judge = self.stage, None
        if stage.loss.gan_weight:
            torch.manual_seed(self.config.seed + 1)
            judge = Discriminator(stage.upscaler.discriminator)
        return SuperResolution(network, judge, self.codec, stage.degradation, stage.loss)

    def averaged(self, learning: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
        """The network; a discriminator is used as it is."""
        return {n: p for n, p in learning.items() if n.startswith("network.")}

    def batch(self, plan: BatchPlan, rows: range, step: int) -> tuple[Batch, Seeds]:
        """Squares cut from these rows' clips, one place a clip; with their flow, where it counts."""
        clips = []
        for row in rows:  # one by one: whole clips of this size are large
            clip = plan.source.batch(plan.bucket, [plan.indices[row]], [False], [False]).pixels[0]
            clips.append(cut(clip, self.stage.upscaler.patch, self.config.seed, step, row))
        patches = with_flow(torch.stack(clips), self.stage.loss.temporal_weight > 0)
        return patches, [(self.config.seed, step, row, "damage") for row in rows]

    def loss(self, module: nn.Module, batch: Batch, draws: Seeds, bucket: Bucket, step: int) -> Loss:
        return module(batch, draws, step)

    def result(self, objective: SuperResolution, weights: Mapping[str, Tensor]) -> SuperResolution:
        own = {n.removeprefix("network."): w.clone() for n, w in weights.items() if n.startswith("network.")}
        network = rcan_of(own)
        assert network is not None  # they are one's
        made = SuperResolution(network, None, self.codec, self.stage.degradation, self.stage.loss)
        return made.requires_grad_(False).eval()

    def export(self, result: SuperResolution, folder: Path, title: str) -> None:
        dtype = DTYPES[self.config.output.dtype]
        title = f"{title}, x{result.network.scale}"
        try:
            save_rcan(result.network, folder / "upscaler.safetensors", dtype, {"modelspec.title": title})
        except CheckpointError as error:
            raise TrainingError(str(error)) from error

    def save_bundle(self, result: SuperResolution, folder: Path) -> str:
        return f"the upscaler for `dreamfactory upscale` and ComfyUI is {folder / 'upscaler.safetensors'}"


def start_network(config: RunConfig, say: Callable[[str], object]) -> RCAN:
    """Fresh, beginning as bilinear interpolation; or the file the run names."""
    sizes, given = config.upscaler_stages[0].upscaler, config.start
    if given.patches:
        raise TrainingError("start.patches are of video networks; leave them out for super-resolution.")
    if given.network is None:
        torch.manual_seed(config.seed)
        network = RCAN(sizes.network)
        start_bilinear(network)
        return network
    path = Start(given).file
    read_header(path)
    network = rcan_of({n: w.float() for n, w in read_weights(path).items()}, str(path))
    if network is None:
        raise TrainingError(f"start.network {given.network} is no RCAN; give a file of ours, or leave it out.")
    file = network.config
    if file.scale != 4 or file.mean_shift:
        what = f"enlarges x{file.scale}" if file.scale != 4 else "shifts its images' mean"
        raise TrainingError(f"start.network {given.network} {what}; give an RCAN of x4 without mean shift.")
    inner = sizes.features // sizes.reduction, file.features // file.reduction
    if (file.groups, file.blocks, file.features) != (sizes.groups, sizes.blocks, sizes.features) or inner[0] != inner[
        1
    ]:
        raise TrainingError(
            f"start.network {given.network} has groups = {file.groups}, blocks = {file.blocks}, features = "
            f"{file.features}, reduction = {file.reduction}; set [upscaler] to these."
        )
    say(f"{given.network}: {sizes.groups} x {sizes.blocks} blocks of {sizes.features}")
    return network.requires_grad_(True)
