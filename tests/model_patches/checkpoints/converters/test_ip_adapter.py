"""IP-Adapter and IP-Adapter-plus equal diffusers' attention processors and image projections.

Names and numbers of the files are made here as IP-Adapter's trainer makes them: by counting diffusers' attentions.
"""

import logging
from dataclasses import replace
from typing import Any

import pytest
import torch
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel
from diffusers.models.unets.unet_motion_model import MotionAdapter, UNetMotionModel
from einops import rearrange
from safetensors.torch import load_file, save_file

from dreamfactory.model_patches import (
    CheckpointError,
    Conditions,
    VideoUNet,
    apply_patch,
    load_unet,
    preset,
    read_header,
)
from dreamfactory.model_patches.checkpoints.compose import merge_motion
from dreamfactory.model_patches.checkpoints.converters import convert_file, ip_adapter, modelscope, sd
from dreamfactory.model_patches.checkpoints.save import build

from ....random_weights import randomise

TOLERANCE = 1e-5
EMBEDDING = 24  # of the vision encoder
SMALL = {"norm_groups": 8}

logging.getLogger("diffusers").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def image_peer(context=768) -> UNet2DConditionModel:
    """Stable Diffusion 1.5 (context 768) or 2.x (1024), with 32 channels where it has 320."""
    sd2 = {"attention_head_dim": (2, 4, 8, 8), "use_linear_projection": True} if context == 1024 else {}
    return randomise(
        UNet2DConditionModel(
            block_out_channels=(32, 64, 128, 128),
            cross_attention_dim=context,
            norm_num_groups=8,
            **{"attention_head_dim": 8, **sd2},
        )
    )


def our_base(peer: UNet2DConditionModel) -> VideoUNet:
    heads = {"head_dim": 16} if peer.config["cross_attention_dim"] == 1024 else {}
    config, state, _, _ = sd.convert_diffusers(peer.state_dict(), overrides={**SMALL, **heads})
    return build(config, state)


def adapters(unet, tokens: int, real: bool = True) -> dict[str, torch.Tensor]:
    """`ip_adapter.N.to_{k,v}_ip.weight`: N is the place of a cross-attention among all attentions of the image UNet."""
    state = {}
    for n, name in enumerate(k for k in unet.attn_processors if "motion_modules" not in k):
        if name.endswith("attn2.processor"):
            width = unet.get_submodule(name.removesuffix(".processor")).to_q.weight.shape[0]
            for side in "kv":
                weight = torch.randn(width, tokens) * tokens**-0.5 if real else torch.empty(width, tokens)
                state[f"ip_adapter.{n}.to_{side}_ip.weight"] = weight
    return state


def base_projector(tokens: int, embedding=EMBEDDING) -> dict[str, torch.Tensor]:
    """ImageProjModel: 4 tokens from one pooled embedding."""
    return {
        "image_proj.proj.weight": torch.randn(4 * tokens, embedding) * embedding**-0.5,
        "image_proj.proj.bias": torch.randn(4 * tokens) * 0.2,
        "image_proj.norm.weight": 1 + torch.randn(tokens) * 0.2,
        "image_proj.norm.bias": torch.randn(tokens) * 0.2,
    }


def plus_projector(tokens: int, dim=48, heads=3, queries=16, depth=4, embedding=EMBEDDING) -> dict[str, torch.Tensor]:
    """Resampler: `queries` tokens from all patches; heads of 64."""
    inner = 64 * heads

    def linear(name, outputs, inputs, bias):
        out = {f"image_proj.{name}.weight": torch.randn(outputs, inputs) * inputs**-0.5}
        return out | ({f"image_proj.{name}.bias": torch.randn(outputs) * 0.2} if bias else {})

    def norm(name, width):
        return {
            f"image_proj.{name}.weight": 1 + torch.randn(width) * 0.2,
            f"image_proj.{name}.bias": torch.randn(width) * 0.2,
        }

    state = {"image_proj.latents": torch.randn(1, queries, dim) * dim**-0.5}
    state |= linear("proj_in", dim, embedding, True) | linear("proj_out", tokens, dim, True) | norm("norm_out", tokens)
    for i in range(depth):
        attention, forward = f"layers.{i}.0", f"layers.{i}.1"
        state |= norm(f"{attention}.norm1", dim) | norm(f"{attention}.norm2", dim)
        state |= linear(f"{attention}.to_q", inner, dim, False) | linear(f"{attention}.to_kv", 2 * inner, dim, False)
        state |= linear(f"{attention}.to_out", dim, inner, False) | norm(f"{forward}.0", dim)
        state |= linear(f"{forward}.1", 4 * dim, dim, False) | linear(f"{forward}.3", dim, 4 * dim, False)
    return state


