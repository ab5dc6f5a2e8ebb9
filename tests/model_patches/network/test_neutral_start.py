"""Every added branch starts without effect, and once its gate opens every weight of it learns."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from dreamfactory.model_patches import CheckpointError, Conditions, ProjectorConfig, UNetConfig, VideoUNet
from dreamfactory.model_patches.checkpoints.warm_start import extend
from dreamfactory.model_patches.network import attention as attention_module, swap_attention as swap_module

from ...random_weights import Network

SPATIAL = UNetConfig(
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_levels=(True, True),
    context_dim=16,
    head_dim=8,
    norm_groups=8,
)
BASE = replace(SPATIAL, temporal_conv=True, temporal_attention=True, init_temporal=True)
SWAP = {"swap_head_dim": 8, "swap_window": (2, 3, 6)}
PROJECTOR = ProjectorConfig(embedding_dim=24, output_dim=10, queries=2, dim=12, depth=1, heads=2, head_dim=4, frames=3)
BRANCHES = {
    "motion_text": {"motion_text": "added", "motion_dim": 20},
    "fusion": {"fusion": "conv"},
    "fusion before swap": {"fusion": "conv_except_swap"},
    "temporal_skips": {"temporal_skips": True},
    "swap": {"swap_attention": "swapped", **SWAP},
    "swap, spatial query": {"swap_attention": "spatial_query", **SWAP},
    "swap, temporal query, global": {"swap_attention": "temporal_query", "swap_window": None, "swap_head_dim": 8},
    "image_adapter": {"image_adapter": "all", "image_token_dim": 10, "image_scale": "learnable"},
    "image projector": {
        "image_adapter": "up",
        "image_token_dim": 10,
        "image_tokens_per_frame": 2,
        "image_projector": PROJECTOR,
    },
    "paca": {"paca": True},
    "first frame, repeated": {"first_frame_concat": "repeat"},
    "first frame, ends": {"first_frame_concat": "ends"},
    "frame_rate": {"frame_rate_embedding": "fps"},
    "predict_net": {"predict_net": True},
}
EVERYTHING = {
    "motion_text": "added",
    "motion_dim": 20,
    "fusion": "conv",
    "temporal_skips": True,
    "swap_attention": "swapped",
    **SWAP,
    "image_adapter": "all",
    "image_token_dim": 10,
    "image_tokens_per_frame": 2,
    "image_scale": "learnable",
    "image_projector": PROJECTOR,
    "paca": True,
    "first_frame_concat": "repeat",
    "frame_rate_embedding": "fps",
    "predict_net": True,
}


@pytest.fixture(autouse=True)
def _setup():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@torch.no_grad()
def randomise(module: Network) -> Network:
    for name, weight in module.named_parameters():
        scale = 0.2 if weight.ndim < 2 else weight[0].numel() ** -0.5
        weight.copy_(torch.randn_like(weight) * scale + (weight.ndim == 1 and name.endswith("weight")))
    return module


def run(unet, frames=3, return_flow=False, **changes):
    """The network with everything a branch could want to look at; the same numbers at every call."""
    g = torch.Generator().manual_seed(1)
    config = unet.config

    def randn(*shape):
        return torch.randn(*shape, generator=g)

    x, text, first, last = randn(2 * frames, 4, 8, 7), randn(2, 3, 16), randn(2, 4, 8, 7), randn(2, 4, 8, 7)
    motion, tokens, features = randn(2, 5, 20), randn(2, 6, 10), randn(2, 7, 24)
    if config.image_projector is not None:
        tokens = unet.project_image(features)
    conditions = Conditions(
        text,
        motion_text=motion if config.motion_text != "off" else None,
        first_frame=first,
        last_frame=last,
        image_tokens=tokens if config.image_adapter != "off" else None,
        **{"frame_rate": 12, **changes},
    )
    return unet(x, torch.tensor([10, 700]), conditions, num_frames=frames, return_flow=return_flow)


def assert_equal(ours, expected):
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-6 * float(expected.abs().max()))


@pytest.mark.parametrize("name", [*BRANCHES, "everything"])
def test_branch_starts_neutral(name):
    fields = EVERYTHING if name == "everything" else BRANCHES[name]
    base = randomise(VideoUNet(BASE))
    unet, report = extend(base, replace(BASE, **fields))
    with torch.no_grad():
        expected, out = run(base), run(unet)
    # The fusion convolution adds in another order, the others not at all.
    if "fusion" in fields:
        assert_equal(out, expected)
    else:
        assert torch.equal(out, expected)
    assert set(report.loaded) == set(base.state_dict())
    assert set(report.missing) == set(unet.state_dict()) - set(base.state_dict())
    assert base.config == BASE


def test_temporal_half_starts_neutral_on_stable_diffusion():
    """Factorized-Dreamer starts from an image network: each frame is its image at first."""
    base = randomise(VideoUNet(SPATIAL))
    unet, _ = extend(base, replace(BASE, **EVERYTHING))
    with torch.no_grad():
        assert_equal(run(unet), run(base))


def test_swap_after_training_the_fusion():
    """VF's third stage: fusion trained with `conv_except_swap`, then Swap-CA added, nothing lost."""
    base = randomise(VideoUNet(replace(BASE, fusion="conv_except_swap")))
    unet, _ = extend(base, replace(base.config, swap_attention="swapped", **SWAP))
    with torch.no_grad():
        assert torch.equal(run(unet), run(base))
    base = randomise(VideoUNet(replace(BASE, fusion="conv")))
    with pytest.raises(CheckpointError, match="would lose 8 weights"):
        extend(base, replace(base.config, swap_attention="swapped", **SWAP))


