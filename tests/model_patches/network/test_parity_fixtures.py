"""Our network equals the LVDM family and the original ModelScope: weights, inputs and outputs of their own code.

tests/fixtures/*.safetensors hold networks of the peers' classes, tiny, every weight random; each header names its
source. The stated bound is 1e-4 absolute; what is reached is about a hundredth of it.
"""

import json
from pathlib import Path

import pytest
import torch
from einops import rearrange
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from dreamfactory.model_patches import Conditions, load_unet
from dreamfactory.model_patches.checkpoints.converters import convert_file, convert_file_in_memory, lvdm, modelscope
from dreamfactory.model_patches.checkpoints.save import build
from dreamfactory.model_patches.network.attention import Factory
from dreamfactory.model_patches.network.config import ProjectorConfig
from dreamfactory.model_patches.network.image_adapter import Resampler
from dreamfactory.schedulers.schedule import SCHEDULES, ScheduleConfig

FIXTURES = Path(__file__).parents[2] / "fixtures"
TOLERANCE = 1e-4
FRAMES = 4
DYNAMICRAFTER, VIDEOCRAFTER2 = "lvdm_dynamicrafter_512_tiny", "lvdm_videocrafter2_tiny"
MODELSCOPE, RESAMPLER = "modelscope_original_tiny", "lvdm_resampler_tiny"


@pytest.fixture(autouse=True)
def _setup():
    torch.set_num_threads(1)  # threads only wait for each other at these sizes


def read(name: str):
    """(weights in float32, inputs, output, constructor arguments)."""
    path = FIXTURES / f"{name}.safetensors"
    tensors = load_file(path)
    with safe_open(path, framework="pt") as file:
        config = json.loads(file.metadata()["config"])
    weights = {k.removeprefix("weights."): v.float() for k, v in tensors.items() if k.startswith("weights.")}
    inputs = {k.removeprefix("input."): v for k, v in tensors.items() if k.startswith("input.")}
    return weights, inputs, tensors["output"], config


def error(ours: torch.Tensor, peer: torch.Tensor) -> float:
    ours = rearrange(ours, "(b t) c h w -> b c t h w", t=FRAMES)
    assert ours.shape == peer.shape
    return float((ours - peer).abs().max())


def frames(x: torch.Tensor) -> torch.Tensor:
    return rearrange(x, "b c t h w -> (b t) c h w")


def run_dynamicrafter(unet, inputs, **changes):
    x = inputs["x"]
    with torch.no_grad():
        given = {"image_tokens": inputs["image_tokens"], "frame_rate": inputs["fs"], **changes}
        conditions = Conditions(inputs["context"], first_frame=x[:, 4:, 0], **given)
        return unet(frames(x[:, :4]), inputs["timesteps"], conditions, num_frames=FRAMES)


def test_dynamicrafter():
    weights, inputs, output, _ = read(DYNAMICRAFTER)
    config, state, _, _ = lvdm.convert(weights)
    assert (config.first_frame_concat, config.image_adapter, config.frame_rate_embedding) == ("repeat", "all", "fps")
    assert (config.head_dim, config.init_temporal_heads, config.in_channels) == (8, 8, 4)
    unet = build(config, state)
    assert error(run_dynamicrafter(unet, inputs), output) <= TOLERANCE
    # The peer's answer depends on what we claim to feed, so the agreement is no accident.
    assert error(run_dynamicrafter(unet, inputs, image_tokens=None), output) > 0.01
    assert error(run_dynamicrafter(unet, inputs, frame_rate=3), output) > 0.001


def test_videocrafter2():
    weights, inputs, output, _ = read(VIDEOCRAFTER2)
    config, state, _, _ = lvdm.convert(weights)
    assert (config.first_frame_concat, config.image_adapter, config.frame_rate_default) == ("off", "off", 16)
    with torch.no_grad():
        conditions = Conditions(inputs["context"], frame_rate=inputs["fps"])
        ours = build(config, state)(frames(inputs["x"]), inputs["timesteps"], conditions, num_frames=FRAMES)
    assert error(ours, output) <= TOLERANCE


