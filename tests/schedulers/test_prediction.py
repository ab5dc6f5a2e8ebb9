"""ε, v and x0 say the same thing: each from a known x0 and ε, at every level where it exists."""

import math

import pytest
import torch

from dreamfactory.schedulers import (
    PREDICTIONS,
    ScheduleError,
    add_noise,
    convert,
    min_snr_weights,
    snr,
    target,
    to_eps,
    to_v,
    to_x0,
)

LEVELS = torch.tensor([0.999, 0.7, 0.3, 1e-2, 1e-4], dtype=torch.float64)


@pytest.fixture
def clip():
    g = torch.Generator().manual_seed(0)
    x0, noise = torch.randn(2, 5, 4, 6, 6, generator=g, dtype=torch.float64)
    return x0, noise


def answers(x0, noise, ac):
    """What a perfect network says, by the definitions."""
    a = ac.view(-1, 1, 1, 1)
    return {"eps": noise, "x0": x0, "v": a.sqrt() * noise - (1 - a).sqrt() * x0}


@pytest.mark.parametrize("source", PREDICTIONS)
def test_every_prediction_gives_every_other(clip, source):
    x0, noise = clip
    x_t = add_noise(x0, noise, LEVELS)
    truth = answers(x0, noise, LEVELS)
    torch.testing.assert_close(
        x_t, LEVELS.view(-1, 1, 1, 1).sqrt() * x0 + (1 - LEVELS).view(-1, 1, 1, 1).sqrt() * noise
    )
    torch.testing.assert_close(target(x0, noise, LEVELS, source), truth[source], rtol=0, atol=1e-14)
    for to, wanted in truth.items():
        got = convert(truth[source], x_t, LEVELS, source, to)
        torch.testing.assert_close(got, wanted, rtol=0, atol=1e-11)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("source", PREDICTIONS)
def test_dtype_is_kept(clip, dtype, source):
    x0, noise = (x.to(dtype) for x in clip)
    x_t = add_noise(x0, noise, 0.5)
    assert x_t.dtype == dtype
    for to in PREDICTIONS:
        got = convert(target(x0, noise, 0.5, source), x_t, 0.5, source, to)
        assert got.dtype == dtype
        wanted = target(x0, noise, 0.5, to).float()
        torch.testing.assert_close(got.float(), wanted, rtol=0, atol=32 * torch.finfo(dtype).eps)


def test_pure_noise(clip):
    x0, noise = clip
    assert torch.equal(add_noise(x0, noise, 0.0), noise)
    v = target(x0, noise, 0.0, "v")
    assert torch.equal(to_x0(v, noise, 0.0, "v"), x0)
    assert torch.equal(to_eps(v, noise, 0.0, "v"), noise)
    for to in (to_x0, to_v):
        with pytest.raises(ScheduleError, match=r"pure noise.*v-prediction"):
            to(noise, noise, torch.tensor([0.5, 0.5, 0.5, 0.5, 0.0]), "eps")


def test_no_noise(clip):
    x0, noise = clip
    assert torch.equal(to_x0(noise, x0, 1.0, "eps"), x0)
    for to in (to_eps, to_v):
        with pytest.raises(ScheduleError, match="holds no noise"):
            to(x0, x0, 1.0, "x0")


def test_bad_arguments_are_named(clip):
    x0, noise = clip
    with pytest.raises(ScheduleError, match="eps, v, x0"):
        to_x0(x0, noise, 0.5, "epsilon")
    with pytest.raises(ScheduleError, match="repeat_interleave"):
        add_noise(x0, noise, torch.tensor([0.5, 0.4]))


def test_min_snr_by_hand():
    ratios = torch.tensor([0.0, 0.5, 5.0, 20.0, math.inf])
    assert min_snr_weights(ratios, "x0").tolist() == [0, 0.5, 5, 5, 5]
    assert min_snr_weights(ratios, "eps").tolist() == [1, 1, 1, 0.25, 0]
    assert min_snr_weights(ratios, "v").tolist() == pytest.approx([0, 1 / 3, 5 / 6, 5 / 21, 0], rel=1e-12)
    assert min_snr_weights(ratios, "eps", gamma=1.0).tolist() == [1, 1, 0.2, 0.05, 0]


def test_min_snr_weighs_the_same_error_alike(clip):
    """One wrong x0, expressed in all three ways, costs the same."""
    x0, noise = clip
    for ac in (0.9, 0.5, 0.01):
        x_t = add_noise(x0, noise, ac)
        wrong, ratio = x0 + 0.1, snr(torch.tensor(ac, dtype=torch.float64))
        losses = []
        for prediction in PREDICTIONS:
            error = convert(wrong, x_t, ac, "x0", prediction) - target(x0, noise, ac, prediction)
            losses.append(float(min_snr_weights(ratio, prediction) * error.square().mean()))
        assert losses == pytest.approx([losses[0]] * 3, rel=1e-9)