def test_predict_net_starts_as_the_decoder_with_a_zero_head():
    base = randomise(VideoUNet(BASE))
    unet, _ = extend(base, replace(BASE, predict_net=True))
    own, copy = unet.state_dict(), unet.predict_net.state_dict()
    copied = [k for k in copy if not k.startswith("out.")]
    assert len(copied) > 100
    assert all(torch.equal(copy[k], own[k]) for k in copied)
    with torch.no_grad():
        out, flow = run(unet, return_flow=True)
        assert torch.equal(out, run(base))
    assert flow.shape == (6, 2, 8, 7)
    assert not flow.any()
    with pytest.raises(ValueError, match="no PredictNet"):
        run(base, return_flow=True)


def test_linear_and_convolutional_projections_convert():
    base = randomise(VideoUNet(replace(SPATIAL, linear_projection=False)))
    unet, report = extend(base, replace(BASE, linear_projection=True))
    with torch.no_grad():
        assert_equal(run(unet), run(base))
    assert all(k.split(".")[-2] in ("proj_in", "proj_out") for k in report.reshaped)
    assert len(report.reshaped) == 2 * 7


@pytest.mark.parametrize(
    ("source", "target", "name"),
    [
        ({}, {"context_dim": 24}, "context_dim"),
        ({}, {"head_dim": 16}, "head_dim"),
        ({}, {"channel_mult": (1, 3)}, "channel_mult"),
        ({}, {"temporal_positions": "sinusoidal"}, "temporal_positions"),
        ({}, {"temporal_num_heads": 2}, "temporal_num_heads"),
        ({}, {"motion_text": "replace"}, "motion_text"),
        ({}, {"init_temporal": False}, "temporal"),
        (BRANCHES["paca"], {"paca": False}, "paca"),
        (BRANCHES["swap"], {"swap_window": (4, 3, 6)}, "swap_window"),
        (BRANCHES["first frame, repeated"], {"first_frame_concat": "ends"}, "first_frame_concat"),
        (BRANCHES["motion_text"], {"motion_dim": 28}, "motion_text"),
    ],
)
def test_a_start_that_could_not_be_equal_is_refused(source, target, name):
    base = VideoUNet(replace(BASE, **source), device="meta")
    with pytest.raises(CheckpointError, match=name):
        extend(base, replace(base.config, **target))


