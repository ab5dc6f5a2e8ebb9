"""Swap-CA (VF Eq. 2-3) against attention over all tokens with a mask that says who shares a window."""

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from dreamfactory.model_patches import UNetConfig, VideoUNet
from dreamfactory.model_patches.network.attention import Factory, math_attention
from dreamfactory.model_patches.network.conditions import Embedded
from dreamfactory.model_patches.network.layout import layout
from dreamfactory.model_patches.network.swap_attention import SwapAttention, window_attention

from ...random_weights import Network

# (frames, height, width), window: multiples, ragged edges, odd windows, windows larger than the clip.
SIZES = [
    ((8, 6, 6), (4, 3, 6)),
    ((5, 4, 7), (4, 3, 6)),
    ((9, 5, 5), (3, 2, 5)),
    ((7, 3, 4), (5, 1, 3)),
    ((3, 2, 2), (8, 3, 6)),
    ((1, 3, 7), (2, 2, 3)),
]


@pytest.fixture(autouse=True)
def _setup():
    torch.manual_seed(0)
    torch.set_num_threads(1)


@torch.no_grad()
def randomise(module: Network) -> Network:
    for weight in module.parameters():
        weight.copy_(torch.randn_like(weight) * (0.5 if weight.ndim == 1 else weight.shape[1] ** -0.5))
    return module


