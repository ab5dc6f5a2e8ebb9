"""Each path of `dreamfactory generate` as a command: seconds from start to end, and what memory it says it took.

    OMP_NUM_THREADS=1 python benchmarks/headless.py [--out benchmarks/headless.json]

Networks are the demos'; what draws a first frame is Stable Diffusion 1.5 in its full size with random weights, because
none come with the pack. Batches of a list are compared in turns, as ratios.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import platform
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from importlib import import_module
from pathlib import Path
from typing import Any

CAPTIONS = ("--text", "a red circle on a plain background", "--motion", "the red circle moves left")
SD = {"cross_attention_dim": 768, "sample_size": 64}  # of diffusers' own defaults, what Stable Diffusion 1.5 has other


def stable_diffusion(folder: Path, tokenizer: Path) -> Path:
    """A diffusers folder of Stable Diffusion 1.5's form and size; all that it draws is noise."""
    import torch
    from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel

    diffusers: Any = import_module("diffusers")  # what it says of its own arguments is narrower than what they are
    torch.manual_seed(0)
    clip = CLIPTextConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, vocab_size=49408
    )
    vae = diffusers.AutoencoderKL(
        block_out_channels=(128, 256, 512, 512),
        layers_per_block=2,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
    )
    noise = diffusers.DDIMScheduler(
        beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False, set_alpha_to_one=False
    )
    pipeline = diffusers.StableDiffusionPipeline(
        vae, CLIPTextModel(clip), AutoTokenizer.from_pretrained(tokenizer), diffusers.UNet2DConditionModel(**SD), noise,
        safety_checker=None, feature_extractor=None, requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder, safe_serialization=True)
    return folder


def measured(*options: object) -> dict:
    """A command from its start to its end: seconds, and the peak that it prints."""
    command = [sys.executable, "-m", "dreamfactory", "generate", *map(str, options)]
    started = time.perf_counter()
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    seconds = time.perf_counter() - started
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(command)}\n{done.stderr}")
    told = re.search(r"in ([\d.]+) s; peak memory (.*)", done.stderr)
    assert told is not None, done.stderr
    return {"seconds": round(seconds, 1), "without imports": float(told[1]), "peak": told[2]}


def paths(work: Path, picture: Path, drawer: Path) -> dict[str, dict]:
    image = ("--checkpoint", "demo", "--image", picture, *CAPTIONS)
    text = ("--checkpoint", "demo-text-to-video", *CAPTIONS)
    wide = ("--width", 344, "--height", 192)
    large = ("--upscale", "demo", "--size", "1376x768")
    drawn = ("--first-frame-from", drawer, "--first-frame-size", "256x256", "--first-frame-steps", 10)
    commands = {
        "picture -> 8 frames of 64x64": image,
        "text -> 8 frames of 64x64": text,
        "text -> 8 frames of 64x64 -> 256x256": (*text, "--upscale", "demo"),
        "text -> 8 frames of 344x192 -> 1376x768": (*text, *wide, *large),
        "text -> SD 1.5, 256x256, 10 steps -> 8 frames of 64x64 -> 256x256": (
            "--checkpoint", "demo", *CAPTIONS, *drawn, "--upscale", "demo",
        ),
    }  # fmt: skip
    return {name: measured(*options, "--out", work / f"{i}.mp4") for i, (name, options) in enumerate(commands.items())}


def batches(work: Path, clips: int, rounds: int) -> dict:
    """Seconds a clip of a list, reading the networks included: one at a time against eight a pass, in turns."""
    prompts = work / "prompts.jsonl"
    ways = ("left", "right", "up", "down")
    lines = [{"text": "a red circle", "motion": f"the red circle moves {ways[i % 4]}"} for i in range(clips)]
    prompts.write_text("".join(json.dumps(line) + "\n" for line in lines))
    pairs = []
    for number in range(rounds):
        pair = []
        for size in (1, 8):
            out = work / f"list-{number}-{size}"
            made = measured("--checkpoint", "demo-text-to-video", "--prompts", prompts, "--batch", size, "--out", out)
            pair.append(made["without imports"] / clips)
            shutil.rmtree(out)
        pairs.append(pair)
    ratios = [alone / together for alone, together in pairs]
    seconds = [round(statistics.median(column), 3) for column in zip(*pairs, strict=True)]
    told = {"one, s a clip": seconds[0], "eight a pass, s a clip": seconds[1]}
    return {
        "clips": clips,
        **told,
        "ratio": round(statistics.median(ratios), 2),
        "from": min(ratios),
        "to": max(ratios),
    }


def main() -> None:
    from dreamfactory.pipelines.bundle import DEMO

    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        drawer = stable_diffusion(work / "sd", DEMO / "text_encoder")
        found = {
            "date": datetime.date.today().isoformat(),
            "machine": f"{os.cpu_count()} cores, {platform.machine()}",
            "threads": os.environ.get("OMP_NUM_THREADS", "all"),
            "paths": paths(work, DEMO / "pictures" / "red_circle.png", drawer),
            "a list": batches(work, clips=48, rounds=3),
        }
    text = json.dumps(found, indent=2)
    print(text)
    if args.out is not None:
        args.out.write_text(text + "\n")


if __name__ == "__main__":
    main()
