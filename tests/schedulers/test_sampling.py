"""Timesteps against diffusers; guidance and DDIM steps against recorded runs of DynamiCrafter 512."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from safetensors import safe_open
from safetensors.torch import load_file

from dreamfactory.schedulers import (
    SCHEDULES,
    ScheduleError,
    betas_from_alphas_cumprod,
    build_scheduler,
    classifier_free,
    ddim_sigma,
    ddim_step,
    drop_unusable,
    last_usable,
    rescale_guidance,
    spacing,
)

FIXTURE = Path(__file__).parents[1] / "fixtures" / "dynamicrafter_schedule.safetensors"


@pytest.fixture(scope="module")
def peer():
    with safe_open(FIXTURE, "pt") as f:
        config = json.loads(f.metadata()["config"])
    return load_file(FIXTURE) | {"config": config}


@pytest.fixture(scope="module")
def schedule():
    return SCHEDULES["dynamicrafter-512"].build(16, 320, 512)


# timesteps


@pytest.mark.parametrize(("kind", "offset"), [("trailing", 0), ("leading", 1), ("leading", 0), ("linspace", 0)])
def test_spacing_is_diffusers(kind, offset):
    ddim = DDIMScheduler(timestep_spacing=kind, steps_offset=offset)
    for steps in range(1, 1000):
        ddim.set_timesteps(steps)
        # For 62 trailing counts (61, 103, …) diffusers' float arange yields one step too many, at timestep
        # −1.
        assert spacing(steps, 1000, kind, offset).tolist() == ddim.timesteps[:steps].tolist()


def test_spacing_known_values(peer):
    assert spacing(50).tolist() == list(range(999, 0, -20))
    assert spacing(50, kind="leading").tolist() == list(range(981, 0, -20))
    assert spacing(3).tolist() == [999, 666, 332]
    assert torch.equal(spacing(50).flip(0), peer["trailing50_eta0.timesteps"])
    assert spacing(1).tolist() == [999]
    assert spacing(1000).tolist() == list(range(999, -1, -1))


def test_spacing_refuses():
    with pytest.raises(ScheduleError, match="1 to 1000"):
        spacing(1001)
    with pytest.raises(ScheduleError, match="offset 0"):
        spacing(1000, kind="leading")
    with pytest.raises(ScheduleError, match="trailing, leading, linspace"):
        spacing(10, kind="uniform")


def test_eps_starts_where_there_is_signal():
    ac = SCHEDULES["factorized-dreamer-paper"].build(16, 512, 512).alphas_cumprod
    start = last_usable(ac)
    assert ac[start] >= 1e-3 > ac[start + 1]
    steps = drop_unusable(spacing(50), ac, "eps")
    assert steps[0] == start
    assert (ac[steps] > 0).all()
    assert (steps.diff() < 0).all()
    assert set(steps.tolist()[1:]) <= set(spacing(50).tolist())
    assert drop_unusable(spacing(50), ac, "eps", minimum=0.0)[0] == 998  # the last non-zero one
    assert torch.equal(drop_unusable(spacing(50), ac, "v"), spacing(50))


def test_eps_keeps_what_is_usable():
    ac = SCHEDULES["stable-diffusion"].build(16, 512, 512).alphas_cumprod
    assert torch.equal(drop_unusable(spacing(50), ac, "eps"), spacing(50))
    with pytest.raises(ScheduleError, match="lower the minimum"):
        last_usable(ac, minimum=2.0)


# guidance


def test_guidance_by_hand():
    u, c = torch.tensor([[1.0]]), torch.tensor([[4.0]])
    assert classifier_free(c, u, 1.0) == c
    assert classifier_free(c, u, 7.5) == 1 + 7.5 * 3


def test_guidance_rescale_is_per_clip():
    g = torch.Generator().manual_seed(1)
    cond, guided = torch.randn(2, 6, 4, 5, 5, generator=g) * torch.rand(6, 1, 1, 1, generator=g)
    got = rescale_guidance(3 * guided, cond, 1.0, frames=3)
    for clip in (slice(0, 3), slice(3, 6)):
        assert got[clip].std() == pytest.approx(float(cond[clip].std()), rel=1e-5)
        ratio = got[clip] / guided[clip]
        torch.testing.assert_close(ratio, ratio.mean().expand_as(ratio))  # one factor for all frames of a clip
    assert torch.equal(rescale_guidance(guided, cond, 0.0, frames=3), guided)
    assert not rescale_guidance(torch.zeros_like(guided), cond, 0.7, frames=3).any()
    assert rescale_guidance(guided.half(), cond.half(), 0.7, frames=3).dtype == torch.float16
    with pytest.raises(ScheduleError, match="whole clips"):
        rescale_guidance(guided, cond, 0.7, frames=4)


# DynamiCrafter


def test_tables_are_dynamicrafters(peer, schedule):
    ac = schedule.alphas_cumprod
    torch.testing.assert_close(ac, peer["alphas_cumprod_float64"], rtol=0, atol=1e-14)
    torch.testing.assert_close(betas_from_alphas_cumprod(ac), peer["betas_float64"], rtol=0, atol=1e-10)
    torch.testing.assert_close(schedule.signal_scale.float(), peer["scale_arr"][:1000], rtol=0, atol=6e-8)
    assert ac[-1] == 0


def guided_v(peer, phi=0.7):
    cond, uncond = (frames(peer[f"input.model_output_{k}"]) for k in ("cond", "uncond"))
    return rescale_guidance(classifier_free(cond, uncond, 7.5), cond, phi, frames=3)


def frames(video):
    """(b, c, t, h, w) → (b·t, c, h, w)"""
    return video.transpose(1, 2).flatten(0, 1)


@pytest.mark.parametrize(
    ("run", "i"),
    [(f"trailing50_eta{e}", i) for e, steps in ((1, (0, 25, 49)), (0, (0, 12, 49))) for i in steps],
)
def test_ddim_steps_are_dynamicrafters(peer, schedule, run, i):
    eta, ac, scale = peer["config"]["runs"][run]["eta"], schedule.alphas_cumprod, schedule.signal_scale
    steps = spacing(50).flip(0)
    t = steps[i]
    # Their last step ends at timestep 0's level and keeps its own scale.
    before = steps[i - 1] if i else 0
    scale_prev = scale[steps[i - 1]] if i else scale[t]
    assert ddim_sigma(float(ac[t]), float(ac[before]), eta) == pytest.approx(float(peer[f"{run}.sigmas"][i]), abs=1e-6)
    x_prev, x0 = ddim_step(
        guided_v(peer),
        frames(peer["input.x"]),
        ac[t],
        ac[before],
        "v",
        eta=eta,
        noise=frames(peer[f"{run}.step{i}.noise"]),
        scale_t=scale[t],
        scale_prev=scale_prev,
    )
    if eta and ac[t] == 0:
        # σ² = 1 − ᾱ_prev leaves nothing for ε, but their float32 difference leaves √(6e-8) of it: put that back.
        left = 1 - peer[f"{run}.alphas_prev"][i] - peer[f"{run}.sigmas"][i] ** 2
        assert left < 1e-7
        x_prev = x_prev + left.sqrt() * frames(peer["input.x"])
    torch.testing.assert_close(x_prev, frames(peer[f"{run}.step{i}.x_prev"]), rtol=0, atol=1e-5)
    torch.testing.assert_close(x0 * scale_prev.float(), frames(peer[f"{run}.step{i}.pred_x0"]), rtol=0, atol=1e-5)


@pytest.mark.parametrize("i", [12, 49])
def test_diffusers_ddim_takes_dynamicrafters_steps(peer, schedule, i):
    """Their scaled process and diffusers' variance-preserving one: the same step in other variables."""
    ddim = build_scheduler(DDIMScheduler, schedule, "trailing")
    ddim.set_timesteps(50)
    t = int(peer["trailing50_eta0.timesteps"][i])
    x_net = frames(peer["input.x"])
    x_vp = x_net / schedule.network_input_scale(t).float()
    step = ddim.step(schedule.to_effective(guided_v(peer), x_net, t), t, x_vp)
    got = step.prev_sample * schedule.network_input_scale(t - 20).float()
    torch.testing.assert_close(got, frames(peer[f"trailing50_eta0.step{i}.x_prev"]), rtol=0, atol=1e-5)
    scale_prev = peer["trailing50_eta0.scale_prev"][i]
    x0 = step.pred_original_sample * scale_prev
    torch.testing.assert_close(x0, frames(peer[f"trailing50_eta0.step{i}.pred_x0"]), rtol=0, atol=1e-5)


