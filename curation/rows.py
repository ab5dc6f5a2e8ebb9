"""What is written down of a source and of each clip of it; the columns of clips.parquet and sources.parquet."""

from __future__ import annotations

from dataclasses import dataclass, field

# How one scene ends and the next begins.
START, END, CUT, DISSOLVE, FADE, WIPE, SPLIT = "start", "end", "cut", "dissolve", "fade", "wipe", "split"


@dataclass
class Clip:
    """A row of clips.parquet. None: not measured, or it cannot be told.

    The first block says which clip it is, the second what it looks like, the third what became of it.
    """

    clip: str  # its name, of its source's content and its place there; the key in the shard
    source: str  # the source's file, below SOURCES, as it is called there
    source_id: str  # of the source's content
    scene: int  # number of its scene, from 0
    start: float  # seconds from the source's first frame on, of the clip's first frame
    end: float  # when its last frame is no longer shown
    first_pts: int  # the same in the source's own time, exactly; both ends are frames of the clip
    last_pts: int
    time_base: str  # seconds one of these is long, "1/90000"
    frames: int
    duration: float  # seconds
    fps: float  # frames a second, on average
    begins_by: str  # start | cut | dissolve | fade | wipe | split
    ends_by: str  # end | cut | dissolve | fade | wipe | split
    source_width: int  # as shown
    source_height: int
    crop_left: int  # of the picture between black bars
    crop_top: int
    crop_width: int
    crop_height: int
    width: int  # of the clip's video, which `clips.height` may have made smaller
    height: int
    aspect: float  # crop_width / crop_height

    motion: float | None = None  # optical flow, parts of the picture's longer side a second, mean
    sharpness: float | None = None  # variance of the Laplacian at 640 pixels, median of frames
    brightness: float | None = None  # mean luma, 0 to 1
    contrast: float | None = None  # deviation of luma, 0 to 1, median of frames
    overlay: float | None = None  # part of the picture under what was laid over it: logo; tiled watermark 1
    text: float | None = None  # part of the picture under text that stands still
    text_found: str = ""  # what it says, where it was read
    text_by: str = ""  # rapidocr | gradient
    nsfw: float | None = None  # how much it is not for everyone, 0 to 1, the most of three frames
    hashes: tuple[str, ...] = ()  # of three frames and of their mirror images, 64 bit each, hexadecimal

    duplicate_of: str | None = None  # the clip that is kept instead
    category: str | None = None
    caption: str | None = None
    kept: bool = False
    reason: str = ""  # the first filter that rejects it
    reasons: tuple[str, ...] = ()  # all that do
    shard: str = ""
    bytes: int | None = None  # of its video


OK, FAILED, COPY = "ok", "failed", "copy"


@dataclass
class Source:
    """A row of sources.parquet: there is one for every source, whatever happened."""

    source: str
    source_id: str = ""
    status: str = OK  # ok | failed | copy: the same bytes as another source
    problem: str = ""  # why it failed, what it is a copy of, or why it ends too soon
    duration: float | None = None  # seconds
    frames: int = 0
    damaged: int = 0  # packets that could not be decoded, and frames that could only in part
    width: int = 0
    height: int = 0
    scenes: int = 0
    too_short: int = 0  # scenes that are no clip
    clips: int = 0
    kept: int = 0
    columns: dict[str, object] = field(default_factory=dict)  # of the user's table
