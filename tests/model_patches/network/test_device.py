"""The forward pass as a card sees it: nothing waits for the CPU, so that a CUDA graph holds it, and no graph breaks.

The meta device stands for a card: operations are dispatched with devices and shapes, and nothing is computed.
"""

import copy
import os
from dataclasses import replace
from typing import Any

import einops
import pytest
import torch
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from dreamfactory.model_patches import Conditions, VideoUNet, preset
from dreamfactory.model_patches.network.config import ProjectorConfig
from dreamfactory.model_patches.network.hooks import Hooks
from dreamfactory.model_patches.network.presets import PRESETS

FRAMES, SIZE, CARD = 4, (8, 12), "meta"
SMALL = {"model_channels": 32, "norm_groups": 8, "context_dim": 24, "motion_dim": 20}
SHALLOW = {"channel_mult": (1, 2), "num_res_blocks": 1, "attention_levels": (True, True)}


def small(name: str):
    """A preset narrow and shallow; everything that decides which operations run stays."""
    config = preset(name)
    heads: dict[str, Any] = {"head_dim": 16} if config.head_dim else {}
    if config.temporal_attention_levels is not None:
        heads["temporal_attention_levels"] = config.temporal_attention_levels[:2]
    return replace(config, **SMALL, **SHALLOW, **heads, swap_head_dim=16)


# Every way of adding a branch, beside the presets'.
FULL = replace(
    small("dreamfactory"),
    init_temporal=True,
    init_temporal_heads=2,
    init_temporal_head_dim=16,
    temporal_positions="sinusoidal",
    fusion="conv",
    temporal_skips=True,
    paca_positions=True,
    image_scale="learnable",
    frame_rate_embedding="fps",
    predict_net=True,
)
CONFIGS = {name: small(name) for name in PRESETS} | {
    "every branch": FULL,
    "two ends": replace(FULL, first_frame_concat="ends"),
    "AnimateDiff's norms": replace(FULL, temporal_norm="frame"),
    "tokens a frame": replace(
        FULL,
        image_tokens_per_frame=2,
        image_token_dim=28,
        image_projector=ProjectorConfig(
            embedding_dim=40, output_dim=28, queries=2, dim=32, depth=1, heads=2, head_dim=16, frames=FRAMES
        ),
    ),
}


def inputs(config, device, clips: int = 2):
    """What `VideoUNet.forward` may be given, everything at once."""

    def randn(*shape):
        return torch.randn(shape, device=device)

    latent = (config.in_channels, *SIZE)
    given: dict[str, Any] = {"text": randn(clips, 7, config.context_dim)}
    if config.motion_text != "off":
        given["motion_text"] = randn(clips, 5, config.motion_dim)
    if config.first_frame_concat != "off" or config.paca:
        given["first_frame"] = randn(clips, *latent)
    if config.first_frame_concat == "ends":
        given["last_frame"] = randn(clips, *latent)
    if config.image_adapter != "off":
        tokens = (config.image_tokens_per_frame or 1) * FRAMES
        given["image_tokens"] = randn(clips, tokens, config.image_token_dim)
    timesteps = torch.full((clips,), 500, device=device)
    return (randn(clips * FRAMES, *latent), timesteps), given


# What may be asked of one step beside that.
ASKED = {
    "as it is": {},
    "a frame rate": {"frame_rate": 12.0},
    "strengths": {"strengths": {"paca": 0.5, "image_adapter": 0.0, "swap_attention": 0.7}},
    "global windows": {"swap_windows": "global"},
    "a still": {"still": True},
    "everything": {"frame_rate": 12.0, "strengths": {"paca": 0.5, "image_adapter": 0.3, "swap_attention": 0.7}},
    "a host's options": {"transformer_options": {"patches": {}}, "control": {"input": [], "middle": [], "output": []}},
}