# -- after the gates open -------------------------------------------------------------------------------------


def gradients(unet, **options) -> dict[str, torch.Tensor]:
    out = run(unet, return_flow=unet.config.predict_net, **options)
    loss: Any = sum((o - 1).square().mean() for o in (out if isinstance(out, tuple) else (out,)))
    names, weights = zip(*unet.named_parameters(), strict=True)
    return dict(zip(names, torch.autograd.grad(loss, weights, allow_unused=True), strict=True))


@pytest.mark.parametrize("name", [*BRANCHES, "everything", "replace"])
def test_gradients_reach_every_weight(name):
    fields = {"everything": EVERYTHING, "replace": {"motion_text": "replace", "motion_dim": 20}}.get(name)
    unet = randomise(VideoUNet(replace(BASE, **(fields or BRANCHES[name]))))
    for key, gradient in gradients(unet).items():
        assert gradient is not None, key
        assert gradient.isfinite().all(), key
        assert gradient.abs().max() > 0, key


def test_a_few_steps_open_every_gate():
    """From the neutral start no gate stays shut behind another: the deepest chain of three is PredictNet's head,
    its adapters' values, their keys.
    """
    base = randomise(VideoUNet(BASE))
    unet, _ = extend(base, replace(BASE, **EVERYTHING))
    for _ in range(3):
        found = gradients(unet)
        with torch.no_grad():
            for name, weight in unet.named_parameters():
                if found[name] is not None:
                    weight -= 0.1 * found[name]
    for key, gradient in gradients(unet).items():
        assert gradient is not None, key
        assert gradient.isfinite().all(), key
        assert gradient.abs().max() > 0, key


def test_gradient_checkpointing_gives_the_same_gradients():
    unet = randomise(VideoUNet(replace(BASE, **EVERYTHING)))
    expected = gradients(unet)
    unet.checkpoint_gradients()
    for key, gradient in gradients(unet).items():
        torch.testing.assert_close(gradient, expected[key], rtol=1e-5, atol=1e-7, msg=lambda m, key=key: f"{key}: {m}")


# -- single frames, many rows ---------------------------------------------------------------------------------


def test_a_still_image_sees_the_spatial_half_only():
    """VF C.3: a branch, not a product with zero."""
    unet = randomise(VideoUNet(replace(BASE, motion_text="added", motion_dim=20, temporal_skips=True, fusion="conv")))
    spatial = VideoUNet(SPATIAL)
    own = unet.state_dict()
    spatial.load_state_dict({k: own[k] for k in spatial.state_dict()})
    with torch.no_grad():
        assert torch.equal(run(unet, frames=1), run(spatial, frames=1))
        assert torch.equal(run(unet, frames=3, still=True), run(spatial, frames=3))
        assert not torch.allclose(run(unet, frames=1, still=False), run(spatial, frames=1), atol=0.01)


def test_attention_over_more_rows_than_kernels_index(monkeypatch):
    unet = randomise(VideoUNet(replace(BASE, **EVERYTHING)))
    with torch.no_grad():
        expected = run(unet)
        sizes = []
        plain = attention_module.sdpa_attention

        def watched(q, *args, **kwargs):
            sizes.append(len(q))
            return plain(q, *args, **kwargs)

        module: Any
        for module in unet.modules():
            if hasattr(module, "attention"):
                module.attention = watched
        assert_equal(run(unet), expected)
        assert max(sizes) == 2 * 8 * 7
        for module in (attention_module, swap_module):
            monkeypatch.setattr(module, "MAX_ATTENTION_ROWS", 5)
        sizes.clear()
        assert_equal(run(unet), expected)
        assert max(sizes) == 5
