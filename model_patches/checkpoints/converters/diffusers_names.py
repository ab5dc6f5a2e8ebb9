"""diffusers' names of UNet2DConditionModel and UNet3DConditionModel -> ours, computed from `layout(config)`.

down_blocks.L.{resnets,attentions}.J     -> input_blocks.N.{0,1}     temp_convs.J       -> temporal_convs.input_N
up_blocks.L.{resnets,attentions}.J       -> output_blocks.N.{0,1}    temp_attentions.J  -> temporal_attentions.…
mid_block.{resnets.0,attentions.0,resnets.1} -> middle_block.{0,1,2}
"""

from __future__ import annotations

from ...network.config import UNetConfig
from ...network.layout import layout

RESNET = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
ENDS = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
    "transformer_in": "init_temporal",
}


def diffusers_names(config: UNetConfig) -> dict[str, str]:
    """{diffusers' module: our module}; our spatial names are Stable Diffusion's own (LDM)."""
    plan, last = layout(config), len(config.channel_mult) - 1
    table = dict(ENDS)

    def layer(source: str, index: int, ours: str, name: str, attention_at: str) -> None:
        """One ResBlock, its transformer and their temporal companions."""
        table.update({f"{source}.resnets.{index}.{theirs}": f"{ours}.{own}" for theirs, own in RESNET.items()})
        table[f"{source}.attentions.{index}"] = attention_at
        table[f"{source}.temp_convs.{index}"] = f"temporal_convs.{name}"
        table[f"{source}.temp_attentions.{index}"] = f"temporal_attentions.{name}"

    sides = (("down_blocks", "input_blocks", plan.inputs), ("up_blocks", "output_blocks", plan.outputs))
    for theirs, ours, positions in sides:
        index, level = 0, None
        for position in positions:
            index = index + 1 if position.level == level else 0
            level = position.level
            source = f"{theirs}.{level if theirs == 'down_blocks' else last - level}"
            block = f"{ours}.{position.index}"
            if position.downsample:
                table[f"{source}.downsamplers.0.conv"] = f"{block}.0.op"
                continue
            layer(source, index, f"{block}.0", position.name, f"{block}.1")
            if position.upsample:
                table[f"{source}.upsamplers.0.conv"] = f"{block}.{2 if position.spatial_attention else 1}.conv"

    # The middle has one transformer between two ResBlocks, and counts it from 0.
    first, centre, end = plan.middle
    layer("mid_block", 1, "middle_block.2", end.name, "middle_block.1")
    layer("mid_block", 0, "middle_block.0", first.name, "middle_block.1")
    table["mid_block.temp_attentions.0"] = f"temporal_attentions.{centre.name}"
    return table