class NothingFromPython(TorchFunctionMode):
    """Fails where a tensor is made of Python's numbers: on a card those are a copy, which the meta device spares."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        assert function not in (torch.tensor, torch.as_tensor, torch.asarray, torch.Tensor.new_tensor), function
        return function(*args, **(kwargs or {}))


class OnTheDevice(TorchDispatchMode):
    """Fails where a number is read back, or a tensor is made on the CPU or moved from there or to there."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        assert "_local_scalar_dense" not in str(function), f"{function} waits for the device"
        result = function(*args, **(kwargs or {}))
        places = {x.device.type for x in tree_leaves((args, kwargs, result)) if isinstance(x, torch.Tensor)}
        assert places <= {CARD}, f"{function} of {sorted(places)}"
        return result


@pytest.mark.parametrize("name", CONFIGS)
def test_nothing_in_the_forward_pass_waits_for_the_cpu(name):
    config = CONFIGS[name]
    unet = VideoUNet(config, device=CARD).eval()
    given, conditions = inputs(config, CARD)
    with OnTheDevice(), NothingFromPython(), torch.no_grad():
        for asked in ASKED if "every" in name else ("everything",):
            changes = copy.deepcopy(ASKED[asked])
            hooks = Hooks(changes.pop("transformer_options", None), changes.pop("control", None))
            answer = unet(*given, Conditions(**conditions, **changes), num_frames=FRAMES, hooks=hooks)
            assert answer.shape == (2 * FRAMES, config.out_channels, *SIZE)
        index = torch.arange(3, 3 + FRAMES, device=CARD)
        unet(*given, Conditions(**conditions, frame_index=index), num_frames=FRAMES)
        if config.predict_net:
            unet(*given, Conditions(**conditions), num_frames=FRAMES, return_flow=True)


@pytest.mark.parametrize("mistake", ["item", "a tensor of the CPU", "a copy"])
def test_the_watch_sees_what_it_watches_for(mistake):
    """Else the test above could not fail."""
    x = torch.ones(2, device=CARD)
    wrong = {
        "item": lambda: x.sum().item(),
        "a tensor of the CPU": lambda: x * torch.arange(2),
        "a copy": lambda: torch.as_tensor(3.0, device=CARD),
    }[mistake]
    with OnTheDevice(), NothingFromPython(), pytest.raises((AssertionError, RuntimeError)):
        wrong()


def test_einops_is_in_the_graph():
    """As the network calls it, without a break; the networks below take this for granted."""

    def folded(x):
        apart = einops.rearrange(x, "(b t) (h d) ... -> (b ...) h t d", t=FRAMES, h=2)
        return einops.repeat(apart, "b h t d -> (b h) (t n) d", n=3)

    torch._dynamo.reset()
    x = torch.randn(2 * FRAMES, 6, *SIZE)
    assert torch.equal(torch.compile(folded, fullgraph=True, backend="eager")(x), folded(x))


@pytest.fixture(scope="module")
def einops_in_one_piece():
    """Not traced into, which takes ten times as long as the network itself."""
    for function in (einops.rearrange, einops.repeat):
        torch._dynamo.allow_in_graph(function)


# Between them every field that some preset sets; a preset that is left out is one of these with fields off. Tracing
# takes seconds: EVERY_PRESET=1 traces them all.
TRACED = ["animatediff", "two ends"]
TRACED = list(CONFIGS) if os.environ.get("EVERY_PRESET") else TRACED


@pytest.mark.usefixtures("einops_in_one_piece")
@pytest.mark.parametrize("name", TRACED)
def test_the_whole_network_is_one_graph(name):
    """torch.compile without a break: the same numbers (backend eager, which compiles nothing)."""
    torch._dynamo.reset()
    torch.manual_seed(0)
    one_level = {"channel_mult": (1,), "attention_levels": (True,)}
    if CONFIGS[name].temporal_attention_levels is not None:
        one_level["temporal_attention_levels"] = (True,)
    config = replace(CONFIGS[name], **one_level)
    unet = VideoUNet(config).eval().requires_grad_(False)
    given, tensors = inputs(config, "cpu")
    conditions = Conditions(**tensors, frame_rate=8.0)
    expected = unet(*given, conditions, num_frames=FRAMES)
    answer = torch.compile(unet, fullgraph=True, backend="eager")(*given, conditions, num_frames=FRAMES)
    assert torch.equal(answer, expected)
