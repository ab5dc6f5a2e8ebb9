"""How good is a text-to-video demo? Measured from pixels on held-out captions: direction, colour, shape.

Nothing is compared with a true clip, since many clips fit a caption: what has the asked colour is found in the frames,
and where it goes is measured; which shape it has a small classifier says, trained here on true stills of the training
half of the tiny world, whole and through the codec. Its own score on true held-out clips stands beside.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from tqdm import tqdm

from ...pipelines.bundle import Bundle, Codec
from ...pipelines.image_to_video import Settings, animate
from .held_out import held_out
from .render import SHAPES, ClipSpec, render
from .source import colour_scores
from .world import COLOURS, sample_specs

BATCH = 16  # clips made at once
STEPS, STILLS = 600, 64  # of the classifier's training, and pictures a step
NEAR = 0.3  # colour distance from which a pixel is none of the shape's


def measure_text_bundle(bundle: Bundle, count: int = 160, guidance_scale: float | None = None) -> dict:
    """Shares of clips whose direction, colour and shape are the caption's; the same of the true clips, as a ceiling."""
    size, frames = bundle.defaults.height, bundle.defaults.frames
    clips = held_out(count, frames=frames, size=size)
    judge = train_judge(size, frames, bundle.codec)

    def make(motion: list[str], label: str, **changes) -> Tensor:
        made = []
        for start in tqdm(range(0, count, BATCH), desc=label):
            part = slice(start, start + BATCH)
            settings = Settings(seed=1 + start, guidance_scale=guidance_scale, **changes)
            made.append(animate(bundle, None, clips.text[part], motion[part], settings, size=(size, size)))
        return torch.cat(made)

    def score(made: Tensor) -> dict[str, float]:
        return {k: round(v, 4) for k, v in scores(made, clips.specs, judge).items()}

    made = make(clips.motion, "as it is")
    result: dict = score(made)
    result["baselines"] = {
        "another_caption": score(made.roll(1, 0)),
        "no_motion_caption": score(make([""] * count, "no motion caption")),
        "true_clips": score(clips.clips),
        "true_clips_through_codec": score(_through_codec(bundle, clips.clips)),
    }
    return result | {"clips": count}


def scores(clips: Tensor, specs: ClipSpec, judge: nn.Module) -> dict[str, float]:
    """Of clips (b, t, 3, n, n) in [0, 1] made for these specifications."""
    return {
        **colour_scores(clips, specs),
        "colour": (colours(clips) == specs.colour).float().mean().item(),
        "shape": (shapes(clips, judge) == specs.shape).float().mean().item(),
    }


def colours(clips: Tensor) -> Tensor:
    """(b,) index into COLOURS of the colour that most pixels of a clip are near, -1 where none is."""
    areas = []
    for colour in COLOURS.values():
        near = (clips - torch.tensor(colour)[:, None, None]).norm(dim=2) < NEAR
        areas.append(near.float().mean((1, 2, 3)))
    most, which = torch.stack(areas).max(0)
    return torch.where(most > 0, which, -1)


@torch.no_grad()
def shapes(clips: Tensor, judge: nn.Module) -> Tensor:
    """(b,) index into SHAPES of what the judge sees in a clip's frames together."""
    seen = judge(clips.flatten(0, 1)).log_softmax(1).unflatten(0, clips.shape[:2])
    return seen.mean(1).argmax(1)


def train_judge(size: int, frames: int, codec: Codec, seed: int = 0, steps: int = STEPS) -> nn.Module:
    """A classifier of shapes, from true stills of every moment of a clip, every other batch through the codec."""
    rng, generator = torch.get_rng_state(), torch.Generator().manual_seed(seed)
    torch.manual_seed(seed)
    judge = _network()
    optimizer = torch.optim.AdamW(judge.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 4e-3, total_steps=steps)
    for step in tqdm(range(steps), desc="a judge of shapes learns"):
        specs = sample_specs(STILLS, generator, "train")
        moments = torch.randint(frames, (STILLS,), generator=generator)
        stills = render(specs, frames, size)[torch.arange(STILLS), moments]
        if step % 2:
            with torch.no_grad():
                stills = ((codec.decode(codec.encode(stills * 2 - 1)) + 1) / 2).clamp(0, 1)
        stills = stills + 0.02 * torch.rand(STILLS, 1, 1, 1, generator=generator) * torch.randn(
            stills.shape, generator=generator
        )
        F.cross_entropy(judge(stills), specs.shape).backward()
        optimizer.step()
        optimizer.zero_grad()
        schedule.step()
    torch.set_rng_state(rng)
    return judge.eval()


def _network() -> nn.Module:
    def block(inputs: int, outputs: int, stride: int = 1) -> nn.Module:
        conv = nn.Conv2d(inputs, outputs, 3, stride, 1, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(outputs), nn.ReLU())

    return nn.Sequential(
        block(3, 24), block(24, 32, 2), block(32, 48), block(48, 64, 2), block(64, 64),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Dropout(0.3), nn.Linear(64 * 16, len(SHAPES)),
    )  # fmt: skip


@torch.no_grad()
def _through_codec(bundle: Bundle, clips: Tensor) -> Tensor:
    pixels = bundle.codec.decode(bundle.codec.encode(clips.flatten(0, 1) * 2 - 1))
    return ((pixels + 1) / 2).clamp(0, 1).unflatten(0, clips.shape[:2])
