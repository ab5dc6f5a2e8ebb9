"""One source -> its rows, and its clips in a folder. A pure function of the file's bytes and the settings.

What lies in the folder afterwards: `rows.json`; of each clip that is encoded NNNN.mp4 and NNNN.jpg, its centre frame;
of every clip NNNN.strip.jpg, to be looked at.
"""

from __future__ import annotations

import gc
import io
import json
from contextlib import closing
from dataclasses import asdict
from fractions import Fraction
from pathlib import Path

import av.error
import cv2
import numpy as np
from PIL import Image

from ..errors import InputError, out_of_memory
from ..files import whole
from ..pipelines.media.clips import Copier, Cutter, Piece
from ..pipelines.page import strip
from . import filters, scores
from .analysis import PROGRESS, Analysis, Found, Seconds
from .annotate import pictures
from .config import CurationConfig
from .nsfw import open_nsfw
from .overlay import covered, marks
from .pictures import Box, picture_box, within
from .repeated import Repeated
from .rows import Clip, Source
from .store import writing
from .text import open_reader

ROWS, VIDEO, STILL, STRIP = "rows.json", "{:04d}.mp4", "{:04d}.jpg", "{:04d}.strip.jpg"
ITSELF = "{source}"  # in what is said of it, for its name, which may be another one the next time
STILL_SIDE, QUALITY = 1024, 92  # pixels, the longer side of a centre frame at most; of its JPEG
LOSS = 0.5  # seconds that a clip may lose at each end, to begin and end at key frames
SHOWN, TILE = 4, 112  # frames of a strip, and pixels that they are high


def process(path: Path, config: CurationConfig, source_id: str, folder: Path) -> None:
    """folder: an empty one. Rows do not say how the file is called. Raises InputError (the source's), CannotWrite."""
    seconds, clips, problem = Seconds(), [], ""
    analysis, repeated = Analysis(path, config, seconds), Repeated()
    with closing(Clips(path, config, folder, seconds)) as written:
        try:
            for found in analysis:
                clip = _row(found, analysis, len(clips), source_id, config, seconds, repeated)
                clips.append(clip)
                written.write(clip, found, analysis)
        except (av.error.FFmpegError, Image.DecompressionBombError) as error:
            if out_of_memory(error):
                raise
            problem = f"{path} cannot be decoded any further ({error})."
            if not clips:
                raise InputError(problem) from error
    with seconds.of("overlay"):
        for clip, boxes in zip(clips, repeated.boxes(), strict=True):
            clip.overlay = covered(boxes)
    source = analysis.source
    source.source_id, source.clips = source_id, len(clips)
    source.problem = (source.problem or problem).replace(str(path), ITSELF)
    rows = {"source": asdict(source), "clips": [asdict(clip) for clip in clips], "seconds": seconds}
    with writing(folder), whole(folder / ROWS) as temporary:
        temporary.write_text(json.dumps(rows), "utf-8", errors="surrogateescape")


def read_rows(folder: Path) -> tuple[Source, list[Clip], Seconds]:
    """What `process` has written. Raises OSError, ValueError."""
    rows = json.loads((folder / ROWS).read_text("utf-8", errors="surrogateescape"))
    clips = [Clip(**{**row, "hashes": tuple(row["hashes"]), "reasons": tuple(row["reasons"])}) for row in rows["clips"]]
    return Source(**rows["source"]), clips, Seconds(rows["seconds"])


