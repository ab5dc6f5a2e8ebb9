"""A run as data: what a run file may say, every field typed and explained.

A run has one stage or several; a stage is the run with some settings changed. `[model]`, `[schedule]`, `[data]`,
`[optim]`, `[loss]` and `[dropout]`, for super-resolution `[upscaler]` and `[degradation]`, hold for every stage; a
`[[stage]]` says what is different in it. Stage changes are checkpoints. The resolved config is saved in every
checkpoint, so a checkpoint says how it was made.
"""

from __future__ import annotations

import difflib
import json
import re
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from ..model_patches.config import UNetConfig
from ..model_patches.parts import PARTS
from ..model_patches.presets import preset
from ..schedulers import SCHEDULES, ScheduleConfig
from .errors import TrainingError
from .settings import build, merged, override
from .super_resolution.config import DegradationConfig, UpscalerConfig, check as check_degradation

try:
    import tomllib
except ImportError:  # Python 3.10
    import tomli as tomllib

PRESETS = Path(__file__).parent / "presets"


@dataclass(frozen=True)
class SourceConfig:
    """Clips or images with captions: `[sources.NAME]`."""

    path: str = ""
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

    network: str | None = None  # a checkpoint: ours, or a public one, converted in memory
    patches: tuple[str, ...] = ()  # patch files put on it: AnimateDiff's motion, IP-Adapter, our own


@dataclass(frozen=True)
class LoraConfig:
    """Low-rank additions instead of the weights themselves; the file loads in ComfyUI's own LoRA loader."""

    parts: tuple[str, ...] = ("temporal",)
    rank: int = 16
    alpha: float = 16.0
    feed_forward: bool = False  # besides the attention's projections


@dataclass(frozen=True)
class ModelConfig:
    """The network: a preset of model_patches.presets, with fields of UNetConfig changed."""

    preset: str = "tiny"  # or "start": as start.network is
    config: dict[str, Any] = field(default_factory=dict)
    train: tuple[str, ...] = ("all",)  # parts by name (model_patches.parts), or all; with lora: leave as it is
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
    cache: str | None = None  # folder of encoded clips; None: encode anew in every step ("online")
    validation: int = 8  # clips kept out of training, to look at and to measure the loss on
    workers: int = 2  # threads that read ahead


@dataclass(frozen=True)
class EncoderConfig:
    """Where the frozen parts come from; "fresh" text and image encoders are tiny ones made and trained here."""

    codec: str = "demo"  # "demo", a codec file of ours, or a diffusers AutoencoderKL folder
    text: str = "fresh"  # a transformers CLIP text folder
    motion: str = "fresh"  # a transformers T5 (or CLIP text) folder
    image: str = "fresh"  # a transformers CLIP vision folder
    text_layer: str = "last"  # penultimate: a whole OpenCLIP folder for SD 2.x
    image_features: str | None = None  # pooled | penultimate | last; None: what the network's projector reads


@dataclass(frozen=True)
class OptimConfig:
    optimizer: str = "adamw"  # adamw | adamw8bit (bitsandbytes)
    steps: int = 1000  # of the optimizer, in this stage
    batch_size: int = 8  # clips a step, over all processes: a run means the same on any number of GPUs
    accumulate: int = 1  # rounds in which a process works its share of the batch off, for less memory
    lr: float = 2e-3
    lr_scale: dict[str, float] = field(default_factory=dict)  # factors by part
    betas: tuple[float, float] = (0.9, 0.99)
    weight_decay: float = 0.01
    warmup: int = 100
    cosine_from: float = 1.0  # share of the stage after which the rate falls to zero along a cosine; 1: constant
    clip: float = 1.0  # largest norm of a gradient
    ema: float = 0.998  # decay of the averaged weights; 0: none are kept


@dataclass(frozen=True)
class LossConfig:
    flow_weight: float = 0.0  # gamma of FD Eq. 4; needs predict_net
    flow_scale: float = 1.0  # latent pixels per frame that count as 1: the typical motion of the data
    min_snr_gamma: float | None = None
    # Of super-resolution, beside the absolute error, which weighs 1:
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
class OutputConfig:
    folder: str = "runs/tiny"
    checkpoint_every: int = 500
    keep: int = 2  # newest checkpoints that stay; the end of a stage always does
    dtype: str = "fp16"  # of the network file in a checkpoint; what training goes on with is float32
    validate_every: int = 500
    validation_clips: int = 32
    validation_steps: int = 8  # of the sampler
    guidance_scale: float = 2.0
    log_every: int = 20
    loggers: tuple[str, ...] = ("tensorboard",)  # tensorboard | wandb; metrics.jsonl is always written


