"""Videos from file to file, some frames at a time, so that memory does not depend on their length.

`rewrite` decodes, changes and encodes frames (as viewer.py shows them); their times, the sound and the metadata stay.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import av.container
import av.error
import av.stream
import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from ...errors import InputError
from .clips import written
from .frames import as_bt709, to_yuv
from .playback import Clock, decoded, opened, packets, rate
from .sheets import to_uint8
from .viewer import Viewer

IN_MP4 = ("aac", "mp3", "ac3", "eac3", "alac", "opus")  # sound that players expect in an mp4
AAC_RATES = (96000, 88200, 64000, 48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)
AAC_LAYOUTS = {1: "mono", 6: "5.1", 8: "7.1"}  # by channels
OF_THE_FILE = ("major_brand", "minor_version", "compatible_brands", "encoder", "duration")  # not of what it shows
TOLD = {
    "hdr": "HDR; it becomes ordinary video, in BT.709",
    "fields": "interlaced; the two fields of each frame become one picture",
}  # of Viewer.ways


@dataclass(frozen=True)
class Shown:
    """A video or picture as it is shown."""

    width: int
    height: int
    frames: int | None  # None: the file does not say


def survey(path: Path) -> Shown:
    """What a video shows; its first frame is decoded. Raises InputError where that cannot be."""
    with opened(path) as (container, viewer):
        for packet in packets(path, container, [viewer.stream]):
            for frame in decoded(packet, viewer.decode) or ():
                size = viewer.size(frame)
                ways = viewer.ways(frame)
                for way, what in TOLD.items():
                    if way in ways:
                        note(f"{path.name} is {what}.")
                try:
                    viewer.pixels(frame)
                except (av.error.FFmpegError, ValueError) as error:
                    raise InputError(
                        f"{path} has frames that cannot be converted ({frame.format.name}); save it as H.264."
                    ) from error
                return Shown(*size, viewer.stream.frames or None)
    raise InputError(f"{path} has no frame that can be decoded; give a whole video.")


def rewrite(
    source: Path,
    target: Path,
    shown: Shown,
    size: tuple[int, int],
    change: Callable[[Tensor], Tensor],
    *,
    chunk: int,
    crf: int,
) -> None:
    """An mp4 of the source's frames, changed: (k, 3, h, w) in [0, 1] -> (k, 3, height, width), k up to chunk.

    size: (width, height), even. The target is there whole, or not at all and what was there stays. Raises InputError.
    """
    with opened(source) as (container, viewer), written(target, "use_metadata_tags+faststart") as out:
        stream = viewer.stream
        out.metadata.update({k.lower(): v for k, v in container.metadata.items() if k.lower() not in OF_THE_FILE})
        clock = Clock(container, viewer)
        video = Video(out, viewer, size, crf)
        tracks = {track.index: make_audio_track(out, track, clock.start) for track in container.streams.audio}
        tracks = {index: track for index, track in tracks.items() if track is not None}
        if container.streams.subtitles:
            note(f"the subtitles of {source.name} are not kept.")

        def shown_frames() -> Iterator[av.VideoFrame]:
            for packet in packets(source, container, [stream, *(container.streams[i] for i in tracks)]):
                if packet.stream.index in tracks:  # its `stream_index` is 0 where it is the one that empties a decoder
                    tracks[packet.stream.index].take(packet)
                else:
                    yield from clock.frames(packet)

        waiting: list[tuple[int, np.ndarray]] = []  # when, what
        for frame in viewer.whole(shown_frames()):
            assert frame.pts is not None  # the clock has given it one
            waiting.append((frame.pts, viewer.pixels(frame, (shown.width, shown.height))))
            if len(waiting) == chunk:
                _pass_on(waiting, change, video)
        if waiting:
            _pass_on(waiting, change, video)
        if clock.damaged:
            note(f"{source.name} is damaged: {clock.damaged} of its frames could not be decoded.")
        video.finish(clock.length)
        for track in tracks.values():
            track.finish()


def _pass_on(waiting: list[tuple[int, np.ndarray]], change: Callable[[Tensor], Tensor], video: Video) -> None:
    """Frames that wait are changed, go to the encoder, and wait no longer."""
    frames = torch.from_numpy(np.stack([shown for _, shown in waiting])).permute(0, 3, 1, 2).float() / 255
    for (time, _), frame in zip(waiting, change(frames), strict=True):
        video.put(frame, time)
    waiting.clear()


def note(text: str) -> None:
    """One line on standard error, above a progress bar."""
    tqdm.write(f"note: {text}", file=sys.stderr)


# -- writing ----------------------------------------------------------------------------------------------------------


class Video:
    """H.264 in BT.709, in the source's units of time."""

    def __init__(self, out: av.container.OutputContainer, source: Viewer, size: tuple[int, int], crf: int) -> None:
        self.out, self.unit, self.last = out, source.unit, 0
        self.stream = out.add_stream("libx264", rate=rate(source.stream))
        self.stream.width, self.stream.height = size
        self.stream.pix_fmt, self.stream.options = "yuv420p", {"crf": str(crf)}
        context = self.stream.codec_context
        context.time_base = self.unit
        as_bt709(context)

    def put(self, image: Tensor, time: int) -> None:
        """(3, h, w) in [0, 1]."""
        frame = to_yuv(to_uint8(image))
        frame.pts, frame.time_base, self.last = time, self.unit, time
        self.out.mux(self.stream.encode(frame))

    def finish(self, length: int) -> None:
        """length: how long the last frame is shown; 0: not known."""
        for packet in self.stream.encode():
            if packet.pts == self.last and length:
                packet.duration = length
            self.out.mux(packet)


