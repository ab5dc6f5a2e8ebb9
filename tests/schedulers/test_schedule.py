"""Recipes, presets, the signal scale's change of variables, and the diffusers bridge."""

import json
import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_euler_discrete import EulerDiscreteScheduler

from dreamfactory.schedulers import SCHEDULES, ScheduleConfig, ScheduleError, build_scheduler, shift_factor

CLIP = (16, 512, 512)


@pytest.mark.parametrize("name", SCHEDULES)
def test_presets_survive_json(name):
    config = SCHEDULES[name]
    assert ScheduleConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config
    assert config.build(*CLIP).alphas_cumprod.dtype == torch.float64


def test_presets_say_what_the_sources_say():
    paper = SCHEDULES["factorized-dreamer-paper"]
    assert (paper.prediction, paper.rescale, paper.shift_for(*CLIP)) == ("eps", "printed", 0.125)
    ours = SCHEDULES["factorized-dreamer"]
    assert (ours.prediction, ours.rescale, ours.spacing, ours.shift_for(*CLIP)) == (
        "v",
        "lin",
        "trailing",
        0.125,
    )
    assert ours.shift_for(32, 256, 256) == pytest.approx(math.sqrt(1 / 32))
    for name in ("stable-diffusion", "videofactory", "modelscope"):
        ac = SCHEDULES[name].build(*CLIP).alphas_cumprod
        assert float(ac[-1]) == pytest.approx(0.00466, abs=1e-5)  # Stable Diffusion's well-known residual


def test_trained_shape_round_trip():
    config = ScheduleConfig(trained_shape=(8, 64, 64), shift_reference=64)
    assert config.to_dict()["trained_shape"] == [8, 64, 64]
    assert ScheduleConfig.from_dict(config.to_dict()) == config
    assert config.shift_for(8, 64, 64) == pytest.approx(1 / math.sqrt(8))


def test_shift_precedence():
    assert ScheduleConfig(shift=0.3).shift_for(*CLIP) == 0.3
    assert ScheduleConfig(shift_reference=None).shift_for(*CLIP) == 1
    assert ScheduleConfig().shift_for(8, 320, 512) == shift_factor(8, 320, 512)


@pytest.mark.parametrize(
    "wrong",
    [
        {"prediction": "epsilon"},
        {"num_train_timesteps": 1},
        {"num_train_timesteps": 10.5},
        {"beta_start": 0},
        {"beta_end": 0.0001},
        {"betas": "cosine"},
        {"shift_reference": -1},
        {"shift": 0},
        {"shift": math.nan},
        {"shift": "0.1"},
        {"rescale": "zero"},
        {"signal_scale": 0},
        {"signal_scale_steps": 0},
        {"spacing": "uniform"},
        {"guidance_rescale": 1.1},
        {"trained_shape": (16, 512)},
    ],
)
def test_wrong_fields_are_named(wrong):
    with pytest.raises(ScheduleError, match=next(iter(wrong))):
        ScheduleConfig(**wrong)


def test_unknown_keys_suggest_the_nearest():
    with pytest.raises(ScheduleError, match="did you mean 'guidance_rescale'"):
        ScheduleConfig.from_dict({"guidance_rescal": 0.7})


def test_timesteps_count_from_zero():
    schedule = ScheduleConfig().build(*CLIP)
    with pytest.raises(ScheduleError, match="0 to 999"):
        schedule.network_input_scale(1000)


# signal scale


@pytest.mark.parametrize("prediction", ["eps", "v", "x0"])
@pytest.mark.parametrize("base", [1.0, 0.7, 0.3])
def test_effective_schedule_is_the_same_process(prediction, base):
    """The network's noising in other variables: a variance-preserving process of the unscaled x0."""
    schedule = ScheduleConfig(prediction=prediction, signal_scale=base).build(*CLIP)
    g = torch.Generator().manual_seed(3)
    x0, noise = torch.randn(2, 4, 4, 5, 5, generator=g, dtype=torch.float64)
    t = torch.tensor([0, 200, 700, 999])
    a, s = (x[t].view(-1, 1, 1, 1) for x in (schedule.alphas_cumprod, schedule.signal_scale))
    x_net = schedule.add_noise(x0, noise, t)
    torch.testing.assert_close(x_net, a.sqrt() * (s * x0) + (1 - a).sqrt() * noise, rtol=0, atol=1e-14)
    answer = {"eps": noise, "x0": s * x0, "v": a.sqrt() * noise - (1 - a).sqrt() * (s * x0)}[prediction]
    torch.testing.assert_close(schedule.target(x0, noise, t), answer, rtol=0, atol=1e-14)

    e = (a * s**2 / (a * s**2 + 1 - a)).clone()
    torch.testing.assert_close(schedule.effective_alphas_cumprod[t], e.flatten(), rtol=1e-12, atol=0)
    x_vp = x_net / schedule.network_input_scale(t).view(-1, 1, 1, 1)
    torch.testing.assert_close(x_vp, e.sqrt() * x0 + (1 - e).sqrt() * noise, rtol=0, atol=1e-13)
    wanted = {"eps": noise, "x0": x0, "v": e.sqrt() * noise - (1 - e).sqrt() * x0}[prediction]
    torch.testing.assert_close(schedule.to_effective(answer, x_net, t), wanted, rtol=0, atol=1e-12)


