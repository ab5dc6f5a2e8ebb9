"""Trains the tiny world's image codec: principal components first, then a few CPU minutes.

    python -m dreamfactory.training.tiny_world.codec --out codec.safetensors --minutes 6 --seed 0

The budget is processor time, so a busy machine gives the same codec as an idle one. Encoder and decoder learn
together for the first half; then the latents are brought to mean 0 and scale 1 (`rescale_latents`), the
encoder is frozen, and the decoder learns on alone, so that the saved scales are those it was trained with.
"""

import argparse
import time
from dataclasses import dataclass, replace

import torch
from torch import Generator, Tensor
from tqdm import tqdm

from ...metrics.image import psnr
from ...model_patches.codec import PatchAutoencoder, PatchCodecConfig, load_codec, save_codec
from .world import poses, sample_specs, still


@dataclass(frozen=True)
class CodecTraining:
    """How to train a codec."""

    latent_channels: int = 12
    minutes: float = 6.0  # of processor time
    steps: int | None = None  # a fixed number of steps instead, which repeats exactly
    seed: int = 0
    size: int = 64  # side of the frames, pixels
    batch: int = 16
    rate: float = 5e-3  # peak learning rate of Adam
    l1: float = 0.1  # weight of the absolute error beside the squared error
    joint: float = 0.5  # share of the budget in which the encoder learns too


def random_frames(n: int, generator: Generator, split: str = "train", size: int = 64) -> Tensor:
    """One random frame of each of n clips of 8 frames: (n, 3, size, size) in [-1, 1]."""
    specs = sample_specs(n, generator, split)
    centre, radius, angle = poses(specs, 8)
    each = torch.arange(n, device=generator.device)
    at = torch.randint(8, (n,), generator=generator, device=generator.device)
    specs = replace(
        specs,
        position=centre[each, at],
        radius=radius[each, at],
        angle=angle[each, at],
        hop=torch.zeros_like(specs.hop),
    )
    return still(specs, size) * 2 - 1


def fit_pca(images: Tensor, channels: int, patch: int = 8) -> tuple[Tensor, Tensor, Tensor]:
    """Principal components of the images' patches: images (n, 3, h, w), patches flattened as (3, p, p).

    Returns mean (3p²,), components (channels, 3p²) with orthonormal rows, and the std (channels,) along them.
    """
    patches = images.unfold(2, patch, patch).unfold(3, patch, patch)  # (n, 3, h/p, w/p, p, p)
    patches = patches.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3 * patch**2).double()
    mean = patches.mean(0)
    centred = patches - mean
    values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
    values, vectors = values.flip(0)[:channels], vectors.flip(1)[:, :channels]
    return mean.float(), vectors.T.float().contiguous(), values.clamp(min=0).sqrt().float()


def pca_codec(images: Tensor, config: PatchCodecConfig | None = None) -> PatchAutoencoder:
    """An untrained codec: exactly the PCA of these images (n, 3, h, w) in [-1, 1]."""
    codec = PatchAutoencoder(config)
    codec.set_principal_components(*fit_pca(images, codec.latent_channels, codec.downscale))
    return codec


@torch.no_grad()
def evaluate(codec: PatchAutoencoder, images: Tensor) -> float:
    """Mean PSNR in dB of the codec on images in [-1, 1]."""
    restored = codec(images).clamp(-1, 1)
    return psnr((restored + 1) / 2, (images + 1) / 2).mean().item()


def train_codec(training: CodecTraining) -> PatchAutoencoder:
    """Train a codec on frames of the train split."""
    torch.manual_seed(training.seed)
    generator = torch.Generator().manual_seed(training.seed)
    codec = pca_codec(random_frames(2048, generator, size=training.size), PatchCodecConfig(training.latent_channels))
    optimizer = torch.optim.Adam(codec.parameters(), lr=training.rate, betas=(0.9, 0.99))
    joint, step, progress, began = True, 0, 0.0, time.process_time()
    with tqdm(total=100, unit="%", desc="codec") as bar:
        while progress < 1:
            if joint and progress >= training.joint:
                joint = False
                freeze_encoder(codec, random_frames(2048, generator, size=training.size))
            # A short warm-up, then a straight line to zero.
            for group in optimizer.param_groups:
                group["lr"] = training.rate * min(1.0, progress / 0.02 + 0.01, 1.05 * (1 - progress))
            images = random_frames(training.batch, generator, size=training.size)
            latents = codec.encode(images)
            linear = codec.decode_linear(latents)
            # The residual is small: bfloat16 is precise enough for it, and twice as fast.
            with torch.autocast("cpu", dtype=torch.bfloat16):
                residual = codec.decode_residual(latents, linear)
            error = linear + residual - images
            loss = error.square().mean() + training.l1 * error.abs().mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(codec.parameters(), 1.0)
            optimizer.step()
            step += 1
            spent = (time.process_time() - began) / (60 * training.minutes)
            progress = min(1.0, spent if training.steps is None else step / training.steps)
            bar.update(int(100 * progress) - bar.n)
            bar.set_postfix(step=step, psnr=f"{-10 * (error.detach().square().mean() / 4).log10():.1f}")
    return codec.eval().requires_grad_(False)


@torch.no_grad()
def freeze_encoder(codec: PatchAutoencoder, images: Tensor) -> None:
    """Normalise the latents by their statistics on these images, and let the encoder learn no more."""
    latents = codec.encode(images).transpose(0, 1).flatten(1)
    codec.rescale_latents(latents.mean(1), latents.std(1))
    codec.analysis.requires_grad_(False)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--out", required=True, help="where to write the .safetensors file")
    parser.add_argument("--minutes", type=float, default=CodecTraining.minutes, help="processor minutes")
    parser.add_argument("--seed", type=int, default=CodecTraining.seed)
    parser.add_argument("--channels", type=int, default=CodecTraining.latent_channels)
    options = parser.parse_args()
    # Processor time is the budget: more threads would only spend it faster.
    torch.set_num_threads(1)
    codec = train_codec(CodecTraining(latent_channels=options.channels, minutes=options.minutes, seed=options.seed))
    save_codec(codec, options.out)

    codec = load_codec(options.out)
    generator = torch.Generator().manual_seed(options.seed + 1)
    images = random_frames(512, generator, "held_out")
    latents = codec.encode(images).transpose(0, 1).flatten(1)
    linear = pca_codec(random_frames(2048, generator), codec.config)
    print(f"held-out PSNR {evaluate(codec, images):.2f} dB (PCA alone {evaluate(linear, images):.2f} dB)")
    print("latent mean", *(f"{x:.2f}" for x in latents.mean(1).tolist()))
    print("latent std ", *(f"{x:.2f}" for x in latents.std(1).tolist()))


if __name__ == "__main__":
    main()
