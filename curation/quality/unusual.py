"""One known video, three scenes with two cuts, in many kinds of files; and files that are broken or none."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from fractions import Fraction
from functools import lru_cache, partial
from pathlib import Path

import av
import numpy as np

from ...files import whole
from ..rows import CUT
from .duplicates import resized
from .filmed import told, varied
from .plan import Plan, Scale
from .reel import Join, Reel, Shot
from .texture import Array
from .truth import Truth
from .write import FORMATS, X264, Coding, can_write, hum, woven, write

RATE = Fraction(25)
SIZES = {"quick": (180, 320), "full": (360, 640)}
SHOTS = {"quick": (17, 22, 19), "full": (52, 61, 55)}  # frames of each scene
COPIES = {"quick": 1, "full": 3}  # of every kind, of other scenes
ROTATED = {  # a, b, c, d of the display matrix, 16.16 (ISO/IEC 14496-12)
    "right": (0, 1, -1, 0), "left": (0, -1, 1, 0), "over": (-1, 0, 0, -1), "mirrored": (-1, 0, 0, 1),
}  # fmt: skip
QUICK_VP9 = {"deadline": "realtime", "cpu-used": "8", "crf": "34", "b": "0"}


@dataclass(frozen=True)
class Kind:
    """A file that can be read. turned: of ROTATED. stored: (height, width) over those of others, as it is stored."""

    suffix: str = ".mp4"
    coding: Coding = field(default_factory=Coding)
    turned: str = ""
    stored: tuple[float, float] = (1, 1)
    less: int = 0  # columns and rows fewer, so that there is an odd number of them
    times: str = ""  # uneven; pause: one frame is shown for long; late: the first one is not shown at zero
    every: int = 1  # of so many frames one
    called: str = ""  # its name, if that is to be unusual too


def _x264(**more: str) -> dict[str, str]:
    return {**X264, **{name.replace("_", "-"): value for name, value in more.items()}}


KINDS: dict[str, Kind] = {
    "plain": Kind(),
    "with sound": Kind(coding=Coding(sound=True)),
    "index in front": Kind(coding=Coding(container={"movflags": "faststart"})),
    "fragmented": Kind(coding=Coding(container={"movflags": "frag_keyframe+empty_moov"})),
    "open gop": Kind(coding=Coding(options=_x264(x264_params="mbtree=0:open-gop=1:keyint=12:bframes=3"))),
    "one key frame": Kind(coding=Coding(options=_x264(x264_params="mbtree=0:keyint=infinite:scenecut=0"))),
    "variable rate": Kind(times="uneven"),
    "variable rate mkv": Kind(".mkv", times="uneven"),
    "pause": Kind(times="pause"),
    "late start": Kind(".mkv", times="late"),
    "rotated right": Kind(turned="right"),
    "rotated left": Kind(turned="left"),
    "rotated over": Kind(turned="over"),
    "mirrored": Kind(turned="mirrored"),
    "anamorphic": Kind(coding=Coding(stretch=Fraction(4, 3)), stored=(1, 0.75)),
    "odd sides": Kind(coding=Coding(pixels="yuv444p"), less=1),
    "odd sides vp9": Kind(".webm", Coding("libvpx-vp9", options=QUICK_VP9), less=1),
    "transport stream": Kind(".ts"),
    "transport stream late": Kind(".ts", times="late"),
    "transport stream mpeg-2": Kind(".ts", Coding("mpeg2video", options={"b": "2M"})),
    "programme stream": Kind(".mpg", Coding("mpeg2video", options={"b": "2M"})),
    "interlaced": Kind(coding=Coding(fields=True)),
    "interlaced mpeg-2": Kind(".ts", Coding("mpeg2video", options={"b": "3M"}, fields=True)),
    "matroska": Kind(".mkv"),
    "avi": Kind(".avi", Coding("mpeg4", options={"b": "1M"})),
    "avi mjpeg": Kind(".avi", Coding("mjpeg", "yuvj420p", {"q": "4"})),
    "vp9": Kind(".webm", Coding("libvpx-vp9", options=QUICK_VP9)),
    "hevc": Kind(coding=Coding("libx265", options={"preset": "ultrafast", "x265-params": "log-level=none:pools=none"})),
    "hevc 10 bit": Kind(
        ".mkv", Coding("libx265", "yuv420p10le", {"preset": "ultrafast", "x265-params": "log-level=none:pools=none"})
    ),
    "av1": Kind(coding=Coding("libsvtav1", options={"preset": "12", "crf": "40", "svtav1-params": "lp=1"})),
    "10 bit": Kind(coding=Coding(pixels="yuv420p10le")),
    "prores": Kind(".mov", Coding("prores_ks", "yuv422p10le", {"profile": "0"})),
    "gif": Kind(".gif", Coding("gif", "rgb8", {}), stored=(0.5, 0.5)),
    "wmv": Kind(".wmv", Coding("wmv2", options={"b": "1M"})),
    "flv": Kind(".flv", Coding("flv", options={"b": "1M"})),
    "few frames": Kind(every=5),
    "odd name": Kind(called='-a b\'s "c" 中文 é.mp4'),
    "wrong suffix": Kind(".mkv", called="wrong-suffix-{}.mp4"),
}

# What is made of a whole file: its kind; what is done; whether something of it can still be read.
Harm = Callable[[bytes, np.random.Generator], bytes]
FRONT = Kind(coding=Coding(container={"movflags": "faststart"}))


def _cut(part: float) -> Harm:
    return lambda data, rng: data[: int(part * len(data))]


def _holed(data: bytes, rng: np.random.Generator) -> bytes:
    """A twentieth of it, behind its middle, is noise."""
    start, length = int(0.55 * len(data)), len(data) // 20
    return data[:start] + rng.bytes(length) + data[start + length :]


BROKEN: dict[str, tuple[Kind, Harm, str]] = {
    "truncated": (FRONT, _cut(0.6), "damaged"),
    "truncated without index": (Kind(), _cut(0.6), "failed"),
    "truncated transport stream": (Kind(".ts"), _cut(0.6), "damaged"),
    "truncated matroska": (Kind(".mkv"), _cut(0.6), "damaged"),
    "truncated avi": (KINDS["avi"], _cut(0.6), "damaged"),
    "damaged": (FRONT, _holed, "damaged"),
    "damaged transport stream": (Kind(".ts"), _holed, "damaged"),
    "damaged matroska": (Kind(".mkv"), _holed, "damaged"),
}
NONE: dict[str, Callable[[np.random.Generator], bytes]] = {  # files that are no video at all
    "garbage": lambda rng: rng.bytes(50_000),
    "empty": lambda rng: b"",
    "zeros": lambda rng: bytes(50_000),
    "text": lambda rng: b"This is a text and no video.\n" * 40,
    "playlist": lambda rng: b"#EXTM3U\n#EXT-X-TARGETDURATION:5\n#EXTINF:5,\n/etc/hostname\n#EXT-X-ENDLIST\n",
    "half a head": lambda rng: b"\0\0\0\x20ftypisom\0\0\x02\0isomiso2avc1mp41\0\0\x10\0moov",
}


def plans(scale: Scale, seed: int) -> Iterator[Plan]:
    """What is to be made; nothing that this FFmpeg cannot write."""
    for copy in range(COPIES[scale.name]):
        for name, kind in KINDS.items():
            if can_write(kind.coding.codec):
                yield Plan(f"files/{name}", partial(_whole, name, kind, copy, scale, seed))
        for name in BROKEN:
            yield Plan(f"files/{name}", partial(_broken, name, copy, scale, seed))
        for count, name in ((1, "one frame"), (2, "two frames")):
            yield Plan(f"files/{name}", partial(_short, name, count, copy, scale, seed))
        for name in NONE:
            yield Plan(f"files/{name}", partial(_none, name, copy, seed))
        yield Plan("files/sound alone", partial(_sound, copy))


@lru_cache(maxsize=2)
def _shown(copy: int, scale: Scale, seed: int, rate: Fraction) -> tuple[Reel, list[Array]]:
    """What all files of a copy show, at a rate."""
    rng = np.random.default_rng((seed, 10, copy))
    scenes, times = varied(rng, [False, False]), rate / RATE
    shots = [Shot(scene, int(n * times), 3.0) for scene, n in zip(scenes, SHOTS[scale.name], strict=True)]
    reel = Reel(SIZES[scale.name], rate, shots, [Join(CUT)] * 2)
    return reel, list(reel.frames())


def _file(name: str, kind: Kind, copy: int) -> str:
    called = kind.called.format(copy) if kind.called else f"{name.replace(' ', '-')}-{copy}{kind.suffix}"
    return f"files/{called}" if not copy or "{}" in kind.called or not kind.called else f"files/{copy}{called}"


def _whole(name: str, kind: Kind, copy: int, scale: Scale, seed: int, folder: Path) -> list[Truth]:
    reel, frames = _shown(copy, scale, seed, RATE)
    if kind.coding.fields:
        frames = woven(_shown(copy, scale, seed, 2 * RATE)[1])
    (h, w), (part_h, part_w) = reel.size, kind.stored
    size = (int(h * part_h) - kind.less, int(w * part_w) - kind.less)
    if size != reel.size:
        frames = [resized(frame, *size) for frame in frames]
    rate = RATE / kind.every
    picked, moments = _moments(kind, len(frames), np.random.default_rng((seed, 11, copy)))
    file = _file(name, kind, copy)
    stored = folder / Path(file).with_suffix(kind.suffix)  # its muxer is told by it
    written = write(stored, (frames[k] for k in picked), rate, kind.coding, moments)
    if kind.turned:
        turn(stored, ROTATED[kind.turned])
    stored.replace(folder / file)
    # When each frame of the reel is shown: the next one that was kept, for those that were not.
    after = np.searchsorted(picked, np.arange(len(frames) + 1))
    truth = told(file, f"files {name}", reel, [written[k] for k in after])
    shown = round(size[1] * float(kind.coding.stretch or 1)), size[0]
    truth.width, truth.height = shown[::-1] if kind.turned in ("left", "right") else shown
    truth.frames, truth.rate = len(picked), (len(picked)) / written[-1]
    return [truth]


def _moments(kind: Kind, count: int, rng: np.random.Generator) -> tuple[list[int], list[Fraction]]:
    """Which frames are kept, and when they are shown; no times where they are even."""
    picked = list(range(0, count, kind.every))
    if not kind.times:
        return picked, []
    even = [Fraction(k) / RATE for k in picked]
    if kind.times == "late":
        return picked, [moment + 7 for moment in even]
    if kind.times == "pause":
        return picked, [moment + (2 if k > count // 5 else 0) for k, moment in zip(picked, even, strict=True)]
    moved = [moment + Fraction(int(rng.integers(-14, 15)), 1000) for moment in even]
    moved[0] = Fraction(0)
    kept = [k for k in picked if k == 0 or rng.random() > 0.12]
    return kept, [moved[k] for k in kept]


def turn(path: Path, matrix: tuple[int, int, int, int]) -> None:
    """Write a display matrix into an mp4's only track."""
    data = bytearray(path.read_bytes())
    place = data.index(b"tkhd") + 4 + 40
    a, b, c, d = ((number << 16).to_bytes(4, "big", signed=True) for number in matrix)
    none = bytes(4)
    data[place : place + 36] = b"".join((a, b, none, c, d, none, none, none, (1 << 30).to_bytes(4, "big")))
    path.write_bytes(data)


