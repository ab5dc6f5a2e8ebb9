"""`dreamfactory train RUN --survey`: what a run would train on, before a weight is read or a clip encoded."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from ..errors import InputError
from ..model_patches import UNetConfig, VideoUNet
from ..pipelines.encoders import TextEncoder
from . import plan
from .checks import encoders_of
from .config import RunConfig, StageConfig, VideoStageConfig
from .loop import check_places
from .sources import PAGE, open_sources
from .start import Start, settled
from .video import lora, models


def survey(config: RunConfig, say: Callable[[str], object] = print) -> list[Path]:
    """A page a stage, of those whose data differ; returns where they are. Raises TrainingError.

    The same as a run writes when it begins, in output.folder/survey/<stage>, so that no run's own report is touched;
    neither network nor encoders need be there.
    """
    check_places(config)
    config = settled(config, say)
    networks, told = plan.networks(config)
    if told:
        say(told)
    pages, before, folder = [], {}, Path(config.output.folder) / "survey"
    for stage, network in zip(config.stages, networks, strict=True):
        same = before.setdefault(_data(stage, network), stage.name)
        if same != stage.name:
            say(f"{stage.name}: the data of {same}")
            continue
        if len(config.stages) > 1:
            say(f"{stage.name}:")
        reach = network.first_frame_reach if network is not None and _goes_on(stage) else 0
        data = replace(stage.data, frames=stage.data.frames + reach)
        readers = {} if network is None else _readers(config, network, say)
        sources = open_sources(
            config, replace(stage, data=data), network, plan.DOWNSCALE, None, folder=folder, readers=readers, say=say
        )
        stills = any(bucket.frames == 1 for source in sources.values() for bucket in source.counts)
        if stills and network is not None and stage.data.frames > 1 and not _takes_stills(config, stage, network):
            say(f"{stage.name}: {models.NO_STILLS}")
        pages.append(folder / stage.name / PAGE)
    return pages


def _takes_stills(config: RunConfig, stage: StageConfig, network: UNetConfig) -> bool:
    assert isinstance(stage, VideoStageConfig)  # it has a network
    unet = VideoUNet(network, device="meta")
    if stage.model.lora is not None:
        lora.inject(unet, stage.model.lora, config.seed)
    fresh = any(getattr(config.encoders, name) == "fresh" for name in encoders_of(network))
    return fresh or models.learns_from_stills(models.trainable(unet, stage))


def _data(stage: StageConfig, network: UNetConfig | None) -> tuple:
    """What decides on the clips of a stage, and what is told of them."""
    reads = None if network is None else (network.motion_text, network.frame_rate_embedding, network.first_frame_reach)
    return repr(stage.data), stage.with_flow, reads, _goes_on(stage)


def _goes_on(stage: StageConfig) -> bool:
    """Whether clips that go on from others are among those of a stage."""
    return isinstance(stage, VideoStageConfig) and stage.continuation.share > 0


def _readers(config: RunConfig, network: UNetConfig, say: Callable[[str], object]) -> dict[str, TextEncoder]:
    """The text encoders' tokenizers, of those that are there."""
    found = {}
    for name in encoders_of(network):
        where = getattr(config.encoders, name)
        if name == "image":
            continue
        if where == "fresh":
            encoder = models.make_encoder(config, name, network, Start(config.start))
            assert isinstance(encoder, TextEncoder)
            found[name] = encoder
            continue
        try:
            found[name] = TextEncoder.load(where, weights=False, layer=models.text_layer(config, name))
        except InputError as error:  # not downloaded yet, mostly
            say(f"encoders.{name}: captions that it would cut are not counted; {error}")
    return found
