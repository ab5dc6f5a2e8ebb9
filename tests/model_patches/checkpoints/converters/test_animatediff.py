"""AnimateDiff motion modules on Stable Diffusion 1.5 equal diffusers' UNetMotionModel, and go back to its names.

Every weight of the peer is random, those that training starts at zero as well. AnimateDiff's own code takes the group
norm of a motion module frame by frame, where diffusers takes it over the clip; for its names the peer is changed in
that one place.
"""

import logging
import re
from dataclasses import replace
from typing import Any, cast

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_animatediff_checkpoint_to_diffusers
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel
from diffusers.models.unets.unet_motion_model import MotionAdapter, UNetMotionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from einops import rearrange
from safetensors.torch import load_file, save_file

from dreamfactory import cli
from dreamfactory.model_patches import (
    CheckpointError,
    Conditions,
    VideoUNet,
    apply_patch,
    load_unet,
    preset,
    read_header,
    save_unet,
)
from dreamfactory.model_patches.checkpoints.compose import merge_motion
from dreamfactory.model_patches.checkpoints.converters import (
    SOURCES,
    Report,
    animatediff,
    convert_file,
    convert_file_in_memory,
    modelscope,
    sd,
)
from dreamfactory.model_patches.checkpoints.converters.infer import betas_from_buffers
from dreamfactory.model_patches.checkpoints.export import FORMS, export_file, export_motion
from dreamfactory.model_patches.checkpoints.save import build
from dreamfactory.schedulers import ScheduleConfig, linear_betas

from ....random_weights import randomise

TOLERANCE = 1e-5
GROUPS = 8  # of 32 on 32 channels a norm over one frame would leave nothing
WIDTHS = (32, 64, 64, 64)
FRAMES = 3

logging.getLogger("diffusers").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


def image_peer(widths=WIDTHS, layers=1, **config) -> UNet2DConditionModel:
    """Stable Diffusion 1.5's network, small: 8 heads, 1x1 convolutions as projections, no attention at the bottom."""
    small = {"cross_attention_dim": 768, "attention_head_dim": 8, "norm_num_groups": GROUPS}
    return randomise(UNet2DConditionModel(block_out_channels=widths, layers_per_block=layers, **{**small, **config}))


def adapter(middle: bool, frames: int, widths=WIDTHS, layers=1) -> MotionAdapter:
    return randomise(
        MotionAdapter(
            block_out_channels=widths,
            motion_layers_per_block=layers,
            motion_norm_num_groups=GROUPS,
            motion_max_seq_length=frames,
            use_motion_mid_block=middle,
        )
    )


def original(state: dict[str, torch.Tensor], prefix: str = "") -> dict[str, torch.Tensor]:
    """diffusers' names -> AnimateDiff's, written by hand after its motion_module.py."""
    names = (
        (r"motion_modules\.(\d+)\.", r"motion_modules.\1.temporal_transformer."),
        (r"\.attn1\.", ".attention_blocks.0."),
        (r"\.attn2\.", ".attention_blocks.1."),
        (r"\.norm1\.", ".norms.0."),
        (r"\.norm2\.", ".norms.1."),
        (r"\.norm3\.", ".ff_norm."),
    )
    out = {}
    for key, weight in state.items():
        for theirs, own in names:
            key = re.sub(theirs, own, key)
        if ".pos_embed.pe" in key:
            for i in range(2):
                out[prefix + key.replace("pos_embed", f"attention_blocks.{i}.pos_encoder")] = weight.clone()
        else:
            out[prefix + key] = weight
    return out


class NormByFrame(torch.nn.Module):
    """AnimateDiff's motion_module.py: `(b f) c h w` before the norm."""

    def __init__(self, norm: torch.nn.GroupNorm) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        frames = x.shape[2]
        return rearrange(self.norm(rearrange(x, "b c t h w -> (b t) c h w")), "(b t) c h w -> b c t h w", t=frames)


def motion_peer(base: UNet2DConditionModel, motion: MotionAdapter, by_frame: bool) -> UNetMotionModel:
    peer: Any = UNetMotionModel.from_unet2d(base, motion)
    peer.eval()
    if by_frame:
        for block in (*peer.down_blocks, peer.mid_block, *peer.up_blocks):
            for module in getattr(block, "motion_modules", ()):
                module.norm = NormByFrame(module.norm)
    return peer


