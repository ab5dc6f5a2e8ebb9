"""A training step here against a plain diffusers loop: the same network, weights, batch and optimizer, in turns.

    OMP_NUM_THREADS=1 python benchmarks/training.py --out benchmarks/training.json

The peer is diffusers' UNet3DConditionModel with DDPMScheduler, EMAModel and torch's AdamW, as its training examples
put them together: noise, forward, backward, clipping, step, average. Ours is Trainer.train_step with the same weights
converted. Steps alternate in pairs, so that a busy machine slows both; the ratio is the median over pairs. The first
losses are compared, to show that both compute the same.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel
from diffusers.schedulers.scheduling_ddpm import DDPMScheduler
from diffusers.training_utils import EMAModel
from safetensors.torch import save_file

from dreamfactory.model_patches.checkpoints.converters import convert_file
from dreamfactory.pipelines.bundle import DEMO
from dreamfactory.training.batch import Batch
from dreamfactory.training.run_file import from_dict
from dreamfactory.training.trainer import Trainer
from dreamfactory.training.video.objective import DiffusionObjective, Draws

SIZES = ((64, 2, 8, 16), (128, 1, 8, 16), (64, 1, 16, 24))  # width, clips, frames, side of the latents
LATENT, TEXT = 12, 64
RATE, DECAY, CLIP = 1e-4, 0.999, 1.0


def peer(width: int) -> UNet3DConditionModel:
    torch.manual_seed(0)
    unet = UNet3DConditionModel(
        in_channels=LATENT,
        out_channels=LATENT,
        block_out_channels=(width, width * 2),
        down_block_types=("CrossAttnDownBlock3D", "DownBlock3D"),
        up_block_types=("UpBlock3D", "CrossAttnUpBlock3D"),
        layers_per_block=2,
        cross_attention_dim=TEXT,
        attention_head_dim=32,
        norm_num_groups=8,
    )
    for weight in unet.parameters():  # nothing stays zero: a network in the middle of its training
        if not weight.any():
            torch.nn.init.normal_(weight, std=0.02)
    return unet.train()


def ours(source: UNet3DConditionModel, clips: int, frames: int, side: int, folder: Path) -> Trainer:
    state = {k: v.contiguous() for k, v in source.state_dict().items()}
    save_file(state, folder / "peer.safetensors")
    convert_file(folder / "peer.safetensors", folder / "ours.safetensors", overrides={"norm_groups": 8})
    values = {
        "device": "cpu",
        "start": {"network": str(folder / "ours.safetensors")},
        "model": {"preset": "start", "config": {"dropout": 0.1}},
        "schedule": {"preset": "modelscope"},
        "sources": {"clips": {"kind": "tiny_world"}},
        "encoders": {"text": str(DEMO / "text_encoder")},
        "data": {"frames": frames, "height": side * 8, "width": side * 8},
        "optim": {"batch_size": clips, "lr": RATE, "warmup": 0, "betas": [0.9, 0.999], "ema": DECAY, "clip": CLIP},
        "output": {"folder": str(folder / "run"), "validation_clips": 0},
    }
    trainer = Trainer(from_dict(values), say=lambda text: None)
    trainer.resume()
    return trainer


def measure(width: int, clips: int, frames: int, side: int, pairs: int) -> dict:
    theirs = peer(width)
    with tempfile.TemporaryDirectory() as folder:
        trainer = ours(theirs, clips, frames, side, Path(folder))
    optimizer = torch.optim.AdamW(theirs.parameters(), lr=RATE, betas=(0.9, 0.999), weight_decay=0.01)
    average = EMAModel(theirs.parameters(), decay=DECAY)
    betas = {"beta_schedule": "scaled_linear", "beta_start": 0.00085, "beta_end": 0.012}
    scheduler: Any = DDPMScheduler(num_train_timesteps=1000, **betas)  # it says of tensors that they are another class

    generator = torch.Generator().manual_seed(1)
    latents = torch.randn(clips, frames, LATENT, side, side, generator=generator)
    noise = torch.randn(latents.shape, generator=generator)
    text = torch.randn(clips, 16, TEXT, generator=generator)
    t = torch.randint(1000, (clips,), generator=generator)

    def their_step() -> float:
        clean, eps = latents.transpose(1, 2), noise.transpose(1, 2)
        noisy = scheduler.add_noise(clean, eps, t)
        loss = torch.nn.functional.mse_loss(theirs(noisy, t, text).sample.float(), eps.float())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(theirs.parameters(), CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.step(theirs.parameters())
        return loss.item()

    keep = torch.zeros(clips, dtype=torch.bool)
    load = [(Batch(text, latents=latents), Draws(t, noise, keep, keep, keep))]

    def our_step() -> float:
        return float(trainer.train_step(load)["diffusion"])

    objective = trainer.objective
    assert isinstance(objective, DiffusionObjective)  # of video
    for network in (theirs, objective.unet):  # without dropout, whose draws differ, to compare the losses
        network.eval()
    first = our_step(), their_step()
    for network in (theirs, objective.unet):
        network.train()
    times: tuple[list[float], list[float]] = ([], [])
    for pair in range(pairs + 2):
        order = ((0, our_step), (1, their_step))
        for which, step in order if pair % 2 else order[::-1]:
            began = time.perf_counter()
            step()
            if pair >= 2:
                times[which].append(time.perf_counter() - began)
    ratios = [b / a for a, b in zip(*times, strict=True)]
    return {
        "width": width,
        "clips": clips,
        "frames": frames,
        "latents": side,
        "parameters_m": round(sum(p.numel() for p in theirs.parameters()) / 1e6, 2),
        "ours_s": round(statistics.median(times[0]), 4),
        "diffusers_s": round(statistics.median(times[1]), 4),
        "speed_up": round(statistics.median(ratios), 3),
        "speed_up_range": [round(min(ratios), 3), round(max(ratios), 3)],
        "first_losses": [round(x, 6) for x in first],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=12)
    parser.add_argument("--out", default="benchmarks/training.json")
    args = parser.parse_args()
    rows = []
    for size in SIZES:
        rows.append(measure(*size, args.pairs))
        print(rows[-1], flush=True)
    result = {
        "command": "OMP_NUM_THREADS=1 python benchmarks/training.py",
        "machine": f"{platform.machine()} CPU, {torch.get_num_threads()} thread(s), torch {torch.__version__}",
        "date": datetime.date.today().isoformat(),
        "rows": rows,
    }
    Path(args.out).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
