"""A noise schedule from its recipe: ``ScheduleConfig`` (data, saved in checkpoints) → ``NoiseSchedule``
(tables).

The order is the paper's (FD 3.3): Stable Diffusion's ᾱ, shifted by the clip's size (Eq. 5), then rescaled to
zero terminal SNR (Eq. 6). The signal scale of VideoCrafter and DynamiCrafter comes on top.
"""

from dataclasses import asdict, dataclass, fields

import torch
from torch import Tensor

from ..errors import ScheduleError, nearest
from .noise import (
    BETAS,
    RESCALES,
    alphas_cumprod,
    apply_signal_scale,
    log_snr,
    rescale_zero_terminal,
    shift_factor,
    shift_snr,
    signal_scale,
)
from .prediction import as_coefficient, check_prediction
from .timesteps import SPACINGS

LARGEST = 1e12  # of any factor: beyond it float64 has no schedule left


@dataclass(frozen=True)
class ScheduleConfig:
    """How a network's noise was made and how it likes to be sampled. Every field is checked on construction.

    The default is the recommended recipe: v-prediction, shift by clip size, Lin's rescale, trailing
    timesteps.
    """

    num_train_timesteps: int = 1000
    beta_start: float = 0.00085
    beta_end: float = 0.012
    betas: str = "scaled_linear"  # "scaled_linear" (Stable Diffusion) | "linear" (AnimateDiff)
    prediction: str = "v"  # "eps" | "v" | "x0"
    shift_reference: float | None = 256.0  # D of FD Eq. 5, pixels; None = no shift
    shift: float | None = None  # a fixed s, whatever the clip's size
    rescale: str = "lin"  # "lin" (Lin et al.) | "printed" (FD Eq. 6) | "none"
    signal_scale: float = 1.0  # last value of s_t; 1 = off
    signal_scale_steps: int = 400  # steps from 1 to that value
    spacing: str = "trailing"  # "trailing" | "leading" | "linspace"
    guidance_rescale: float = 0.0  # φ in [0, 1]; 0 = off
    trained_shape: tuple[int, int, int] | None = None  # frames, height, width in pixels; a record, not an input

    def __post_init__(self):
        if isinstance(self.trained_shape, list):  # JSON has no tuples
            object.__setattr__(self, "trained_shape", tuple(self.trained_shape))
        check_prediction(self.prediction)
        self._need(
            "num_train_timesteps", _whole(self.num_train_timesteps, 2, 100_000), "a whole number from 2 to 100000"
        )
        self._need("beta_start", _between(self.beta_start, 0, 1), "a number between 0 and 1")
        self._need("beta_end", _between(self.beta_end, self.beta_start, 1), "between beta_start and 1")
        self._need("betas", self.betas in BETAS, f"one of {', '.join(BETAS)}")
        for name in ("shift_reference", "shift"):
            value = getattr(self, name)
            self._need(name, value is None or _between(value, 0, LARGEST), "a positive number or None (off)")
        self._need("rescale", self.rescale in RESCALES, f"one of {', '.join(RESCALES)}")
        self._need("signal_scale", _between(self.signal_scale, 0, LARGEST), "a positive number (1 = off)")
        self._need("signal_scale_steps", _whole(self.signal_scale_steps, 1, 100_000), "a whole number from 1 to 100000")
        self._need("spacing", self.spacing in SPACINGS, f"one of {', '.join(SPACINGS)}")
        phi = self.guidance_rescale
        self._need("guidance_rescale", phi in (0, 1) or _between(phi, 0, 1), "a number from 0 (off) to 1")
        shape = self.trained_shape
        fits = shape is None or (
            isinstance(shape, tuple) and len(shape) == 3 and all(_whole(n, 1, 2**24) for n in shape)
        )
        self._need("trained_shape", fits, "three positive whole numbers (frames, height, width in pixels) or None")

    def _need(self, name: str, fits: bool, expected: str) -> None:
        if not fits:
            given = repr(getattr(self, name))[:60]
            raise ScheduleError(f"{name} is {given}, but it must be {expected}: change {name}.")

    def to_dict(self) -> dict:
        """Plain JSON types, in field order."""
        return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(self).items()}

    @classmethod
    def from_dict(cls, data: object) -> "ScheduleConfig":
        """The inverse of ``to_dict``, of whatever a file says; missing keys take their defaults, unknown ones are
        errors."""
        if not isinstance(data, dict):
            raise ScheduleError(f"a noise schedule is {type(data).__name__}, but it must be fields by their names.")
        known = [f.name for f in fields(cls)]
        for key in data:
            if key not in known:
                key = str(key)[:60]
                near = nearest(key, known)
                hint = f"did you mean {near!r}?" if near else f"known: {', '.join(known)}."
                raise ScheduleError(f"{key!r} is not a field of the noise schedule: {hint}")
        try:
            return cls(**data)
        except TypeError as error:  # a list where a name or number should be
            raise ScheduleError(f"the noise schedule holds values of wrong types ({str(error)[:60]}).") from error

    def shift_for(self, frames: int, height: int, width: int) -> float:
        """s of FD Eq. 5 for a clip in PIXELS: the fixed one, else the clip's, else 1."""
        if self.shift is not None:
            return float(self.shift)
        if self.shift_reference is None:
            return 1.0
        return shift_factor(frames, height, width, self.shift_reference)

    def original(self) -> Tensor:
        """ᾱ (N,) float64 before shift and rescale."""
        return alphas_cumprod(BETAS[self.betas](self.num_train_timesteps, self.beta_start, self.beta_end))

    def build(self, frames: int, height: int, width: int) -> "NoiseSchedule":
        """The tables for a clip of this size in PIXELS."""
        s = self.shift_for(frames, height, width)
        return NoiseSchedule(
            alphas_cumprod=rescale_zero_terminal(shift_snr(self.original(), s), self.rescale),
            signal_scale=signal_scale(self.num_train_timesteps, self.signal_scale, self.signal_scale_steps),
            prediction=self.prediction,
            shift=s,
        )


