"""What ComfyUI's sampling costs on top of the network: KSampler against a bare loop, as ratios in one run.

    OMP_NUM_THREADS=1 <ComfyUI's python> benchmarks/host.py --host <ComfyUI> [--out benchmarks/host.json]

Both run the same weights in the same operations and the same attention, the same Euler steps, with and without the
prompt in one batch; that they give the same latents is checked first. One thread, processor time, runs taken in turn,
ratio of medians: on a busy machine only such ratios repeat.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import torch
from memory import ROOT, import_package
from torch import Tensor

CFG = 1.5


@dataclass
class Case:
    """A network on disk and a clip to make with it."""

    path: Path
    frames: int
    side: int  # of the latents
    steps: int
    rounds: int


def bigger(folder: Path) -> Path:
    """Random weights: 25 million, motion text, PACA and the first frame as in the demo."""
    from dreamfactory.model_patches import UNetConfig, VideoUNet, save_unet
    from dreamfactory.model_patches.network.presets import preset
    from dreamfactory.schedulers import ScheduleConfig

    fields = preset("tiny").to_dict() | {
        "model_channels": 96,
        "num_res_blocks": 2,
        "channel_mult": [1, 2],
        "head_dim": 48,
    }
    torch.manual_seed(0)
    unet = VideoUNet(UNetConfig.from_dict(fields))
    with torch.no_grad():
        for weight in unet.parameters():
            weight.normal_(std=0.02)
    path = folder / "bigger.safetensors"
    save_unet(unet, path, schedule=ScheduleConfig(trained_shape=(8, 256, 256)).to_dict())
    return path


def compare(case: Case) -> dict:
    import comfy.ops
    import comfy.sample
    import comfy.samplers
    from comfy.ldm.modules.attention import optimized_attention

    from dreamfactory.model_patches import Conditions, load_unet
    from dreamfactory.nodes.bridge.loading import load_video_model

    model = load_video_model(str(case.path))
    unet = load_unet(case.path, operations=comfy.ops.disable_weight_init, attention=optimized_attention)
    config, sampling = unet.config, model.model.model_sampling
    sigmas = comfy.samplers.calculate_sigmas(sampling, "sgm_uniform", case.steps)

    torch.manual_seed(0)
    text, motion = torch.randn(2, 16, config.context_dim), torch.randn(2, 16, config.motion_dim)
    latent = (config.in_channels, case.side, case.side)
    first, seen, noise = torch.randn(1, *latent), torch.randn(1, 64), torch.randn(case.frames, *latent)
    shared = {"dreamfactory_first_frame": first, "dreamfactory_image": {"image_embeds": seen}}
    negative, positive = (
        [[text[i : i + 1], {**shared, "dreamfactory_motion_text": motion[i : i + 1]}]] for i in range(2)
    )

    def hosted() -> Tensor:
        return comfy.sample.sample(
            model, noise, case.steps, CFG, "euler", "sgm_uniform", positive, negative, torch.zeros_like(noise),
            disable_pbar=True,
        )  # fmt: skip

    def bare() -> Tensor:
        x = noise * (1 + sigmas[0] ** 2).sqrt()
        tokens, pictures = unet.project_image(seen), torch.cat([first, first])
        conditions = Conditions(text, motion_text=motion, first_frame=pictures, image_tokens=tokens)
        for sigma, after in pairwise(sigmas):
            scaled = sampling.calculate_input(sigma, x)
            uncond, cond = unet(
                torch.cat([scaled, scaled]), sampling.timestep(sigma).reshape(1), conditions, num_frames=case.frames
            ).chunk(2)
            denoised = sampling.calculate_denoised(sigma, uncond + CFG * (cond - uncond), x)
            x = x + (x - denoised) / sigma * (after - sigma)
        return x

    a, b = hosted(), bare()
    difference = ((a - b).abs().max() / b.abs().max()).item()
    assert difference < 1e-3, f"the two differ by {difference}"
    times: dict[Callable, list[float]] = {hosted: [], bare: []}
    for _ in range(case.rounds):
        for work, taken in times.items():
            start = time.process_time()
            work()
            taken.append(time.process_time() - start)
    middle, least = ({work: choose(t) for work, t in times.items()} for choose in (statistics.median, min))
    return {
        "parameters": sum(p.numel() for p in unet.parameters()),
        "frames": case.frames,
        "latents": [case.side, case.side],
        "steps": case.steps,
        "rounds": case.rounds,
        "ratio": round(middle[hosted] / middle[bare], 3),
        "ratio_of_least": round(least[hosted] / least[bare], 3),
        "bare_ms_a_step": round(1000 * middle[bare] / case.steps, 1),
        "overhead_ms_a_step": round(1000 * (middle[hosted] - middle[bare]) / case.steps, 1),
        "difference": float(f"{difference:.1e}"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", required=True, help="the folder of ComfyUI")
    parser.add_argument("--out", default="benchmarks/host.json")
    args = parser.parse_args()
    import_package(args.host)
    from comfyui_version import __version__ as version

    torch.set_num_threads(1)
    result = {
        "command": "OMP_NUM_THREADS=1 <ComfyUI's python> benchmarks/host.py --host <ComfyUI>",
        "machine": f"{platform.machine()} CPU, 1 thread, float32, torch {torch.__version__}, ComfyUI {version}",
        "date": datetime.date.today().isoformat(),
        "cases": {},
    }
    with tempfile.TemporaryDirectory() as folder, torch.inference_mode():
        for name, case in (
            ("demo", Case(ROOT / "pipelines" / "demo" / "unet.safetensors", frames=8, side=8, steps=8, rounds=15)),
            ("25 million", Case(bigger(Path(folder)), frames=8, side=32, steps=2, rounds=5)),
        ):
            result["cases"][name] = compare(case)
            print(name, result["cases"][name], flush=True)
    Path(args.out).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
