"""RCAN, the super-resolution network of VideoFactory (sec. 4): Zhang et al. 2018, "Image Super-Resolution Using Very
Deep Residual Channel Attention Networks".

    head: 3 -> features    body: groups of blocks, conv, + skip    tail: (conv, pixel shuffle x2) x 2, conv -> 3

VideoFactory takes "RCAN with 8 residual blocks" for x4: read as 8 blocks in each of RCAN's 10 groups (6.66 M weights);
1 group of 8 is the small one (0.97 M). Weights have the names that the original code, spandrel and with it ComfyUI's
own upscale loader read. Ours see images in [0, 1] as they are; the original's mean shift is computed where a file has
it.

Nothing here is larger than a feature map at the input's size, if asked for `rows`: convolutions then run in strips, one
after the other, with as much of their neighbours as they see. Channel attention is of the whole image all the same, so
strips give what the undivided image gives, as tiles would not.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass

import torch
from torch import Tensor, nn

from ...errors import CheckpointError
from ..checkpoints.files import FORMAT, write
from ..checkpoints.save import check_weights

SCALES = {2: (2,), 3: (3,), 4: (2, 2), 8: (2, 2, 2)}
RANGE = 255.0  # of the images that networks with a mean shift were trained on


@dataclass(frozen=True)
class RCANConfig:
    """Sizes of an RCAN."""

    groups: int = 10
    blocks: int = 8  # in each group
    features: int = 64
    reduction: int = 16  # of the features, inside channel attention
    scale: int = 4
    mean_shift: bool = False


class ChannelAttention(nn.Module):
    """RCAN Eq. 6-8: each channel times a gate in (0, 1) that is computed from all channels' means over the image."""

    def __init__(self, features: int, reduction: int) -> None:
        super().__init__()
        inner = features // reduction
        self.conv_du = nn.Sequential(
            nn.Conv2d(features, inner, 1), nn.ReLU(), nn.Conv2d(inner, features, 1), nn.Sigmoid()
        )

    def forward(self, x: Tensor) -> Tensor:
        return x * self.conv_du(x.mean(dim=(2, 3), keepdim=True))


class Block(nn.Module):
    """Residual channel attention block, RCAN Eq. 9."""

    def __init__(self, config: RCANConfig) -> None:
        super().__init__()
        n = config.features
        self.body = nn.Sequential(_conv(n, n), nn.ReLU(), _conv(n, n), ChannelAttention(n, config.reduction))

    def forward(self, x: Tensor, rows: int | None = None) -> Tensor:
        return x + self.body[3](in_strips(self.body[:3], x, rows, halo=2))


class Group(nn.Module):
    """Residual group, RCAN Eq. 4: blocks, a convolution, and a skip over all of them."""

    def __init__(self, config: RCANConfig) -> None:
        super().__init__()
        blocks = [Block(config) for _ in range(config.blocks)]
        self.body = nn.Sequential(*blocks, _conv(config.features, config.features))

    def forward(self, x: Tensor, rows: int | None = None) -> Tensor:
        *blocks, last = self.body
        y = x
        for block in blocks:
            y = block(y, rows)
        return x + in_strips(last, y, rows, halo=1)


class RCAN(nn.Module):
    """(n, 3, h, w) in [0, 1] -> (n, 3, scale*h, scale*w), about [0, 1], not clamped. Frames do not see each other."""

    def __init__(self, config: RCANConfig | None = None) -> None:
        super().__init__()
        self.config = config = config or RCANConfig()
        n = config.features
        if n < config.reduction or config.scale not in SCALES:
            raise ValueError(f"RCAN of {config} cannot be built: features >= reduction, scale one of {list(SCALES)}.")
        if config.mean_shift:
            self.sub_mean, self.add_mean = nn.Conv2d(3, 3, 1), nn.Conv2d(3, 3, 1)
        self.head = nn.Sequential(_conv(3, n))
        self.body = nn.Sequential(*(Group(config) for _ in range(config.groups)), _conv(n, n))
        shuffles = [m for s in SCALES[config.scale] for m in (_conv(n, n * s * s), nn.PixelShuffle(s))]
        self.tail = nn.Sequential(nn.Sequential(*shuffles), _conv(n, 3))

    @property
    def scale(self) -> int:
        return self.config.scale

    def forward(self, x: Tensor, rows: int | None = None) -> Tensor:
        """rows: of the input image in a strip of the tail; None: undivided, as in training."""
        # At the input's own size a strip of so many more rows takes no more memory than one of the tail.
        inner = None if rows is None else rows * self.scale**2 // 2
        if self.config.mean_shift:
            x = self.sub_mean(x * RANGE)
        x = in_strips(self.head, x, inner, halo=1)
        *groups, last = self.body
        y = x
        for group in groups:
            y = group(y, inner)
        y = x + in_strips(last, y, inner, halo=1)
        # Seen from one row of the output the tail reaches less than two rows of its input, whatever its scale.
        y = in_strips(self.tail, y, rows, halo=2, scale=self.scale)
        return self.add_mean(y) / RANGE if self.config.mean_shift else y