class Clips:
    """A source's clips on disk."""

    def __init__(self, path: Path, config: CurationConfig, folder: Path, seconds: Seconds) -> None:
        self.config, self.folder, self.seconds = config, folder, seconds
        self.cutter = Cutter(path, crf=config.clips.crf, speed=config.clips.speed, step=PROGRESS.step)
        self.copier = Copier(path, LOSS, step=PROGRESS.step) if config.clips.method == "copy" else None
        self.count = 0

    def write(self, clip: Clip, found: Found, analysis: Analysis) -> None:
        number, self.count = self.count, self.count + 1
        box = Box(clip.crop_left, clip.crop_top, clip.crop_width, clip.crop_height)
        with self.seconds.of("pictures"):
            _save(self.folder / STRIP.format(number), strip(_strip(found, box), TILE))
        if self.config.clips.encode == "kept":
            filters.apply(filters.certain(self.config.filters), [clip])
            if not clip.kept:
                return
        piece = Piece(
            int(found.pts[0]),
            int(found.pts[-1]),
            analysis.size,
            (box.left, box.top, box.width, box.height),
            (clip.width, clip.height),
            int(found.pts[(len(found.pts) - 1) // 2]),
        )
        with self.seconds.of("encode"):
            video = self.folder / VIDEO.format(number)
            still = self._copied(clip, found, piece, video) if analysis.ordinary else None
            if still is None:
                still = self.cutter.cut(piece, video)
                # A file that is written and its streams hold each other, and the encoder's pictures with them, of which
                # Python sees a few small objects.
                gc.collect()
        with self.seconds.of("pictures"):
            if still is not None:
                _save(self.folder / STILL.format(number), _jpeg(still, STILL_SIDE))

    def _copied(self, clip: Clip, found: Found, piece: Piece, video: Path) -> np.ndarray | None:
        """The centre frame of a clip that was taken as it is stored, of which the row then tells; None: it has to be
        encoded."""
        if self.copier is None or piece.size != piece.shown or piece.box != (0, 0, *piece.shown):
            return None
        if found.end - found.start - 2 * LOSS < self.config.clips.min_seconds:
            return None
        taken = self.copier.copy(piece, video)
        if taken is None:
            return None
        first, last = (int(np.searchsorted(found.pts, pts)) for pts in taken)
        times = (found.pts - found.pts[0]) * float(Fraction(clip.time_base))
        end = times[last + 1] if last + 1 < len(times) else found.end - found.start
        clip.start, clip.end = round(clip.start + times[first], 6), round(clip.start + end, 6)
        clip.first_pts, clip.last_pts, clip.frames = *taken, last - first + 1
        clip.duration = round(clip.end - clip.start, 6)
        clip.fps = round(clip.frames / clip.duration, 4)
        return np.asarray(pictures(video, video, 3)[1])

    def close(self) -> None:
        self.cutter.close()
        if self.copier is not None:
            self.copier.close()


def _row(
    found: Found,
    analysis: Analysis,
    number: int,
    source_id: str,
    config: CurationConfig,
    seconds: Seconds,
    repeated: Repeated,
) -> Clip:
    source_width, source_height = analysis.size
    looks = found.looks
    with seconds.of("look"):
        box = (
            picture_box(looks, source_width, source_height)
            if config.clips.crop
            else Box(0, 0, source_width // 2 * 2, source_height // 2 * 2)
        )
        inside = [within(look, box) for look in looks]
    duration, (width, height) = found.end - found.start, _size(box, config.clips.height)
    clip = Clip(
        clip=f"{source_id[:16]}-{number:04d}",
        source="",
        source_id=source_id,
        scene=found.scene,
        start=round(found.start, 6),
        end=round(found.end, 6),
        first_pts=int(found.pts[0]),
        last_pts=int(found.pts[-1]),
        time_base=f"{analysis.unit.numerator}/{analysis.unit.denominator}",
        frames=len(found.pts),
        duration=round(duration, 6),
        fps=round(len(found.pts) / duration, 4),
        begins_by=found.begins_by,
        ends_by=found.ends_by,
        source_width=source_width,
        source_height=source_height,
        crop_left=box.left,
        crop_top=box.top,
        crop_width=box.width,
        crop_height=box.height,
        width=width,
        height=height,
        aspect=round(box.width / box.height, 5),
    )
    with seconds.of("motion"):
        clip.motion = scores.motion(looks)
    with seconds.of("scores"):
        clip.sharpness = scores.sharpness(inside)
        clip.brightness, clip.contrast = scores.brightness(inside), scores.contrast(inside)
        clip.hashes = scores.hashes(looks, box)
    with seconds.of("overlay"):
        laid = marks(inside)
        clip.overlay = covered(laid.boxes)
        place = box.left / source_width, box.top / source_height, box.width / source_width, box.height / source_height
        repeated.add(laid, inside, found.scene, place)
    reader = open_reader(config.scores.text)
    if reader is not None:
        with seconds.of("text"):
            text = reader.read(inside)
        clip.text, clip.text_found, clip.text_by = text.area, text.words, reader.name
    judge = open_nsfw(config.scores.nsfw)
    if judge is not None:
        with seconds.of("nsfw"):
            clip.nsfw = judge(inside)
    return clip


def _size(box: Box, height: int | None) -> tuple[int, int]:
    """Width and height in the file."""
    if height is None or box.height <= height:
        return box.width, box.height
    return max(2, round(box.width * height / box.height / 2) * 2), height // 2 * 2


def _strip(found: Found, box: Box) -> list[np.ndarray]:
    picks = np.unique(np.linspace(0, len(found.looks) - 1, SHOWN).round().astype(int))
    return [within(found.looks[k], box) for k in picks]


def _jpeg(picture: np.ndarray, side: int) -> bytes:
    scale = side / max(picture.shape[:2])
    if scale < 1:
        picture = cv2.resize(picture, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    data = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(picture)).save(data, format="JPEG", quality=QUALITY)
    return data.getvalue()


def _save(path: Path, data: bytes) -> None:
    with writing(path.parent), whole(path) as temporary:
        temporary.write_bytes(data)
