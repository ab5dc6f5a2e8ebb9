"""ComfyUI's own SD UNet and ours, same weights, same patches: the same numbers, and patches called in the same order.

Our temporal half is off, which leaves Stable Diffusion's network. The patches are made by ComfyUI's own
`ModelPatcher` and, where there is one, by its own node.
"""

import json
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

SCRIPT = '''
import importlib.util, json, random, sys, types
sys.path.insert(0, {host!r})
import comfy.cli_args
comfy.cli_args.args.cpu = True
import torch
torch.set_num_threads(1)
import comfy.model_patcher, comfy.ops
from comfy.ldm.modules.attention import optimized_attention
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
from comfy_extras import nodes_freelunch, nodes_hypertile, nodes_model_downscale, nodes_tomesd

spec = importlib.util.spec_from_file_location(
    "a_pack", {root!r} + "/__init__.py", submodule_search_locations=[{root!r}]
)
pack = importlib.util.module_from_spec(spec)
sys.modules["a_pack"] = pack
spec.loader.exec_module(pack)
from a_pack.model_patches import Conditions, UNetConfig, VideoUNet
from a_pack.model_patches.network.hooks import Hooks

operations, ROWS, FRAMES = comfy.ops.disable_weight_init, 6, 3

# The two families, small: widths 32, 64, 128; Stable Diffusion's own settings otherwise (model_detection.py).
def pair(family, num_res_blocks):
    depth = num_res_blocks
    if family == "sd15":
        heads, own = dict(num_heads=4, num_head_channels=-1), dict(num_heads=4, head_dim=None)
    else:
        heads, own = dict(num_heads=-1, num_head_channels=16), dict(num_heads=None, head_dim=16)
    linear = family == "sd21"
    theirs = UNetModel(
        image_size=32, in_channels=4, out_channels=4, model_channels=32, channel_mult=(1, 2, 4), context_dim=24,
        num_res_blocks=[depth] * 3, transformer_depth=[1] * depth * 2 + [0] * depth, transformer_depth_middle=1,
        transformer_depth_output=[1] * (depth + 1) * 2 + [0] * (depth + 1), use_spatial_transformer=True,
        legacy=False, use_linear_in_transformer=linear, dtype=torch.float32, operations=operations, **heads,
    )
    config = UNetConfig(
        model_channels=32, channel_mult=(1, 2, 4), num_res_blocks=depth, attention_levels=(True, True, False),
        context_dim=24, linear_projection=linear, **own,
    )
    ours = VideoUNet(config, operations=operations, attention=optimized_attention)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, weight in theirs.named_parameters():
            spread = 0.2 if weight.ndim < 2 else weight[0].numel() ** -0.5
            weight.normal_(std=spread).add_(weight.ndim == 1 and name.endswith("weight"))
    ours.load_state_dict(theirs.state_dict())
    return theirs.eval(), ours.eval()


class Model(torch.nn.Module):
    """What the nodes ask a model for."""

    def __init__(self):
        super().__init__()
        self.model_config = types.SimpleNamespace(unet_config=dict(model_channels=32))
        self.model_sampling = torch.nn.Module()
        self.model_sampling.percent_to_sigma = lambda percent: 1000.0 * (1 - percent)


def patcher():
    return comfy.model_patcher.ModelPatcher(Model(), torch.device("cpu"), torch.device("cpu"))


def noise(like, seed):
    return torch.randn(like.shape, generator=torch.Generator().manual_seed(seed)).to(like)


NUMBERS = dict(input=1, middle=2, output=3)


def place(options):
    block = options.get("block", ("none", 0))
    return 100 * NUMBERS.get(block[0], 0) + block[1]


def scale(options):
    return 1 + place(options) / 1000


# One patch of each kind. They depend on the place, so that a wrong place gives other numbers.
def middle_after(facts):
    steps = facts["timesteps"].reshape(-1, 1, 1, 1) / 1000
    size = facts["h"].shape[2:]
    x = torch.nn.functional.interpolate(facts["x"], size=size).mean(1, keepdim=True)
    rest = facts["emb"].mean() + facts["context"].mean(dim=(1, 2)).reshape(-1, 1, 1, 1)
    assert facts["y"] is None
    return dict(facts, h=facts["h"] * 0.9 + x + steps + rest)


def appended(n, context, value, extra):
    more = noise(context[:, :2], place(extra))
    return n * scale(extra), torch.cat([context, more], 1), torch.cat([value, more * 0.5], 1)


PATCHES = dict(
    emb_patch=lambda emb, channels, options: emb * 0.9 + channels / 1000,
    input_block_patch=lambda h, options: h * scale(options) + noise(h, place(options)),
    input_block_patch_after_skip=lambda h, options: h + noise(h, place(options)) * options["transformer_index"] / 9,
    middle_block_after_patch=middle_after,
    output_block_patch=lambda h, skip, options: (h * scale(options), skip + noise(skip, place(options))),
    attn1_patch=appended,
    attn1_output_patch=lambda n, extra: n * scale(extra) * (extra["n_heads"] + extra["dim_head"]) / 24,
    middle_patch=lambda x, extra: x + noise(x, place(extra)) * extra["activations_shape"][-1] / 9,
    attn2_patch=appended,
    attn2_output_patch=lambda n, extra: n * scale(extra) + extra["original_shape"][-2] / 99,
)


def replacement(q, k, v, extra):
    assert extra["attn_precision"] is None
    return optimized_attention(q, k, v, extra["n_heads"]) * scale(extra) + noise(q, place(extra))


def one_context(n, context, value, extra):
    return n, context * 1.1, None


def skip_kept(h, skip, options):
    return torch.cat([h, skip * 0.5], 1), None


def only(**patches):
    model = patcher()
    for kind, function in patches.items():
        model.set_model_patch(function, kind)
    return model


def replacing(which, *places):
    model = patcher()
    for item in places:
        model.set_model_patch_replace(replacement, which, *item)
    return model


def every_kind():
    model = only(**PATCHES)
    for which in ("attn1", "attn2"):
        for item in (("middle", 0), ("input", 1), ("output", 5)):
            model.set_model_patch_replace(replacement, which, *item)
    return model


def node(made):
    return (made.result if hasattr(made, "result") else made)[0]


CASES = dict(
    plain=patcher,
    **{{kind: (lambda kind=kind: only(**{{kind: PATCHES[kind]}})) for kind in PATCHES}},
    attn1_replace=lambda: replacing("attn1", ("middle", 0), ("input", 1, 0), ("output", 4)),
    attn2_replace=lambda: replacing("attn2", ("middle", 0, 0), ("input", 1), ("output", 4), ("output", 5, 1)),
    values_left_out=lambda: only(attn1_patch=one_context, attn2_patch=one_context),
    skip_kept=lambda: only(output_block_patch=skip_kept),
    every_kind=every_kind,
    FreeU=lambda: node(nodes_freelunch.FreeU.execute(patcher(), 1.1, 1.2, 0.9, 0.2)),
    FreeU_V2=lambda: node(nodes_freelunch.FreeU_V2.execute(patcher(), 1.3, 1.4, 0.9, 0.2)),
    HyperTile=lambda: node(nodes_hypertile.HyperTile.execute(patcher(), 32, 2, 1, False)),
    ToMe=lambda: node(nodes_tomesd.TomePatchModel.execute(patcher(), 0.5)),
    DeepShrink=lambda: node(nodes_model_downscale.PatchModelAddDownscale.execute(
        patcher(), 3, 2.0, 0.0, 0.9, True, "bicubic", "bicubic")),
    DeepShrink_before_skip=lambda: node(nodes_model_downscale.PatchModelAddDownscale.execute(
        patcher(), 2, 2.0, 0.0, 0.9, False, "bilinear", "bilinear")),
)


def heard(options, calls):
    """The options with every function telling where it was called and what it was told."""
    def told(kind, function):
        def call(*args):
            facts = args[0]["transformer_options"] if isinstance(args[0], dict) else args[-1]
            shapes = [list(a.shape) for a in args if isinstance(a, torch.Tensor)]
            names = ("block", "block_index", "transformer_index", "activations_shape", "original_shape",
                     "n_heads", "dim_head", "attn_precision")
            calls.append([kind, shapes, {{k: facts[k] for k in names if k in facts}}, sorted(facts)])
            return function(*args)
        return call

    options = dict(options)
    if "patches" in options:
        options["patches"] = {{k: [told(k, f) for f in v] for k, v in options["patches"].items()}}
    if "patches_replace" in options:
        options["patches_replace"] = {{
            k: {{p: told(k, f) for p, f in v.items()}} for k, v in options["patches_replace"].items()
        }}
    return options


def control(theirs, x, t, text):
    """A residual for each block, some of them missing, one of a size that fits nowhere."""
    shapes = dict(input=[], middle=[], output=[])

    def after(facts):
        shapes["middle"].append(facts["h"].shape)
        return facts

    options = dict(patches=dict(
        input_block_patch=[lambda h, o: shapes["input"].append(h.shape) or h],
        middle_block_after_patch=[after],
        output_block_patch=[lambda h, s, o: shapes["output"].append(s.shape) or (h, s)],
    ))
    theirs(x, t, text, transformer_options=options)
    made = {{k: [torch.randn(s) * 0.5 for s in reversed(v)] for k, v in shapes.items()}}
    made["input"][2] = made["output"][0] = None
    made["output"][3] = torch.randn(1, 5, 2, 2)
    made["output"][4] = made["output"][4][:, :, :1, :1]  # one number a channel: spread over the picture
    made["input"] = made["input"][2:]
    return made


def compare(networks, size, model, rows=ROWS, controlled=False):
    theirs, ours = networks
    torch.manual_seed(3)
    x, t, text = torch.randn(ROWS, 4, *size), torch.randint(0, 1000, (ROWS // FRAMES,)), torch.randn(rows, 7, 24)
    each = lambda v, n: v.repeat_interleave(n, 0)
    per_frame, all_t = each(text, ROWS // rows), each(t, FRAMES)
    residuals = control(theirs, x, all_t, per_frame) if controlled else None
    results, calls, left = [], ([], []), []
    for which in (0, 1):
        options = heard(model.model_options["transformer_options"], calls[which])
        options.update(sigmas=torch.full((1,), 500.0), cond_or_uncond=[0])
        given = residuals and {{k: [r if r is None else r.clone() for r in v] for k, v in residuals.items()}}
        torch.manual_seed(4)
        random.seed(4)
        if which == 0:
            results.append(theirs(x.clone(), all_t, per_frame, control=given, transformer_options=options))
        else:
            results.append(ours(x.clone(), t, Conditions(text), num_frames=FRAMES, hooks=Hooks(options, given)))
        left.append({{k: len(v) for k, v in (given or {{}}).items()}})
        left[-1]["told"] = sorted((k, str(v)) for k, v in options.items() if k not in ("patches", "patches_replace"))
    a, b = results
    plain = theirs(x, all_t, per_frame)
    return dict(
        error=((a - b).abs().max() / a.abs().max()).item(), same_calls=calls[0] == calls[1],
        same_left=left[0] == left[1], calls=len(calls[0]),
        effect=((a - plain).abs().max() / plain.abs().max()).item(),
    )


facts = {{}}
with torch.no_grad():
    for family, depth, sizes in (("sd15", 1, [(8, 8), (9, 7)]), ("sd21", 2, [(16, 16), (7, 10)])):
        networks = pair(family, depth)
        for size in sizes:
            for case, make in CASES.items():
                for rows in (ROWS, ROWS // FRAMES):
                    name = f"{{family}} {{size}} {{case}} text rows {{rows}}"
                    facts[name] = dict(compare(networks, size, make(), rows), case=case)
            facts[f"{{family}} {{size}} control"] = dict(
                compare(networks, size, patcher(), controlled=True), case="control")
            facts[f"{{family}} {{size}} control, every kind"] = dict(
                compare(networks, size, every_kind(), controlled=True), case="control")
print(json.dumps(facts))
'''

# HyperTile finds nothing to do at some of the sizes.
MAY_REST = {"plain", "HyperTile"}


@pytest.fixture(scope="module")
def facts(host):
    folder, python = host
    script = SCRIPT.format(host=str(folder), root=str(ROOT))
    done = subprocess.run([python, "-c", script], cwd=folder, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.strip().splitlines()[-1])


def test_the_same_numbers_as_the_hosts_own_unet(facts):
    wrong = {name: fact["error"] for name, fact in facts.items() if not fact["error"] < 1e-5}
    assert not wrong


def test_the_same_calls_in_the_same_order_with_the_same_facts(facts):
    assert [name for name, fact in facts.items() if not fact["same_calls"]] == []
    assert [name for name, fact in facts.items() if not fact["same_left"]] == []


def test_every_case_changes_something(facts):
    """A case without effect would compare nothing."""
    idle = {fact["case"] for fact in facts.values() if fact["effect"] < 1e-4}
    busy = {fact["case"] for fact in facts.values() if fact["effect"] >= 1e-4}
    assert idle <= MAY_REST
    assert busy >= MAY_REST - {"plain"}
