"""Our network equals diffusers' Stable Diffusion and ModelScope UNets, through our converters.

Every weight of the peer is random, those that training starts at zero as well, so that no layer can hide.
The authority for LDM's key names is diffusers' own single-file conversion.
"""

import json
import logging
from dataclasses import replace

import pytest
import torch
from diffusers.loaders.single_file_utils import convert_ldm_unet_checkpoint
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from diffusers.models.unets.unet_3d_condition import UNet3DConditionModel
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from einops import rearrange, repeat
from safetensors.torch import save_file

from dreamfactory.model_patches import CheckpointError, Conditions, ProjectorConfig, VideoUNet, load_unet, preset
from dreamfactory.model_patches.checkpoints.converters import convert_file, convert_file_in_memory, lvdm, modelscope, sd
from dreamfactory.model_patches.checkpoints.save import build
from dreamfactory.schedulers.schedule import SCHEDULES, ScheduleConfig

from ...random_weights import randomise

TOLERANCE = 1e-5
SD15 = {"cross_attention_dim": 768, "attention_head_dim": 8, "use_linear_projection": False}
SD21 = {"cross_attention_dim": 1024, "use_linear_projection": True}

logging.getLogger("diffusers").setLevel(logging.ERROR)
pytestmark = pytest.mark.filterwarnings("ignore::FutureWarning")


@pytest.fixture(autouse=True)
def _setup():
    torch.manual_seed(0)
    torch.set_num_threads(1)  # threads only wait for each other at these sizes


def relative_error(ours: torch.Tensor, peer: torch.Tensor) -> float:
    assert ours.shape == peer.shape
    assert peer.std() > 0.05  # a peer that answers nothing proves nothing
    return float((ours - peer).abs().max() / peer.abs().max())


def norms(module: torch.nn.Module) -> list[tuple[str, float]]:
    """Kind and eps of every norm: 1e-5 and 1e-6 differ by less than rounding at ordinary activations."""
    kinds = (torch.nn.GroupNorm, torch.nn.LayerNorm)
    return sorted((type(m).__name__, m.eps) for m in module.modules() if isinstance(m, kinds))


def peer_2d(widths, layers=1, attention=None, **config) -> UNet2DConditionModel:
    attention = attention or [True] * (len(widths) - 1) + [False]
    return randomise(
        UNet2DConditionModel(
            block_out_channels=widths,
            layers_per_block=layers,
            down_block_types=tuple("CrossAttnDownBlock2D" if a else "DownBlock2D" for a in attention),
            up_block_types=tuple("CrossAttnUpBlock2D" if a else "UpBlock2D" for a in reversed(attention)),
            **config,
        )
    )


def peer_3d(widths, layers=1, attention=None, head_dim=64, context=32) -> UNet3DConditionModel:
    attention = attention or [True] * (len(widths) - 1) + [False]
    return randomise(
        UNet3DConditionModel(
            block_out_channels=widths,
            layers_per_block=layers,
            down_block_types=tuple("CrossAttnDownBlock3D" if a else "DownBlock3D" for a in attention),
            up_block_types=tuple("CrossAttnUpBlock3D" if a else "UpBlock3D" for a in reversed(attention)),
            attention_head_dim=head_dim,
            cross_attention_dim=context,
        )
    )


def compare_2d(peer, ours, size=(8, 8), context=768) -> float:
    assert norms(ours) == norms(peer)
    x, t, text = torch.randn(2, 4, *size), torch.tensor([7, 801]), torch.randn(2, 5, context)
    with torch.no_grad():
        return relative_error(ours(x, t, Conditions(text), num_frames=1), peer(x, t, text).sample)


def compare_3d(peer, ours, frames, size=(8, 8), context=32) -> float:
    """The peer repeats nothing itself: text is (b, n, c) on both sides, timesteps one a clip."""
    assert norms(ours) == norms(peer)
    x, t, text = torch.randn(2, 4, frames, *size), torch.tensor([7, 801]), torch.randn(2, 5, context)
    with torch.no_grad():
        theirs = peer(x, t, text).sample
        out = ours(rearrange(x, "b c t h w -> (b t) c h w"), t, Conditions(text, still=False), num_frames=frames)
    return relative_error(rearrange(out, "(b t) c h w -> b c t h w", t=frames), theirs)