def our_base(base: UNet2DConditionModel) -> VideoUNet:
    config, state, schedule, _ = sd.convert_diffusers(base.state_dict(), overrides={"norm_groups": GROUPS})
    unet = build(config, state)
    unet.schedule = schedule
    return unet


def norms(module: torch.nn.Module) -> list[tuple[str, float]]:
    """Kind and eps of every norm: 1e-5 and 1e-6 differ by less than rounding at ordinary activations."""
    kinds = (torch.nn.GroupNorm, torch.nn.LayerNorm)
    return sorted((type(m).__name__, m.eps) for m in module.modules() if isinstance(m, kinds))


@torch.no_grad()
def difference(ours: VideoUNet, peer: UNetMotionModel, frames=FRAMES, size=(16, 16)) -> float:
    """Largest difference, relative to the peer's largest answer; two clips at two timesteps."""
    assert norms(ours) == norms(peer)
    x, t, text = torch.randn(2, 4, frames, *size), torch.tensor([7, 801]), torch.randn(2, 5, 768)
    # The peer has one row of text a frame; its timesteps are one a clip.
    theirs = peer(x, t, text.repeat_interleave(frames, 0)).sample
    out = ours(rearrange(x, "b c t h w -> (b t) c h w"), t, Conditions(text, still=False), num_frames=frames)
    out = rearrange(out, "(b t) c h w -> b c t h w", t=frames)
    assert out.shape == theirs.shape
    assert theirs.std() > 0.05
    return float((out - theirs).abs().max() / theirs.abs().max())


# -- equal to the peer ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["diffusers", "original", "module.", "state_dict.module.", "unet."])
@pytest.mark.parametrize(("middle", "positions"), [(False, 24), (True, 32), (False, 32)], ids=["v1", "v2", "v3"])
def test_motion_on_stable_diffusion_equals_the_peer(tmp_path, names, middle, positions):
    base, motion = image_peer(), adapter(middle, positions)
    state = motion.state_dict()
    if names != "diffusers":
        state = original(state, names if names != "original" else "")
    save_file(state, tmp_path / "mm.safetensors")
    report = convert_file(
        tmp_path / "mm.safetensors", tmp_path / "patch.safetensors", overrides={"norm_groups": GROUPS}
    )
    assert report.source == "animatediff"
    assert len(report.loaded) == len([k for k in motion.state_dict() if not k.endswith(".pe")])
    assert any("AnimateDiff v1" in note for note in report.notes) == (positions == 24)
    ours = apply_patch(our_base(base), tmp_path / "patch.safetensors")
    assert ours.config.temporal_attention_middle == middle
    assert difference(ours, motion_peer(base, motion, by_frame=names != "diffusers")) <= TOLERANCE


@pytest.mark.parametrize(
    ("widths", "layers", "size"),
    [((32, 64, 64, 64), 2, (16, 16)), ((32, 32, 64, 64), 1, (17, 14)), ((32, 64, 96), 2, (9, 7))],
)
def test_other_depths_and_odd_sizes(tmp_path, widths, layers, size):
    types = {
        "down_block_types": ("CrossAttnDownBlock2D",) * (len(widths) - 1) + ("DownBlock2D",),
        "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * (len(widths) - 1),
    }
    base, motion = image_peer(widths, layers, **types), adapter(True, 32, widths, layers)
    save_file(motion.state_dict(), tmp_path / "mm.safetensors")
    convert_file(tmp_path / "mm.safetensors", tmp_path / "patch.safetensors", overrides={"norm_groups": GROUPS})
    ours = apply_patch(our_base(base), tmp_path / "patch.safetensors")
    assert difference(ours, motion_peer(base, motion, False), size=size) <= TOLERANCE


