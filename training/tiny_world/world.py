"""The tiny world: a made-up universe of short captioned clips, small enough to learn on a CPU.

A clip shows one coloured shape on a textured background; the shape moves in one of 8 directions at one of 3
speeds, or rotates, grows, shrinks, bounces or stays still. Each clip has an appearance caption ("a red circle
on a striped background") and a motion caption ("the red circle moves quickly up and to the left").

Where the shape starts and how large it is are drawn independently of the motion, so the first frame does not
tell where the shape will go: only the caption does. About one in six combinations of colour, shape and
background never appears in the train split.

`sample_specs` draws clips; `render`, `flow`, `background` and `still` (of `render.py`) turn them into
tensors. All randomness comes from the given generator: the same seed gives the same bits.
"""

import itertools
import math

import torch
from torch import Generator, Tensor

from .render import BACKGROUNDS, SHAPES, ClipSpec, background, coverage, flow, poses, render, still

__all__ = [
    "ADVERBS", "BACKGROUNDS", "COLOURS", "DIRECTIONS", "MOTIONS", "SHAPES", "ClipSpec", "all_captions",
    "background", "captions", "coverage", "flow", "held_out", "poses", "render", "sample_specs", "still",
    "vocabulary",
]  # fmt: skip

COLOURS = {
    "red": (0.90, 0.10, 0.10),
    "orange": (1.00, 0.52, 0.05),
    "yellow": (0.98, 0.92, 0.15),
    "green": (0.08, 0.78, 0.18),
    "blue": (0.10, 0.25, 0.95),
    "purple": (0.55, 0.10, 0.80),
    "pink": (1.00, 0.55, 0.80),
    "white": (0.97, 0.97, 0.97),
}

# Direction k points 45° x k counterclockwise from the right.
DIRECTIONS = (
    "right",
    "up and to the right",
    "up",
    "up and to the left",
    "left",
    "down and to the left",
    "down",
    "down and to the right",
)
ADVERBS = ("slowly", "", "quickly")
SPEEDS = (1.25 / 64, 2.25 / 64, 3.25 / 64)  # frame sides per frame, in the order of ADVERBS

# What the shape does, as a verb phrase; the first eight are DIRECTIONS and take an adverb.
MOTIONS = (
    *(f"moves {direction}" for direction in DIRECTIONS),
    "rotates clockwise",
    "rotates counterclockwise",
    "grows",
    "shrinks",
    "bounces up and down",
    "stays still",
)
CLOCKWISE, COUNTERCLOCKWISE, GROWS, SHRINKS, BOUNCES, STILL = range(len(DIRECTIONS), len(MOTIONS))
SPIN, GROWTH, HOP = 0.15, 0.07, 0.16  # radians per frame, log size per frame, frame sides

# The box of start positions and the range of sizes: in 8 frames at the highest speed the centre goes 0.355
# sides, so it stays inside the frame and at most about a third of the shape leaves it.
START = (0.40, 0.60)
RADIUS = (0.12, 0.18)

TEXTS = (  # the first is canonical and used for most clips
    "a {colour} {shape} on a {kind} background",
    "the {colour} {shape} on a {kind} background",
    "a {colour} {shape} in front of a {kind} background",
    "a {colour} {shape}",
)
SENTENCES = (  # idem
    "the {colour} {shape} {does}",
    "a {colour} {shape} {does}",
    "the {shape} {does}",
    "it {does}",
)
CANONICAL = 0.7  # share of the first phrasing


def held_out(colour, shape, kind):
    """Whether a combination (indices or index tensors) is kept out of the train split; one in six is."""
    return (colour + shape + kind) % 6 == 0