# -- Stable Diffusion -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("widths", "layers", "attention"),
    [
        ((64, 128, 128), 2, None),
        ((64, 64, 128), 1, [False, True, True]),
    ],
)
@pytest.mark.parametrize("size", [(8, 8), (9, 7)])
def test_sd15_equals_unet2d(widths, layers, attention, size):
    peer = peer_2d(widths, layers, attention, **SD15)
    config, state, _, report = sd.convert_diffusers(peer.state_dict())
    assert (config.num_heads, config.head_dim, config.linear_projection) == (8, None, False)
    assert len(report.loaded) == len(peer.state_dict())
    assert compare_2d(peer, build(config, state), size) <= TOLERANCE


def test_sd21_equals_unet2d():
    peer = peer_2d((64, 128, 192, 192), **SD21, attention_head_dim=(1, 2, 3, 3))
    config, state, _, _ = sd.convert_diffusers(peer.state_dict())
    assert (config.num_heads, config.head_dim, config.linear_projection) == (None, 64, True)
    assert compare_2d(peer, build(config, state), (8, 8), 1024) <= TOLERANCE


def test_sd21_with_convolutional_projections():
    peer = peer_2d((64, 128), **{**SD21, "use_linear_projection": False}, attention_head_dim=(1, 2))
    config, state, _, _ = sd.convert_diffusers(peer.state_dict())
    assert not config.linear_projection
    assert compare_2d(peer, build(config, state), (8, 8), 1024) <= TOLERANCE


def test_full_width_levels_equal_unet2d():
    """Stable Diffusion's own widths 320 and 640 with 40- and 80-wide heads."""
    peer = peer_2d((320, 640), attention=[True, True], **SD15)
    config, state, _, _ = sd.convert_diffusers(peer.state_dict())
    assert compare_2d(peer, build(config, state), (6, 6)) <= TOLERANCE


# -- single files ---------------------------------------------------------------------------------------------


def ldm_state(peer: UNet2DConditionModel) -> dict[str, torch.Tensor]:
    """A state under LDM's names that diffusers itself converts into the peer's.

    The names come from our empty network (which claims to use LDM's); that the claim holds is what
    diffusers' conversion decides, key by key, weight by weight.
    """
    config, converted, _, _ = sd.convert_diffusers(peer.state_dict())
    names = {f"model.diffusion_model.{k}": v for k, v in VideoUNet(config, device="meta").state_dict().items()}
    back = convert_ldm_unet_checkpoint(dict(names), dict(peer.config))
    assert set(back) == set(peer.state_dict())
    theirs, weights = {id(v): k for k, v in back.items()}, peer.state_dict()
    state = {k: weights[theirs[id(v)]] for k, v in names.items()}
    assert set(converted) == {k.removeprefix("model.diffusion_model.") for k in state}
    return state


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "", "diffusion_model."])
def test_single_file_loads_and_equals_unet2d(tmp_path, prefix):
    peer = peer_2d((64, 64, 128), 1, **SD15)
    state = {k.replace("model.diffusion_model.", prefix): v for k, v in ldm_state(peer).items()}
    # What stands beside a UNet in a whole checkpoint.
    state["first_stage_model.encoder.conv_in.weight"] = torch.zeros(8, 3, 3, 3)
    state["cond_stage_model.transformer.text_model.encoder.layers.0.mlp.fc1.weight"] = torch.zeros(8, 8)
    state["alphas_cumprod"] = torch.linspace(0.999, 0.005, 1000)
    path = tmp_path / "sd.safetensors"
    save_file({k: v.contiguous() for k, v in state.items()}, path)
    unet = load_unet(path)
    assert compare_2d(peer, unet) <= TOLERANCE
    assert ScheduleConfig.from_dict(unet.schedule) == SCHEDULES["stable-diffusion"]
    notes = " ".join(convert_file_in_memory(path)[3].notes)
    assert "first_stage_model" in notes
    assert "cond_stage_model" in notes


def stated_noise(path, **overrides) -> dict:
    """The schedule of a file or folder, with these fields said."""
    schedule = convert_file_in_memory(path, overrides=overrides)[1]
    assert schedule is not None
    return schedule


def test_prediction_of_sd2_is_an_override(tmp_path):
    peer = peer_2d((64, 128), **SD21, attention_head_dim=(1, 2))
    path = tmp_path / "sd2.safetensors"
    save_file({k: v.contiguous() for k, v in ldm_state(peer).items()}, path)
    _, schedule, _, report = convert_file_in_memory(path)
    assert schedule is not None
    assert schedule["prediction"] == "eps"
    assert any("override prediction" in note for note in report.notes)
    assert stated_noise(path, prediction="v")["prediction"] == "v"
    with pytest.raises(CheckpointError, match="did you mean 'prediction'"):
        convert_file_in_memory(path, overrides={"predictions": "v"})
    with pytest.raises(CheckpointError, match="sd weights, not lvdm"):
        convert_file_in_memory(path, source="lvdm")


