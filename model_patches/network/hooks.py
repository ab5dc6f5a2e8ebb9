"""What a host may attach to one forward pass, and where it acts: ComfyUI's protocol for its own SD UNet.

Everything arrives as plain data, so nothing of the host is imported. Our spatial blocks are Stable Diffusion's,
so are their ids: ("input", 0) is the first convolution, `input_4` is ("input", 4), the middle is ("middle", 0).
A block is everything at its position: ResBlock, temporal half, transformers, joins, resampling.

    control                       residuals to add, {"input": [...], "middle": [...], "output": [...]}; a block takes
                                  the last one of its list, None for none. Input blocks, the middle, and the skips.
    transformer_options           one dict a pass. We keep current in it, as the host does: `original_shape`, `block`,
                                  `block_index`, `transformer_index`, `activations_shape`.
      ["patches"]                 lists of functions, each fed with what the one before returned:
        emb_patch                   (embedding, model_channels, options): time embedding, before the frame rate's
        input_block_patch           (h, options): after an input block, before its skip is kept
        input_block_patch_after_skip  the same, after it is kept
        middle_block_after_patch    ({h, x, emb, context, y, timesteps, transformer_options}) -> {h}
        output_block_patch          (h, skip, options) -> h, skip: before an output block joins the two
        attn1_patch, attn2_patch    (x, context, value, extra) -> the same three: before self-, cross-attention
        attn1_output_patch, attn2_output_patch   (x, extra): what such an attention gives, before it is added
        middle_patch                (x, extra): between the two
      ["patches_replace"]         {"attn1": {place: function}, "attn2": {...}}: softmax attention's own place is taken
                                  by (q, k, v, extra). place: (block, number, index in the transformer) or
                                  (block, number).

`extra` is all of transformer_options but the patches, with `n_heads`, `dim_head` and `attn_precision`. Temporal
attention, the image adapter and PACA are ours alone: no hook takes their place.
"""

from __future__ import annotations

import logging

import torch
from einops import repeat
from torch import Tensor

ATTACHED = ("patches", "patches_replace")


class Hooks:
    """The hooks around blocks, for one forward pass. With nothing attached every method hands its input back."""

    def __init__(self, options: dict | None = None, control: dict[str, list] | None = None) -> None:
        self.options = options
        self.control = control or {}
        self.patches = (options or {}).get("patches", {})

    def without_patches(self) -> Hooks:
        """For a second path over the same blocks: the host's hooks are meant for the first alone."""
        return Hooks(None if self.options is None else _unattached(self.options))

    def note(self, **facts) -> None:
        """Say in the options where the pass is."""
        if self.options is not None:
            self.options.update(facts)

    def begin(self, x: Tensor) -> None:
        self.note(original_shape=list(x.shape), transformer_index=0)

    def enter_transformer(self, x: Tensor) -> None:
        self.note(activations_shape=list(x.shape), block_index=0)

    def leave_transformer(self) -> None:
        if self.options is not None:
            self.options["transformer_index"] += 1

    def repeatable(self, function):
        """A layer to be computed again in the backward pass, where it must find the place it was first in."""
        if self.options is None:
            return function
        place = {name: self.options[name] for name in ("block", "transformer_index")}

        def again(*args):
            self.note(**place)
            return function(*args)

        return again

    def after_embedding(self, embedding: Tensor, model_channels: int) -> Tensor:
        return self._patch("emb_patch", embedding, model_channels)

    def after_input(self, h: Tensor) -> tuple[Tensor, Tensor]:
        """What goes on to the next block, and what is kept as the skip."""
        skip = self._patch("input_block_patch", self._add_residual(h, "input"))
        return self._patch("input_block_patch_after_skip", skip), skip

    def after_middle(self, h: Tensor, x: Tensor, embedding: Tensor, context: Tensor, timesteps: Tensor) -> Tensor:
        h = self._add_residual(h, "middle")
        for patch in self.patches.get("middle_block_after_patch", ()):
            facts = {"h": h, "x": x, "emb": embedding, "context": per_row(context, x), "y": None}
            h = patch({**facts, "timesteps": per_row(timesteps, x), "transformer_options": self.options})["h"]
        return h

    def before_output(self, h: Tensor, skip: Tensor) -> Tensor:
        """The input of an output block: h beside its skip, or h alone when a patch keeps the skip back."""
        skip = self._add_residual(skip, "output")
        for patch in self.patches.get("output_block_patch", ()):
            h, skip = patch(h, skip, self.options)
        return h if skip is None else torch.cat([h, skip], dim=1)

    def _patch(self, name: str, h: Tensor, *facts) -> Tensor:
        for patch in self.patches.get(name, ()):
            h = patch(h, *facts, self.options)
        return h

    def _add_residual(self, h: Tensor, side: str) -> Tensor:
        residual = self.control[side].pop() if self.control.get(side) else None
        if residual is None:
            return h
        try:
            residual = residual.expand_as(h)
        except RuntimeError:  # The host goes on without a residual of another size, and says so.
            logging.warning(f"A control residual of shape {tuple(residual.shape)} does not fit {tuple(h.shape)}.")
            return h
        return (h + residual).to(h.dtype)


class AttentionHooks:
    """The hooks inside one transformer block, at the place that `options` name."""

    def __init__(self, options: dict | None, heads: int, head_dim: int) -> None:
        self.options = options
        self.patches, self.replacements = ((options or {}).get(name, {}) for name in ATTACHED)
        if self.patches or self.replacements:
            self.extra = {**_unattached(options or {}), "n_heads": heads, "dim_head": head_dim, "attn_precision": None}

    def attend(self, name: str, attention, x: Tensor, context: Tensor | None = None, adapter=None) -> Tensor:
        """`attention` (a MultiHeadAttention called `name`) of x, with its patches and its replacement."""
        patches, replacement = self.patches.get(f"{name}_patch", ()), self._replacement(name)
        if not (patches or replacement):
            return self.patch(f"{name}_output_patch", attention(x, context, self.options, adapter))
        context = value = x if context is None else per_row(context, x)
        for patch in patches:
            x, context, value = patch(x, context, value, self.extra)

        def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            if replacement:
                return replacement(q, k, v, self.extra)
            # Not folded: patches that cut x into tiles count on how the host's attention reads fewer rows of k.
            return attention.attention(q, k, v, attention.heads, transformer_options=self.options)

        return self.patch(f"{name}_output_patch", attention(x, context, self.options, adapter, value, attend))

    def patch(self, name: str, x: Tensor) -> Tensor:
        for patch in self.patches.get(name, ()):
            x = patch(x, self.extra)
        return x

    def _replacement(self, name: str):
        options = self.options or {}
        block, found = options.get("block"), self.replacements.get(name)
        if not found or block is None:
            return None
        return found.get((*block, options.get("block_index", 0)), found.get(block))


def per_row(rows: Tensor, x: Tensor) -> Tensor:
    """One row a clip -> one row a row of x, as the host's own UNet has them."""
    return rows if rows.shape[0] == x.shape[0] else repeat(rows, "b ... -> (b t) ...", t=x.shape[0] // rows.shape[0])


def _unattached(options: dict) -> dict:
    return {name: value for name, value in options.items() if name not in ATTACHED}
