"""One prompt a frame, from a few written at their frames."""

from __future__ import annotations

import math
import re

import torch
from comfy_api.latest import io
from torch import Tensor

from ..errors import NodeError
from .checked import CheckedNode
from .conditioning import MAX_FRAMES

LINE = re.compile(r"\s*(\d+)\s*[:：]\s*(.*\S)?\s*")


class PromptPerFrame(CheckedNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return io.Schema(
            node_id="DreamFactoryPromptPerFrame",
            display_name="Prompt per Frame",
            category="DreamFactory/conditioning",
            description="Prompts that change along the clip. Each line names a frame and the prompt from there on; "
            "between two lines the prompt holds, or blends into the next.",
            search_aliases=["prompt travel", "prompt schedule", "batch prompt schedule", "prompt scheduling"],
            inputs=[
                io.Clip.Input("clip", tooltip="The text encoder of the network's prompt (not of its motion text)."),
                io.String.Input(
                    "prompts",
                    multiline=True,
                    default="0: a green valley in summer\n8: a snowy valley in winter",
                    tooltip="One line a prompt: the frame, a colon, the prompt. Frames count from 0.",
                ),
                io.Int.Input(
                    "frames", default=16, min=1, max=MAX_FRAMES, tooltip="Length of the clip, as in Image to Video."
                ),
                io.Boolean.Input(
                    "blend", default=True, tooltip="Fade from one prompt into the next; off changes at once."
                ),
            ],
            outputs=[
                io.Conditioning.Output(
                    display_name="conditioning", tooltip="One prompt a frame, for the positive of Image to Video."
                )
            ],
        )

    @classmethod
    def execute(cls, clip, prompts, frames, blend) -> io.NodeOutput:
        if clip is None:
            raise NodeError("clip: there is none; the checkpoint came without a text encoder, load one by itself.")
        keys = read_prompts(prompts, frames)
        encoded = {f: clip.encode_from_tokens_scheduled(clip.tokenize(text))[0] for f, text in keys.items()}
        rows = spread({frame: tokens for frame, (tokens, _) in encoded.items()}, frames, blend)
        return io.NodeOutput([[rows, encoded[min(encoded)][1]]])  # what goes with the first: pooled output, hooks


def read_prompts(text: str, frames: int) -> dict[int, str]:
    """ "0: a\\n8: b" -> {0: "a", 8: "b"}, by frame. Empty lines are left out."""
    keys: dict[int, str] = {}
    for line in filter(str.strip, text.splitlines()):
        match = LINE.fullmatch(line)
        if match is None:
            raise NodeError(f"prompts: the line {line.strip()[:60]!r} names no frame; write it as '0: a prompt'.")
        frame = int(match[1])
        if frame >= frames:
            raise NodeError(f"prompts: frame {frame} comes after the last of {frames} frames, {frames - 1}.")
        if frame in keys:
            raise NodeError(f"prompts: frame {frame} is there twice; give each frame one prompt.")
        keys[frame] = match[2] or ""
    if not keys:
        raise NodeError("prompts: there is none; write one a line, as '0: a prompt'.")
    return dict(sorted(keys.items()))


def spread(keys: dict[int, Tensor], frames: int, blend: bool) -> Tensor:
    """Tokens (1, n, c) at some frames -> (frames, n, c): held until the next ones, or blended linearly into them.

    Before the first of them the first holds. Where lengths differ, tokens are repeated to a common one, which
    attention does not notice.
    """
    length = math.lcm(*(tokens.shape[1] for tokens in keys.values()))
    tokens = {frame: t.repeat(1, length // t.shape[1], 1) for frame, t in keys.items()}
    starts = sorted(tokens)
    rows = []
    for frame in range(frames):
        here = max((start for start in starts if start <= frame), default=starts[0])
        later = min((start for start in starts if start > frame), default=here)
        share = (frame - here) / (later - here) if blend and later > here and frame > here else 0.0
        rows.append(torch.lerp(tokens[here], tokens[later], share))
    return torch.cat(rows)