@pytest.mark.parametrize("prefix", ["", "model.diffusion_model."])
def test_modelscope_original(prefix):
    weights, inputs, output, source = read(MODELSCOPE)
    overrides = {"init_temporal_heads": source["num_heads"]}
    config, state, _, _ = modelscope.convert({prefix + k: v for k, v in weights.items()}, overrides=overrides)
    assert (config.head_dim, config.init_temporal_head_dim) == (source["head_dim"], source["head_dim"])
    with torch.no_grad():
        conditions = Conditions(inputs["context"])
        ours = build(config, state)(frames(inputs["x"]), inputs["timesteps"], conditions, num_frames=FRAMES)
    assert error(ours, output) <= TOLERANCE


def test_resampler():
    weights, inputs, output, source = read(RESAMPLER)
    config = ProjectorConfig(
        embedding_dim=source["embedding_dim"],
        output_dim=source["output_dim"],
        queries=source["num_queries"],
        dim=source["dim"],
        depth=source["depth"],
        heads=source["heads"],
        head_dim=source["dim_head"],
        frames=source["video_length"],
    )
    resampler = Resampler(Factory(), config)
    resampler.load_state_dict({"latents.weight" if k == "latents" else k: v for k, v in weights.items()})
    with torch.no_grad():
        ours = resampler(inputs["image_features"])
    assert float((ours - output).abs().max()) <= TOLERANCE


# -- whole checkpoints ----------------------------------------------------------------------------------------


def schedule_buffers() -> dict[str, torch.Tensor]:
    """The peer's own schedule, as its checkpoints carry it."""
    tensors = load_file(FIXTURES / "dynamicrafter_schedule.safetensors")
    names = ("betas", "alphas_cumprod", "scale_arr")
    return {k: tensors[k] for k in names} | {"sqrt_recip_alphas_cumprod": torch.zeros(1000)}


def dynamicrafter_checkpoint(prefix="") -> dict[str, torch.Tensor]:
    """As a release: UNet, projector, buffers, and the encoders that we leave aside."""
    weights, _, _, _ = read(DYNAMICRAFTER)
    projector, _, _, _ = read(RESAMPLER)
    state = {f"model.diffusion_model.{k}": v for k, v in weights.items()}
    state |= {f"image_proj_model.{k}": v for k, v in projector.items()}
    state |= schedule_buffers()
    state["first_stage_model.encoder.conv_in.weight"] = torch.zeros(4, 3, 3, 3)
    state["embedder.model.visual.proj"] = torch.zeros(3, 3)
    return {prefix + k: v.contiguous() for k, v in state.items()}


PROJECTOR = {"image_projector": {"head_dim": 8}}


@pytest.mark.parametrize("prefix", ["", "state_dict.", "_forward_module."])
def test_dynamicrafter_checkpoint_in_every_wrapping(tmp_path, prefix):
    _, inputs, output, _ = read(DYNAMICRAFTER)
    _, resampler_inputs, tokens, _ = read(RESAMPLER)
    source, ours = tmp_path / "dc.safetensors", tmp_path / "ours.safetensors"
    save_file(dynamicrafter_checkpoint(prefix), source)
    report = convert_file(source, ours, overrides=PROJECTOR)
    unet = load_unet(ours)
    assert error(run_dynamicrafter(unet, inputs), output) <= TOLERANCE
    with torch.no_grad():
        projected = unet.project_image(resampler_inputs["image_features"])
    assert float((projected - tokens).abs().max()) <= TOLERANCE
    assert unet.config.image_projector is not None
    assert unet.config.image_projector.frames == 4
    assert unet.config.image_tokens_per_frame == 16
    assert unet.config.image_uncond == "grey"
    assert ScheduleConfig.from_dict(unet.schedule) == SCHEDULES["dynamicrafter-512"]
    assert any("embedder" in note for note in report.notes)
    assert any("ends" in note for note in report.notes)

    # The file of ours is the conversion in memory, bit for bit.
    config, schedule, state, _ = convert_file_in_memory(source, overrides=PROJECTOR)
    assert (config, schedule) == (unet.config, unet.schedule)
    assert all(torch.equal(v, state[k]) for k, v in unet.state_dict().items())


