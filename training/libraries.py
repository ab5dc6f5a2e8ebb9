"""The libraries that a run needs at some time, tried before anything is made: by the settings that need them."""

from __future__ import annotations

from pathlib import Path

from ..libraries import libraries
from .config import RunConfig
from .data.metadata import table_in
from .optimizer import needs


def check_libraries(config: RunConfig) -> None:
    """Raises LibraryError with one sentence."""
    wanted = {"accelerate": ("training", ""), "matplotlib.figure": ("training", "")}
    upscales, validates = config.stages[0].upscaler is not None, config.output.validation_clips > 0
    if not upscales:
        wanted["transformers.models.clip.modeling_clip"] = ("encoding captions", "")
    if Path(config.encoders.codec).is_dir():
        wanted["diffusers.models.autoencoders.autoencoder_kl"] = ("encoders.codec", "")
    if upscales and validates:
        wanted["torchmetrics.functional.image"] = ("validation", "set output.validation_clips to 0")
    if config.stages[0].model.lora is not None:
        wanted["peft"] = ("LoRA training", "")
    paths = [Path(source.path) for source in config.sources.values() if source.path]
    if any((table_in(path) or path).suffix.lower() == ".parquet" for path in paths):
        wanted["pyarrow.parquet"] = ("reading .parquet", "save it as .jsonl")
    flows = _flows(config, upscales, validates)
    if flows:
        wanted["cv2"] = ("optical flow", f"set {' and '.join(flows)} to 0")
    for optimizer in dict.fromkeys(stage.optim.optimizer for stage in config.stages):
        wanted |= needs(optimizer)
    libraries(wanted)


def _flows(config: RunConfig, upscales: bool, validates: bool) -> list[str]:
    """The settings for whose sake OpenCV is asked how clips move; of made-up ones it is known."""
    kinds, losses = [source.kind for source in config.sources.values()], [stage.loss for stage in config.stages]
    asks = {
        "loss.temporal_weight": any(loss.temporal_weight for loss in losses),
        "loss.flow_weight": any(loss.flow_weight for loss in losses) and not all(k.startswith("tiny") for k in kinds),
        "output.validation_clips": validates and (upscales or "tiny_world" in kinds),
    }
    return [name for name, needed in asks.items() if needed]