PROJECTORS = {"base": base_projector, "plus": plus_projector}


def features(kind: str, rows: int) -> torch.Tensor:
    return torch.randn(rows, EMBEDDING) if kind == "base" else torch.randn(rows, 7, EMBEDDING)


def nested(state: dict) -> dict:
    """As diffusers' loader sorts a safetensors file."""
    out: dict = {"image_proj": {}, "ip_adapter": {}}
    for key, weight in state.items():
        part, name = key.split(".", 1)
        out[part][name] = weight
    return out


def patch_of(tmp_path, state, **overrides):
    save_file(state, tmp_path / "ip.safetensors")
    report = convert_file(tmp_path / "ip.safetensors", tmp_path / "patch.safetensors", overrides={**SMALL, **overrides})
    return tmp_path / "patch.safetensors", report


def relative(ours: torch.Tensor, peer: torch.Tensor) -> float:
    assert ours.shape == peer.shape
    assert peer.std() > 0.05
    return float((ours - peer).abs().max() / peer.abs().max())


# -- equal to the peer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", PROJECTORS)
@pytest.mark.parametrize("context", [768, 1024])
def test_adapter_on_stable_diffusion_equals_the_peer(tmp_path, kind, context):
    peer = image_peer(context)
    ours = our_base(peer)
    state = adapters(peer, context) | PROJECTORS[kind](context)
    path, report = patch_of(tmp_path, state, **({"head_dim": 16} if context == 1024 else {}))
    assert len(report.loaded) == len(state)
    assert not report.missing
    assert not report.unexpected
    patched = apply_patch(ours, path)
    assert (patched.config.image_adapter, patched.config.image_token_dim) == ("all", context)

    x, t, text, seen = torch.randn(2, 4, 8, 8), torch.tensor([7, 801]), torch.randn(2, 5, context), features(kind, 2)
    with torch.no_grad():
        without = peer(x, t, text).sample
        peer._load_ip_adapter_weights([nested(state)], low_cpu_mem_usage=False)
        tokens = peer.get_submodule("encoder_hid_proj")([seen[:, None]])[0].flatten(1, 2)
        assert relative(patched.project_image(seen), tokens) <= TOLERANCE
        theirs = peer(x, t, text, added_cond_kwargs={"image_embeds": [seen[:, None]]}).sample
        out = patched(x, t, Conditions(text, image_tokens=patched.project_image(seen)), num_frames=1)
    assert relative(out, theirs) <= TOLERANCE
    assert relative(without, theirs) > 1e-2  # the adapter matters


@pytest.mark.parametrize("strength", [0.0, 0.6])
def test_strength_is_the_peers_scale(tmp_path, strength):
    peer = image_peer()
    state = adapters(peer, 768) | base_projector(768)
    patched = apply_patch(our_base(peer), patch_of(tmp_path, state)[0])
    x, t, text, seen = torch.randn(1, 4, 8, 8), torch.tensor([500]), torch.randn(1, 5, 768), features("base", 1)
    peer._load_ip_adapter_weights([nested(state)], low_cpu_mem_usage=False)
    processors: dict[str, Any] = peer.attn_processors
    for processor in processors.values():
        if hasattr(processor, "scale"):
            processor.scale = [strength]
    with torch.no_grad():
        theirs = peer(x, t, text, added_cond_kwargs={"image_embeds": [seen[:, None]]}).sample
        tokens = patched.project_image(seen)
        out = patched(x, t, Conditions(text, image_tokens=tokens, strengths={"image_adapter": strength}), num_frames=1)
    assert relative(out, theirs) <= TOLERANCE