@pytest.mark.parametrize("name", ["framestride_embed", "fps_embedding"])
def test_dynamicrafter_256(name):
    """Its own name of the frame embedding, or after a save another's; learnable scales, eps, no signal scale."""
    state = {}
    for key, value in dynamicrafter_checkpoint().items():
        state[key.replace("fps_embedding", name)] = value
        if key.endswith("to_k_ip.weight"):
            state[key.replace("to_k_ip.weight", "alpha")] = torch.tensor(0.3)
    for name in ("betas", "alphas_cumprod", "scale_arr", "sqrt_recip_alphas_cumprod"):
        del state[name]
    config, weights, schedule, _ = lvdm.convert(state, overrides=PROJECTOR)
    assert (config.frame_rate_embedding, config.frame_rate_default, config.image_scale) == ("stride", 3, "learnable")
    assert ScheduleConfig.from_dict(schedule) == SCHEDULES["dynamicrafter-256"]
    alphas = [v for k, v in weights.items() if k.endswith("scale.alpha")]
    assert alphas == [torch.tensor(0.3)] * 4


@pytest.mark.parametrize(("base", "default"), [(0.7, 24), (0.3, 10)])
def test_pruned_files_fall_back_with_a_note(base, default):
    state = {k: v for k, v in dynamicrafter_checkpoint().items() if "." in k}
    if base == 0.3:  # 1024: nothing but the scale tells it from 512
        state["scale_arr"] = torch.cat([torch.linspace(1, 0.3, 400), torch.full((1000,), 0.3)])
    config, _, schedule, report = lvdm.convert(state, overrides=PROJECTOR)
    assert config.frame_rate_default == default
    assert ScheduleConfig.from_dict(schedule) == SCHEDULES["dynamicrafter-512" if base == 0.7 else "dynamicrafter-1024"]
    assert any("does not say" in note and "prediction" in note for note in report.notes)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_buffers_in_every_precision_give_the_published_schedule(dtype):
    """VideoCrafter2's buffers, from its own formula, as pruned files store them."""
    weights, _, _, _ = read(VIDEOCRAFTER2)
    betas = torch.linspace(0.00085**0.5, 0.012**0.5, 1000, dtype=torch.float64) ** 2
    alphas = (1 - betas).cumprod(0)
    buffers = {
        "betas": betas,
        "alphas_cumprod": alphas,
        "sqrt_recip_alphas_cumprod": (1 / alphas).sqrt(),
        "scale_arr": torch.cat([torch.linspace(1, 0.7, 400), torch.full((1000,), 0.7)]),
    }
    _, _, schedule, report = lvdm.convert({**weights, **{k: v.to(dtype) for k, v in buffers.items()}})
    assert ScheduleConfig.from_dict(schedule) == SCHEDULES["videocrafter2"]
    assert not report.notes


def test_interpolation_is_an_override():
    overrides = {**PROJECTOR, "first_frame_concat": "ends"}
    config, _, _, report = lvdm.convert(dynamicrafter_checkpoint(), overrides=overrides)
    assert (config.first_frame_concat, config.frame_rate_default) == ("ends", 5)
    assert not any("ends" in note for note in report.notes)


def test_videocrafter1_image_to_video_shares_tokens():
    """16 queries for all frames, no first-frame channels."""
    state = dynamicrafter_checkpoint()
    name = "model.diffusion_model.input_blocks.0.0.weight"
    state[name] = state[name][:, :4]
    state["image_proj_model.latents"] = state["image_proj_model.latents"][:, :16]
    for key in ("betas", "alphas_cumprod", "sqrt_recip_alphas_cumprod"):
        del state[key]
    config, _, schedule, _ = lvdm.convert(state, overrides=PROJECTOR)
    assert (config.first_frame_concat, config.image_tokens_per_frame, config.frame_rate_default) == ("off", None, 8)
    assert config.image_projector is not None
    assert config.image_projector.frames is None
    assert config.uncond_image == "grey"
    assert ScheduleConfig.from_dict(schedule) == SCHEDULES["videocrafter2"]
