"""What a host attaches to a forward pass acts where it does in Stable Diffusion's own UNet, and nowhere else.

`tests/host/test_hooks_in_host.py` compares with ComfyUI's UNet itself; here are the properties that need no host.
"""

from dataclasses import replace

import pytest
import torch
from einops import repeat

from dreamfactory.model_patches import Conditions, UNetConfig, VideoUNet
from dreamfactory.model_patches.network.attention import math_attention
from dreamfactory.model_patches.network.hooks import Hooks

DOUBLE = torch.float64
FRAMES, ROWS = 3, 6
PLAIN = UNetConfig(
    model_channels=16,
    channel_mult=(1, 2),
    num_res_blocks=2,
    attention_levels=(False, True),
    context_dim=12,
    head_dim=8,
    norm_groups=8,
)
FULL = replace(
    PLAIN,
    temporal_conv=True,
    temporal_attention=True,
    init_temporal=True,
    init_temporal_heads=2,
    init_temporal_head_dim=8,
    temporal_skips=True,
    first_frame_concat="repeat",
    paca=True,
    image_adapter="all",
    image_token_dim=10,
    frame_rate_embedding="fps",
)
NETWORKS = {"plain": PLAIN, "full": FULL, "attention everywhere": replace(FULL, attention_levels=(True, True))}
ATTENTION = ("attn1_patch", "attn1", "attn1_output_patch", "middle_patch", "attn2_patch", "attn2", "attn2_output_patch")

IDENTITIES = {
    "emb_patch": lambda emb, channels, options: emb,
    "input_block_patch": lambda h, options: h,
    "input_block_patch_after_skip": lambda h, options: h,
    "middle_block_after_patch": lambda facts: {"h": facts["h"]},
    "output_block_patch": lambda h, skip, options: (h, skip),
    "attn1_patch": lambda n, context, value, extra: (n, context, value),
    "attn1_output_patch": lambda n, extra: n,
    "middle_patch": lambda n, extra: n,
    "attn2_patch": lambda n, context, value, extra: (n, context, value),
    "attn2_output_patch": lambda n, extra: n,
}


def build(config: UNetConfig, **kwargs) -> VideoUNet:
    """In double precision, with every branch open."""
    torch.manual_seed(0)
    unet = VideoUNet(config, dtype=DOUBLE, **kwargs).eval()
    with torch.no_grad():
        for weight in unet.parameters():
            if not weight.any():
                weight.normal_(std=0.2 if weight.ndim < 2 else weight[0].numel() ** -0.5)
    return unet


