"""Real-ESRGAN's discriminator (Wang et al. 2021, sec. 3.4): a U-Net that judges every pixel, spectrally normalised.

Spectral normalisation (Miyato et al. 2018) divides a convolution's weights by their largest singular value, estimated
by power iteration: one iteration a step, whatever rounds the step is worked off in.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

EPS = 1e-12


class SpectralConv(nn.Module):
    """A convolution without bias whose weights have a largest singular value of about 1."""

    u: Tensor  # left singular vector, so far

    def __init__(self, inputs: int, outputs: int, kernel: int, stride: int = 1) -> None:
        super().__init__()
        self.weight = nn.Conv2d(inputs, outputs, kernel, bias=False).weight
        self.stride = stride
        self.register_buffer("u", F.normalize(torch.randn(outputs), dim=0))
        self._found: tuple[int, Tensor, Tensor] | None = None  # of a step: its number, u and v

    def normalised(self, step: int) -> Tensor:
        """The weights to compute with; in training the estimate gets better, once a step."""
        with torch.autocast("cuda" if self.weight.is_cuda else "cpu", enabled=False):
            matrix = self.weight.flatten(1)
            u, v = self._vectors(matrix, step)
            return self.weight / (u @ (matrix @ v))

    @torch.no_grad()
    def _vectors(self, matrix: Tensor, step: int) -> tuple[Tensor, Tensor]:
        if self.training and self._found is not None and self._found[0] == step:
            return self._found[1:]
        v = F.normalize(matrix.T @ self.u, dim=0, eps=EPS)
        u = F.normalize(matrix @ v, dim=0, eps=EPS)
        if self.training:
            self.u.copy_(u)
            self._found = step, u, v
        return u, v

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        return F.conv2d(x, weight, stride=self.stride, padding=weight.shape[-1] // 2 - (self.stride == 2))


class Discriminator(nn.Module):
    """(n, 3, h, w) in [0, 1], sides multiples of 8 -> (n, 1, h, w) logits: is this pixel of a real picture?"""

    def __init__(self, features: int = 64) -> None:
        super().__init__()
        n = features
        self.first = nn.Conv2d(3, n, 3, padding=1)
        self.down = nn.ModuleList([SpectralConv(n * 2**i, n * 2 ** (i + 1), 4, stride=2) for i in range(3)])
        self.up = nn.ModuleList([SpectralConv(n * 2 ** (i + 1), n * 2**i, 3) for i in (2, 1, 0)])
        self.refine = nn.ModuleList([SpectralConv(n, n, 3) for _ in range(2)])
        self.last = nn.Conv2d(n, 1, 3, padding=1)

    def normalised(self, step: int = 0) -> dict[str, Tensor]:
        """Every spectrally normalised weight, by the name of its layer. step: of the run."""
        return {name: layer.normalised(step) for name, layer in self.named_modules() if isinstance(layer, SpectralConv)}

    def forward(self, x: Tensor, weights: dict[str, Tensor], learns: bool = True) -> Tensor:
        """weights: of `normalised`. learns: whether gradients reach the discriminator itself, or only x."""

        def plain(layer: nn.Conv2d, x: Tensor) -> Tensor:
            weight, bias = layer.weight, layer.bias
            assert bias is not None
            if not learns:
                weight, bias = weight.detach(), bias.detach()
            return F.conv2d(x, weight, bias, padding=1)

        def spectral(group: str, i: int, x: Tensor) -> Tensor:
            weight = weights[f"{group}.{i}"]
            return F.leaky_relu(getattr(self, group)[i](x, weight if learns else weight.detach()), 0.2)

        levels = [F.leaky_relu(plain(self.first, x), 0.2)]
        for i in range(3):
            levels.append(spectral("down", i, levels[-1]))
        x = levels.pop()
        for i in range(3):
            x = F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
            x = spectral("up", i, x) + levels.pop()
        for i in range(2):
            x = spectral("refine", i, x)
        return plain(self.last, x)
