"""What a run file may not say: ranges, choices and settings that contradict each other, before anything is built."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields, replace

from ..errors import TrainingError
from ..model_patches import UNetConfig
from ..model_patches.network.parts import PARTS
from ..model_patches.network.presets import preset
from .config import OptimConfig, RunConfig, StageConfig, UpscalerStageConfig, VideoStageConfig
from .upscaler_config import check as check_degradation

CHOICES = {
    "precision": ("fp32", "bf16", "fp16"),
    "data.aspect": ("fixed", "buckets"),
    "optim.optimizer": ("adamw", "adamw8bit", "adafactor", "prodigy"),
    "optim.schedule": ("constant", "linear", "cosine", "cosine_with_restarts"),
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
    if config.start.release is not None:
        preset(config.start.release)  # raises ConfigError with the known names
    _ranges("", config, {"threads": 1, "seed": 0})
    if config.seed >= 2**62:
        raise TrainingError(f"seed is {config.seed}; expected less than 2**62.")
    if not config.output.folder.strip():
        raise TrainingError("output.folder is empty; name a folder.")
    for kind, named in (("source", config.sources), ("stage", names)):
        for name in named:
            if not NAME.fullmatch(name):
                raise TrainingError(f"{kind} {name!r}: names are letters, digits, dots, dashes and underlines.")
    upscalers = [getattr(stage, "upscaler", None) for stage in config.stages]
    if len({sizes and replace(sizes, patch=0) for sizes in upscalers}) > 1:
        raise TrainingError("upscaler differs between stages; all must train the same network, or none an upscaler.")
    if len({stage.model.lora for stage in config.video_stages}) > 1:
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
    """What both kinds of stages have."""
    data, optim = stage.data, stage.optim
    least = {"frames": 1, "height": 8, "width": 8, "stride": 1, "windows": 1, "images_per_clip": 1, "validation": 0}
    _ranges(where + "data.", data, {**least, "workers": 0, "fps": 0.001})
    _ranges(
        where + "optim.",
        optim,
        {"steps": 1, "batch_size": 1, "accumulate": 1, "lr": 0, "warmup": 0, "clip": 0, "weight_decay": 0, "cycles": 1},
    )
    for name, factor in optim.lr_scale.items():
        if not factor >= 0:
            raise TrainingError(f"{where}optim.lr_scale.{name} is {factor}; expected at least 0.")
    shares = {
        "betas[0]": optim.betas[0],
        "betas[1]": optim.betas[1],
        "ema": optim.ema,
        "cosine_from": optim.cosine_from,
    }
    for name, value in shares.items():
        _share(f"{where}optim.{name}", value)
        if value == 1 and name != "cosine_from":
            raise TrainingError(f"{where}optim.{name} is {value}; expected 0 to 1.")
    if isinstance(stage, UpscalerStageConfig):
        _check_upscaler(stage, config, where)
    elif isinstance(stage, VideoStageConfig):
        _check_video(stage, config, where)
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
    rates = PARTS if isinstance(stage, VideoStageConfig) else ("network", "discriminator")
    for name in optim.lr_scale:
        if name not in rates:
            raise TrainingError(f"{where}optim.lr_scale: there is no part {name!r}; choose from {', '.join(rates)}.")
    for name, allowed in CHOICES.items():
        *tables, leaf = name.split(".")
        owner = config if not tables else getattr(stage, tables[0], None) or getattr(config, tables[0], None)
        value = getattr(owner, leaf) if owner is not None else allowed[0]
        if value not in allowed:
            choices = ", ".join(str(a) for a in allowed if a is not None)
            raise TrainingError(f"{name} is {value!r}; expected one of {choices}.")
    _check_pace(optim, where)


def _check_video(stage: VideoStageConfig, config: RunConfig, where: str) -> None:
    loss, model = stage.loss, stage.model
    _ranges(where + "loss.", loss, {"flow_weight": 0, "flow_scale": 1e-6, "min_snr_gamma": 0})
    for field in fields(stage.dropout):
        if field.name != "image_means":
            _share(f"{where}dropout.{field.name}", getattr(stage.dropout, field.name))
    _share(f"{where}continuation.share", stage.continuation.share)
    if stage.data.cache:
        reads = ["text"] if model.preset == "start" else encoders_of(model.network())
        fresh = next((name for name in reads if getattr(config.encoders, name) == "fresh"), None)
        if fresh is not None:
            raise TrainingError(
                f"{where}data.cache keeps what frozen encoders make, and encoders.{fresh} trains ('fresh'); name its "
                "folder, or leave data.cache out."
            )
    if model.lora is None and model.train == ("predict_net",) and not loss.flow_weight:
        raise TrainingError(f"{where}model.train is predict_net alone, which learns from loss.flow_weight above 0.")
    follows = model.preset == "start" and config.start.network is not None  # known when the file is read
    if loss.flow_weight > 0 and not (follows or model.network().predict_net):
        raise TrainingError(
            f"{where}loss.flow_weight needs the network's predict_net; set {where}model.config.predict_net = true."
        )
    for name in (*model.train, *(model.lora.parts if model.lora else ())):
        if name not in PARTS and not (name == "all" and name in model.train):
            raise TrainingError(f"{where}model: there is no part {name!r}; choose from all, {', '.join(PARTS)}.")
    if model.lora and model.train != ("all",):
        raise TrainingError(f"{where}model has both train and lora; with lora nothing else trains: leave train out.")
    if model.lora and not 1 <= model.lora.rank <= 1024:
        raise TrainingError(f"{where}model.lora.rank is {model.lora.rank}; expected 1 to 1024.")
    stage.noise  # noqa: B018 (raises ScheduleError with a sentence)


def _check_pace(optim: OptimConfig, where: str) -> None:
    """Settings of the optimizer that contradict each other."""
    if optim.cosine_from < 1 and optim.schedule != "constant":
        raise TrainingError(
            f"{where}optim.cosine_from is {optim.cosine_from} and optim.schedule {optim.schedule!r} falls by itself; "
            "set cosine_from = 1.0, or leave the schedule out."
        )
    if optim.cycles > 1 and optim.schedule != "cosine_with_restarts":
        raise TrainingError(f"{where}optim.cycles are of optim.schedule 'cosine_with_restarts'; set it, or leave them.")
    if optim.optimizer == "prodigy" and (optim.lr < 0.1 or optim.lr_scale):
        raise TrainingError(
            f"{where}optim.optimizer 'prodigy' finds the rate itself, the same for all: set optim.lr = 1.0, and leave "
            "optim.lr_scale out."
        )


def encoders_of(network: UNetConfig) -> list[str]:
    """The encoders a network reads."""
    used = ["text"]
    if network.motion_text != "off":
        used.append("motion")
    if network.image_adapter != "off" and network.image_projector is not None:
        used.append("image")
    return used


def check_continuation(stage: VideoStageConfig, network: UNetConfig) -> None:
    """Whether a stage's network can be given the first frames of its clips."""
    if not stage.continuation.share:
        return
    known, frames = network.known_frames, stage.data.frames
    if not 1 <= known < frames:
        raise TrainingError(
            f"{stage.name}: continuation.share gives clips their first frames, and model.config.known_frames is "
            f"{known}; set it to 1 to {frames - 1}, of {frames} frames."
        )
    if network.first_frame_reach and network.first_frame_concat == "off" and not network.paca:
        raise TrainingError(
            f"{stage.name}: model.config.first_frame_reach is {network.first_frame_reach}, and this network sees no "
            "first frame; set it to 0."
        )


def _check_upscaler(stage: UpscalerStageConfig, config: RunConfig, where: str) -> None:
    sizes, data, loss = stage.upscaler, stage.data, stage.loss
    _ranges(where + "loss.", loss, {"gan_weight": 0, "temporal_weight": 0})
    if config.output.prompts:
        raise TrainingError("output.prompts are asked of video networks; leave them out of super-resolution.")
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
    check_degradation(stage.degradation, where + "degradation.")


def _share(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise TrainingError(f"{name} is {value}; expected 0 to 1.")


def _ranges(where: str, table, least: Mapping[str, float]) -> None:
    for name, low in least.items():
        value = getattr(table, name)
        if value is not None and not value >= low:
            raise TrainingError(f"{where}{name} is {value}; expected at least {low}.")