@torch.no_grad()
def start_bilinear(network: RCAN) -> None:
    """Let a fresh network enlarge as bilinear interpolation does, twice by 2.

    Three features carry the image from head to tail; the others start at random, and without weight in the result.
    """
    if any(s != 2 for s in SCALES[network.scale]) or network.config.mean_shift:
        raise ValueError(f"only RCANs of x2, x4 and x8 without mean shift start as bilinear, not {network.config}.")
    near = torch.tensor(
        [[0.25, 0.75, 0.0], [0.0, 0.75, 0.25]]
    )  # weights of three neighbours for either half of a pixel
    phases = torch.einsum("ay,bx->abyx", near, near).reshape(4, 3, 3)
    straight = torch.eye(3)[:, :, None, None] * _CENTRE
    enlarging, _ = network.tail
    ((weight, bias),) = _weights(network.head)
    weight[:3], bias[:3] = straight, 0
    ((weight, bias),) = _weights(network.body)
    weight.zero_()
    bias.zero_()
    for weight, bias in _weights(enlarging):
        weight[:12], bias[:12] = 0, 0
        for colour in range(3):
            weight[4 * colour : 4 * colour + 4, colour] = phases
    ((weight, bias),) = _weights(network.tail)
    weight.zero_()
    bias.zero_()
    weight[:, :3] = straight


_CENTRE = torch.tensor([[0.0, 0, 0], [0, 1, 0], [0, 0, 0]])


def _weights(within: nn.Module) -> list[tuple[Tensor, Tensor]]:
    """Weight and bias of each convolution that stands in a module itself."""
    return [(c.weight, c.bias) for c in within.children() if isinstance(c, nn.Conv2d) and c.bias is not None]


def _conv(inputs: int, outputs: int) -> nn.Conv2d:
    return nn.Conv2d(inputs, outputs, 3, padding=1)


def in_strips(
    function: Callable[[Tensor], Tensor], x: Tensor, rows: int | None, *, halo: int, scale: int = 1
) -> Tensor:
    """function(x), `rows` rows of x at a time. halo: rows beyond a strip that the function sees.

    Zero padding at a cut spoils only results within the halo, which are cut off; at the image's own border it is what
    the undivided image gets.
    """
    height = x.shape[2]
    if rows is None or rows >= height:
        return function(x)
    out = None
    for first in range(0, height, rows):
        last = min(first + rows, height)
        above, below = min(halo, first), min(halo, height - last)
        strip = function(x[:, :, first - above : last + below])
        strip = strip[:, :, above * scale : strip.shape[2] - below * scale]
        if out is None:
            out = strip.new_empty(*strip.shape[:2], height * scale, strip.shape[3])
        out[:, :, first * scale : last * scale] = strip
    assert out is not None  # here the image has at least one row
    return out


# -- files --------------------------------------------------------------------------------------------------------

MARKS = ("head.0.weight", "tail.1.weight", "body.0.body.0.body.0.weight", "body.0.body.0.body.3.conv_du.0.weight")


def rcan_config(shapes: Mapping[str, tuple[int, ...]]) -> RCANConfig | None:
    """The sizes of an RCAN by the shapes of its weights, names as spandrel's; None: no RCAN that runs here.

    Raises CheckpointError where there are names of more blocks than weights.
    """
    if any(name not in shapes for name in MARKS):
        return None
    if len(shapes["head.0.weight"]) != 4 or shapes["head.0.weight"][1:] != (3, 3, 3):
        return None
    features, inner = shapes["head.0.weight"][0], _first(shapes, "body.0.body.0.body.3.conv_du.0.weight")
    if not 0 < inner <= features:
        return None
    groups = _count(shapes, "body.") - 1
    blocks = _count(shapes, "body.0.body.") - 1
    if groups * blocks > len(shapes):  # before anything is built of them
        raise CheckpointError(
            f"an RCAN of {groups} groups of {blocks} blocks has more weights than these {len(shapes)}; download or "
            "save it again."
        )
    shuffles = [_first(shapes, f"tail.0.{2 * i}.weight") for i in range(min(_count(shapes, "tail.0."), 4))]
    steps = tuple(round((n / features) ** 0.5) for n in shuffles)
    scale = next((scale for scale, s in SCALES.items() if s == steps), None)
    if scale is None:
        return None
    return RCANConfig(groups, blocks, features, features // inner, scale, "sub_mean.weight" in shapes)


def _first(shapes: Mapping[str, tuple[int, ...]], name: str) -> int:
    """Outputs of a layer; 0: there is none of the name."""
    return next(iter(shapes.get(name, ())), 0)


def _count(shapes: Mapping[str, tuple[int, ...]], prefix: str) -> int:
    """Modules of a Sequential that have weights."""
    return len({name[len(prefix) :].split(".")[0] for name in shapes if name.startswith(prefix)})


def rcan_of(state: Mapping[str, Tensor], name: str = "the file") -> RCAN | None:
    """The network of these weights, which it shares; None: they are no RCAN's.

    Raises CheckpointError where they are an RCAN's, and not whole.
    """
    config = rcan_config({k: tuple(v.shape) for k, v in state.items()})
    if config is None:
        return None
    with torch.device("meta"):
        network = RCAN(config)
    check_weights(network.state_dict(), state, name)
    network.load_state_dict(state, assign=True)
    return network.eval().requires_grad_(False)


def save_rcan(
    network: RCAN,
    path: str | os.PathLike,
    dtype: torch.dtype | None = torch.float16,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """One safetensors file, whole or not at all, that ComfyUI's own upscale loader and spandrel open."""
    fields = {
        FORMAT: "upscaler/1",
        "dreamfactory.rcan": json.dumps(asdict(network.config)),
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "rcan",
        "modelspec.implementation": "comfyui-dreamfactory",
        "modelspec.title": f"DreamFactory RCAN x{network.scale}",
        **(metadata or {}),
    }
    write(path, network.state_dict(), fields, dtype)