def test_log_snr_is_the_networks():
    schedule = ScheduleConfig(shift_reference=None, rescale="none", signal_scale=0.7).build(*CLIP)
    ac = float(schedule.alphas_cumprod[999])
    assert float(schedule.log_snr[999]) == pytest.approx(math.log(ac * 0.49 / (1 - ac)), abs=1e-9)


# diffusers

SCHEDULERS = [DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler]


@pytest.mark.parametrize("scheduler_class", SCHEDULERS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_bridge_carries_the_exact_table(scheduler_class, name):
    schedule = SCHEDULES[name].build(*CLIP)
    scheduler = build_scheduler(scheduler_class, schedule, "leading")
    wanted = schedule.effective_alphas_cumprod.float()
    if scheduler_class is not DDIMScheduler and wanted[-1] == 0:
        wanted[-1] = 2**-24  # infinite sigma has no number
    assert torch.equal(scheduler.alphas_cumprod, wanted)
    assert scheduler.config.prediction_type == {"eps": "epsilon", "v": "v_prediction"}[schedule.prediction]
    assert torch.isfinite(scheduler.sigmas if hasattr(scheduler, "sigmas") else wanted).all()


@pytest.mark.parametrize("scheduler_class", SCHEDULERS)
@pytest.mark.parametrize("name", ["factorized-dreamer", "dynamicrafter-512", "dynamicrafter-1024", "videocrafter2"])
def test_every_sampler_finds_the_clip_a_perfect_network_knows(scheduler_class, name):
    schedule = SCHEDULES[name].build(*CLIP)
    sampler = build_scheduler(scheduler_class, schedule, "trailing")
    sampler.set_timesteps(20)
    g = torch.Generator().manual_seed(4)
    x0, noise = torch.randn(2, 2, 4, 6, 6, generator=g)
    e0 = schedule.effective_alphas_cumprod[-1]
    start = e0.sqrt().float() * x0 + (1 - e0).sqrt().float() * noise
    # Euler's own variable is x_vp·√(σ²+1), the others' is x_vp.
    x = start * (sampler.sigmas[0] ** 2 + 1) ** 0.5 if scheduler_class is EulerDiscreteScheduler else start
    for t in sampler.timesteps:
        x_net = sampler.scale_model_input(x, t) * schedule.network_input_scale(t).float()
        a, s = schedule.alphas_cumprod[int(t)], schedule.signal_scale[int(t)]
        eps = ((x_net.double() - a.sqrt() * s * x0) / (1 - a).sqrt()).float()
        answer = schedule.target(x0, eps, int(t))
        x = sampler.step(schedule.to_effective(answer, x_net, t), t, x).prev_sample
    assert (x - x0).abs().max() < 5e-6


def test_bridge_follows_spacing_and_overrides():
    schedule = SCHEDULES["stable-diffusion"].build(*CLIP)
    ddim = build_scheduler(DDIMScheduler, schedule, "leading")
    ddim.set_timesteps(50)
    assert ddim.timesteps[:2].tolist() == [981, 961]
    assert ddim.final_alpha_cumprod == ddim.alphas_cumprod[0]
    assert build_scheduler(DDIMScheduler, schedule, "trailing").final_alpha_cumprod == 1
    assert build_scheduler(EulerDiscreteScheduler, schedule, use_karras_sigmas=True).config.use_karras_sigmas


def test_bridge_refuses_eps_from_pure_noise():
    schedule = SCHEDULES["factorized-dreamer-paper"].build(*CLIP)
    for scheduler_class in SCHEDULERS:
        with pytest.raises(ScheduleError, match="v-prediction"):
            build_scheduler(scheduler_class, schedule, "trailing")


@pytest.mark.parametrize("name", ["scaled_linear", "linear"])
def test_betas_are_diffusers(name):
    config = ScheduleConfig(prediction="eps", shift_reference=None, rescale="none", beta_end=0.02, betas=name)
    peer = DDIMScheduler(beta_start=0.00085, beta_end=0.02, beta_schedule=name)
    torch.testing.assert_close(config.build(*CLIP).alphas_cumprod.float(), peer.alphas_cumprod, rtol=1e-4, atol=0)
    ours = build_scheduler(DDIMScheduler, config.build(*CLIP), "leading")
    torch.testing.assert_close(ours.alphas_cumprod, peer.alphas_cumprod, rtol=1e-4, atol=0)