def test_the_norm_by_frame_is_another_computation():
    """The field is needed: with it the wrong way round the answers differ by more than rounding."""
    base, motion = image_peer(), adapter(True, 32)
    config, weights, _, _ = animatediff.convert(original(motion.state_dict()), overrides={"norm_groups": GROUPS})
    assert config.temporal_norm == "frame"
    unet = build(replace(config, temporal_norm="clip"), {**our_base(base).state_dict(), **weights})
    assert difference(unet, motion_peer(base, motion, True)) > 100 * TOLERANCE
    assert difference(unet, motion_peer(base, motion, False)) <= TOLERANCE


def test_a_folder_of_diffusers_and_more_frames_than_its_table(tmp_path):
    """from_pretrained's folder, whose config.json tells the groups; the table here has no end."""
    base, motion = image_peer(), adapter(True, 2)
    motion.save_pretrained(tmp_path / "adapter")
    convert_file(tmp_path / "adapter", tmp_path / "patch.safetensors")
    ours = apply_patch(our_base(base), tmp_path / "patch.safetensors")
    assert difference(ours, motion_peer(base, motion, False), frames=2) <= TOLERANCE
    longer = adapter(True, 32)
    longer.load_state_dict({k: v for k, v in motion.state_dict().items() if not k.endswith(".pe")}, strict=False)
    assert difference(ours, motion_peer(base, longer, False), frames=5) <= TOLERANCE


def test_a_whole_motion_unet_gives_its_modules(tmp_path):
    base, motion = image_peer(), adapter(True, 32)
    peer = motion_peer(base, motion, False)
    save_file(peer.state_dict(), tmp_path / "whole.safetensors")
    report = convert_file(tmp_path / "whole.safetensors", tmp_path / "a.safetensors", overrides={"norm_groups": GROUPS})
    assert any("left aside" in note for note in report.notes)
    assert difference(apply_patch(our_base(base), tmp_path / "a.safetensors"), peer) <= TOLERANCE


def test_the_hosts_loader_may_read_the_file_as_it_is(tmp_path):
    """merge_motion and apply_patch convert it in memory, as load_unet does with networks."""
    base, motion = image_peer((32, 64, 64, 64), norm_num_groups=32), adapter(True, 32)
    motion.save_pretrained(tmp_path)
    path = tmp_path / "diffusion_pytorch_model.safetensors"
    config, state, _, _ = sd.convert_diffusers(base.state_dict())
    merged, weights, schedule = merge_motion(config, state, path)
    assert schedule is not None
    assert schedule["betas"] == "linear"
    by_hand = apply_patch(build(config, state), path)
    assert by_hand.config == merged
    assert all(torch.equal(v, weights[k]) for k, v in by_hand.state_dict().items())


# -- full size --------------------------------------------------------------------------------------------------


def released(middle: bool, positions: int) -> dict[str, torch.Tensor]:
    """Names and shapes of a released adapter; only the tables are real."""
    with torch.device("meta"):
        state = MotionAdapter(motion_max_seq_length=positions, use_motion_mid_block=middle).state_dict()
    tables = MotionAdapter(
        block_out_channels=(320, 640, 1280),
        motion_layers_per_block=0,
        motion_max_seq_length=positions,
        motion_mid_block_layers_per_block=0,
        motion_transformer_layers_per_mid_block=cast("Any", ()),
    ).state_dict()
    real = {v.shape: v for k, v in tables.items() if k.endswith(".pe")}
    return {k: real[v.shape] if k.endswith(".pe") else v for k, v in state.items()}


@pytest.mark.parametrize(
    ("middle", "positions", "keys", "millions"),
    [(False, 24, 540, "417.1"), (True, 32, 567, "453.2"), (False, 32, 540, "417.1")],
    ids=["v1", "v2", "v3"],
)
@pytest.mark.parametrize("names", ["diffusers", "original"])
def test_released_sizes(names, middle, positions, keys, millions):
    state = released(middle, positions)
    assert len(state) == keys
    count = sum(v.numel() for k, v in state.items() if not k.endswith(".pe"))
    assert f"{count / 1e6:.1f}" == millions
    if names == "original":
        tables = [k for k in state if k.endswith(".pe")]
        state = original(state)
        assert len(state) == keys + len(tables)  # a table for each of the two attentions
        own = convert_animatediff_checkpoint_to_diffusers(dict(state))  # diffusers' own way back
        assert own.keys() == {k for k in released(middle, positions) if not k.endswith(".pe")}
    config, weights, _, report = animatediff.convert(state)
    norm = "frame" if names == "original" else "clip"
    assert config == replace(preset("animatediff"), temporal_attention_middle=middle, temporal_norm=norm)
    assert sum(v.numel() for v in weights.values()) == count
    assert len(report.loaded) == keys - keys // 27
    assert not report.missing
    assert not report.unexpected
    assert any(f"up to {positions} frames" in note for note in report.notes)


