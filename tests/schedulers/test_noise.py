"""The noise tables against the papers' printed numbers, diffusers, and formulas written out here."""

import math

import pytest
import torch
from diffusers.schedulers.scheduling_ddim import DDIMScheduler, rescale_zero_terminal_snr

from dreamfactory.schedulers import (
    ScheduleError,
    alphas_cumprod,
    apply_signal_scale,
    betas_from_alphas_cumprod,
    log_snr,
    rescale_zero_terminal,
    scaled_linear_betas,
    shift_factor,
    shift_snr,
    signal_scale,
    snr,
)


@pytest.fixture
def sd():
    return alphas_cumprod(scaled_linear_betas())


def test_betas_are_stable_diffusions(sd):
    peer = DDIMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    torch.testing.assert_close(scaled_linear_betas().float(), peer.betas, rtol=1e-6, atol=0)
    torch.testing.assert_close(sd.float(), peer.alphas_cumprod, rtol=2e-5, atol=0)  # theirs is a float32 product
    assert sd.dtype == torch.float64


@pytest.mark.parametrize(("clip", "printed"), [((16, 512, 512), 0.125), ((32, 256, 256), 0.177), ((1, 256, 256), 1.0)])
def test_shift_factor_is_the_papers(clip, printed):
    assert shift_factor(*clip) == pytest.approx(printed, abs=5e-4)


def test_shift_factor_takes_pixels():
    with pytest.raises(ScheduleError, match="pixels"):
        shift_factor(0, 512, 512)
    assert shift_factor(16, 64, 64, reference=32) == 0.125  # latents against a latent reference: the same figure


@pytest.mark.parametrize("s", [0.125, 0.177, 1.0, 1.41])
def test_shift_multiplies_snr(sd, s):
    torch.testing.assert_close(snr(shift_snr(sd, s)), sd / (1 - sd) * s * s, rtol=1e-12, atol=0)
    ends = torch.tensor([1.0, 0.0], dtype=torch.float64)
    assert torch.equal(shift_snr(ends, s), ends)


def test_no_shift_changes_nothing(sd):
    torch.testing.assert_close(shift_snr(sd, 1.0), sd, rtol=1e-15, atol=0)


def test_lin_rescale_is_diffusers(sd):
    peer = rescale_zero_terminal_snr(scaled_linear_betas())
    ours = rescale_zero_terminal(sd, "lin")
    torch.testing.assert_close(ours, torch.cumprod(1 - peer, 0), rtol=1e-10, atol=1e-15)
    torch.testing.assert_close(betas_from_alphas_cumprod(ours), peer, rtol=0, atol=1e-12)
    assert ours[0] == pytest.approx(float(sd[0]), rel=1e-12)


def test_printed_rescale_is_eq_6(sd):
    table = shift_snr(sd, 0.125).tolist()
    first, last = table[0], table[-1]
    eq6 = [(math.sqrt(a - last) / math.sqrt(first - last)) ** 2 for a in table]
    ours = rescale_zero_terminal(torch.tensor(table, dtype=torch.float64), "printed")
    torch.testing.assert_close(ours, torch.tensor(eq6, dtype=torch.float64), rtol=1e-12, atol=0)
    assert ours[0] == 1


def test_the_two_forms_differ_at_the_tail(sd):
    shifted = shift_snr(sd, 0.125)
    # N−1 in the papers' counting: the printed form keeps over 300 times the signal power of the other.
    assert rescale_zero_terminal(shifted, "printed")[-2] == pytest.approx(9.4e-7, rel=0.02)
    assert rescale_zero_terminal(shifted, "lin")[-2] == pytest.approx(2.8e-9, rel=0.02)


@pytest.mark.parametrize("s", [0.125, 0.354, 1.0])
@pytest.mark.parametrize("form", ["lin", "printed", "none"])
def test_snr_falls_at_every_step(sd, s, form):
    table = rescale_zero_terminal(shift_snr(sd, s), form)
    assert (table.diff() < 0).all()
    assert (log_snr(table).diff() < 0).all()
    assert (table[-1] == 0) == (form != "none")


def test_unknown_rescale_is_refused(sd):
    with pytest.raises(ScheduleError, match="lin, printed, none"):
        rescale_zero_terminal(sd, "zero")


def test_snr_forms_are_exact_at_the_ends():
    ends = torch.tensor([0.0, 0.5, 1.0], dtype=torch.float64)
    assert snr(ends).tolist() == [0, 1, math.inf]
    assert log_snr(ends).tolist() == [-math.inf, 0, math.inf]


def test_log_snr_at_known_timesteps(sd):
    shifted = shift_snr(sd, 0.125)
    for t, original in ((499, -0.956), (950, -4.790), (998, -5.352)):
        assert log_snr(sd)[t] == pytest.approx(original, abs=1e-3)
        assert log_snr(shifted)[t] == pytest.approx(float(log_snr(sd)[t]) + 2 * math.log(0.125), abs=1e-9)


def test_betas_come_back_from_alphas_cumprod(sd):
    torch.testing.assert_close(betas_from_alphas_cumprod(sd), scaled_linear_betas(), rtol=0, atol=1e-14)


def test_signal_scale_is_an_snr_factor(sd):
    scale = signal_scale(1000, 0.7)
    assert scale.shape == (1000,)
    assert (scale[0], scale[399], scale[999]) == (1, 0.7, 0.7)
    power, noise = sd * scale**2, 1 - sd
    torch.testing.assert_close(apply_signal_scale(sd, scale), power / (power + noise), rtol=1e-12, atol=0)
    torch.testing.assert_close(apply_signal_scale(sd, signal_scale(1000, 1.0)), sd, rtol=1e-15, atol=0)
    assert signal_scale(10, 0.7, turning_step=400).shape == (10,)