@dataclass(frozen=True)
class StageConfig:
    """A stage with every setting resolved. With `upscaler`, model, schedule and dropout do not count."""

    name: str = "train"
    model: ModelConfig = field(default_factory=ModelConfig)
    upscaler: UpscalerConfig | None = None
    degradation: DegradationConfig = field(default_factory=DegradationConfig)
    schedule: dict[str, Any] = field(default_factory=dict)  # fields of ScheduleConfig, on those of `preset` if given
    data: DataConfig = field(default_factory=DataConfig)
    optim: OptimConfig = field(default_factory=OptimConfig)
    loss: LossConfig = field(default_factory=LossConfig)
    dropout: DropoutConfig = field(default_factory=DropoutConfig)

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
    stages: tuple[StageConfig, ...] = (StageConfig(),)

    @property
    def steps(self) -> int:
        return sum(stage.optim.steps for stage in self.stages)

    def stage_at(self, step: int) -> int:
        """Index of the stage that does this step (counted from 0 over the run); the last one at the end."""
        for i, stage in enumerate(self.stages):
            if step < stage.optim.steps:
                return i
            step -= stage.optim.steps
        return len(self.stages) - 1

    def first_step(self, stage: int) -> int:
        return sum(s.optim.steps for s in self.stages[:stage])

    def to_dict(self) -> dict:
        values = json.loads(json.dumps(asdict(self)))
        for stage in values["stages"]:
            if stage["upscaler"] is None:  # of no account, and its defaults may change
                stage.pop("degradation")
        return values

    @classmethod
    def from_dict(cls, values: dict) -> RunConfig:
        """From a run file's plain data, or from `to_dict`'s."""
        values, own = dict(values), [f.name for f in fields(StageConfig)]
        resolved = values.pop("stages", None)
        shared = {name: values.pop(name) for name in own if name in values}
        stages = values.pop("stage", [{}]) if resolved is None else resolved
        if not isinstance(stages, list) or not all(isinstance(s, dict) for s in stages):
            raise TrainingError("stage is no list of tables; write [[stage]].")
        _known(values, [f.name for f in fields(cls) if f.name != "stages"] + own + ["stage"], "")
        built = []
        for i, stage in enumerate(stages, start=1):
            where = f"stage.{i}." if len(stages) > 1 else ""
            _known(stage, own, where)
            name = {"name": f"stage{i}" if len(stages) > 1 else "train"}
            built.append(build(StageConfig, {**name, **merged(shared, stage)}, where))
        config = replace(build(cls, values), stages=tuple(built))
        check(config)
        return config