def same_window(size, window, shift: int) -> torch.Tensor:
    """(n, n) boolean: two tokens in the same window, by each token's own coordinates."""
    ids = [
        ((f - shift) // window[0], h // window[1], w // window[2])
        for f in range(size[0])
        for h in range(size[1])
        for w in range(size[2])
    ]
    return torch.tensor([[a == b for b in ids] for a in ids])


def dense_attention(q, k, v, heads: int, mask) -> torch.Tensor:
    """softmax(q k^T / sqrt(d)) v, head by head; q, k, v: (n, c)."""
    d = q.shape[1] // heads
    out = []
    for i in range(heads):
        part = slice(i * d, (i + 1) * d)
        scores = (q[:, part] @ k[:, part].T / d**0.5).masked_fill(~mask, float("-inf"))
        out.append(scores.softmax(-1) @ v[:, part])
    return torch.cat(out, dim=1)


@pytest.mark.parametrize(("size", "window"), SIZES)
@pytest.mark.parametrize("shifted", [False, True])
def test_windows_equal_a_dense_mask(size, window, shifted):
    shift = (window[0] + 1) // 2 if shifted else 0
    q, k, v = (torch.randn(2, *size, 8, dtype=torch.float64) for _ in range(3))
    out = window_attention(lambda *qkv: math_attention(*qkv, heads=2), q, k, v, window, shift)
    mask = same_window(size, window, shift)
    for b in range(2):
        expected = dense_attention(*(x[b].flatten(0, 2) for x in (q, k, v)), heads=2, mask=mask)
        torch.testing.assert_close(out[b].flatten(0, 2), expected, rtol=0, atol=1e-13)


def test_every_token_sees_its_own_window_only():
    """A change of one token reaches its window, and nothing else."""
    size, window, shift = (8, 4, 7), (4, 3, 6), 2
    q, k, v = (torch.randn(1, *size, 8, dtype=torch.float64) for _ in range(3))
    changed = v.clone()
    changed[0, 3, 3, 2] += 1
    run = lambda values: window_attention(lambda *qkv: math_attention(*qkv, heads=2), q, k, values, window, shift)  # noqa: E731
    moved = (run(changed) - run(v)).abs().sum(-1)[0] > 1e-9
    expected = torch.zeros(size, dtype=torch.bool)
    expected[2:6, 3:4, 0:6] = True  # frames 2-5 (shifted), the edge row, the first columns
    assert torch.equal(moved, expected)


def equation(module: Any, s, t, frames: int, size, window, shift: int) -> torch.Tensor:
    """Proj_out(h') of VF Eq. 2 and 3, clip by clip, with dense attention; s, t: (b*f, c, h, w)."""
    mask = same_window(size, window, shift)
    result = []
    for first in range(0, len(s), frames):

        def tokens(x, first=first):
            clip = x[first : first + frames].permute(1, 0, 2, 3)[None]  # (1, c, f, h, w)
            clip = F.group_norm(clip, 4, module.norm.weight, module.norm.bias, eps=1e-6)
            return module.proj_in(clip[0].flatten(1).T)

        def norm(layer, x):
            return F.layer_norm(x, x.shape[-1:], layer.weight, layer.bias)

        asks, tells = (tokens(s), tokens(t)) if module.query == "spatial" else (tokens(t), tokens(s))
        a, b = norm(module.norm_query, asks), norm(module.norm_context, tells)
        attended = dense_attention(module.attn.to_q(a), module.attn.to_k(b), module.attn.to_v(b), 2, mask)
        h = module.attn.to_out[0](attended) + asks
        value, gate = module.ff.net[0].proj(norm(module.norm_ff, h)).chunk(2, dim=-1)
        h = module.ff.net[2](value * F.gelu(gate)) + h
        out = module.proj_out(h)
        result.append(out.T.reshape(s.shape[1], *size).permute(1, 0, 2, 3))
    return torch.cat(result)


@pytest.mark.parametrize("query", ["spatial", "temporal"])
@pytest.mark.parametrize("shifted", [False, True])
@pytest.mark.parametrize(("size", "window"), [*SIZES[:4], ((3, 4, 2), None)])
def test_site_equals_the_papers_equations(query, shifted, size, window):
    make = Factory(attention="math", dtype=torch.float64)
    site = randomise(SwapAttention(make, 16, 4, 8, window, query, shifted))
    s, t = torch.randn(2, 2 * size[0], 16, *size[1:], dtype=torch.float64)
    shift = (window[0] + 1) // 2 if shifted and window else 0
    with torch.no_grad():
        expected = equation(site, s, t, size[0], size, window or size, shift)
        torch.testing.assert_close(site(s, t, size[0]), expected, rtol=0, atol=1e-12)


def small(**changes) -> UNetConfig:
    fields = {
        "model_channels": 32,
        "channel_mult": (1, 2),
        "num_res_blocks": 1,
        "attention_levels": (True, True),
        "context_dim": 16,
        "head_dim": 8,
        "norm_groups": 8,
        "temporal_conv": True,
        "temporal_attention": True,
        "swap_attention": "swapped",
        "swap_head_dim": 8,
        "swap_window": (5, 3, 6),
    }
    return UNetConfig(**{**fields, **changes})


def roles(config: UNetConfig) -> list[tuple[str, str, int]]:
    sites: Any = VideoUNet(config, device="meta").swap_attentions
    return [(p.name, sites[p.name].query, sites[p.name].shift) for p in layout(config).swap_sites]


def test_roles_and_shifts_alternate_along_the_forward_pass():
    assert roles(small()) == [
        ("input_1", "spatial", 0),
        ("input_3", "temporal", 3),  # ceil(5 / 2)
        ("output_1", "spatial", 0),
        ("output_3", "temporal", 3),
    ]
    assert {shift for _, _, shift in roles(small(swap_shift=False))} == {0}
    assert {query for _, query, _ in roles(small(swap_attention="spatial_query"))} == {"spatial"}
    assert {query for _, query, _ in roles(small(swap_attention="temporal_query"))} == {"temporal"}
    assert {shift for _, _, shift in roles(small(swap_window=None))} == {0}


def test_swap_takes_the_place_of_the_fusion_at_its_sites():
    unet = VideoUNet(small(fusion="conv"), device="meta")
    assert not set(unet.swap_attentions) & set(unet.attention_fusions)
    assert set(unet.attention_fusions) == {"middle_1", "output_0", "output_2"}
    before = VideoUNet(small(fusion="conv_except_swap", swap_attention="off"), device="meta")
    assert set(before.attention_fusions) == set(unet.attention_fusions)


def test_join_is_the_sum_of_spatial_temporal_and_swap():
    """z = t + s + Proj_out(h') (VF Eq. 2), scaled by the strength of the branch."""
    unet = randomise(VideoUNet(small()))
    position = layout(unet.config).inputs[0]
    s, t = torch.randn(2, 4, 32, 3, 3)
    nothing: Any = None
    swap = unet.swap_attentions["input_1"](s, t, 4)
    for strength in (1.0, 0.0, 0.3):
        cond = Embedded(nothing, nothing, 4, False, nothing, strengths={"swap_attention": strength})
        z, carry = unet.join(position, s, lambda x: t, {}, None, cond, enters=False, last=True)
        torch.testing.assert_close(z, s + t + strength * swap)
        assert carry is t


def test_global_windows_at_run_time_equal_a_network_without_windows():
    windowed = SwapAttention(Factory(), 32, 8, 16, (4, 3, 6), "spatial", shifted=True)
    for weight in windowed.parameters():
        torch.nn.init.normal_(weight, std=0.2)
    whole = SwapAttention(Factory(), 32, 8, 16, None, "spatial", shifted=False)
    whole.load_state_dict(windowed.state_dict())
    s, t = torch.randn(8, 32, 5, 7), torch.randn(8, 32, 5, 7)
    assert torch.equal(windowed(s, t, 8, windows="global"), whole(s, t, 8))
    assert not torch.allclose(windowed(s, t, 8), whole(s, t, 8), atol=1e-3)