def test_inpainting_is_refused():
    peer = peer_2d((64, 128), in_channels=9, **SD15)
    with pytest.raises(CheckpointError, match="inpainting"):
        sd.convert_diffusers(peer.state_dict())


# -- diffusers folders ----------------------------------------------------------------------------------------


def save_sharded(state: dict, folder) -> None:
    folder.mkdir(parents=True)
    names = [f"diffusion_pytorch_model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    weight_map = {}
    for i, name in enumerate(names):
        part = {k: v.contiguous() for n, (k, v) in enumerate(state.items()) if n % 2 == i}
        save_file(part, folder / name)
        weight_map |= dict.fromkeys(part, name)
    index = {"metadata": {}, "weight_map": weight_map}
    (folder / "diffusion_pytorch_model.safetensors.index.json").write_text(json.dumps(index), "utf-8")


@pytest.mark.parametrize("heads", [(2, 4), 4])
def test_folder_takes_heads_from_its_config(tmp_path, heads):
    """attention_head_dim of a UNet2D is the number of heads: (2, 4) at widths (64, 128) are heads of 32."""
    peer = peer_2d((64, 128), **SD21, attention_head_dim=heads)
    peer.save_pretrained(tmp_path / "pipeline" / "unet", safe_serialization=True)
    report = convert_file(tmp_path / "pipeline", tmp_path / "ours.safetensors")
    unet = load_unet(tmp_path / "ours.safetensors")
    expected = (None, 32) if heads == (2, 4) else (4, None)
    assert (unet.config.num_heads, unet.config.head_dim) == expected
    assert compare_2d(peer, unet, (8, 8), 1024) <= TOLERANCE
    assert json.loads(json.dumps(report.to_dict()))["source"] == "diffusers-unet2d"
    assert "loaded" in str(report)


def test_folder_takes_its_noise_from_the_scheduler(tmp_path):
    """As SD 2.1 768-v is published: only the scheduler's config says v-prediction."""
    peer_2d((64, 128), **SD21, attention_head_dim=(1, 2)).save_pretrained(tmp_path / "unet")
    scheduler = DDIMScheduler(
        prediction_type="v_prediction", beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear"
    )
    scheduler.save_pretrained(tmp_path / "scheduler")
    _, schedule, _, _ = convert_file_in_memory(tmp_path)
    assert ScheduleConfig.from_dict(schedule) == replace(SCHEDULES["stable-diffusion"], prediction="v")
    assert stated_noise(tmp_path, prediction="eps")["prediction"] == "eps"


def test_sharded_folder_and_a_lost_shard(tmp_path):
    peer = peer_3d((64, 128))
    save_sharded(peer.state_dict(), tmp_path / "unet")
    config, _, state, _ = convert_file_in_memory(tmp_path)
    assert compare_3d(peer, build(config, state), 3) <= TOLERANCE
    next(tmp_path.glob("unet/*00002-of-00002*")).unlink()
    with pytest.raises(CheckpointError, match="lacks 1 of 2 weight files"):
        convert_file_in_memory(tmp_path)


def test_a_folder_without_weights(tmp_path):
    with pytest.raises(CheckpointError, match="no diffusers folder"):
        convert_file_in_memory(tmp_path)
    (tmp_path / "diffusion_pytorch_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match=r"no file of torch\.save"):
        convert_file_in_memory(tmp_path)


# -- ModelScope -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("widths", "layers", "attention", "head_dim"),
    [
        ((64, 128, 128), 2, None, 64),
        ((64, 128, 128, 128), 1, None, 32),
        ((32, 64), 1, [True, True], 8),
    ],
)
@pytest.mark.parametrize(("frames", "size"), [(1, (8, 8)), (3, (9, 7)), (8, (8, 10))])
def test_modelscope_equals_unet3d(widths, layers, attention, head_dim, frames, size):
    peer = peer_3d(widths, layers, attention, head_dim)
    config, state, schedule, _ = modelscope.convert_diffusers(peer.state_dict())
    assert (config.head_dim, config.init_temporal_head_dim) == (head_dim, head_dim)
    assert compare_3d(peer, build(config, state), frames, size) <= TOLERANCE
    assert ScheduleConfig.from_dict(schedule) == SCHEDULES["modelscope"]


def test_full_width_levels_equal_unet3d():
    peer = peer_3d((320, 640))
    config, state, _, _ = modelscope.convert_diffusers(peer.state_dict())
    assert compare_3d(peer, build(config, state), 4, (6, 6)) <= TOLERANCE


def test_config_of_the_released_network_is_the_preset():
    with torch.device("meta"):
        peer = UNet3DConditionModel()
    config, _, _, _ = modelscope.convert_diffusers(peer.state_dict())
    assert config == preset("modelscope")
    with torch.device("meta"):
        peer = UNet2DConditionModel(**{**SD15, "block_out_channels": (320, 640, 1280, 1280)})
    config, _, _, _ = sd.convert_diffusers(peer.state_dict())
    assert config == preset("sd15")


def original_names(widths: int, layers: int, attention: list[bool]) -> dict[str, str]:
    """{diffusers module: ModelScope's original module}, as VGen's constructor numbers them; written by hand."""
    resnet = {
        "norm1": "in_layers.0",
        "conv1": "in_layers.2",
        "time_emb_proj": "emb_layers.1",
        "norm2": "out_layers.0",
        "conv2": "out_layers.3",
        "conv_shortcut": "skip_connection",
    }
    names = {
        "time_embedding.linear_1": "time_embed.0",
        "time_embedding.linear_2": "time_embed.2",
        "conv_in": "input_blocks.0.0",
        "transformer_in": "input_blocks.0.1",
        "conv_norm_out": "out.0",
        "conv_out": "out.2",
        "mid_block.attentions.0": "middle_block.1",
        "mid_block.temp_attentions.0": "middle_block.2",
    }

    def block(theirs: str, j: int, original: str) -> None:
        names.update({f"{theirs}.resnets.{j}.{k}": f"{original}.{v}" for k, v in resnet.items()})
        names[f"{theirs}.temp_convs.{j}"] = f"{original}.temopral_conv"

    block("mid_block", 0, "middle_block.0")
    block("mid_block", 1, "middle_block.3")
    n = 1
    for level in range(widths):
        for j in range(layers):
            block(f"down_blocks.{level}", j, f"input_blocks.{n}.0")
            names[f"down_blocks.{level}.attentions.{j}"] = f"input_blocks.{n}.1"
            names[f"down_blocks.{level}.temp_attentions.{j}"] = f"input_blocks.{n}.2"
            n += 1
        names[f"down_blocks.{level}.downsamplers.0.conv"] = f"input_blocks.{n}.op"
        n += 1
    n = 0
    for level in range(widths):
        for j in range(layers + 1):
            block(f"up_blocks.{level}", j, f"output_blocks.{n}.0")
            names[f"up_blocks.{level}.attentions.{j}"] = f"output_blocks.{n}.1"
            names[f"up_blocks.{level}.temp_attentions.{j}"] = f"output_blocks.{n}.2"
            n += 1
        after = 3 if attention[::-1][level] else 1
        names[f"up_blocks.{level}.upsamplers.0.conv"] = f"output_blocks.{n - 1}.{after}.conv"
    return names


def to_original(peer, layers: int, attention: list[bool]) -> dict[str, torch.Tensor]:
    names = original_names(len(attention), layers, attention)
    state = {}
    for key, weight in peer.state_dict().items():
        module = max((m for m in names if key.startswith(m + ".")), key=len)
        temporal = "temp_attentions" in module or module == "transformer_in"
        if temporal and key.endswith(("proj_in.weight", "proj_out.weight")):
            weight = weight[..., None]  # Conv1d in the original
        state[names[module] + key.removeprefix(module)] = weight
    return state


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model.", "state_dict."])
def test_original_modelscope_names_with_several_attention_levels(prefix):
    """Here upsampling layers stand behind temporal transformers (output_blocks.N.3.conv)."""
    attention = [True, True, True, False]
    peer = peer_3d((32, 32, 64, 64), 2, attention, 16, context=40)
    state = {prefix + k: v for k, v in to_original(peer, 2, attention).items()}
    assert {prefix + "output_blocks.5.3.conv.weight", prefix + "output_blocks.2.1.conv.weight"} <= set(state)
    config, ours, _, report = modelscope.convert(state)
    assert config == modelscope.convert_diffusers(peer.state_dict())[0]
    assert report.reshaped
    assert compare_3d(peer, build(config, ours), 3, context=40) <= TOLERANCE


def test_original_names_of_the_released_network():
    with torch.device("meta"):
        peer = UNet3DConditionModel()
    state = to_original(peer, 2, [True, True, True, False])
    assert {"output_blocks.8.3.conv.weight", "input_blocks.9.op.weight", "middle_block.3.in_layers.0.bias"} <= set(
        state
    )
    config, ours, _, _ = modelscope.convert(state)
    assert config == preset("modelscope")
    assert sum(v.numel() for v in ours.values()) == 1_411_233_860


def released_lvdm() -> dict[str, torch.Tensor]:
    """VideoCrafter2's names and shapes at full size, from ModelScope's original ones."""
    with torch.device("meta"):
        peer = UNet3DConditionModel()
        state = {}
        for key, weight in to_original(peer, 2, [True, True, True, False]).items():
            key = key.replace("input_blocks.0.1.", "init_attn.0.")
            for n in (3, 6, 9):
                key = key.replace(f"input_blocks.{n}.op.", f"input_blocks.{n}.0.op.")
            temporal = ".2.proj_" in key or key.startswith("middle_block.2.proj_")
            state[key] = weight[..., 0] if temporal and weight.ndim == 3 else weight  # Linear, but for init_attn
        for layer, width in ((0, 320), (2, 1280)):
            state[f"fps_embedding.{layer}.weight"] = torch.empty(1280, width)
            state[f"fps_embedding.{layer}.bias"] = torch.empty(1280)
    return {f"model.diffusion_model.{k}": v for k, v in state.items()}


def with_images(state, *, concat: bool, per_frame: bool) -> dict[str, torch.Tensor]:
    state = dict(state)
    with torch.device("meta"):
        for key in [k for k in state if k.endswith("attn2.to_k.weight") and state[k].shape[1] == 1024]:
            if ".1.transformer_blocks" in key:  # the spatial transformers
                for name in ("to_k_ip", "to_v_ip"):
                    state[key.replace("to_k", name)] = torch.empty(state[key].shape[0], 1024)
        if concat:
            state["model.diffusion_model.input_blocks.0.0.weight"] = torch.empty(320, 8, 3, 3)
        frames = 16 if per_frame else None
        for key, weight in VideoUNet(
            replace(preset("sd21"), image_projector=ProjectorConfig(frames=frames))
        ).named_parameters():
            if key.startswith("image_projector."):
                state[
                    "image_proj_model." + key.removeprefix("image_projector.").replace("latents.weight", "latents")
                ] = weight
    return state


def test_released_lvdm_networks_are_the_presets():
    """Shapes alone (and DynamiCrafter 1024's scale, DynamiCrafter 256's names) give every preset's config."""
    state = released_lvdm()
    config, ours, _, _ = lvdm.convert(state)
    assert config == preset("videocrafter2")
    assert sum(v.numel() for v in ours.values()) == 1_413_284_420
    assert lvdm.convert(with_images(state, concat=False, per_frame=False))[0] == preset("videocrafter1-i2v")
    state = with_images(state, concat=True, per_frame=True)
    config, ours, _, _ = lvdm.convert(state)
    assert config == preset("dynamicrafter-512")
    assert sum(v.numel() for v in ours.values()) == 1_438_854_980 + 48_787_456
    interpolation = {"first_frame_concat": "ends"}
    assert lvdm.convert(state, overrides=interpolation)[0] == preset("dynamicrafter-512-interp")
    scale = torch.cat([torch.linspace(1, 0.3, 400), torch.full((600,), 0.3)])
    assert lvdm.convert({**state, "scale_arr": scale})[0] == preset("dynamicrafter-1024")
    state = {k.replace("fps_embedding", "framestride_embed"): v for k, v in state.items()}
    for key in [k for k in state if k.endswith("to_k_ip.weight")]:
        state[key.replace("to_k_ip.weight", "alpha")] = torch.empty((), device="meta")
    assert lvdm.convert(state)[0] == preset("dynamicrafter-256")


def test_text_of_every_frame_equals_repeated_text():
    """One prompt a clip, folded over the frames, is the same as the prompt given to every frame."""
    peer = peer_3d((64, 128))
    config, state, _, _ = modelscope.convert_diffusers(peer.state_dict())
    unet = build(config, state)
    x, t, text = torch.randn(6, 4, 8, 8), torch.tensor([5, 600]), torch.randn(2, 5, 32)
    with torch.no_grad():
        folded = unet(x, t, Conditions(text), num_frames=3)
        repeated = unet(x, t, Conditions(repeat(text, "b n c -> (b t) n c", t=3)), num_frames=3)
    assert relative_error(folded, repeated) <= TOLERANCE