@pytest.mark.parametrize("kind", PROJECTORS)
def test_adapter_and_motion_together_equal_the_peer(tmp_path, kind):
    """IP-Adapter on Stable Diffusion with AnimateDiff's motion; the numbers of the file skip motion modules."""
    image = image_peer()
    motion = randomise(MotionAdapter(block_out_channels=(32, 64, 128, 128), motion_norm_num_groups=8))
    state = adapters(image, 768) | PROJECTORS[kind](768)
    motion.save_pretrained(tmp_path / "motion")
    convert_file(tmp_path / "motion", tmp_path / "motion.safetensors")
    base = our_base(image)
    config, weights, _ = merge_motion(base.config, base.state_dict(), tmp_path / "motion.safetensors")
    patched = apply_patch(build(config, weights), patch_of(tmp_path, state)[0])

    peer: Any = UNetMotionModel.from_unet2d(image, motion)
    peer.eval()
    assert adapters(peer, 768, real=False).keys() == {k for k in state if k.startswith("ip_adapter.")}
    peer._load_ip_adapter_weights([nested(state)], low_cpu_mem_usage=False)
    frames, seen = 3, features(kind, 2)
    x, t, text = torch.randn(2, 4, frames, 8, 8), torch.tensor([7, 801]), torch.randn(2, 5, 768)
    with torch.no_grad():
        theirs = peer(
            x, t, text.repeat_interleave(frames, 0), added_cond_kwargs={"image_embeds": [seen[:, None]]}
        ).sample
        tokens = patched.project_image(seen)
        out = patched(
            rearrange(x, "b c t h w -> (b t) c h w"), t, Conditions(text, image_tokens=tokens), num_frames=frames
        )
    assert relative(rearrange(out, "(b t) c h w -> b c t h w", t=frames), theirs) <= TOLERANCE


def test_adapter_on_a_modelscope_network(tmp_path):
    """Stable Diffusion 2.x's adapter has its places on the video networks that grew out of it."""
    peer = randomise(
        UNet3DConditionModel(
            block_out_channels=(32, 64, 128, 128), attention_head_dim=16, cross_attention_dim=1024, norm_num_groups=8
        )
    )
    config, weights, _, _ = modelscope.convert_diffusers(peer.state_dict(), overrides=SMALL)
    base = build(config, weights)
    state = adapters(image_peer(1024), 1024) | base_projector(1024)
    patched = apply_patch(base, patch_of(tmp_path, state, head_dim=16)[0])
    x, t, text = torch.randn(2, 4, 8, 8), torch.tensor([7]), torch.randn(1, 5, 1024)
    with torch.no_grad():
        tokens = patched.project_image(features("base", 1))
        plain = base(x, t, Conditions(text), num_frames=2)
        assert torch.equal(patched(x, t, Conditions(text), num_frames=2), plain)
        assert relative(patched(x, t, Conditions(text, image_tokens=tokens), num_frames=2), plain) > 1e-2


# -- full size --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("context", "name", "millions"), [(768, "sd15", "19.17"), (1024, "sd21", "25.56")], ids=["sd15", "sd21"]
)
@pytest.mark.parametrize("kind", PROJECTORS)
def test_released_sizes(context, name, millions, kind):
    with torch.device("meta"):
        heads = {"attention_head_dim": (5, 10, 20, 20), "use_linear_projection": True} if context == 1024 else {}
        peer = UNet2DConditionModel(
            block_out_channels=(320, 640, 1280, 1280), cross_attention_dim=context, **{"attention_head_dim": 8, **heads}
        )
        state = adapters(peer, context, real=False)
        assert len(state) == 32
        assert f"{sum(v.numel() for v in state.values()) / 1e6:.2f}" == millions
        assert {int(k.split(".")[1]) for k in state} == set(range(1, 33, 2))
        assert state["ip_adapter.31.to_k_ip.weight"].shape == (1280, context)  # the middle comes last
        if kind == "base":
            state |= base_projector(context, 1024)
        else:
            state |= plus_projector(context, context, 12, 16, 4, 1280)
        config, weights, schedule, _ = ip_adapter.convert(state)
    assert schedule is None  # the base's
    assert sum(v.numel() for v in weights.values()) == sum(v.numel() for v in state.values())
    projector = config.image_projector
    assert config.uncond_image == "zeros"
    plain = replace(config, image_adapter="off", image_token_dim=1024, image_projector=None, image_uncond=None)
    assert plain == preset(name)
    assert projector is not None
    if kind == "base":
        assert (projector.kind, projector.queries, projector.reads) == ("linear", 4, "pooled")
        assert projector.embedding_dim == 1024
    else:
        assert (projector.kind, projector.queries, projector.reads) == ("resampler", 16, "penultimate")
        assert (projector.heads, projector.head_dim, projector.depth) == (12, 64, 4)
        assert projector.frames is None