def _known(values: dict, names: list[str], where: str) -> None:
    for name in values:
        if name not in names:
            near = difflib.get_close_matches(name, names, 1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known: {', '.join(names)}."
            raise TrainingError(f"unknown setting {where}{name}. {hint}")


def load_run(path: str | Path, overrides: list[str] | None = None) -> RunConfig:
    """Read a run file, a preset by name ("demo"), or a checkpoint's run.json, with `a.b=value` overrides on top."""
    path = Path(path)
    if not path.suffix and (PRESETS / f"{path}.toml").exists():
        path = PRESETS / f"{path}.toml"
    try:
        text = path.read_text("utf-8")
        values = json.loads(text) if path.suffix == ".json" else tomllib.loads(text)
    except OSError as error:
        names = ", ".join(sorted(p.stem for p in PRESETS.glob("*.toml")))
        raise TrainingError(
            f"{path} cannot be read ({error.strerror}); give a .toml file or one of {names}."
        ) from error
    except ValueError as error:
        raise TrainingError(f"{path} is not valid {path.suffix.lstrip('.').upper() or 'TOML'}: {error}.") from error
    if not isinstance(values, dict):
        raise TrainingError(f"{path} holds no settings; give a run file.")
    for text in overrides or []:
        override(values, text)
    return RunConfig.from_dict(values)


# -- ranges, said before anything is built -----------------------------------------------------------------------

CHOICES = {
    "precision": ("fp32", "bf16", "fp16"),
    "data.aspect": ("fixed", "buckets"),
    "optim.optimizer": ("adamw", "adamw8bit"),
    "dropout.image_means": ("zeros", "grey"),
    "output.dtype": ("fp32", "fp16", "bf16"),
    "encoders.text_layer": ("last", "penultimate"),
    "encoders.image_features": (None, "pooled", "penultimate", "last"),
}
NAME = re.compile(r"[\w][\w.-]*")
KINDS = ("auto", "folder", "metadata", "webdataset", "tiny_world", "tiny_stills")


def check(config: RunConfig) -> None:
    """Raise TrainingError with a sentence for the first setting that no run could use."""
    if not config.stages:
        raise TrainingError("the run has no stage; leave [[stage]] out for a single one.")
    names = [stage.name for stage in config.stages]
    if len(set(names)) < len(names):
        raise TrainingError(f"stages are called {', '.join(names)}; give each a name of its own.")
    for name, source in config.sources.items():
        if source.kind not in KINDS:
            raise TrainingError(f"sources.{name}.kind is {source.kind!r}; expected one of {', '.join(KINDS)}.")
        if not source.path and not source.kind.startswith("tiny"):
            raise TrainingError(f"sources.{name}.path is empty; give a folder, a metadata file or WebDataset shards.")
    _ranges("", config, {"threads": 1, "seed": 0})
    if config.seed >= 2**62:
        raise TrainingError(f"seed is {config.seed}; expected less than 2**62.")
    if not config.output.folder.strip():
        raise TrainingError("output.folder is empty; name a folder.")
    for kind, named in (("source", config.sources), ("stage", names)):
        for name in named:
            if not NAME.fullmatch(name):
                raise TrainingError(f"{kind} {name!r}: names are letters, digits, dots, dashes and underlines.")
    if len({stage.upscaler and replace(stage.upscaler, patch=0) for stage in config.stages}) > 1:
        raise TrainingError("upscaler differs between stages; all must train the same network, or none an upscaler.")
    if len({stage.model.lora for stage in config.stages}) > 1:
        raise TrainingError("model.lora differs between stages; it must be the same in all of them.")
    _ranges(
        "output.",
        config.output,
        {"checkpoint_every": 1, "keep": 1, "validate_every": 1, "validation_clips": 0, "log_every": 1},
    )
    if not 1 <= config.output.validation_steps <= 1000:
        raise TrainingError(f"output.validation_steps is {config.output.validation_steps}; expected 1 to 1000.")
    for name in config.output.loggers:
        if name not in ("tensorboard", "wandb"):
            raise TrainingError(f"output.loggers has {name!r}; expected tensorboard or wandb.")
    for i, stage in enumerate(config.stages, start=1):
        where = f"stage.{i}." if len(config.stages) > 1 else ""
        _check_stage(stage, config, where)


def _check_stage(stage: StageConfig, config: RunConfig, where: str) -> None:
    data, optim, loss, model = stage.data, stage.optim, stage.loss, stage.model
    least = {"frames": 1, "height": 8, "width": 8, "stride": 1, "windows": 1, "images_per_clip": 1, "validation": 0}
    _ranges(where + "data.", data, {**least, "workers": 0, "fps": 0.001})
    _ranges(
        where + "optim.",
        optim,
        {"steps": 1, "batch_size": 1, "accumulate": 1, "lr": 0, "warmup": 0, "clip": 0, "weight_decay": 0},
    )
    _ranges(where + "loss.", loss, {"flow_weight": 0, "flow_scale": 1e-6, "min_snr_gamma": 0})
    _ranges(where + "loss.", loss, {"gan_weight": 0, "temporal_weight": 0})
    if stage.upscaler is not None:
        _check_upscaler(stage, where)
    elif loss.gan_weight or loss.temporal_weight or stage.degradation != DegradationConfig():
        raise TrainingError(
            f"{where}degradation, loss.gan_weight and loss.temporal_weight are of super-resolution; add [upscaler]."
        )
    dropout = [f.name for f in fields(DropoutConfig) if f.name != "image_means"]
    shares = {f"dropout.{name}": getattr(stage.dropout, name) for name in dropout}
    for name, factor in optim.lr_scale.items():
        if not factor >= 0:
            raise TrainingError(f"{where}optim.lr_scale.{name} is {factor}; expected at least 0.")
    shares |= {
        "optim.betas[0]": optim.betas[0],
        "optim.betas[1]": optim.betas[1],
        "optim.ema": optim.ema,
        "optim.cosine_from": optim.cosine_from,
    }
    for name, value in shares.items():
        if not 0 <= value <= 1 or (name.startswith(("optim.betas", "optim.ema")) and value == 1):
            raise TrainingError(f"{where}{name} is {value}; expected 0 to 1.")
    if model.lora is None and model.train == ("predict_net",) and not loss.flow_weight:
        raise TrainingError(f"{where}model.train is predict_net alone, which learns from loss.flow_weight above 0.")
    if data.height % 8 or data.width % 8:
        raise TrainingError(f"{where}data is {data.width}x{data.height}; both sides must be multiples of 8.")
    if optim.batch_size % optim.accumulate:
        raise TrainingError(
            f"{where}optim.batch_size {optim.batch_size} does not divide into {optim.accumulate} rounds (accumulate)."
        )
    for name in data.mix:
        if name not in config.sources:
            raise TrainingError(f"{where}data.mix names {name!r}; sources are {', '.join(config.sources) or 'none'}.")
        if not data.mix[name] > 0:
            raise TrainingError(f"{where}data.mix.{name} is {data.mix[name]}; expected a share above 0.")
    if not config.sources:
        raise TrainingError("there is nothing to train on; name a source, as [sources.mine] with its path.")
    follows = model.preset == "start" and config.start.network is not None  # known when the file is read
    if loss.flow_weight > 0 and not (follows or model.network().predict_net):
        raise TrainingError(
            f"{where}loss.flow_weight needs the network's predict_net; set {where}model.config.predict_net = true."
        )
    rates = ("network", "discriminator") if stage.upscaler is not None else PARTS
    for name in optim.lr_scale:
        if name not in rates:
            raise TrainingError(f"{where}optim.lr_scale: there is no part {name!r}; choose from {', '.join(rates)}.")
    for name in (*model.train, *(model.lora.parts if model.lora else ())):
        if name not in PARTS and not (name == "all" and name in model.train):
            raise TrainingError(f"{where}model: there is no part {name!r}; choose from all, {', '.join(PARTS)}.")
    if model.lora and model.train != ("all",):
        raise TrainingError(f"{where}model has both train and lora; with lora nothing else trains: leave train out.")
    if model.lora and not 1 <= model.lora.rank <= 1024:
        raise TrainingError(f"{where}model.lora.rank is {model.lora.rank}; expected 1 to 1024.")
    stage.noise  # noqa: B018 (raises ScheduleError with a sentence)
    for name, allowed in CHOICES.items():
        *tables, leaf = name.split(".")
        owner = config if not tables else getattr(stage if hasattr(stage, tables[0]) else config, tables[0])
        value = getattr(owner, leaf)
        if value not in allowed:
            choices = ", ".join(str(a) for a in allowed if a is not None)
            raise TrainingError(f"{name} is {value!r}; expected one of {choices}.")


def _check_upscaler(stage: StageConfig, where: str) -> None:
    sizes, data, loss = stage.upscaler, stage.data, stage.loss
    least = {"groups": 1, "blocks": 1, "features": 3, "reduction": 1, "patch": 32, "discriminator": 1}
    _ranges(where + "upscaler.", sizes, least)
    if sizes.features < sizes.reduction:
        raise TrainingError(
            f"{where}upscaler.reduction is {sizes.reduction}; expected at most {sizes.features} features."
        )
    if sizes.patch % 8 or sizes.patch > min(data.height, data.width):
        raise TrainingError(
            f"{where}upscaler.patch is {sizes.patch}; expected a multiple of 8 that fits into data's "
            f"{data.width}x{data.height}."
        )
    if loss.temporal_weight and data.frames < 2:
        raise TrainingError(f"{where}loss.temporal_weight compares frames, and data.frames is 1; set it to 2 or more.")
    if data.cache:
        raise TrainingError(f"{where}data.cache keeps what a video network reads; leave it out for super-resolution.")
    if loss.flow_weight:
        raise TrainingError(f"{where}loss.flow_weight is of video networks; super-resolution has loss.temporal_weight.")
    if stage.model.lora or stage.model.train != ("all",):
        raise TrainingError(f"{where}model.train and model.lora are of video networks; leave them out.")
    check_degradation(stage.degradation, where + "degradation.")


def _ranges(where: str, table, least: dict[str, float]) -> None:
    for name, low in least.items():
        value = getattr(table, name)
        if value is not None and not value >= low:
            raise TrainingError(f"{where}{name} is {value}; expected at least {low}.")
