"""Image adapter (FD Eq. 2) and pixel-aware cross-attention (FD Eq. 3) against the equations written out naively."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from dreamfactory.model_patches import Conditions, UNetConfig, VideoUNet
from dreamfactory.model_patches.network.attention import Factory, MultiHeadAttention
from dreamfactory.model_patches.network.hooks import Hooks
from dreamfactory.model_patches.network.image_adapter import ImageAdapter, split_tokens
from dreamfactory.model_patches.network.paca import LatentPyramid, PixelAwareAttention

from ...random_weights import randomise

DOUBLE = torch.float64
CONFIG = UNetConfig(
    model_channels=32,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_levels=(True, True),
    context_dim=16,
    head_dim=8,
    norm_groups=8,
    temporal_conv=True,
    temporal_attention=True,
)


@pytest.fixture(autouse=True)
def _setup():
    torch.manual_seed(0)
    torch.set_num_threads(1)


def attention(q, k, v, heads: int) -> torch.Tensor:
    """One frame: q (n, c), k and v (m, c); token by token, head by head."""
    d = q.shape[1] // heads
    out = torch.zeros_like(q)
    for h in range(heads):
        c = slice(h * d, (h + 1) * d)
        for i in range(len(q)):
            weights = torch.stack([(q[i, c] * k[j, c]).sum() / math.sqrt(d) for j in range(len(k))]).softmax(0)
            out[i, c] = sum(w * v[j, c] for j, w in enumerate(weights))
    return out


def sine_table(height: int, width: int, channels: int) -> torch.Tensor:
    """Half of the channels tell the row, half the column; sin and cos of n / 10000^(2i / half) in turn."""
    half = channels // 2

    def tell(n: int) -> list[float]:
        values = []
        for i in range(half // 2):
            angle = n / 10000 ** (2 * i / half)
            values += [math.sin(angle), math.cos(angle)]
        return values

    return torch.tensor([tell(y) + tell(x) for y in range(height) for x in range(width)], dtype=DOUBLE)


@pytest.mark.parametrize("positions", [True, False])
@pytest.mark.parametrize("frames", [1, 3])
def test_paca_equals_equation_3_frame_by_frame(positions, frames):
    height, width, channels, heads = 2, 3, 16, 2
    paca = randomise(PixelAwareAttention(Factory(dtype=DOUBLE), channels, heads, positions))
    x = torch.randn(2 * frames, height * width, channels, dtype=DOUBLE)
    y = torch.randn(2, height * width, channels, dtype=DOUBLE)
    table = sine_table(height, width, channels) if positions else 0.0
    with torch.no_grad():
        ours = paca(x, y, (height, width), 1.0)
        for i in range(2 * frames):
            q = F.layer_norm(x[i], (channels,), paca.norm.weight, paca.norm.bias) + table
            source = y[i // frames]
            out = attention(paca.attn.to_q(q), paca.attn.to_k(source + table), paca.attn.to_v(source), heads)
            # Our table is made in float32.
            torch.testing.assert_close(ours[i], paca.attn.to_out[0](out), rtol=0, atol=1e-6)
        torch.testing.assert_close(paca(x, y, (height, width), 0.25), 0.25 * ours)


@pytest.mark.parametrize(("size", "sizes"), [((8, 8), [(8, 8), (4, 4), (2, 2)]), ((9, 7), [(9, 7), (5, 4), (3, 2)])])
def test_pyramid_has_the_sizes_of_the_unets_levels(size, sizes):
    pyramid = LatentPyramid(Factory(), 4, [16, 32, 32], 8)
    levels = pyramid(torch.randn(2, 4, *size))
    assert [s for _, s in levels] == sizes
    assert [tuple(y.shape) for y, _ in levels] == [(2, h * w, c) for (h, w), c in zip(sizes, (16, 32, 32), strict=True)]


def adapter_case(frames: int, tokens: int):
    """Text attention and adapter of one transformer, random, with 2 clips."""
    make = Factory(dtype=DOUBLE)
    attn = randomise(MultiHeadAttention(make, 16, 12, 2))
    adapter = randomise(ImageAdapter(make, 16, 10, 2, learnable_scale=False))
    x = torch.randn(2 * frames, 5, 16, dtype=DOUBLE)
    return attn, adapter, x, torch.randn(2, 4, 12, dtype=DOUBLE), torch.randn(2, tokens, 10, dtype=DOUBLE)


def equation_2(attn, adapter, x, text, image, strength):
    """Z = CA(q, kv(text)) + lambda CA(q, kv_adp(image)), then the shared projection; one frame."""
    q = attn.to_q(x)
    z = attention(q, attn.to_k(text), attn.to_v(text), 2)
    z = z + strength * attention(q, adapter.to_k_ip(image), adapter.to_v_ip(image), 2)
    return attn.to_out[0](z)


@pytest.mark.parametrize("strength", [1.0, 0.4])
@pytest.mark.parametrize("frames", [1, 3])
def test_adapter_equals_equation_2(frames, strength):
    attn, adapter, x, text, image = adapter_case(frames, 4)
    with torch.no_grad():
        ours = attn(x, text, None, lambda q: adapter(q, image, strength))
        for i in range(2 * frames):
            expected = equation_2(attn, adapter, x[i], text[i // frames], image[i // frames], strength)
            torch.testing.assert_close(ours[i], expected, rtol=0, atol=1e-12)


def test_per_frame_tokens_reach_their_own_frame_only():
    """16 queries for each of t frames are split frame by frame; any other number is seen by all (DynamiCrafter)."""
    frames, per_frame = 3, 2
    attn, adapter, x, text, image = adapter_case(frames, frames * per_frame)
    split = split_tokens(image, frames, per_frame)
    with torch.no_grad():
        ours = attn(x, text, None, lambda q: adapter(q, split, 1.0))
        for i in range(2 * frames):
            clip, frame = divmod(i, frames)
            own = image[clip, frame * per_frame : (frame + 1) * per_frame]
            expected = equation_2(attn, adapter, x[i], text[clip], own, 1.0)
            torch.testing.assert_close(ours[i], expected, rtol=0, atol=1e-12)
    assert split_tokens(image, 2, per_frame) is image
    assert split_tokens(image, frames, None) is image


def test_learnable_scale_is_tanh_alpha_plus_one():
    adapter = randomise(ImageAdapter(Factory(dtype=DOUBLE), 16, 10, 2, learnable_scale=True))
    plain = ImageAdapter(Factory(dtype=DOUBLE), 16, 10, 2, learnable_scale=False)
    plain.load_state_dict({k: v for k, v in adapter.state_dict().items() if "scale" not in k})
    q, tokens = torch.randn(2, 5, 16, dtype=DOUBLE), torch.randn(2, 4, 10, dtype=DOUBLE)
    with torch.no_grad():
        adapter.get_parameter("scale.alpha").fill_(-0.7)
        torch.testing.assert_close(adapter(q, tokens, 1.0), plain(q, tokens, 1.0) * (1 + math.tanh(-0.7)))


def test_folding_frames_equals_repeating_keys_and_values():
    attn = randomise(MultiHeadAttention(Factory(dtype=DOUBLE), 16, 12, 2))
    x, text = torch.randn(6, 5, 16, dtype=DOUBLE), torch.randn(2, 4, 12, dtype=DOUBLE)
    with torch.no_grad():
        torch.testing.assert_close(attn(x, text), attn(x, text.repeat_interleave(3, dim=0)))


# -- the whole network ----------------------------------------------------------------------------------------


def run(unet, **inputs):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(6, 4, 8, 7, generator=generator)
    text = torch.randn(2, 3, 16, generator=generator)
    with torch.no_grad():
        return unet(x, torch.tensor([10, 700]), Conditions(text, **inputs), num_frames=3)


@pytest.mark.parametrize("where", ["up", "all"])
def test_strength_zero_switches_the_adapter_off(where):
    unet = randomise(VideoUNet(replace(CONFIG, image_adapter=where, image_token_dim=10)))
    assert set(unet.image_adapters) == {f"output_{i}" for i in range(4)} | (
        {"input_1", "input_3", "middle_1"} if where == "all" else set()
    )
    tokens = torch.randn(2, 4, 10)
    off, on = run(unet), run(unet, image_tokens=tokens)
    assert torch.equal(run(unet, image_tokens=tokens, strengths={"image_adapter": 0}), off)
    assert torch.equal(run(unet, image_tokens=tokens, strengths={"image_adapter": 1.0}), on)
    assert (on - off).abs().max() > 0.01
    assert (run(unet, image_tokens=tokens, strengths={"image_adapter": 0.5}) - on).abs().max() > 0.01


def test_strength_zero_switches_paca_off():
    unet = randomise(VideoUNet(replace(CONFIG, paca=True)))
    assert set(unet.paca_attentions) == {f"output_{i}" for i in range(4)}  # the up path only (FD 3.2)
    first = torch.randn(2, 4, 8, 7)
    off, on = run(unet), run(unet, first_frame=first)
    assert torch.equal(run(unet, first_frame=first, strengths={"paca": 0}), off)
    assert (on - off).abs().max() > 0.01


def test_strength_zero_switches_swap_off():
    config = replace(CONFIG, swap_attention="swapped", swap_head_dim=8)
    unet = randomise(VideoUNet(config))
    without = VideoUNet(replace(config, swap_attention="off")).eval()
    without.load_state_dict({k: v for k, v in unet.state_dict().items() if not k.startswith("swap")})
    torch.testing.assert_close(run(unet, strengths={"swap_attention": 0}), run(without), rtol=0, atol=1e-6)
    with pytest.raises(ValueError, match="unknown strength 'swap'"):
        run(unet, strengths={"swap": 0})


def test_first_frame_channels():
    """Repeated over the frames, or at the two ends with zeros between (DynamiCrafter's interpolation)."""
    first, last = torch.randn(2, 2, 4, 8, 7)
    for mode in ("repeat", "ends"):
        unet = VideoUNet(replace(CONFIG, first_frame_concat=mode))
        seen = []
        unet.input_blocks[0][0].register_forward_pre_hook(lambda _, args, seen=seen: seen.append(args[0]))
        run(unet, first_frame=first, last_frame=last if mode == "ends" else None)
        clip = seen[0].unflatten(0, (2, 3))[:, :, 4:]
        middle, end = (first, first) if mode == "repeat" else (torch.zeros_like(first), last)
        for frame, expected in enumerate((first, middle, end)):
            assert torch.equal(clip[:, frame], expected)


def test_paca_reads_the_first_frame_on_its_own_grid_when_the_network_runs_smaller_inside():
    config = UNetConfig(
        model_channels=32, channel_mult=(1, 2), num_res_blocks=1, attention_levels=(True, True), context_dim=16,
        head_dim=16, norm_groups=8, temporal_attention=True, paca=True,
    )  # fmt: skip
    unet = randomise(VideoUNet(config)).eval()

    def shrink(h, options):  # as ComfyUI's PatchModelAddDownscale does
        return F.interpolate(h, scale_factor=0.5) if options["block"] == ("input", 1) else h

    def restore(h, skip, options):
        return (F.interpolate(h, skip.shape[2:]) if h.shape[2:] != skip.shape[2:] else h), skip

    patches = {"input_block_patch_after_skip": [shrink], "output_block_patch": [restore]}
    x, first = torch.randn(4, 4, 16, 12), torch.randn(1, 4, 16, 12)
    with torch.no_grad():
        text, t = torch.randn(1, 3, 16), torch.tensor([5])
        near = unet(x, t, Conditions(text, first_frame=first), num_frames=4, hooks=Hooks({"patches": patches}))
        without = unet(x, t, Conditions(text), num_frames=4, hooks=Hooks({"patches": patches}))
    assert near.shape == x.shape
    assert not torch.equal(near, without)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"strengths": {"swap": 0}}, "unknown strength 'swap'; choose from image_adapter, paca, swap_attention."),
        ({"swap_windows": "all"}, "swap_windows is 'all'; choose from trained, global."),
        ({"first_frame": torch.zeros(4, 8, 7)}, r"first_frame has 3 dimensions, \(4, 8, 7\); it takes 4."),
        ({"image_tokens": torch.zeros(2, 10)}, r"image_tokens has 2 dimensions, \(2, 10\); it takes 3."),
    ],
)
def test_conditions_that_no_network_takes_are_refused_where_they_are_made(changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        Conditions(torch.zeros(2, 3, 16), **changes)


def test_conditions_of_another_number_of_clips_are_refused():
    unet = VideoUNet(replace(CONFIG, paca=True))
    with pytest.raises(ValueError, match=r"first_frame has 3 rows for 2 clips; it takes 1 or 2\."):
        run(unet, first_frame=torch.zeros(3, 4, 8, 7))