# -- the noise it was trained with ------------------------------------------------------------------------------


def test_the_patch_brings_animatediffs_noise(tmp_path):
    """configs/inference/inference-v*.yaml: beta_schedule linear, 0.00085 to 0.012; diffusers makes the same table."""
    save_file(adapter(True, 32).state_dict(), tmp_path / "mm.safetensors")
    convert_file(tmp_path / "mm.safetensors", tmp_path / "patch.safetensors", overrides={"norm_groups": GROUPS})
    stated = read_header(tmp_path / "patch.safetensors").schedule
    peer = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear")
    schedule = ScheduleConfig.from_dict(stated)
    assert (schedule.prediction, schedule.spacing) == ("eps", "leading")
    torch.testing.assert_close(schedule.build(16, 512, 512).alphas_cumprod.float(), peer.alphas_cumprod)
    torch.testing.assert_close(linear_betas().float(), peer.betas)
    base = our_base(image_peer())
    assert base.schedule is not None
    assert base.schedule["betas"] == "scaled_linear"
    assert apply_patch(base, tmp_path / "patch.safetensors").schedule == stated


@pytest.mark.parametrize("name", ["linear", "scaled_linear", "squaredcos_cap_v2"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_which_betas_a_file_was_trained_with(name, dtype):
    report = Report("x")
    betas = DDIMScheduler(beta_end=0.02, beta_schedule=name).betas[:999]  # before a cosine's last one, which is 1
    found = betas_from_buffers({"betas": betas.to(dtype)}, report)
    if name == "squaredcos_cap_v2":
        assert "neither" in report.notes[0]
        assert "betas" not in found
    else:
        assert found["betas"] == name
        assert not report.notes


def test_a_pipelines_scheduler_says_its_betas(tmp_path):
    image_peer().save_pretrained(tmp_path / "unet")
    DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="linear").save_pretrained(tmp_path / "scheduler")
    _, schedule, _, _ = convert_file_in_memory(tmp_path, overrides={"norm_groups": GROUPS})
    assert schedule is not None
    assert (schedule["betas"], schedule["beta_end"]) == ("linear", 0.012)


# -- what is refused --------------------------------------------------------------------------------------------


def tiny_original() -> dict[str, torch.Tensor]:
    return original(adapter(True, 32).state_dict())


def without(state: dict, name: str) -> dict:
    return {k: v for k, v in state.items() if name not in k}


def learned_table(state: dict) -> dict:
    return {k: torch.randn_like(v) if k.endswith(".pe") else v for k, v in state.items()}


WRONG = {
    "a module lost": (lambda s: without(s, "up_blocks.2.motion_modules.1"), "lacks 26 weights of animatediff"),
    "no first level": (lambda s: without(s, "down_blocks.0."), "has no down_blocks.0.motion_modules"),
    "another block": (
        lambda s: {**s, "down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.1.x": torch.ones(2)},
        "unexpected 1 weights",
    ),
    "learned positions": (learned_table, "no sinusoidal table"),
    "PIA": (lambda s: {**s, "conv_in.weight": torch.ones(32, 9, 3, 3)}, "takes 9 channels"),
    "AnimateLCM-I2V": (lambda s: {**s, "img_encoder.conv.weight": torch.ones(2, 2)}, "image encoder"),
    "FancyVideo": (lambda s: {**s, "fps_embedding.linear.weight": torch.ones(2, 2)}, "FancyVideo"),
    "SDXL": (
        lambda s: {f"down_blocks.{i}.motion_modules.0.norm.weight": torch.ones(320 * 2**i) for i in range(3)},
        "for SDXL",
    ),
    "SparseCtrl": (lambda s: {**s, "controlnet_cond_embedding.conv_in.weight": torch.ones(2, 2)}, "SparseCtrl"),
    "motion LoRA": (
        lambda s: {
            f"down_blocks.0.motion_modules.0.temporal_transformer.transformer_blocks.0.attention_blocks.0.processor."
            f"to_q_lora.{side}.weight": torch.ones(2, 2)
            for side in ("up", "down")
        },
        "motion LoRA",
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", WRONG)
def test_wrong_files_cost_one_sentence(tmp_path, name):
    change, expected = WRONG[name]
    save_file(change(tiny_original()), tmp_path / "mm.safetensors")
    with pytest.raises(CheckpointError) as error:
        convert_file(tmp_path / "mm.safetensors", tmp_path / "patch.safetensors", overrides={"norm_groups": GROUPS})
    assert expected in str(error.value)
    assert "\n" not in str(error.value)
    assert str(error.value).endswith(".")
    assert [p.name for p in tmp_path.iterdir()] == ["mm.safetensors"]


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_tables_are_recognised(dtype):
    state = {k: v.to(dtype) for k, v in tiny_original().items()}
    assert animatediff.convert(state, overrides={"norm_groups": GROUPS})[3].loaded
    shifted = {k: v + 0.02 if k.endswith(".pe") else v for k, v in state.items()}
    with pytest.raises(CheckpointError, match="no sinusoidal table"):
        animatediff.convert(shifted, overrides={"norm_groups": GROUPS})


def test_a_file_may_come_without_tables():
    """As AnimateLCM's, and what AnimateDiff's own trainer saves: its table is no part of the state."""
    state = tiny_original()
    _, expected, _, _ = animatediff.convert(state, overrides={"norm_groups": GROUPS})
    _, weights, _, report = animatediff.convert(without(state, ".pe"), overrides={"norm_groups": GROUPS})
    assert weights.keys() == expected.keys()
    assert not any("frames" in note for note in report.notes)


def test_it_is_no_network_and_says_what_turns_it_into_a_patch(tmp_path):
    save_file(tiny_original(), tmp_path / "mm.safetensors")
    with pytest.raises(CheckpointError, match=r"AnimateDiff motion modules.*dreamfactory convert"):
        load_unet(tmp_path / "mm.safetensors")
    with pytest.raises(CheckpointError, match="not sd; convert it with source auto or animatediff"):
        convert_file(tmp_path / "mm.safetensors", tmp_path / "patch.safetensors", source="sd")


def test_another_generation_is_refused(tmp_path):
    """Shapes fit Stable Diffusion 2.1, whose features the modules never saw."""
    save_file(tiny_original(), tmp_path / "mm.safetensors")
    convert_file(tmp_path / "mm.safetensors", tmp_path / "patch.safetensors", overrides={"norm_groups": GROUPS})
    other = VideoUNet(replace(our_base(image_peer()).config, num_heads=None, head_dim=8, linear_projection=True))
    with pytest.raises(CheckpointError, match="same generation"):
        apply_patch(other, tmp_path / "patch.safetensors")


# -- back to the peers' names -----------------------------------------------------------------------------------


def our_motion(tmp_path) -> tuple[VideoUNet, UNet2DConditionModel]:
    base = image_peer(norm_num_groups=32)
    config, state, _, _ = sd.convert_diffusers(base.state_dict())
    fields = preset("animatediff")
    names = [f for f in fields.to_dict() if f.startswith("temporal_")]
    unet = randomise(VideoUNet(replace(config, **{name: getattr(fields, name) for name in names})))
    unet.load_state_dict(state, strict=False)
    return unet, base


def test_exported_motion_is_diffusers_adapter(tmp_path):
    unet, base = our_motion(tmp_path)
    unet = build(replace(unet.config, temporal_norm="clip"), unet.state_dict())
    report = export_motion(unet, tmp_path / "adapter", "diffusers-motion")
    peer = motion_peer(base, MotionAdapter.from_pretrained(tmp_path / "adapter"), False)
    assert difference(unet, peer) <= TOLERANCE
    assert any("left behind: spatial" in note for note in report.notes)
    export_motion(unet, tmp_path / "one.safetensors", "diffusers-motion")
    made = MotionAdapter(block_out_channels=WIDTHS, motion_layers_per_block=1)
    made.load_state_dict(load_file(tmp_path / "one.safetensors"), strict=True)


def test_exported_motion_is_animatediffs(tmp_path):
    unet, base = our_motion(tmp_path)
    report = export_motion(unet, tmp_path / "mm.safetensors", "animatediff")
    assert not any("temporal_norm" in note for note in report.notes)
    state = load_file(tmp_path / "mm.safetensors")
    motion = MotionAdapter(block_out_channels=WIDTHS, motion_layers_per_block=1)
    theirs = motion.state_dict()
    assert state.keys() == original(theirs).keys()
    own = convert_animatediff_checkpoint_to_diffusers(dict(state))
    motion.load_state_dict({**own, **{k: v for k, v in theirs.items() if k.endswith(".pe")}}, strict=True)
    assert difference(unet, motion_peer(base, motion, True)) <= TOLERANCE
    for key, table in original(theirs).items():
        if key.endswith(".pe"):
            torch.testing.assert_close(state[key], table, rtol=0, atol=1e-5)


@pytest.mark.parametrize("names", ["animatediff", "diffusers-motion"])
def test_there_and_back_again(tmp_path, names):
    unet, _ = our_motion(tmp_path)
    save_unet(unet, tmp_path / "ours.safetensors")
    export_file(tmp_path / "ours.safetensors", tmp_path / "theirs.safetensors", names)
    convert_file(tmp_path / "theirs.safetensors", tmp_path / "patch.safetensors")
    back = load_file(tmp_path / "patch.safetensors")
    assert back.keys() == {k for k in unet.state_dict() if k.startswith("temporal_attentions.")}
    weights = unet.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in back.items())
    # A patch goes out as a network does.
    export_file(tmp_path / "patch.safetensors", tmp_path / "again.safetensors", names)
    again, first = load_file(tmp_path / "again.safetensors"), load_file(tmp_path / "theirs.safetensors")
    assert again.keys() == first.keys()
    assert all(torch.equal(v, first[k]) for k, v in again.items())


@pytest.mark.parametrize("attention", [[True, True, False], [False, True, True]])
def test_exported_modelscope_network_is_diffusers(tmp_path, attention):
    peer = randomise(
        UNet3DConditionModel(
            block_out_channels=(32, 64, 64),
            layers_per_block=2,
            down_block_types=tuple("CrossAttnDownBlock3D" if a else "DownBlock3D" for a in attention),
            up_block_types=tuple("CrossAttnUpBlock3D" if a else "UpBlock3D" for a in reversed(attention)),
            attention_head_dim=8,
            cross_attention_dim=16,
        )
    )
    config, state, _, _ = modelscope.convert_diffusers(peer.state_dict())
    export_motion(build(config, state), tmp_path / "unet", "diffusers-unet3d")
    back = UNet3DConditionModel.from_pretrained(tmp_path / "unet")
    assert {k: back.config[k] for k in back.config if k[0] != "_"} == {
        k: list(v) if isinstance(v, tuple) else v for k, v in peer.config.items() if k[0] != "_"
    }
    weights = back.state_dict()
    assert all(torch.equal(v, weights[k]) for k, v in peer.state_dict().items())


MOTION_MISTAKES = {
    "temporal_conv": {"temporal_conv": True},
    "temporal_num_heads": {"temporal_num_heads": 4},
    "temporal_positions": {"temporal_positions": "none"},
    "temporal_attention_levels": {"temporal_attention_levels": None},
    "motion_text": {"motion_text": "added", "motion_dim": 8},
    "swap_attention": {"swap_attention": "swapped", "swap_head_dim": 8},
    "fusion": {"fusion": "conv"},
    "temporal_skips": {"temporal_skips": True},
    "init_temporal": {"init_temporal": True},
    "temporal_attention": {"temporal_attention": False, "temporal_conv": True},
}


@pytest.mark.parametrize("names", ["animatediff", "diffusers-motion"])
@pytest.mark.parametrize("field", MOTION_MISTAKES)
def test_what_no_peer_can_read_is_named(tmp_path, field, names):
    config = replace(our_motion(tmp_path)[0].config, **MOTION_MISTAKES[field])
    with pytest.raises(CheckpointError, match=rf"^{field} is .* has no place") as error:
        export_motion(VideoUNet(config), tmp_path / "mm.safetensors", names)
    assert "\n" not in str(error.value)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("temporal_conv", {"temporal_conv": False}),
        ("paca", {"paca": True}),
        ("first_frame_concat", {"first_frame_concat": "repeat"}),
        ("frame_rate_embedding", {"frame_rate_embedding": "fps"}),
        ("image_adapter", {"image_adapter": "all"}),
        ("init_temporal", {"init_temporal": False}),
        ("init_temporal_head_dim", {"init_temporal_head_dim": 16}),
        ("temporal_num_heads", {"temporal_num_heads": 2}),
        ("temporal_norm", {"temporal_norm": "frame"}),
        ("num_heads", {"num_heads": 8, "head_dim": None}),
        ("temporal_attention_levels", {"temporal_attention_levels": (True, True, True)}),
        ("motion_text", {"motion_text": "replace", "motion_dim": 8}),
    ],
)
def test_what_unet3d_cannot_read_is_named(tmp_path, field, changes):
    small = {"model_channels": 32, "channel_mult": (1, 2, 2), "attention_levels": (True, True, False), "head_dim": 8}
    config = replace(preset("modelscope"), **small, init_temporal_head_dim=8, context_dim=16, num_res_blocks=1)
    with pytest.raises(CheckpointError, match=rf"^{field} is .* has no place"):
        export_motion(VideoUNet(replace(config, **changes)), tmp_path / "unet", "diffusers-unet3d")
    assert not list(tmp_path.iterdir())


