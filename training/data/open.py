"""`[sources]` of a run file -> the sources a stage trains on."""

from __future__ import annotations

from pathlib import Path

from ...model_patches import UNetConfig
from ..config import RunConfig, StageConfig
from ..encode import FrozenEncoders
from ..errors import TrainingError
from .source import Source
from .tiny_source import TinySource


def open_sources(
    config: RunConfig,
    stage: StageConfig,
    network: UNetConfig,
    downscale: int,
    encoders: FrozenEncoders | None,
    *,
    rank: int = 0,
    world: int = 1,
    say=print,
) -> dict[str, Source]:
    """The sources of a stage by name, encoded into the cache where it has one. Reports go to the output folder."""
    with_flow = stage.loss.flow_weight > 0
    rate = None if network.frame_rate_embedding == "off" else network.frame_rate_embedding
    names = list(stage.data.mix) or list(config.sources)
    sources: dict[str, Source] = {}
    for name in names:
        given = config.sources[name]
        if given.kind.startswith("tiny"):
            sources[name] = TinySource(
                name, stage.data, stills=given.kind == "tiny_stills", with_flow=with_flow, downscale=downscale
            )
            continue
        from .cache import Cache  # not needed for the tiny world
        from .video_source import VideoSource, encode_all

        cache = Cache(Path(stage.data.cache)) if stage.data.cache else None
        source = VideoSource(
            name,
            given,
            stage.data,
            seed=config.seed,
            validation=stage.data.validation,
            with_flow=with_flow,
            downscale=downscale,
            cache=cache,
            encoders=encoders,
            rate=rate,
        )
        if cache is not None:
            encode_all(source, encoders, rank, world, f"encoding {name}")
        sources[name] = source
        if rank == 0:
            source.write_report(Path(config.output.folder))
            counts = ", ".join(f"{n} of {bucket}" for bucket, n in sorted(source.counts.items()))
            left = f"; {len(source.left_out)} left out, see left_out_{name}.csv" if source.left_out else ""
            say(f"{name}: {counts or 'nothing to train on'}{left}")
    if not any(source.counts for source in sources.values()):
        raise TrainingError("no clip of this stage's size is left to train on; see the left_out_*.csv beside the run.")
    return sources