def _broken(name: str, copy: int, scale: Scale, seed: int, folder: Path) -> list[Truth]:
    """What is true of it holds of what can still be read."""
    kind, harm, expected = BROKEN[name]
    (truth,) = _whole(name, kind, copy, scale, seed, folder)
    path = folder / truth.file
    path.write_bytes(harm(path.read_bytes(), np.random.default_rng((seed, 12, copy))))
    truth.expected = expected
    if expected == "failed":
        truth.transitions, truth.frames, truth.seconds = [], 0, 0.0
    return [truth]


def _short(name: str, count: int, copy: int, scale: Scale, seed: int, folder: Path) -> list[Truth]:
    reel, frames = _shown(copy, scale, seed, RATE)
    file = _file(name, Kind(), copy)
    times = write(folder / file, frames[:count], RATE)
    (height, width) = reel.size
    return [Truth(file, "files", f"files {name}", width, height, float(RATE), count, times[-1])]


def _none(name: str, copy: int, seed: int, folder: Path) -> list[Truth]:
    file = _file(name, Kind(), copy)
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    with whole(folder / file) as temporary:
        temporary.write_bytes(NONE[name](np.random.default_rng((seed, 13, copy))))
    return [Truth(file, "files", f"files {name}", expected="failed")]


def _sound(copy: int, folder: Path) -> list[Truth]:
    file = _file("sound alone", Kind(), copy)
    (folder / file).parent.mkdir(parents=True, exist_ok=True)
    with whole(folder / file) as temporary, av.open(str(temporary), "w", format=FORMATS[".m4a"]) as out:
        hum(out, 3.0)
    return [Truth(file, "files", "files sound alone", expected="failed")]
