"""What a run trains, built from its config: the network of a stage, which of its weights learn, and the encoders."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from ...errors import TrainingError
from ...files import fingerprint
from ...model_patches import UNetConfig, VideoUNet
from ...model_patches.checkpoints.foreign_config import weight_files
from ...model_patches.checkpoints.warm_start import check_extends, extend
from ...model_patches.dtypes import DTYPES
from ...model_patches.network.parts import part_of
from ...pipelines.bundle import Codec
from ...pipelines.encoders import ImageEncoder, TextEncoder
from ..checks import check_continuation, encoders_of
from ..codec import codec_file, open_codec
from ..config import RunConfig, VideoStageConfig
from ..start import Start
from ..tiny_world.encoders import BOTH_LENGTH, image_encoder, motion_encoder, text_encoder
from . import lora

READ = (".json", ".txt", ".model")  # of an encoder, beside its weights


@dataclass
class Network:
    """A stage's network, and the names of weights that are still as the file the run started from has them."""

    unet: VideoUNet
    untouched: set[str]


def start(config: RunConfig, origin: Start, say: Callable[[str], object] = print) -> Network:
    """The network of the first stage: fresh, or equal at its start to the file and patches the run names."""
    stage, given = config.video_stages[0], config.start
    torch.manual_seed(config.seed)
    if given.network is None:
        if given.patches:
            raise TrainingError("start.patches need a network to be put on; name it as start.network.")
        _validate_stages(config, None)
        torch.manual_seed(config.seed)
        unet = VideoUNet(stage.model.network())
        if unet.config.predict_net:
            unet.start_predict_net()
        return _with_lora(Network(unet, set()), stage, config.seed)
    source = origin.network(say)
    _validate_stages(config, source.config)
    torch.manual_seed(config.seed)
    unet, report = extend(source, stage.model.network(source.config))
    say(f"{given.network}: {report}")
    return _with_lora(Network(unet, set(report.loaded) - set(report.reshaped)), stage, config.seed)


def _validate_stages(config: RunConfig, source: UNetConfig | None) -> None:
    """Every stage's network, without its weights: a mistake in the last stage is told before the first begins."""
    before = None
    for stage in config.video_stages:
        source = stage.model.network(source)
        if before is not None:
            check_extends(before, source)
        check_continuation(stage, source)
        unet = VideoUNet(source, device="meta")
        if stage.model.lora is not None:
            lora.targets(unet, stage.model.lora)
        else:
            trainable(unet, stage)
        before = source


def advance(network: Network, config: RunConfig, stage: int) -> Network:
    """The network of the next stage, equal at its start to the last one's."""
    stages = config.video_stages
    before, after = stages[stage - 1], stages[stage]
    touched = trainable(network.unet, before)
    untouched = network.untouched - touched
    wanted = after.model.network(network.unet.config)
    if wanted == network.unet.config:
        return Network(network.unet, untouched)
    torch.manual_seed(config.seed + stage)
    unet, _ = extend(network.unet, wanted)
    return Network(unet, untouched & set(dict(unet.named_parameters())))


def _with_lora(network: Network, stage: VideoStageConfig, seed: int) -> Network:
    if stage.model.lora is not None:
        lora.inject(network.unet, stage.model.lora, seed)
        network.untouched = {n for n in dict(network.unet.named_parameters()) if not lora.is_lora(n)}
    return network


def trainable(unet: nn.Module, stage: VideoStageConfig) -> set[str]:
    """Names of the network's weights that learn in a stage."""
    names = [name for name, _ in unet.named_parameters()]
    if stage.model.lora is not None:
        return {name for name in names if lora.is_lora(name)}
    if "all" in stage.model.train:
        # PredictNet learns from flow alone.
        idle = () if stage.loss.flow_weight > 0 else ("predict_net",)
        return {name for name in names if part_of(name) not in idle}
    chosen = {name for name in names if part_of(name) in stage.model.train}
    if not chosen:
        raise TrainingError(
            f"stage {stage.name!r} trains {', '.join(stage.model.train)}, of which its network has no weights; switch "
            "them on in model.config."
        )
    return chosen


# Parts that a still image does not pass (VF C.3); PredictNet has no flow to learn from one.
MOVING = {"temporal", "motion_text", "fusion", "temporal_skips", "swap_attention", "predict_net"}


NO_STILLS = "still images are left out, they do not pass the parts that train"


def learns_from_stills(names: set[str]) -> bool:
    """Whether any of these weights is passed by a single frame."""
    return any(part_of(name) not in MOVING for name in names)