def test_rescale_per_frame_would_not_be_dynamicrafters(peer, schedule):
    """The recorded run tells a whole-clip deviation from a per-frame one."""
    cond, uncond = (frames(peer[f"input.model_output_{k}"]) for k in ("cond", "uncond"))
    per_frame = rescale_guidance(classifier_free(cond, uncond, 7.5), cond, 0.7, frames=1)
    assert (per_frame - guided_v(peer)).abs().max() > 0.05


def test_ddim_needs_noise_for_eta():
    x = torch.zeros(1, 4, 2, 2)
    with pytest.raises(ScheduleError, match="noise"):
        ddim_step(x, x, 0.5, 0.6, "v", eta=1.0)


@pytest.mark.parametrize("prediction", ["eps", "v"])
@pytest.mark.parametrize("eta", [0.0, 1.0])
def test_ddim_step_is_diffusers(prediction, eta):
    kinds: dict[str, Any] = {"eps": "epsilon", "v": "v_prediction"}
    ddim = DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        clip_sample=False,
        prediction_type=kinds[prediction],
    )
    ddim.set_timesteps(50)
    g = torch.Generator().manual_seed(2)
    output, x, noise = torch.randn(3, 2, 4, 5, 5, generator=g)
    for t in (980, 500, 0):
        theirs: Any = ddim.step(output, t, x, eta=eta, variance_noise=noise if eta else None)
        before = float(ddim.alphas_cumprod[t - 20]) if t else 1.0
        x_prev, x0 = ddim_step(output, x, ddim.alphas_cumprod[t], before, prediction, eta=eta, noise=noise)
        torch.testing.assert_close(x_prev, theirs.prev_sample, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(x0, theirs.pred_original_sample, rtol=1e-5, atol=1e-5)