def sample_specs(n: int, generator: Generator, split: str = "train", motions: str = "all") -> ClipSpec:
    """Draw n clips of a split ("train" or "held_out"); motions is "all" or "directions"."""
    if split not in ("train", "held_out"):
        raise ValueError(f'The split is "train" or "held_out", not "{split}".')
    if motions not in ("all", "directions"):
        raise ValueError(f'The motions are "all" or "directions", not "{motions}".')
    device = generator.device

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *shape, generator=generator, device=device)

    def integers(high: int) -> Tensor:
        return torch.randint(high, (n,), generator=generator, device=device)

    def wording(count: int) -> Tensor:
        canonical = uniform(0, 1) < CANONICAL
        return torch.where(canonical, 0, 1 + integers(count - 1))

    combinations = torch.cartesian_prod(*(torch.arange(len(x)) for x in (COLOURS, SHAPES, BACKGROUNDS)))
    chosen = held_out(*combinations.unbind(1)) == (split == "held_out")
    combinations = combinations[chosen].to(device)
    colour, shape, kind = combinations[integers(len(combinations))].unbind(1)

    motion = integers(len(MOTIONS) if motions == "all" else len(DIRECTIONS))
    # A circle that rotates looks like one that stays still: it gets a direction instead.
    invisible = (shape == SHAPES.index("circle")) & ((motion == CLOCKWISE) | (motion == COUNTERCLOCKWISE))
    motion = torch.where(invisible, integers(len(DIRECTIONS)), motion)
    directed = motion < len(DIRECTIONS)
    draw = integers(4)  # slowly 1/4, no adverb 1/2, quickly 1/4
    speed = torch.where(directed, (draw + 1) // 2, 1)

    heading = motion * (math.pi / 4)
    pace = torch.tensor(SPEEDS, device=device)[speed] * directed
    velocity = pace[:, None] * torch.stack([heading.cos(), -heading.sin()], dim=1)

    def when(which: int, value: float) -> Tensor:
        return (motion == which) * value

    # Muted backgrounds: a grey with a light tint, so that every colour of a shape stands out.
    grey, tint = uniform(0.30, 0.45, 1), uniform(-0.06, 0.06, 3)
    contrast = uniform(0.08, 0.16, 1) + uniform(-0.03, 0.03, 3)
    ground = torch.stack([grey + tint, grey + tint + contrast], dim=1)
    palette = torch.tensor(list(COLOURS.values()), device=device)
    # A checkerboard has two cells a cycle in both directions: fewer cycles keep it as coarse as the others.
    cycles = uniform(3, 6) * torch.where(kind == BACKGROUNDS.index("checkered"), 0.6, 1.0)
    return ClipSpec(
        colour=colour,
        shape=shape,
        kind=kind,
        motion=motion,
        speed=speed,
        wording=torch.stack([wording(len(TEXTS)), wording(len(SENTENCES))], dim=1),
        rgb=(palette[colour] + uniform(-0.04, 0.04, 3)).clamp(0, 1),
        position=uniform(*START, 2),
        radius=uniform(*RADIUS),
        angle=uniform(-0.2, 0.2),
        velocity=velocity,
        spin=when(COUNTERCLOCKWISE, SPIN) - when(CLOCKWISE, SPIN),
        growth=when(GROWS, GROWTH) - when(SHRINKS, GROWTH),
        hop=when(BOUNCES, HOP),
        ground=ground,
        gradient=uniform(-0.10, 0.10, 2),
        texture=torch.cat([cycles[:, None], uniform(0, math.pi, 1), uniform(0, 1, 2)], dim=1),
        noise=torch.randn(n, 4, 6, 6, generator=generator, device=device),
    )


def motion_phrase(motion: int, speed: int = 1) -> str:
    """The verb phrase of a motion, e.g. (7, 2) is "moves quickly down and to the right"."""
    phrase = MOTIONS[motion]
    if motion < len(DIRECTIONS) and ADVERBS[speed]:
        phrase = phrase.replace("moves", f"moves {ADVERBS[speed]}", 1)
    return phrase


def captions(specs: ClipSpec, canonical: bool = False) -> tuple[list[str], list[str]]:
    """Appearance captions and motion captions of the clips; canonical phrasing only, if asked."""
    texts, motions = [], []
    for i in range(len(specs)):
        words = {
            "colour": tuple(COLOURS)[specs.colour[i]],
            "shape": SHAPES[specs.shape[i]],
            "kind": BACKGROUNDS[specs.kind[i]],
            "does": motion_phrase(int(specs.motion[i]), int(specs.speed[i])),
        }
        text, sentence = (0, 0) if canonical else specs.wording[i].tolist()
        texts.append(TEXTS[text].format(**words))
        motions.append(SENTENCES[sentence].format(**words))
    return texts, motions


def all_captions() -> list[str]:
    """Every caption this world can give, of both sorts, without repetition, in a fixed order."""
    phrases = [motion_phrase(m, s) for m in range(len(DIRECTIONS)) for s in range(len(ADVERBS))]
    phrases += MOTIONS[len(DIRECTIONS) :]
    seen = {}
    for colour, shape in itertools.product(COLOURS, SHAPES):
        for template, kind in itertools.product(TEXTS, BACKGROUNDS):
            seen[template.format(colour=colour, shape=shape, kind=kind)] = None
        for template, does in itertools.product(SENTENCES, phrases):
            seen[template.format(colour=colour, shape=shape, does=does)] = None
    return list(seen)


def vocabulary() -> list[str]:
    """Every word of every caption, sorted."""
    return sorted({word for caption in all_captions() for word in caption.split()})
