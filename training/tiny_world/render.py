"""The tiny world's renderer: one flat shape moving over a textured background, with its exact flow.

Everything is a function of a `ClipSpec`, a batch of physical parameters. Lengths are in units of the frame's
side (so one spec renders at 64, 96 or 128 pixels), times in frames, angles in radians, colours in [0, 1].
A pixel (row i, column j) of a frame of side n has its centre at x = (j + 0.5) / n, y = (i + 0.5) / n, y down.

Shapes are signed distance functions; the distance in pixels gives the anti-aliased coverage. The shape moves
by a similarity transform, so the forward flow is known in closed form (no optical-flow estimate is involved).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

import torch
import torch.nn.functional as F
from torch import Tensor

SHAPES = ("circle", "square", "triangle", "star", "cross", "heart", "moon")
BACKGROUNDS = ("plain", "striped", "checkered", "dotted", "cloudy")
HOP_PERIOD = 3.5  # frames from the ground to the ground: a clip of 8 frames shows two hops


@dataclass(frozen=True)
class ClipSpec:
    """Parameters of b clips; every field is a tensor whose first dimension is b.

    Indexing with a slice, a mask or an index tensor selects clips; an integer selects a batch of one.
    """

    colour: Tensor  # (b,) long, index of the colour's name
    shape: Tensor  # (b,) long, index into SHAPES
    kind: Tensor  # (b,) long, index into BACKGROUNDS
    motion: Tensor  # (b,) long, index of the motion's name
    speed: Tensor  # (b,) long, index of the adverb
    wording: Tensor  # (b, 2) long, which phrasing the text and the motion caption use
    rgb: Tensor  # (b, 3) colour of the shape, [0, 1]
    position: Tensor  # (b, 2) centre (x, y) in the first frame, frame sides
    radius: Tensor  # (b,) size in the first frame, frame sides
    angle: Tensor  # (b,) orientation in the first frame, radians counterclockwise
    velocity: Tensor  # (b, 2) frame sides per frame, y down
    spin: Tensor  # (b,) radians counterclockwise per frame
    growth: Tensor  # (b,) natural logarithm of the size ratio of two neighbouring frames
    hop: Tensor  # (b,) height of a bounce, frame sides
    ground: Tensor  # (b, 2, 3) the background's two colours, [0, 1]
    gradient: Tensor  # (b, 2) change of brightness across the frame along x and y
    texture: Tensor  # (b, 4) of the pattern: cycles per frame side, angle, two phases in cycles
    noise: Tensor  # (b, 4, 6, 6) standard normal control points: 3 of colour, 1 of clouds

    def __len__(self) -> int:
        return self.shape.shape[0]

    def __getitem__(self, index) -> ClipSpec:
        if isinstance(index, int):
            index = [index]
        return ClipSpec(**{f.name: getattr(self, f.name)[index] for f in fields(self)})

    def to(self, device) -> ClipSpec:
        return ClipSpec(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def poses(specs: ClipSpec, frames: int) -> tuple[Tensor, Tensor, Tensor]:
    """Centre (b, t, 2), radius (b, t) and angle (b, t) of the shape in every frame."""
    t = torch.arange(frames, device=specs.radius.device, dtype=specs.radius.dtype)
    centre = specs.position[:, None] + specs.velocity[:, None] * t[:, None]
    height = specs.hop[:, None] * (torch.sin(math.pi * t / HOP_PERIOD)).abs()
    centre = torch.stack([centre[..., 0], centre[..., 1] - height], dim=-1)
    radius = specs.radius[:, None] * torch.exp(specs.growth[:, None] * t)
    angle = specs.angle[:, None] + specs.spin[:, None] * t
    return centre, radius, angle


def background(specs: ClipSpec, size: int = 64) -> Tensor:
    """The clips' static backgrounds: (b, 3, size, size) in [0, 1]."""
    x, y = _grid(size, specs.radius)
    cycles, angle, phase_u, phase_v = specs.texture[:, :, None, None].unbind(1)
    u = 2 * math.pi * (cycles * (x * angle.cos() + y * angle.sin()) + phase_u)
    v = 2 * math.pi * (cycles * (y * angle.cos() - x * angle.sin()) + phase_v)
    noise = F.interpolate(specs.noise, size=(size, size), mode="bicubic", align_corners=True)
    patterns = (  # in the order of BACKGROUNDS; each (b, size, size), 0 where colour 0, 1 where colour 1
        torch.zeros_like(u),
        (0.5 + 2 * u.sin()).clamp(0, 1),
        (0.5 + 3 * u.sin() * v.sin()).clamp(0, 1),
        (2.5 * (u.cos() + v.cos()) - 1.5).clamp(0, 1),
        (0.5 + 0.5 * noise[:, 3]).clamp(0, 1),
    )
    mix = torch.stack(patterns, dim=1)[torch.arange(len(specs), device=u.device), specs.kind]
    light = specs.gradient[:, 0, None, None] * (x - 0.5) + specs.gradient[:, 1, None, None] * (y - 0.5)
    base, other = specs.ground[:, :, :, None, None].unbind(1)
    return (base + mix[:, None] * (other - base) + light[:, None] + 0.015 * noise[:, :3]).clamp(0, 1)