def test_patch_says_its_part_and_keeps_the_files_precision(tmp_path):
    state = {k: v.half() for k, v in (adapters(image_peer(), 768) | plus_projector(768)).items()}
    path, report = patch_of(tmp_path, state)
    header = read_header(path)
    assert header.metadata["dreamfactory.parts"] == "image_adapter"
    assert header.metadata["dreamfactory.source"] == "ip-adapter"
    assert header.schedule is None
    assert {v.dtype for v in load_file(path).values()} == {torch.float16}
    assert any("penultimate" in note for note in report.notes)


# -- what is refused --------------------------------------------------------------------------------------------


def tiny() -> dict[str, torch.Tensor]:
    with torch.device("meta"):
        peer = UNet2DConditionModel(
            block_out_channels=(32, 64, 128, 128), cross_attention_dim=768, attention_head_dim=8, norm_num_groups=8
        )
    return adapters(peer, 768) | base_projector(768)


def without(state: dict, name: str) -> dict:
    return {k: v for k, v in state.items() if name not in k}


def mlp(*names: str) -> dict[str, torch.Tensor]:
    return {f"image_proj.{name}": torch.ones(4, 4) for name in names}


FACE = ("proj.0.weight", "proj.2.weight")
WRONG = {
    "FaceID": (lambda s: without(s, "image_proj") | mlp(*FACE, "norm.weight"), "IP-Adapter FaceID, which"),
    "FaceID with its LoRA": (
        lambda s: without(s, "image_proj") | {"ip_adapter.0.to_q_lora.down.weight": torch.ones(4, 4)},
        "IP-Adapter FaceID, which",
    ),
    "FaceID-plus": (lambda s: s | mlp(*FACE, "perceiver_resampler.proj_in.weight"), "FaceID-plus"),
    "full face": (lambda s: without(s, "image_proj") | mlp(*FACE, "proj.3.weight"), "full face"),
    "SDXL": (lambda s: s | {"ip_adapter.1.to_k_ip.weight": torch.ones(32, 2048)}, "2048 wide (this one is for SDXL)"),
    "another width": (lambda s: s | {"ip_adapter.1.to_k_ip.weight": torch.ones(32, 640)}, "640 wide; give"),
    "no adapters": (lambda s: without(s, "ip_adapter"), "lacks ip_adapter.1.to_k_ip.weight"),
    "no projector": (lambda s: without(s, "image_proj"), "projector is of another kind"),
    "an adapter lost": (lambda s: without(s, "ip_adapter.31.to_v"), "lacks 1 weights"),
    "an adapter too many": (lambda s: s | {"ip_adapter.33.to_k_ip.weight": torch.ones(32, 768)}, "unexpected 1"),
    "another shape": (lambda s: s | {"ip_adapter.31.to_k_ip.weight": torch.ones(32, 768)}, "is (32, 768)"),
    "something beside it": (lambda s: s | {"controller.weight": torch.ones(2, 2)}, "unexpected 1"),
}


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_cost_one_sentence(tmp_path, name):
    change, expected = WRONG[name]
    save_file(change(tiny()), tmp_path / "ip.safetensors")
    with pytest.raises(CheckpointError) as error:
        convert_file(tmp_path / "ip.safetensors", tmp_path / "patch.safetensors", overrides=SMALL)
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")
    assert [p.name for p in tmp_path.iterdir()] == ["ip.safetensors"]


def test_it_is_no_network_and_brings_no_motion(tmp_path):
    path, _ = patch_of(tmp_path, tiny())
    with pytest.raises(CheckpointError, match=r"IP-Adapter.*dreamfactory convert"):
        load_unet(tmp_path / "ip.safetensors")
    base = our_base(image_peer())
    with pytest.raises(CheckpointError, match="without a temporal half"):
        merge_motion(base.config, base.state_dict(), path)
    # The public file itself is read as a patch too; it cannot tell the groups, which are the released network's.
    base = VideoUNet(replace(base.config, norm_groups=32))
    public = tmp_path / "ip.safetensors"
    with pytest.raises(CheckpointError, match="without a temporal half"):
        merge_motion(base.config, base.state_dict(), public)
    patched, weights = apply_patch(base, public).state_dict(), load_file(path)
    assert all(torch.equal(patched[k], v) for k, v in weights.items())


def test_another_generation_is_refused(tmp_path):
    path, _ = patch_of(tmp_path, tiny())
    with pytest.raises(CheckpointError, match="same generation"):
        apply_patch(our_base(image_peer(1024)), path)
