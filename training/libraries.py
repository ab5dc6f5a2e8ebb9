"""The libraries that a run needs at some time, tried before anything is made: by the settings that need them."""

from __future__ import annotations

from pathlib import Path

from ..libraries import libraries
from .config import RunConfig, UpscalerStageConfig
from .data.metadata import table_in
from .optimizer import needs


def check_libraries(config: RunConfig) -> None:
    """Raises LibraryError with one sentence."""
    wanted = {"accelerate": ("training", ""), "matplotlib.figure": ("training", "")}
    upscales = isinstance(config.stages[0], UpscalerStageConfig)
    validates = config.output.validation_clips > 0
    if not upscales:
        wanted["transformers.models.clip.modeling_clip"] = ("encoding captions", "")
    if config.encoders.codec != "demo" and Path(config.encoders.codec).is_dir():
        wanted["diffusers.models.autoencoders.autoencoder_kl"] = ("encoders.codec", "")
    if upscales and validates:
        wanted["torchmetrics.functional.image"] = ("validation", "set output.validation_clips to 0")
    if any(stage.model.lora is not None for stage in config.video_stages):
        wanted["peft"] = ("LoRA training", "")
    paths = [Path(source.path) for source in config.sources.values() if source.path]
    if any("{" in str(path) and not path.exists() for path in paths):
        wanted["braceexpand"] = ("braces in the path of a source", "give the folder of the shards")
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
    kinds = [source.kind for source in config.sources.values()]
    flows = any(stage.with_flow for stage in config.stages)
    steady = any(stage.loss.temporal_weight for stage in config.upscaler_stages)
    asks = {
        "loss.temporal_weight": steady,
        "loss.flow_weight": flows and not all(kind.startswith("tiny") for kind in kinds),
        "output.validation_clips": validates and (upscales or "tiny_world" in kinds),
    }
    return [name for name, needed in asks.items() if needed]
