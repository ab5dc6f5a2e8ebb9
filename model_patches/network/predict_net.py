"""PredictNet: optical flow as a second thing to learn (FD Eq. 4)."""

from __future__ import annotations

from torch import Tensor, nn

from .attention import Factory
from .blocks import UNetBlocks, output_head, residual_layer
from .conditions import Embedded
from .config import UNetConfig
from .layout import layout


class PredictNet(UNetBlocks):
    """Optical flow from x_t, t and the conditions (FD Eq. 4): the decoder again, ControlNet-style.

    Fed by the shared encoder's skips; starts as a copy of the decoder (`VideoUNet.start_predict_net`) with a
    zero head. Forward flow in latent pixels per frame; the last frame has none, so mask it in the loss.
    """

    def __init__(self, config: UNetConfig, make: Factory) -> None:
        plan = layout(config)
        super().__init__(config, make, plan.outputs)
        self.output_blocks = nn.ModuleList(residual_layer(config, make, p) for p in plan.outputs)
        self.out = output_head(config, make, config.flow_channels)

    def forward(self, x: Tensor, skips: list[Tensor], temporal_skip: Tensor | None, cond: Embedded) -> Tensor:
        return self.out(self.decode(x, skips, temporal_skip, cond))
