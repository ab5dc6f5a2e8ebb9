"""Sampling against what must hold: a network that knows the answer leads every sampler to it."""

from dataclasses import replace
from typing import Any

import pytest
import torch

from dreamfactory.errors import InputError
from dreamfactory.model_patches import UNetConfig
from dreamfactory.pipelines.sampling import SCHEDULERS, Prompt, make_scheduler, sample
from dreamfactory.schedulers import SCHEDULES, spacing

FRAMES = 2


class Oracle:
    """A network that knows x0: it answers with the exact prediction the schedule asks for."""

    config = UNetConfig()

    def __init__(self, schedule, x0):
        self.schedule, self.x0, self.steps, self.seen = schedule, x0, [], []

    def __call__(self, x, t, conditions, num_frames):
        step = int(t[0])
        self.steps.append(step)
        x0 = self.x0.repeat(len(x) // len(self.x0), 1, 1, 1)
        ac, scale = float(self.schedule.alphas_cumprod[step]), float(self.schedule.signal_scale[step])
        noise = (x - ac**0.5 * scale * x0) / max(1 - ac, 1e-12) ** 0.5
        if self.schedule.prediction == "eps":
            return noise
        return ac**0.5 * noise - (1 - ac) ** 0.5 * scale * x0


def sampled(network: Any, *given: Any, **settings: Any) -> torch.Tensor:
    """With any function in the network's place."""
    return sample(network, *given, **settings)


def prompt():
    return Prompt(text=torch.zeros(1, 1, 1), uncond_text=torch.zeros(1, 1, 1))


@pytest.mark.parametrize("sampler", SCHEDULERS)
@pytest.mark.parametrize("name", ["factorized-dreamer", "videofactory", "videocrafter2", "dynamicrafter-512"])
def test_every_sampler_finds_what_the_network_knows(sampler, name):
    config = SCHEDULES[name]
    schedule = config.build(16, 256, 256)
    x0 = torch.randn(FRAMES, 4, 4, 4)
    noise = torch.randn(FRAMES, 4, 4, 4)
    generator = torch.Generator().manual_seed(0)
    made = sampled(
        Oracle(schedule, x0), schedule, prompt(), noise, FRAMES,
        steps=20, guidance_scale=1.0, sampler=sampler, spacing=config.spacing, generators=[generator],
    )  # fmt: skip
    # "leading" schedules end at the first timestep's own noise level, as Stable Diffusion does.
    left = (1 - float(schedule.effective_alphas_cumprod[0])) ** 0.5 if config.spacing == "leading" else 0.0
    assert (made - x0).abs().max().item() < 4.5 * left + 1e-3


@pytest.mark.parametrize("steps", [8, 20, 50])
def test_an_eps_model_starts_where_signal_is_left_and_is_told_the_truth(steps):
    """At every step the network's input must have the noise level of the timestep it is told.

    The oracle's x0 and the noise have unit variance, so x has too; with an exact eps each x_t = sqrt(a) x0 + ... holds,
    which `seen` checks against the schedule.
    """
    config = SCHEDULES["factorized-dreamer-paper"]
    schedule = config.build(16, 512, 512)
    x0, noise = torch.randn(FRAMES, 4, 32, 32), torch.randn(FRAMES, 4, 32, 32)

    class Watching(Oracle):
        def __call__(self, x, t, conditions, num_frames):
            ac = float(self.schedule.alphas_cumprod[int(t[0])])
            self.seen.append(((x - ac**0.5 * self.x0).std() / (1 - ac) ** 0.5).item())
            return super().__call__(x, t, conditions, num_frames)

    oracle = Watching(schedule, x0)
    made = sampled(oracle, schedule, prompt(), noise, FRAMES, steps=steps, guidance_scale=1.0, spacing=config.spacing)
    assert float(schedule.alphas_cumprod[oracle.steps[0]]) >= 1e-3
    assert all(level == pytest.approx(1.0, abs=0.05) for level in oracle.seen)
    assert (made - x0).abs().max() < 1e-3


def test_other_samplers_refuse_eps_at_zero_snr():
    schedule = SCHEDULES["factorized-dreamer-paper"].build(16, 512, 512)
    noise = torch.randn(FRAMES, 4, 4, 4)
    with pytest.raises(InputError, match="choose ddim"):
        sampled(Oracle(schedule, noise), schedule, prompt(), noise, FRAMES, steps=8, sampler="euler")


@pytest.mark.parametrize("name", ["factorized-dreamer", "dynamicrafter-512"])
def test_noise_can_be_added_back_at_zero_snr(name):
    """eta = 1 at terminal SNR 0, where a rounded difference under a root is no number."""
    config = SCHEDULES[name]
    schedule = config.build(8, 64, 64)
    x0, noise = torch.randn(FRAMES, 4, 4, 4), torch.randn(FRAMES, 4, 4, 4)
    for steps in (4, 8, 20):
        generator = torch.Generator().manual_seed(1)
        made = sampled(
            Oracle(schedule, x0), schedule, prompt(), noise, FRAMES,
            steps=steps, guidance_scale=1.0, spacing=config.spacing, eta=1.0, generators=[generator],
        )  # fmt: skip
        assert (made - x0).abs().max() < 1e-3


def test_own_ddim_is_diffusers_ddim():
    """The same steps from both, where both can run."""
    config = SCHEDULES["dynamicrafter-512"]
    schedule = config.build(16, 256, 256)
    noise, answer = torch.randn(FRAMES, 4, 4, 4), torch.randn(FRAMES, 4, 4, 4)

    def network(x, t, text, **kwargs):
        return answer * 0.3 + x * 0.1

    ours = sampled(network, schedule, prompt(), noise, FRAMES, steps=20, guidance_scale=1.0, spacing=config.spacing)
    scheduler = make_scheduler("ddim", schedule, config.spacing)
    scheduler.set_timesteps(20)
    theirs = noise * scheduler.init_noise_sigma
    for t in scheduler.timesteps.tolist():
        x = theirs * schedule.network_input_scale(t).to(theirs)
        theirs = scheduler.step(schedule.to_effective(network(x, t, None), x, t), t, theirs).prev_sample
    assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.parametrize("steps", [6, 7, 12, 15, 30, 40])
def test_ddim_is_euler_in_sigma_whether_or_not_steps_divide_the_timesteps(steps):
    """DDIM without eta is Euler's method in sigma (Song et al. 2021), from each timestep to the next one visited."""
    schedule = SCHEDULES["stable-diffusion"].build(16, 256, 256)
    noise, x0 = torch.randn(2, FRAMES, 4, 4, 4).double()

    def network(x, t, text, **kwargs):
        return torch.tanh(x * 0.7 + x0)

    ours = sampled(network, schedule, prompt(), noise, FRAMES, steps=steps, guidance_scale=1.0)
    sigmas = ((1 - schedule.alphas_cumprod) / schedule.alphas_cumprod).sqrt()[spacing(steps, 1000, "trailing")]
    x = noise * (1 + sigmas[0] ** 2).sqrt()
    for sigma, after in zip(sigmas, [*sigmas[1:], 0.0], strict=True):
        x = x + network(x / (1 + sigma**2).sqrt(), None, None) * (after - sigma)
    torch.testing.assert_close(ours, x, rtol=0, atol=1e-9)


def test_a_picture_of_no_numbers_is_refused():
    class Broken(Oracle):
        def __call__(self, x, t, conditions, num_frames):
            return x * float("nan")

    schedule = SCHEDULES["factorized-dreamer"].build(8, 64, 64)
    noise = torch.randn(FRAMES, 4, 4, 4)
    with pytest.raises(InputError, match="no picture"):
        sampled(Broken(schedule, noise), schedule, prompt(), noise, FRAMES, steps=2)


def test_guidance_mixes_both_halves():
    """u + g (c - u), seen through one DDIM step to the clean latent (v-prediction at SNR 0: x0 = -v)."""

    class TwoVoices(Oracle):
        def __call__(self, x, t, conditions, num_frames):
            return torch.stack(
                [torch.full_like(x[0], float(row)) for row in conditions.text.flatten()]
            ).repeat_interleave(FRAMES, 0)

    config = SCHEDULES["factorized-dreamer"]
    schedule = config.build(16, 256, 256)
    voices = Prompt(text=torch.full((1, 1, 1), 2.0), uncond_text=torch.full((1, 1, 1), 1.0))
    noise = torch.randn(FRAMES, 4, 4, 4)
    made = sampled(TwoVoices(schedule, noise), schedule, voices, noise, FRAMES, steps=1, guidance_scale=3.0)
    assert torch.allclose(made, torch.full_like(made, -(1.0 + 3.0 * (2.0 - 1.0))), atol=1e-5)


def test_steps_are_reported_and_can_be_cancelled():
    config = SCHEDULES["factorized-dreamer"]
    schedule = config.build(16, 256, 256)
    noise, seen = torch.randn(FRAMES, 4, 4, 4), []

    def on_step(done, total):
        seen.append((done, total))
        if done == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sampled(Oracle(schedule, noise), schedule, prompt(), noise, FRAMES, steps=10, on_step=on_step)
    assert seen == [(1, 10), (2, 10), (3, 10)]


def test_an_unknown_sampler_is_named():
    schedule = replace(SCHEDULES["videofactory"]).build(16, 256, 256)
    with pytest.raises(InputError, match="heun"):
        make_scheduler("heun", schedule, "trailing")
