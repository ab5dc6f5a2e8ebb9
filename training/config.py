"""A run as data: what a run file may say, every field typed and explained.

A run has one stage or several; a stage is the run with some settings changed. `[data]`, `[optim]` and `[loss]` hold for
every stage; of a video network `[model]`, `[schedule]`, `[dropout]` and `[continuation]` too, of super-resolution
`[upscaler]` and `[degradation]`. A `[[stage]]` says what is different in it. Stage changes are checkpoints. The config
is saved with every setting in every checkpoint, so a checkpoint says how it was made.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import TrainingError
from ..model_patches.network.config import UNetConfig
from ..model_patches.network.presets import preset
from ..schedulers import SCHEDULES, ScheduleConfig
from ..settings import UserPath
from .upscaler_config import DegradationConfig, UpscalerConfig


@dataclass(frozen=True)
class SourceConfig:
    """Clips or images with captions: `[sources.NAME]`."""

    path: UserPath = ""
    # auto: by what the path is. tiny_world, tiny_stills: endless made-up clips or pictures, no path.
    kind: str = "auto"  # auto | folder | metadata | webdataset | tiny_world | tiny_stills
    text_column: str = "text"  # of metadata files; "caption" is tried too
    motion_column: str = "motion"  # where there is none, the text serves for both
    min_aspect: float | None = None  # width / height; VideoFactory App. C.3 takes images of 4/3 and wider
    min_height: int | None = None  # pixels of the source
    uncaptioned: bool = False  # take files without a caption too; super-resolution always does


@dataclass(frozen=True)
class StartConfig:
    """The weights to start from; nothing given, everything starts at random."""

    network: UserPath | None = None  # a checkpoint: ours, or a public one, converted in memory
    # Which release a public file is (a preset of model_patches.network.presets), where it does not say; --plan and
    # --survey go by it while the file is not there.
    release: str | None = None
    patches: tuple[UserPath, ...] = ()  # patch files put on it: AnimateDiff's motion, IP-Adapter, our own


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank additions instead of the weights themselves; the file loads in ComfyUI's own LoRA loader."""

    parts: tuple[str, ...] = ("temporal",)
    rank: int = 16
    alpha: float = 16.0
    feed_forward: bool = False  # besides the attention's projections


@dataclass(frozen=True)
class ModelConfig:
    """The network: a preset of model_patches.network.presets, with fields of UNetConfig changed."""

    preset: str = "tiny"  # or "start": as start.network is
    config: dict[str, Any] = field(default_factory=dict)
    train: tuple[str, ...] = ("all",)  # parts by name (model_patches.network.parts), or all; with lora: leave as it is
    lora: LoraConfig | None = None
    gradient_checkpointing: bool = False  # less memory, about a quarter slower

    def network(self, source: UNetConfig | None = None) -> UNetConfig:
        """The config; of preset "start", the source's (that of start.network), with `config` changed."""
        if self.preset != "start":
            source = preset(self.preset)
        elif source is None:
            raise TrainingError("model.preset 'start' follows start.network, and there is none; name one, or a preset.")
        return UNetConfig.from_dict({**source.to_dict(), **self.config})


@dataclass(frozen=True)
class DataConfig:
    """Size of the clips, and what they are drawn from."""

    frames: int = 8
    height: int = 64  # pixels
    width: int = 64
    # Shares of the steps by source; {} takes every source by its number of clips. A step's batch is of one source.
    mix: dict[str, float] = field(default_factory=dict)
    frame_buckets: tuple[int, ...] = ()  # shorter lengths for clips that cannot fill `frames`
    aspect: str = "fixed"  # fixed: every clip is cropped to height x width | buckets: to the nearest of their area
    fps: float | None = None  # frames a second that a clip is read at; None: by stride
    stride: int = 1  # every n-th frame
    windows: int = 1  # stretches taken from one video, evenly spaced over its length
    images_per_clip: int = 4  # how many images take a clip's place in an image batch
    cache: UserPath | None = None  # folder of encoded clips; None: encode anew in every step ("online")
    validation: int = 8  # clips kept out of training, to look at and to measure the loss on
    workers: int = 2  # threads that read ahead


@dataclass(frozen=True)
class EncoderConfig:
    """Where the frozen parts come from; "fresh" text and image encoders are tiny ones made and trained here."""

    codec: UserPath = "demo"  # "demo", a codec file of ours, or a diffusers AutoencoderKL folder
    text: UserPath = "fresh"  # a transformers CLIP text folder
    motion: UserPath = "fresh"  # a transformers T5 (or CLIP text) folder
    image: UserPath = "fresh"  # a transformers CLIP vision folder
    text_layer: str = "last"  # penultimate: a whole OpenCLIP folder for SD 2.x
    image_features: str | None = None  # pooled | penultimate | last; None: what the network's projector reads


@dataclass(frozen=True)
class OptimConfig:
    # adamw | adamw8bit (bitsandbytes) | adafactor (little memory; lr is relative to each weight's size) | prodigy
    # (prodigyopt; finds the rate, of which lr is a factor: 1)
    optimizer: str = "adamw"
    steps: int = 1000  # of the optimizer, in this stage; 0 passes over it
    batch_size: int = 8  # clips a step, over all processes: a run means the same on any number of GPUs
    accumulate: int = 1  # rounds in which a process works its share of the batch off, for less memory
    lr: float = 2e-3
    lr_scale: dict[str, float] = field(default_factory=dict)  # factors by part
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    warmup: int = 100
    # After the warm-up, to the end of the stage: constant | linear | cosine (both to zero) | cosine_with_restarts
    schedule: str = "constant"
    cycles: int = 1  # of cosine_with_restarts
    cosine_from: float = 1.0  # with constant: share of the stage after which the rate falls to zero along a cosine
    clip: float = 1.0  # largest norm of a gradient
    ema: float = 0.998  # decay of the averaged weights; 0: none are kept


