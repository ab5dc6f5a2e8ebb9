"""What a network may predict, and the exact algebra between the three.

    x_t = √ᾱ·x0 + √(1−ᾱ)·ε        "eps" predicts ε (Ho et al. 2020), "x0" predicts x0,
    v   = √ᾱ·ε  − √(1−ᾱ)·x0        "v" predicts v (Salimans & Ho 2022, App. D)

``ac_t`` is ᾱ_t: a number, or one per item of the batch (b,); latents are (b, …) of any floating dtype, which
is kept. Coefficients are computed in float64 on the CPU (some devices have none) and cast.
"""

import torch
from torch import Tensor

from ..errors import ScheduleError

PREDICTIONS = ("eps", "v", "x0")


def check_prediction(prediction: str) -> str:
    if prediction not in PREDICTIONS:
        raise ScheduleError(
            f"The prediction is {prediction!r}, but it must be one of {', '.join(PREDICTIONS)}: pick what "
            "the network was trained to predict."
        )
    return prediction


def as_coefficient(value: float | Tensor, like: Tensor) -> Tensor:
    """A number or (b,), float64 on the CPU → dtype and device of ``like`` (b, …), shaped to broadcast."""
    value = torch.as_tensor(value, dtype=torch.float64, device="cpu")
    if value.numel() == 1:
        value = value.reshape(())
    elif value.shape == like.shape[:1]:
        value = value.reshape(-1, *[1] * (like.ndim - 1))
    else:
        raise ScheduleError(
            f"There are noise levels of shape {tuple(value.shape)} for a batch of shape "
            f"{tuple(like.shape)}, but one number or one per batch item is expected: with frames in the "
            "batch, repeat each clip's timestep for every frame (repeat_interleave)."
        )
    return value.to(like)


def _level(ac_t: float | Tensor) -> Tensor:
    return torch.as_tensor(ac_t, dtype=torch.float64, device="cpu")


def add_noise(x0: Tensor, noise: Tensor, ac_t: float | Tensor) -> Tensor:
    """x_t = √ᾱ·x0 + √(1−ᾱ)·ε, shape and dtype of ``x0``."""
    a = _level(ac_t)
    return as_coefficient(a.sqrt(), x0) * x0 + as_coefficient((1 - a).sqrt(), x0) * noise


def target(x0: Tensor, noise: Tensor, ac_t: float | Tensor, prediction: str) -> Tensor:
    """What the network should answer to ``add_noise(x0, noise, ac_t)``."""
    if check_prediction(prediction) == "eps":
        return noise
    if prediction == "x0":
        return x0
    a = _level(ac_t)
    return as_coefficient(a.sqrt(), x0) * noise - as_coefficient((1 - a).sqrt(), x0) * x0


def to_x0(output: Tensor, x_t: Tensor, ac_t: float | Tensor, prediction: str) -> Tensor:
    """x0 from the network's output. From "eps" it does not exist where ᾱ = 0."""
    if check_prediction(prediction) == "x0":
        return output
    a = _level(ac_t)
    if prediction == "v":
        return as_coefficient(a.sqrt(), x_t) * x_t - as_coefficient((1 - a).sqrt(), x_t) * output
    _need_signal(a)
    return as_coefficient(a.rsqrt(), x_t) * x_t - as_coefficient(((1 - a) / a).sqrt(), x_t) * output


def to_eps(output: Tensor, x_t: Tensor, ac_t: float | Tensor, prediction: str) -> Tensor:
    """ε from the network's output. From "x0" it does not exist where ᾱ = 1."""
    if check_prediction(prediction) == "eps":
        return output
    a = _level(ac_t)
    if prediction == "v":
        return as_coefficient(a.sqrt(), x_t) * output + as_coefficient((1 - a).sqrt(), x_t) * x_t
    _need_noise(a)
    return as_coefficient((1 - a).rsqrt(), x_t) * x_t - as_coefficient((a / (1 - a)).sqrt(), x_t) * output


def to_v(output: Tensor, x_t: Tensor, ac_t: float | Tensor, prediction: str) -> Tensor:
    """v from the network's output. It does not exist from "eps" where ᾱ = 0, nor from "x0" where ᾱ = 1."""
    if check_prediction(prediction) == "v":
        return output
    a = _level(ac_t)
    if prediction == "eps":  # v = (ε − √(1−ᾱ)·x_t) / √ᾱ
        _need_signal(a)
        return as_coefficient(a.rsqrt(), x_t) * output - as_coefficient(((1 - a) / a).sqrt(), x_t) * x_t
    _need_noise(a)  # v = (√ᾱ·x_t − x0) / √(1−ᾱ)
    return as_coefficient((a / (1 - a)).sqrt(), x_t) * x_t - as_coefficient((1 - a).rsqrt(), x_t) * output


def convert(output: Tensor, x_t: Tensor, ac_t: float | Tensor, source: str, to: str) -> Tensor:
    """The output of a ``source``-predicting network as the output of a ``to``-predicting one."""
    return {"eps": to_eps, "v": to_v, "x0": to_x0}[check_prediction(to)](output, x_t, ac_t, source)


def _need_signal(a: Tensor) -> None:
    if bool((a == 0).any()):
        raise ScheduleError(
            "An eps prediction was given at a timestep with alphas_cumprod = 0, where x_t is pure noise "
            "and x0 is 0/0: start sampling at an earlier timestep (drop_unusable), or use a v-prediction "
            "model."
        )


def _need_noise(a: Tensor) -> None:
    if bool((a == 1).any()):
        raise ScheduleError(
            "An x0 prediction was given at a timestep with alphas_cumprod = 1, where x_t holds no noise "
            "and eps is 0/0: end sampling at a later timestep, or rescale with the form 'lin', which keeps "
            "noise at the first step."
        )