def run(unet: VideoUNet, *, rows: int = ROWS // FRAMES, options=None, control=None, return_flow=False, **changes):
    """The same inputs each time; `rows` of text: one a clip, or one a frame."""
    torch.manual_seed(1)
    x, text = torch.randn(ROWS, 4, 5, 6, dtype=DOUBLE), torch.randn(rows, 7, 12, dtype=DOUBLE)
    clips = ROWS // FRAMES
    if unet.config.paca:
        changes["first_frame"] = torch.randn(clips, 4, 5, 6, dtype=DOUBLE)
        changes["image_tokens"] = torch.randn(clips, 2, 10, dtype=DOUBLE)
    hooks = Hooks(options, control)
    conditions = Conditions(text, **changes)
    return unet(x, torch.tensor([3, 700]), conditions, num_frames=FRAMES, hooks=hooks, return_flow=return_flow)


def sd_blocks(config: UNetConfig) -> tuple[list[bool], list[bool]]:
    """Stable Diffusion's input and output blocks in order, True where a transformer is."""
    levels = list(zip(range(len(config.channel_mult)), config.attention_levels, strict=True))
    inputs = [False]
    for level, attends in levels:
        inputs += [attends] * config.num_res_blocks + [False] * (level < len(levels) - 1)
    outputs = [attends for _, attends in reversed(levels) for _ in range(config.num_res_blocks + 1)]
    return inputs, outputs


def sd_calls(config: UNetConfig) -> list[tuple]:
    """(kind, block, transformer_index) of every hook of a pass, in order."""
    inputs, outputs = sd_blocks(config)
    calls: list[tuple] = [("emb_patch", None, 0)]
    transformers = 0

    def transformer(block):
        nonlocal transformers
        calls.extend((kind, block, transformers) for kind in ATTENTION)
        transformers += 1

    for number, attends in enumerate(inputs):
        if attends:
            transformer(("input", number))
        for kind in ("input_block_patch", "input_block_patch_after_skip"):
            calls.append((kind, ("input", number), transformers))
    transformer(("middle", 0))
    calls.append(("middle_block_after_patch", ("middle", 0), transformers))
    for number, attends in enumerate(outputs):
        calls.append(("output_block_patch", ("output", number), transformers))
        if attends:
            transformer(("output", number))
    return calls


def softmax_attention(q, k, v, extra):
    return math_attention(q, k, v, extra["n_heads"])


def everywhere(config: UNetConfig, function) -> dict:
    inputs, outputs = sd_blocks(config)
    return {
        ("middle", 0): function,
        **{("input", i): function for i in range(len(inputs))},
        **{("output", i): function for i in range(len(outputs))},
    }


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("kind", IDENTITIES)
def test_a_patch_that_hands_its_input_back_changes_nothing(name, kind):
    unet = build(NETWORKS[name])
    with torch.no_grad():
        patched = run(unet, options={"patches": {kind: [IDENTITIES[kind]]}})
        torch.testing.assert_close(patched, run(unet))


@pytest.mark.parametrize("name", NETWORKS)
def test_every_hook_is_called_at_the_blocks_of_stable_diffusion_and_in_its_order(name):
    config = NETWORKS[name]
    unet, calls, own = build(config), [], {"sigmas": torch.ones(1), "cond_or_uncond": [0]}

    def record(kind, options):
        calls.append((kind, options.get("block"), options["transformer_index"]))
        assert options["original_shape"] == [ROWS, 4, 5, 6]
        if kind in ATTENTION:
            height, width = options["activations_shape"][2:]
            assert options["activations_shape"][0] == ROWS
            assert (height, width) in ((5, 6), (3, 3))
            assert options["activations_shape"][1] == options["n_heads"] * options["dim_head"]
            assert options["attn_precision"] is None
            assert options["block_index"] == 0
            assert not {"patches", "patches_replace"} & options.keys()
            assert options["sigmas"] is own["sigmas"]
        else:
            assert options is passed

    def recorder(kind, identity):
        def patch(*args):
            record(kind, args[0]["transformer_options"] if kind == "middle_block_after_patch" else args[-1])
            tensors = [a for a in args if isinstance(a, torch.Tensor)]
            if kind == "middle_block_after_patch":
                assert args[0]["y"] is None
                tensors = [args[0][k] for k in ("h", "x", "emb", "context", "timesteps")]
            assert all(t.shape[0] == ROWS for t in tensors)
            return identity(*args)

        return patch

    def replacement(kind):
        def function(q, k, v, extra):
            record(kind, extra)
            assert q.shape[0] == k.shape[0] == v.shape[0] == ROWS
            return softmax_attention(q, k, v, extra)

        return function

    passed = {
        **own,
        "patches": {kind: [recorder(kind, identity)] for kind, identity in IDENTITIES.items()},
        "patches_replace": {kind: everywhere(config, replacement(kind)) for kind in ("attn1", "attn2")},
    }
    with torch.no_grad():
        torch.testing.assert_close(run(unet, options=passed), run(unet))
    assert calls == sd_calls(config)


@pytest.mark.parametrize("rows", [1, ROWS // FRAMES, ROWS])
@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("which", ["attn1", "attn2"])
def test_softmax_attention_in_the_place_of_softmax_attention_changes_nothing(which, name, rows):
    config = NETWORKS[name]
    unet = build(config)
    options = {"patches_replace": {which: everywhere(config, softmax_attention)}}
    with torch.no_grad():
        torch.testing.assert_close(run(unet, rows=rows, options=options), run(unet, rows=rows))


def test_a_replacement_at_an_index_goes_before_one_for_the_block():
    unet, seen = build(PLAIN), []

    def named(name):
        return lambda q, k, v, extra: seen.append((name, extra["block"])) or softmax_attention(q, k, v, extra)

    places = {("middle", 0, 0): named("index"), ("middle", 0): named("block"), ("output", 1): named("block")}
    with torch.no_grad():
        run(unet, options={"patches_replace": {"attn2": {**places, ("output", 1, 1): named("none")}}})
    assert seen == [("index", ("middle", 0)), ("block", ("output", 1))]


def test_the_image_adapter_is_added_to_what_replaces_text_attention():
    """FD Eq. 2 keeps its second term: with text switched off, the image still counts."""
    unet = build(FULL)
    options = {"patches_replace": {"attn2": everywhere(FULL, lambda q, k, v, extra: torch.zeros_like(q))}}
    with torch.no_grad():
        image = run(unet, options=dict(options))
        none = run(unet, options=dict(options), strengths={"image_adapter": 0.0})
    assert (image - none).abs().max() > 1e-3


def residuals(unet: VideoUNet, scale: float = 1.0) -> dict[str, list]:
    """One for each block, as the host lists them: the last one is for the first block."""
    shapes: dict[str, list] = {"input": [], "middle": [], "output": []}

    def after(facts):
        shapes["middle"].append(facts["h"].shape)
        return facts

    patches = {
        "input_block_patch": [lambda h, options: shapes["input"].append(h.shape) or h],
        "middle_block_after_patch": [after],
        "output_block_patch": [lambda h, skip, options: shapes["output"].append(skip.shape) or (h, skip)],
    }
    with torch.no_grad():
        run(unet, options={"patches": patches})
    torch.manual_seed(2)
    return {k: [torch.randn(s, dtype=DOUBLE) * scale for s in reversed(v)] for k, v in shapes.items()}


def copy(control: dict[str, list]) -> dict[str, list]:
    return {side: list(tensors) for side, tensors in control.items()}


@pytest.mark.parametrize("name", NETWORKS)
def test_control_residuals_are_added_where_the_matching_patch_could_add_them(name):
    unet = build(NETWORKS[name])
    control = residuals(unet)
    control["output"][1] = None
    left = copy(control)

    def add(side, h):
        residual = left[side].pop()
        return h if residual is None else h + residual

    patches = {
        "input_block_patch": [lambda h, options: add("input", h)],
        "middle_block_after_patch": [lambda facts: {"h": add("middle", facts["h"])}],
        "output_block_patch": [lambda h, skip, options: (h, add("output", skip))],
    }
    given = copy(control)
    with torch.no_grad():
        plain = run(unet)
        controlled = run(unet, control=given)
        torch.testing.assert_close(controlled, run(unet, options={"patches": patches}))
        torch.testing.assert_close(run(unet, control=residuals(unet, 0.0)), plain)
        for side in control:
            alone = run(unet, control={side: list(control[side])})
            assert (alone - plain).abs().max() > 1e-3, side
    assert given == {"input": [], "middle": [], "output": []}


def test_control_lists_may_be_short_and_sizes_that_do_not_fit_are_left_out(caplog):
    unet = build(PLAIN)
    with torch.no_grad():
        plain = run(unet)
        torch.testing.assert_close(run(unet, control={"output": [None, None], "input": []}), plain)
        torch.testing.assert_close(run(unet, control={"middle": [torch.ones(1, 5, 1, 1, dtype=DOUBLE)]}), plain)
    assert "does not fit" in caplog.text


def test_an_output_patch_may_keep_the_skip():
    unet = build(FULL)

    def join(h, skip, options):
        return torch.cat([h, skip], dim=1), None

    with torch.no_grad():
        torch.testing.assert_close(run(unet, options={"patches": {"output_block_patch": [join]}}), run(unet))


def test_patches_that_change_something_are_heard():
    """Each kind, in a list of two: the second is fed with what the first returned."""
    unet = build(FULL)
    halves = {
        "emb_patch": lambda emb, channels, options: emb * 0.5,
        "input_block_patch": lambda h, options: h * 0.5,
        "input_block_patch_after_skip": lambda h, options: h * 0.5,
        "middle_block_after_patch": lambda facts: {"h": facts["h"] * 0.5},
        "output_block_patch": lambda h, skip, options: (h, skip * 0.5),
        "attn1_patch": lambda n, context, value, extra: (n, context, value * 0.5),
        "attn1_output_patch": lambda n, extra: n * 0.5,
        "middle_patch": lambda n, extra: n * 0.5,
        "attn2_patch": lambda n, context, value, extra: (n, context * 0.5, value),
        "attn2_output_patch": lambda n, extra: n * 0.5,
    }
    with torch.no_grad():
        plain = run(unet)
        for kind, half in halves.items():
            once, twice = (run(unet, options={"patches": {kind: [half] * n}}) for n in (1, 2))
            assert (once - plain).abs().max() > 1e-4, kind
            assert (twice - once).abs().max() > 1e-4, kind


@pytest.mark.parametrize("options", [None, {}, {"patches": {}, "patches_replace": {}}])
def test_without_hooks_every_attention_gets_the_very_options_that_came_in(options):
    seen = []

    def attention(q, k, v, heads, transformer_options=None):
        seen.append(transformer_options)
        return math_attention(q, k, v, heads)

    unet = build(FULL, attention=attention)
    with torch.no_grad():
        torch.testing.assert_close(run(unet, options=options), run(build(FULL)))
    assert seen
    assert all(got is options for got in seen)


def test_gradient_checkpointing_computes_layers_again_in_the_blocks_they_were_in():
    unet = build(FULL)

    def by_place(n, extra):
        side, number = extra["block"]
        return n * (1 + number + extra["transformer_index"] / 7 + len(side) / 5)

    def gradients() -> list:
        unet.zero_grad()
        options = {"patches": {"attn2_output_patch": [by_place], "attn1_output_patch": [by_place]}}
        run(unet, options=options, control=residuals(unet)).square().sum().backward()
        return [p.grad.clone() for p in unet.parameters() if p.grad is not None]

    kept = gradients()
    unet.checkpoint_gradients()
    for a, b in zip(kept, gradients(), strict=True):
        torch.testing.assert_close(a, b)


def test_predict_net_takes_no_part_in_the_hooks():
    config = replace(FULL, predict_net=True)
    unet, calls = build(config), []

    def record(n, extra):
        calls.append((extra["block"], extra["transformer_index"]))
        return n * 2 if extra["block"][0] == "output" else n

    control = residuals(unet)
    for side in ("input", "middle"):
        control[side] = []
    with torch.no_grad():
        _, flow = run(unet, return_flow=True)
        options = {"patches": {"attn1_output_patch": [record]}}
        output, patched_flow = run(unet, return_flow=True, options=options, control=copy(control))
        assert calls == [(block, index) for kind, block, index in sd_calls(config) if kind == "attn1_output_patch"]
        alone = run(unet, options=options, control=copy(control))
    torch.testing.assert_close(patched_flow, flow)
    torch.testing.assert_close(output, alone)


def test_text_for_clips_equals_the_same_text_for_frames_under_a_patch():
    unet = build(FULL)
    extra_text = torch.randn(ROWS, 2, 12, dtype=DOUBLE)

    def append(n, context, value, extra):
        context = torch.cat([context, extra_text], dim=1)
        return n, context, context

    torch.manual_seed(1)
    x, text = torch.randn(ROWS, 4, 5, 6, dtype=DOUBLE), torch.randn(2, 7, 12, dtype=DOUBLE)
    patches = {"attn2_patch": [append]}
    with torch.no_grad():
        a, b = (
            unet(x, torch.tensor([5]), Conditions(t), num_frames=FRAMES, hooks=Hooks({"patches": patches}))
            for t in (text, repeat(text, "b n c -> (b t) n c", t=FRAMES))
        )
    torch.testing.assert_close(a, b)