class AudioRemuxer:
    """A sound track, its packets as they are. start: of the file, seconds."""

    def __init__(self, out: av.container.OutputContainer, source: av.AudioStream, start: Fraction) -> None:
        self.out, self.start = out, start
        self.stream = out.add_stream_from_template(source)
        self.last: int | None = None

    def take(self, packet: av.Packet) -> None:
        if packet.dts is None:
            return  # what a decoder would be emptied with
        late = round(self.start / packet.time_base)
        time = packet.dts - late
        if self.last is not None and time <= self.last:
            return  # a damaged file's; no mp4 takes it
        packet.pts = time if packet.pts is None else packet.pts - late
        packet.dts = self.last = time
        packet.stream = self.stream
        self.out.mux(packet)

    def finish(self) -> None:
        pass


class AudioEncoder:
    """A sound track as AAC. start: of the file, seconds."""

    def __init__(self, out: av.container.OutputContainer, source: av.AudioStream, start: Fraction) -> None:
        self.out, self.start, self.decode = out, start, source.decode
        rate, channels = source.codec_context.sample_rate, source.codec_context.layout.nb_channels
        self.stream = out.add_stream("aac", rate=rate if rate in AAC_RATES else 48000)
        self.stream.codec_context.layout = AAC_LAYOUTS.get(channels, "stereo")

    def take(self, packet: av.Packet) -> None:
        for frame in decoded(packet, self.decode) or ():
            if frame.pts is not None and frame.time_base is not None:
                frame.pts -= round(self.start / frame.time_base)
            self.out.mux(self.stream.encode(frame))

    def finish(self) -> None:
        self.out.mux(self.stream.encode())


def make_audio_track(
    out: av.container.OutputContainer, source: av.AudioStream, start: Fraction
) -> AudioRemuxer | AudioEncoder | None:
    """None, and a note, where it cannot be kept."""
    if source.codec_context is None:
        note("a sound track that cannot be decoded is left out.")
        return None
    kind = source.codec_context.codec.canonical_name
    if kind not in IN_MP4:
        note(f"{kind} sound has no place in an mp4; it becomes AAC.")
    track = (AudioRemuxer if kind in IN_MP4 else AudioEncoder)(out, source, start)
    if "language" in source.metadata:
        track.stream.metadata["language"] = source.metadata["language"]
    return track