def log_snr_curves(config: ScheduleConfig, frames: int, height: int, width: int) -> dict[str, Tensor]:
    """FD Fig. 5 for a clip: log SNR (natural), float64 (N,), after each step of the recipe that does something.

    Keys say what a curve is. ``height`` and ``width`` in PIXELS. The last is what the network meets; −∞ where nothing
    of the clip is left.
    """
    s = config.shift_for(frames, height, width)
    original = config.original()
    shifted = shift_snr(original, s)
    steps = {"original": original}
    if s != 1:
        steps[f"shifted, s = {s:.3g}"] = shifted
    if config.rescale != "none":
        name = "rescaled" if s == 1 else "shifted + rescaled"
        steps[f"{name} ({config.rescale})"] = rescale_zero_terminal(shifted, config.rescale)
    if config.signal_scale != 1:
        effective = config.build(frames, height, width).effective_alphas_cumprod
        steps[f"with signal scale {config.signal_scale:g}"] = effective
    return {name: log_snr(ac) for name, ac in steps.items()}


@dataclass(frozen=True, eq=False)
class NoiseSchedule:
    """x_t = √ᾱ_t·s_t·x0 + √(1−ᾱ_t)·ε for t = 0 … N−1.

    Where s_t ≠ 1 the noisy latent is not variance preserving. Samplers that assume it is run on the
    *effective* schedule, the same SNR with unit variance: x_vp = x_net / √(ᾱ_t·s_t² + 1−ᾱ_t).
    ``network_input_scale`` goes from theirs to the network's, ``to_effective`` brings its answer back. Where
    s_t = 1 both are the identity.

    ``t`` is an integer or one per batch item (b,); latents are (b, …), dtype and device kept.
    """

    alphas_cumprod: Tensor  # (N,) float64, after shift and rescale
    signal_scale: Tensor  # (N,) float64, s_t
    prediction: str
    shift: float

    @property
    def effective_alphas_cumprod(self) -> Tensor:
        """(N,) float64: ᾱ of the variance-preserving process with the same SNR, signal scale included."""
        return apply_signal_scale(self.alphas_cumprod, self.signal_scale)

    @property
    def log_snr(self) -> Tensor:
        """(N,) float64: natural log of the SNR the network meets, signal scale included; −∞ at SNR 0."""
        return log_snr(self.effective_alphas_cumprod)

    def add_noise(self, x0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """The network's input in training."""
        a, s = self._at(t)
        return as_coefficient(a.sqrt() * s, x0) * x0 + as_coefficient((1 - a).sqrt(), x0) * noise

    def target(self, x0: Tensor, noise: Tensor, t: int | Tensor) -> Tensor:
        """The network's wanted answer: ε, s_t·x0, or v = √ᾱ_t·ε − √(1−ᾱ_t)·s_t·x0."""
        if self.prediction == "eps":
            return noise
        a, s = self._at(t)
        if self.prediction == "x0":
            return as_coefficient(s, x0) * x0
        return as_coefficient(a.sqrt(), x0) * noise - as_coefficient((1 - a).sqrt() * s, x0) * x0

    def network_input_scale(self, t: int | Tensor) -> Tensor:
        """n_t = √(ᾱ_t·s_t² + 1−ᾱ_t), float64, a scalar or (b,): x_net = n_t·x_vp."""
        a, s = self._at(t)
        return (a * s**2 + (1 - a)).sqrt()

    def to_effective(self, output: Tensor, x_net: Tensor, t: int | Tensor) -> Tensor:
        """The answer to ``x_net`` as the same kind of prediction for x_vp, effective ᾱ and unscaled x0."""
        if self.prediction == "eps":
            return output
        a, s = self._at(t)
        if self.prediction == "x0":
            return as_coefficient(1 / s, output) * output
        # √ᾱ_e·ε − √(1−ᾱ_e)·x0 with ᾱ_e = ᾱ·s²/n², and ε and s·x0 of the network's own x_net and v put in:
        n = self.network_input_scale(t)
        of_input = (s - 1 / s) * (a * (1 - a)).sqrt() / n
        return as_coefficient(n / s, output) * output + as_coefficient(of_input, output) * x_net

    def _at(self, t: int | Tensor) -> tuple[Tensor, Tensor]:
        index = torch.as_tensor(t).to("cpu", torch.int64)
        if bool((index < 0).any() or (index >= len(self.alphas_cumprod)).any()):
            raise ScheduleError(
                f"A timestep between {int(index.min())} and {int(index.max())} was given to a schedule with "
                f"steps 0 to {len(self.alphas_cumprod) - 1}: count timesteps from 0."
            )
        return self.alphas_cumprod[index], self.signal_scale[index]


def _whole(value, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def _between(value, low: float, high: float) -> bool:
    """Strictly inside; nan and infinities are not."""
    return isinstance(value, int | float) and not isinstance(value, bool) and low < value < high


_PLAIN = {"prediction": "eps", "shift_reference": None, "rescale": "none", "spacing": "leading"}
_ZERO_TERMINAL = {"prediction": "v", "shift_reference": None, "rescale": "lin", "guidance_rescale": 0.7}

# The first is the recipe recommended here; all others are as published by their authors.
SCHEDULES: dict[str, ScheduleConfig] = {
    "factorized-dreamer": ScheduleConfig(),
    "factorized-dreamer-paper": ScheduleConfig(prediction="eps", rescale="printed"),
    "videofactory": ScheduleConfig(**_PLAIN),
    "stable-diffusion": ScheduleConfig(**_PLAIN),
    "animatediff": ScheduleConfig(**_PLAIN, betas="linear"),
    "modelscope": ScheduleConfig(**_PLAIN),
    "videocrafter2": ScheduleConfig(**_PLAIN, signal_scale=0.7),
    "dynamicrafter-256": ScheduleConfig(**_PLAIN),
    "dynamicrafter-512": ScheduleConfig(**_ZERO_TERMINAL, signal_scale=0.7),
    "dynamicrafter-1024": ScheduleConfig(**_ZERO_TERMINAL, signal_scale=0.3),
}
