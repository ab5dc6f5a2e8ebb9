"""A run of super-resolution: the same stages, steps, checkpoints and resuming as a video network's, another learner."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from ...model_patches.errors import CheckpointError
from ...model_patches.files import read_header, read_weights
from ...model_patches.rcan import RCAN, rcan_of, save_rcan, start_bilinear
from ...pipelines.bundle import DEMO, load_vae
from .. import checkpoint as disk, models, state
from ..batch import Batch, Bucket
from ..config import RunConfig
from ..data.buckets import buckets_for
from ..data.mix import Take
from ..data.open import open_sources
from ..errors import TrainingError
from ..parallel import whole
from ..start import Start
from ..trainer import Trainer
from .discriminator import Discriminator
from .learner import SuperResolution
from .patches import cut, with_flow
from .validation import Validation

Seeds = list[tuple]


class UpscalerTrainer(Trainer):
    """A run of `[upscaler]` stages in memory."""

    headline = "l1"

    def __init__(self, config: RunConfig, say: Callable[[str], object] = print, resume: bool = True) -> None:
        super().__init__(config, say, resume)
        for stage in config.stages:
            least = min(min(bucket.height, bucket.width) for bucket in buckets_for(stage.data))
            if stage.upscaler.patch > least:
                raise TrainingError(
                    f"stage {stage.name!r}: upscaler.patch is {stage.upscaler.patch}, and data.aspect 'buckets' makes "
                    f"clips of {least} pixels on their shorter side; choose a smaller patch, or aspect 'fixed'."
                )

    def enter(self, found: disk.Checkpoint | None) -> None:
        config = self.config
        if getattr(self.accelerator.state, "fsdp_plugin", None) is not None:
            raise TrainingError("super-resolution networks are small: launch without FSDP, each GPU holds all of it.")
        self._let_go()
        self.stage_index, self.stage_step = (found.stage, found.facts["stage_step"]) if found else (0, 0)
        if found is not None and self.stage_done and not self.done:
            self.stage_index, self.stage_step = self.stage_index + 1, 0
        stage = self.stage
        where = config.encoders.codec
        self.codec = load_vae(DEMO / "codec.safetensors" if where == "demo" else Path(where)).eval()
        self.codec.requires_grad_(False).to(self.accelerator.device)
        learner = self._learner(start_network(config, self.say if found is None else lambda text: None))
        own = {**dict(learner.named_parameters()), **dict(learner.named_buffers())}
        self.saved = set(own)
        learned = Start(config.start).learned if found is None else found.tensors("weights")
        state.put(learned, own)
        self.sources = open_sources(
            config,
            stage,
            None,
            self.codec.downscale,
            None,
            rank=self.rank,
            world=self.world,
            first=self.accelerator.main_process_first,
            say=self.say,
        )
        self.data_marks = {n: getattr(s, "marks", {}) for n, s in self.sources.items()} if self.main else {}
        self.accelerator.wait_for_everyone()
        self._begin(learner.train(), found, stills=True)
        self.validation = Validation(self.sources, stage, config.output, config.seed)
        if config.output.validation_clips and not self.validation:
            self.say(f"{stage.name}: there is no clip to validate on; pictures and measures are left out")

    def _learner(self, network: RCAN) -> SuperResolution:
        stage, judge = self.stage, None
        if stage.loss.gan_weight:
            torch.manual_seed(self.config.seed + 1)
            judge = Discriminator(stage.upscaler.discriminator)
        return SuperResolution(network, judge, self.codec, stage.degradation, stage.loss)

    def averaged(self) -> dict[str, nn.Parameter]:
        """The network; a discriminator is used as it is."""
        return {n: p for n, p in self.learning().items() if n.startswith("network.")}

    def share(self, take: Take, rows: range, step: int) -> tuple[Batch, Seeds]:
        """Squares cut from these rows' clips, one place a clip; with their flow, where it counts."""
        clips = []
        for row in rows:  # one by one: whole clips of this size are large
            clip = take.source.batch(take.bucket, [take.indices[row]], [False], [False]).frames[0]
            clips.append(cut(clip, self.stage.upscaler.patch, self.config.seed, step, row))
        patches = with_flow(torch.stack(clips), self.stage.loss.temporal_weight > 0)
        return patches, [(self.config.seed, step, row, "damage") for row in rows]

    def compute(self, batch: Batch, draws: Seeds, bucket: Bucket) -> tuple[Tensor, dict[str, Tensor]]:
        return self.wrapped(batch, draws, self.step)

    def result(self) -> SuperResolution | None:
        averages = self.average.weights if self.average else {}
        if not self.main:
            return None
        weights = {n: whole(averages.get(n, p)) for n, p in self.learner.named_parameters() if n.startswith("network.")}
        network = rcan_of({n.removeprefix("network."): w.clone() for n, w in weights.items()})
        made = SuperResolution(network, None, self.codec, self.stage.degradation, self.stage.loss)
        return made.requires_grad_(False).eval()

    def export(self, made: SuperResolution, folder: Path) -> None:
        dtype = models.DTYPES[self.config.output.dtype]
        title = f"{self.folder.name}, step {self.step}, x{made.network.scale}"
        try:
            save_rcan(made.network, folder / "upscaler.safetensors", dtype, {"modelspec.title": title})
        except CheckpointError as error:
            raise TrainingError(str(error)) from error

    def deliver(self, made: SuperResolution) -> str:
        return f"the upscaler for `dreamfactory upscale` and ComfyUI is {self.folder / 'upscaler.safetensors'}"


def start_network(config, say) -> RCAN:
    """Fresh, beginning as bilinear interpolation; or the file the run names."""
    sizes, given = config.stages[0].upscaler, config.start
    if given.patches:
        raise TrainingError("start.patches are of video networks; leave them out for super-resolution.")
    if given.network is None:
        torch.manual_seed(config.seed)
        network = RCAN(sizes.network)
        start_bilinear(network)
        return network
    path = Start(given).file
    read_header(path)
    network = rcan_of({n: w.float() for n, w in read_weights(path).items()}, path)
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