def coverage(specs: ClipSpec, frames: int = 8, size: int = 64) -> Tensor:
    """How much of each pixel the shape covers: (b, t, size, size) in [0, 1]."""
    x, y = _grid(size, specs.radius)
    centre, radius, angle = (p[..., None, None] for p in poses(specs, frames))
    cover = torch.empty(len(specs), frames, size, size, dtype=x.dtype, device=x.device)
    for index, distance in enumerate(_DISTANCES):
        # One shape at a time: the distance of the other six is not computed.
        chosen = (specs.shape == index).nonzero()[:, 0]
        if len(chosen) == 0:
            continue
        c, r, a = centre[chosen], radius[chosen], angle[chosen]
        dx, dy = x - c[:, :, 0], c[:, :, 1] - y  # y up from here on
        cos, sin = a.cos() / r, a.sin() / r
        d = distance(cos * dx + sin * dy, cos * dy - sin * dx)
        cover[chosen] = d.mul_(-size * r).add_(0.5).clamp_(0, 1)
    return cover


def render(specs: ClipSpec, frames: int = 8, size: int = 64) -> Tensor:
    """The clips: (b, t, 3, size, size) float32 in [0, 1]."""
    cover = coverage(specs, frames, size)[:, :, None]
    ground = background(specs, size)[:, None]
    return torch.addcmul(ground, cover, specs.rgb[:, None, :, None, None] - ground)


def still(specs: ClipSpec, size: int = 64) -> Tensor:
    """The clips' first frames alone: (b, 3, size, size) float32 in [0, 1]."""
    return render(specs, 1, size)[:, 0]


def flow(specs: ClipSpec, frames: int = 8, size: int = 64) -> tuple[Tensor, Tensor]:
    """Forward flow of every frame but the last, and where it is defined.

    Returns (b, t-1, 2, size, size) with (dx, dy) in pixels per frame, y down, so that frame t at p shows what
    frame t+1 shows at p + flow(p); and a boolean mask (b, t-1, size, size) that is False where the point
    leaves the frame or where the shape comes to hide the background.
    """
    x, y = _grid(size, specs.radius)
    centre, radius, angle = (p[..., None, None] for p in poses(specs, frames))
    on_shape = coverage(specs, frames, size) > 0.5
    dx, dy = x - centre[:, :-1, 0], y - centre[:, :-1, 1]
    ratio, turn = radius[:, 1:] / radius[:, :-1], angle[:, 1:] - angle[:, :-1]
    cos, sin = ratio * turn.cos(), ratio * turn.sin()
    # y points down here, hence the signs of a counterclockwise turn.
    to_x = centre[:, 1:, 0] + cos * dx + sin * dy
    to_y = centre[:, 1:, 1] - sin * dx + cos * dy
    moved = torch.stack([to_x - x, to_y - y], dim=2) * size
    inside = (to_x >= 0) & (to_x <= 1) & (to_y >= 0) & (to_y <= 1)
    now, later = on_shape[:, :-1], on_shape[:, 1:]
    return moved * now[:, :, None], torch.where(now, inside, ~later)


def _grid(size: int, like: Tensor) -> tuple[Tensor, Tensor]:
    """Pixel centres x (1, size) and y (size, 1), in frame sides."""
    centres = (torch.arange(size, device=like.device, dtype=like.dtype) + 0.5) / size
    return centres[None, :], centres[:, None]


# Signed distances of shapes of about unit radius at (x, y), y up; negative inside. Formulas after
# I. Quilez, "2D distance functions" (https://iquilezles.org/articles/distfunctions2d/).


def _circle(x: Tensor, y: Tensor) -> Tensor:
    return torch.hypot(x, y) - 0.9


def _box(x: Tensor, y: Tensor, half_width: float, half_height: float) -> Tensor:
    qx, qy = x.abs() - half_width, y.abs() - half_height
    return torch.hypot(qx.clamp(min=0), qy.clamp(min=0)) + torch.maximum(qx, qy).clamp(max=0)


def _square(x: Tensor, y: Tensor) -> Tensor:
    return _box(x, y, 0.8, 0.8)


def _triangle(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(math.sqrt(0.75) * x.abs() + 0.5 * y, -y) - 0.58


def _star(x: Tensor, y: Tensor) -> Tensor:
    outer, inner = 1.2, 0.5
    kx, ky = math.cos(math.pi / 5), -math.sin(math.pi / 5)
    x = x.abs()
    for fold in (kx, -kx):
        step = 2 * (fold * x + ky * y).clamp(min=0)
        x, y = x - step * fold, y - step * ky
    x, y = x.abs(), y - outer
    ex, ey = -inner * ky, inner * kx - 1
    along = ((x * ex + y * ey) / (ex * ex + ey * ey)).clamp(0, outer)
    return torch.hypot(x - along * ex, y - along * ey) * torch.sign(y * ex - x * ey)


def _cross(x: Tensor, y: Tensor) -> Tensor:
    return torch.minimum(_box(x, y, 1.0, 0.36), _box(x, y, 0.36, 1.0))


def _heart(x: Tensor, y: Tensor) -> Tensor:
    scale = 0.58
    x, y = x.abs() * scale, y * scale + 0.55
    lobe = torch.hypot(x - 0.25, y - 0.75) - math.sqrt(0.125)
    fold = 0.5 * (x + y).clamp(min=0)
    tip = torch.minimum(torch.hypot(x, y - 1), torch.hypot(x - fold, y - fold)) * torch.sign(x - y)
    return torch.where(x + y > 1, lobe, tip) / scale


def _moon(x: Tensor, y: Tensor) -> Tensor:
    return torch.maximum(torch.hypot(x, y) - 1.0, 0.8 - torch.hypot(x - 0.55, y))


_DISTANCES = (_circle, _square, _triangle, _star, _cross, _heart, _moon)  # in the order of SHAPES