# -- the command ------------------------------------------------------------------------------------------------


def test_export_and_convert_as_a_user_types_them(tmp_path, capsys):
    unet, _ = our_motion(tmp_path)
    save_unet(unet, tmp_path / "ours.safetensors")
    ours, theirs = str(tmp_path / "ours.safetensors"), str(tmp_path / "mm.safetensors")
    assert cli.main(["export", ours, theirs, "--as", "animatediff", "--dtype", "fp16"]) == 0
    assert "written:" in capsys.readouterr().out
    assert {v.dtype for v in load_file(theirs).values()} == {torch.float16}
    patch = str(tmp_path / "patch.safetensors")
    assert cli.main(["convert", theirs, patch, "--from", "animatediff"]) == 0
    assert "source: animatediff" in capsys.readouterr().out
    assert cli.main(["info", patch]) == 0
    assert "betas = linear" in capsys.readouterr().out
    for args, expected in (
        (["export", ours, str(tmp_path / "folder"), "--as", "animatediff"], "must end in .safetensors"),
        (["export", ours, str(tmp_path / "x.bin"), "--as", "diffusers-motion"], "must end in .safetensors"),
        (["export", ours, str(tmp_path / "no" / "x.safetensors"), "--as", "animatediff"], "there is no folder"),
        (["export", ours, str(tmp_path / "x.safetensors"), "--as", "diffusers-unet3d"], "temporal_conv is False"),
        (["export", str(tmp_path / "none.safetensors"), theirs, "--as", "animatediff"], "does not exist"),
        (["convert", theirs, str(tmp_path / "y.safetensors"), "--from", "ip-adapter"], "not ip-adapter"),
    ):
        assert cli.main(args) == 2
        error = capsys.readouterr().err
        assert expected in error
        assert len(error.strip().splitlines()) == 1


def test_the_command_knows_every_source_and_form(capsys):
    for command, words in (("convert", ("auto", *SOURCES)), ("export", FORMS)):
        with pytest.raises(SystemExit):
            cli.main([command, "--help"])
        shown = re.findall(r"{([\w,-]+)}", re.sub(r"\s+", "", capsys.readouterr().out))
        assert sorted(words) in [sorted(choices.split(",")) for choices in shown]
