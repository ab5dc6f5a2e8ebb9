"""Where everything sits in the U, as data.

Spatial weights keep Stable Diffusion's own key names and indices (`input_blocks.4.1...`). Everything a paper
adds lives in its own module dictionary beside them, keyed by the same position: `input_4`, `middle_1`,
`output_11`. The network, the converters and the parameter report all read this one list.
"""

from __future__ import annotations

from dataclasses import dataclass

from .config import UNetConfig


@dataclass(frozen=True)
class Position:
    """One layer of the encoder or decoder: ResBlock [+ transformer], or a lone downsampling layer."""

    name: str  # "input_4"
    level: int
    channels_in: int  # decoder: including the skip connection
    channels: int
    spatial_attention: bool = False
    temporal_attention: bool = False
    downsample: bool = False  # a layer of its own in the encoder
    upsample: bool = False  # the last module of the layer in the decoder
    ends_block: bool = False  # the last layer of its resolution: a Swap-CA site (VF 4)
    enters_level: bool = False  # the first layer after a change of resolution: a temporal skip arrives here

    @property
    def index(self) -> int:
        return int(self.name.rsplit("_", 1)[1])


@dataclass(frozen=True)
class Layout:
    inputs: tuple[Position, ...]
    middle: tuple[Position, Position, Position]  # ResBlock, transformer, ResBlock: SD's middle_block.{0,1,2}
    outputs: tuple[Position, ...]

    @property
    def swap_sites(self) -> tuple[Position, ...]:
        """The end of each encoder block and of each decoder block, in the order of the forward pass."""
        return tuple(p for p in (*self.inputs, *self.outputs) if p.ends_block)


def layout(config: UNetConfig) -> Layout:
    """The positions of a network, in the order of its forward pass."""
    widths = [config.model_channels * m for m in config.channel_mult]
    temporal = config.temporal_attention_levels or config.attention_levels
    last = len(widths) - 1
    inputs, skips, channels, index = [], [config.model_channels], config.model_channels, 1
    for level, width in enumerate(widths):
        for i in range(config.num_res_blocks):
            inputs.append(
                Position(
                    f"input_{index}",
                    level,
                    channels,
                    width,
                    spatial_attention=config.attention_levels[level],
                    temporal_attention=config.temporal_attention and temporal[level],
                    ends_block=i == config.num_res_blocks - 1,
                    enters_level=i == 0 and level > 0,
                )
            )
            channels, index = width, index + 1
            skips.append(channels)
        if level < last:
            inputs.append(Position(f"input_{index}", level, channels, channels, downsample=True))
            skips.append(channels)
            index += 1

    middle = (
        Position("middle_0", last, channels, channels),
        Position(
            "middle_1",
            last,
            channels,
            channels,
            spatial_attention=True,
            temporal_attention=config.temporal_attention and config.temporal_attention_middle,
        ),
        Position("middle_2", last, channels, channels),
    )

    outputs, index = [], 0
    for level in range(last, -1, -1):
        for i in range(config.num_res_blocks + 1):
            outputs.append(
                Position(
                    f"output_{index}",
                    level,
                    channels + skips.pop(),
                    widths[level],
                    spatial_attention=config.attention_levels[level],
                    temporal_attention=config.temporal_attention and temporal[level],
                    upsample=level > 0 and i == config.num_res_blocks,
                    ends_block=i == config.num_res_blocks,
                    enters_level=i == 0 and level < last,
                )
            )
            channels, index = widths[level], index + 1
    return Layout(tuple(inputs), middle, tuple(outputs))