@dataclass(frozen=True)
class LossConfig:
    """Of a video network, beside the squared error of what it predicts (FD Eq. 7)."""

    flow_weight: float = 0.0  # gamma of FD Eq. 4; needs predict_net
    flow_scale: float = 1.0  # latent pixels per frame that count as 1: the typical motion of the data
    min_snr_gamma: float | None = None


@dataclass(frozen=True)
class UpscalerLossConfig:
    """Of super-resolution, beside the absolute error, which weighs 1."""

    gan_weight: float = 0.0  # vanilla GAN (VF 4); 0: no discriminator
    temporal_weight: float = 0.0  # the error's change along the motion


@dataclass(frozen=True)
class DropoutConfig:
    """Chances that a clip's condition is left out, each drawn by itself (classifier-free guidance)."""

    text: float = 0.0
    motion: float = 0.0
    captions: float = 0.1  # both captions together
    image: float = 0.0
    all: float = 0.0  # everything at once
    # What the network sees in a left-out image's place. zeros: no tokens, no latent. grey: the tokens of a grey
    # picture, and the latent as it is (DynamiCrafter's way).
    image_means: str = "zeros"


@dataclass(frozen=True)
class ContinuationConfig:
    """Clips that go on from others, for long ones made piece by piece: `model.config.known_frames` says how many first
    frames such a clip may be given, `model.config.first_frame_reach` how far before it its picture may lie."""

    share: float = 0.0  # of the clips


@dataclass(frozen=True)
class PromptConfig:
    """What one wants to see at every validation: `[[output.prompts]]`."""

    text: str = ""
    motion: str | None = None  # None: the text serves for both
    picture: UserPath | None = None  # the first frame, for networks that animate one


@dataclass(frozen=True)
class OutputConfig:
    folder: UserPath = "runs/tiny"
    checkpoint_every: int = 500
    keep: int = 2  # newest checkpoints that stay; the end of a stage always does
    dtype: str = "fp16"  # of the network file in a checkpoint; what training goes on with is float32
    validate_every: int = 500
    validation_clips: int = 32
    validation_steps: int = 8  # of the sampler
    guidance_scale: float = 2.0
    prompts: tuple[PromptConfig, ...] = ()  # shown beside the validation clips
    log_every: int = 20
    loggers: tuple[str, ...] = ("tensorboard",)  # tensorboard | wandb; metrics.jsonl is always written


@dataclass(frozen=True)
class StageConfig:
    """A stage with every setting resolved: of a video network, or of super-resolution."""

    name: str = "train"
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)

    @property
    def with_flow(self) -> bool:
        """Whether batches come with their optical flow in latent pixels."""
        return False


@dataclass(frozen=True)
class UpscalerStageConfig(StageConfig):
    """A stage of super-resolution: one that has `[upscaler]`."""

    upscaler: UpscalerConfig = field(default_factory=UpscalerConfig)
    degradation: DegradationConfig = field(default_factory=DegradationConfig)
    loss: UpscalerLossConfig = field(default_factory=UpscalerLossConfig)


@dataclass(frozen=True)
class VideoStageConfig(StageConfig):
    """A stage of a video network."""

    model: ModelConfig = field(default_factory=ModelConfig)
    schedule: dict[str, Any] = field(default_factory=dict)  # fields of ScheduleConfig, on those of `preset` if given
    loss: LossConfig = field(default_factory=LossConfig)
    dropout: DropoutConfig = field(default_factory=DropoutConfig)
    continuation: ContinuationConfig = field(default_factory=ContinuationConfig)

    @property
    def with_flow(self) -> bool:
        return self.loss.flow_weight > 0

    @property
    def noise(self) -> ScheduleConfig:
        """The stage's noise schedule; the shift is computed anew for every bucket (FD Eq. 5)."""
        fields_ = dict(self.schedule)
        base = fields_.pop("preset", None)
        if base is not None and base not in SCHEDULES:
            raise TrainingError(f"there is no schedule.preset {base!r}; choose from {', '.join(SCHEDULES)}.")
        start = SCHEDULES[base].to_dict() if base else {}
        shape = [self.data.frames, self.data.height, self.data.width]
        return ScheduleConfig.from_dict({**start, **fields_, "trained_shape": shape})


@dataclass(frozen=True)
class RunConfig:
    seed: int = 0
    device: str = "auto"
    threads: int | None = None
    precision: str = "fp32"  # fp32 | bf16 | fp16: of the computation; what trains stays float32
    sources: dict[str, SourceConfig] = field(default_factory=dict)
    start: StartConfig = field(default_factory=StartConfig)
    encoders: EncoderConfig = field(default_factory=EncoderConfig)
    output: OutputConfig = field(default_factory=OutputConfig)
    stages: tuple[StageConfig, ...] = (VideoStageConfig(),)

    @property
    def video_stages(self) -> tuple[VideoStageConfig, ...]:
        """All stages of a run that trains a video network: a run has one kind alone."""
        return tuple(stage for stage in self.stages if isinstance(stage, VideoStageConfig))

    @property
    def upscaler_stages(self) -> tuple[UpscalerStageConfig, ...]:
        """All stages of a run of super-resolution."""
        return tuple(stage for stage in self.stages if isinstance(stage, UpscalerStageConfig))

    @property
    def steps(self) -> int:
        return sum(stage.optim.steps for stage in self.stages)

    def first_step(self, stage: int) -> int:
        return sum(s.optim.steps for s in self.stages[:stage])

    def to_dict(self) -> dict:
        return json.loads(json.dumps(asdict(self)))
