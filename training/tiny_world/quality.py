"""How good is the demo model? Measured from pixels on held-out clips, beside what would fool the measure.

`make demo-quality` runs this. Baselines: the first frame repeated; the right clip under somebody else's caption.
Live ablations switch a condition of the same weights off. Trained ablations (networks trained without a part) are
read from `benchmarks/demo_ablations.json`, recorded with the command beside it: their weights are not shipped.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor
from tqdm import tqdm

from ...pipelines.bundle import Bundle, load_bundle
from ...pipelines.image_to_video import Settings, animate, reads_picture
from .held_out import HeldOut, held_out
from .long_clips import measure_long_clips
from .measure import measure
from .text_quality import measure_text_bundle

ABLATIONS = Path(__file__).parents[2] / "benchmarks" / "demo_ablations.json"
BATCH = 16


def animate_all(bundle: Bundle, clips: HeldOut, motion: list[str], settings: Settings, label: str) -> Tensor:
    """All clips, a few at a time, each with its own seed."""
    made = []
    count = len(clips.motion)
    for start in tqdm(range(0, count, BATCH), desc=label):
        part = slice(start, min(start + BATCH, count))
        here = replace(settings, seed=settings.seed + start)
        made.append(animate(bundle, clips.first_frames[part], clips.text[part], motion[part], here))
    return torch.cat(made)


def measure_bundle(checkpoint: str = "demo", count: int = 160) -> dict:
    """Everything at once; see the module's text. Wall time is of this machine, one clip at a time.

    A bundle that makes video from text alone is measured by `text_quality`: there is no first frame to compare with.
    """
    bundle = load_bundle(checkpoint)
    if not reads_picture(bundle.unet.config):
        return measure_text_bundle(bundle, count)
    size, frames = bundle.defaults.height, bundle.defaults.frames
    clips = held_out(count, frames=frames, size=size)
    settings = Settings(seed=1)

    def score(made: Tensor) -> dict[str, float]:
        scores = measure(made, clips.specs, clips.first_frames).summary()
        return {k: round(v, 4) for k, v in scores.items()}

    def run(label: str, motion: list[str] | None = None, **changes) -> dict[str, float]:
        return score(animate_all(bundle, clips, motion or clips.motion, replace(settings, **changes), label))

    result: dict = run("as it is")
    shuffled = clips.motion[1:] + clips.motion[:1]
    result["baselines"] = {
        "copy_first_frame": score(clips.first_frames[:, None].expand(-1, frames, -1, -1, -1)),
        "shuffled_caption": run("shuffled captions", shuffled),
        "codec_alone": score(_through_codec(bundle, clips.clips)),
    }
    result["ablations"] = {
        "no_motion_caption": run("no motion caption", [""] * count),
        "paca_strength_0": run("PACA off", paca_strength=0.0),
        "image_strength_0": run("image adapter off", image_strength=0.0),
        "guidance_1": run("no guidance", guidance_scale=1.0),
    }
    result["long_clips"] = measure_long_clips(bundle)
    if ABLATIONS.exists():
        result["trained_ablations"] = json.loads(ABLATIONS.read_text())
    result["clips"] = count
    result["seconds_per_clip"] = round(_seconds(lambda: _one(bundle, clips, settings)), 2)
    return result


def _one(bundle: Bundle, clips: HeldOut, settings: Settings) -> None:
    animate(bundle, clips.first_frames[:1], clips.text[:1], clips.motion[:1], settings)


def _through_codec(bundle: Bundle, clips: Tensor) -> Tensor:
    with torch.no_grad():
        pixels = bundle.codec.decode(bundle.codec.encode(clips.flatten(0, 1) * 2 - 1))
    return ((pixels + 1) / 2).clamp(0, 1).unflatten(0, clips.shape[:2])


def _seconds(work: Callable[[], None], repeats: int = 3) -> float:
    work()
    started = time.perf_counter()
    for _ in range(repeats):
        work()
    return (time.perf_counter() - started) / repeats