def set_trainable(unet: VideoUNet, stage: VideoStageConfig, precision: str, untouched: set[str]) -> None:
    """Let a stage's weights learn, in float32. The others are frozen.

    Frozen weights that are still as the starting file has them are kept in float16 where the run computes in half
    precision, bf16 too: it holds more of their digits. What trained in an earlier stage stays as it is.
    """
    names = trainable(unet, stage)
    for name, weight in unet.named_parameters():
        learns = name in names
        weight.requires_grad_(learns)
        halved = precision != "fp32" and not learns and name in untouched
        weight.data = weight.data.to(torch.float16 if halved else torch.float32)
        weight.grad = None
    unet.checkpoint_gradients(stage.model.gradient_checkpointing)
    unet.train()


# -- encoders -------------------------------------------------------------------------------------------------

FRESH = {"text": text_encoder, "motion": motion_encoder, "image": image_encoder}


def make_encoder(
    config: RunConfig, name: str, network: UNetConfig, origin: Start | None = None, length: int | None = None
) -> TextEncoder | ImageEncoder:
    """A fresh one, which trains, as it is or as the run of `origin` left it; or a frozen folder's.

    length: tokens of a fresh text encoder, where they are known already.
    """
    where = getattr(config.encoders, name)
    if where == "fresh":
        if name == "text":
            length = length or (origin and origin.length(name))
            length = length or (BOTH_LENGTH if network.motion_text == "off" else None)
        options = {"length": length} if name == "text" and length else {}
        encoder = FRESH[name](config.seed, **options).train()
        if origin is not None:
            origin.teach(name, encoder)
        _check_width(name, encoder.width, network)
        return encoder
    dtype = DTYPES[config.precision]
    if name == "image":
        encoder = ImageEncoder.load(where, features=image_features(config, network), dtype=dtype)
    else:
        encoder = TextEncoder.load(where, layer=text_layer(config, name), dtype=dtype)
    _check_width(name, encoder.width, network)
    return encoder.eval().requires_grad_(False)


def text_layer(config: RunConfig, name: str) -> str:
    """Which layer of a text encoder, "text" or "motion", is read."""
    return config.encoders.text_layer if name == "text" else "last"


def image_features(config: RunConfig, network: UNetConfig) -> str:
    """What is read of the image encoder, by a network that has a projector for it."""
    assert network.image_projector is not None  # else it reads no image encoder (encoders_of)
    reads, features = network.image_projector.reads, config.encoders.image_features
    if features is not None and (features == "pooled") != (reads == "pooled"):
        raise TrainingError(
            f"encoders.image_features is {features!r}, and this network's projector reads {reads!r}; leave it out."
        )
    return features or reads


def encoder_options(config: RunConfig, name: str, network: UNetConfig) -> dict[str, str]:
    """What a bundle says of an encoder beside its path."""
    if name == "image":
        return {"features": image_features(config, network)}
    return {"layer": text_layer(config, name)} if name == "text" else {}


def encoder_fingerprints(config: RunConfig) -> dict[str, str]:
    """What encoders hold, by name: the same one under another path has the same fingerprint."""
    found = {}
    for name in ("codec", "text", "motion", "image"):
        where = getattr(config.encoders, name)
        path = codec_file(config) if name == "codec" else Path(where)
        found[name] = _fingerprint(path) if where != "fresh" and path.exists() else where
    return found


def _fingerprint(path: Path) -> str:
    """Of what is read of an encoder: its config, weights and words; what else lies in its folder does not count."""
    if not path.is_dir():
        return fingerprint(path)
    read = {*weight_files(path), *(p for p in path.iterdir() if p.suffix in READ)}
    files = sorted(p for p in read if not p.name.startswith("."))
    return ",".join(f"{p.name}:{fingerprint(p)}" for p in files)


def external_parts(config: RunConfig, network: UNetConfig) -> dict[str, str | dict]:
    """Entries of a bundle for the parts a run did not make: they stay where they are, by path."""
    given = config.encoders
    entries: dict[str, str | dict] = {}
    if given.codec != "demo":
        entries["codec"] = str(Path(given.codec).resolve())
    for name in encoders_of(network):
        where = getattr(given, name)
        if where != "fresh":
            entries[name] = {"path": str(Path(where).resolve()), **encoder_options(config, name, network)}
    return entries


def _check_width(name: str, width: int, network: UNetConfig) -> None:
    wanted = {
        "text": network.context_dim,
        "motion": network.motion_dim,
        "image": network.image_projector.embedding_dim if network.image_projector else width,
    }[name]
    if width != wanted:
        raise TrainingError(
            f"encoders.{name} is {width} wide, the network reads {wanted}; choose the encoder it was made for."
        )


def make_codec(config: RunConfig, network: UNetConfig) -> Codec:
    codec = open_codec(config)
    if codec.latent_channels != network.in_channels:
        raise TrainingError(
            f"encoders.codec makes {codec.latent_channels} latent channels, the network takes {network.in_channels}; "
            "choose the codec (VAE) it was made for."
        )
    return codec
