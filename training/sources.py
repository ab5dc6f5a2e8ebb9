"""`[sources]` of a run file -> the sources a stage trains on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path

from ..errors import TrainingError
from ..model_patches import UNetConfig
from ..pipelines.encoders import TextEncoder
from .checkpoint import disk_errors
from .config import RunConfig, SourceConfig, StageConfig
from .data.captions import read_by, sentences
from .data.source import FileSource, Source
from .data.statistics import SHOWN, samples
from .data.survey_page import Surveyed, write_page
from .encode import FrozenEncoders
from .tiny_world.source import TinySource

PAGE = "survey.html"


def open_sources(
    config: RunConfig,
    stage: StageConfig,
    network: UNetConfig | None,
    downscale: int,
    encoders: FrozenEncoders | None,
    *,
    rank: int = 0,
    world: int = 1,
    first: Callable[[], AbstractContextManager] = nullcontext,
    folder: Path | None = None,
    readers: Mapping[str, TextEncoder] | None = None,
    say: Callable[[str], object] = print,
) -> Mapping[str, Source]:
    """The sources of a stage by name, encoded into the cache where it has one, with a report of them.

    network: None for super-resolution, which reads no captions and takes what has none.
    first: a context that the first of several processes passes before the others.
    folder: of reports, a folder in it a stage; None: "data" in the output folder.
    readers: the text encoders, "text" and "motion": what they cannot read is told.
    """
    rate = None if network is None or network.frame_rate_embedding == "off" else network.frame_rate_embedding
    merge_captions = network is not None and network.motion_text == "off"
    place = (folder or Path(config.output.folder) / "data") / stage.name
    sources: dict[str, TinySource | FileSource] = {}
    for name in list(stage.data.mix) or list(config.sources):
        given = config.sources[name]
        if network is None:
            given = replace(given, uncaptioned=True)
        if given.kind.startswith("tiny"):
            sources[name] = TinySource(
                name,
                stage.data,
                stills=given.kind == "tiny_stills",
                with_flow=stage.with_flow,
                downscale=downscale,
                merge_captions=merge_captions,
            )
            continue
        from .data.cache import Cache  # not needed for the tiny world
        from .data.precompute import encode_all
        from .data.video_source import VideoSource

        def read(name: str = name, given: SourceConfig = given) -> VideoSource:
            return VideoSource(
                name,
                given,
                stage.data,
                seed=config.seed,
                validation=stage.data.validation,
                with_flow=stage.with_flow,
                downscale=downscale,
                cache=Cache(Path(stage.data.cache)) if stage.data.cache else None,
                encoders=encoders,
                rate=rate,
                merge_captions=merge_captions,
                forbid_upscaling=network is None,
            )

        # The first process looks at every file; the others find in the cache's index what it saw.
        with first():
            source = sources[name] = read()
        if encoders is not None:
            encode_all(source, encoders, rank, world, f"encoding {name}")
    if rank == 0:
        _tell(config, stage, sources, place, readers or {}, say)
    if not any(source.counts for source in sources.values()):
        raise TrainingError(f"no clip of this stage's size is left to train on; see {place}.")
    return sources


def _tell(
    config: RunConfig,
    stage: StageConfig,
    sources: Mapping[str, TinySource | FileSource],
    folder: Path,
    readers: Mapping[str, TextEncoder],
    say: Callable[[str], object],
) -> None:
    """What a stage trains on, on the screen and in a folder: a page, and tables of every source."""
    page = []
    for name, source in sources.items():
        if isinstance(source, TinySource):
            page.append(Surveyed(name, source.samples(SHOWN)))
            continue
        from .data.report import dataset_rms

        shown = samples(source)
        more: dict[str, object] = {"flow_rms": dataset_rms(source)} if source.with_flow else {}
        words = read_by(readers, source.captions_for(readers))
        if words:
            more["captions"] = words
        with disk_errors(folder, "data report"):
            facts = source.write_report(folder, say, **more)
        counts = ", ".join(f"{n} of {bucket}" for bucket, n in sorted(source.counts.items()))
        left = f"; {len(source.left_out)} left out, see {folder}/left_out_{name}.csv" if source.left_out else ""
        say(f"{name}: {counts or 'nothing to train on'}{left}")
        for sentence in sentences(words):
            say(f"{name}: {sentence}; see {folder}/data_{name}.json")
        left_out = [(left.file, left.reason) for left in source.left_out]
        page.append(Surveyed(name, shown, facts, sentences(words), left_out))
    data = stage.data
    title = f"What {config.output.folder} trains on" + (f", stage {stage.name}" if len(config.stages) > 1 else "")
    size, optim = f"{data.frames} frames of {data.width}x{data.height}", stage.optim
    about = f"{size}; {optim.steps:,} steps of {optim.batch_size} clips"
    with disk_errors(folder, "data report"):
        folder.mkdir(parents=True, exist_ok=True)
        write_page(folder / PAGE, title, about, page)
