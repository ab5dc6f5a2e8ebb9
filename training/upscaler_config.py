"""What is trained, and how a clip is damaged before the network learns to undo it: Real-ESRGAN's settings, and our own.

The numbers are those of Real-ESRGAN's options/train_realesrgan_x4plus.yml (Wang et al. 2021, sec. 3); what it keeps in
its code stands here too. Every range is drawn from evenly, ends included; weights count relative to their sum.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from ..errors import TrainingError
from ..model_patches.upscaling.rcan import RCANConfig

LARGEST = 21  # side of a blur kernel, pixels: all are padded to it
KINDS = {  # of kernels, with Real-ESRGAN's weights
    "iso": 0.45,
    "aniso": 0.25,
    "generalized_iso": 0.12,
    "generalized_aniso": 0.03,
    "plateau_iso": 0.12,
    "plateau_aniso": 0.03,
}
RESIZES = ("up", "down", "keep")


@dataclass(frozen=True)
class UpscalerConfig:
    """Super-resolution instead of a video network: RCAN x4 by its sizes (VF 4)."""

    groups: int = 10
    blocks: int = 8  # in each group
    features: int = 64
    reduction: int = 16
    patch: int = 256  # side of the square cut from a clip's frames, pixels of the large picture
    discriminator: int = 64  # its features, where loss.gan_weight is above 0

    @property
    def network(self) -> RCANConfig:
        return RCANConfig(self.groups, self.blocks, self.features, self.reduction)


@dataclass(frozen=True)
class PassConfig:
    """One pass: blur, resizing, noise, JPEG, in this order. The defaults are Real-ESRGAN's first."""

    blur_chance: float = 1.0
    kinds: dict[str, float] = field(default_factory=lambda: dict(KINDS))
    sinc_chance: float = 0.1  # that the blur is a sinc low-pass, which rings, instead of one of the kinds
    kernel_sizes: tuple[int, ...] = (7, 9, 11, 13, 15, 17, 19, 21)  # pixels, odd
    sigma: tuple[float, float] = (0.2, 3.0)  # pixels; of either axis
    beta_generalized: tuple[float, float] = (0.5, 4.0)  # exponent; 1 is a Gaussian. Half the draws are below 1
    beta_plateau: tuple[float, float] = (1.0, 2.0)  # idem
    resize: dict[str, float] = field(default_factory=lambda: {"up": 0.2, "down": 0.7, "keep": 0.1})
    # Factor of both sides: down is drawn below 1, up above. The first pass starts from the clip, the second from the
    # size that is wanted in the end.
    resize_range: tuple[float, float] = (0.15, 1.5)
    gaussian_chance: float = 0.5  # that the noise is Gaussian; else it is Poisson
    noise_range: tuple[float, float] = (1.0, 30.0)  # std of Gaussian noise, of 255
    poisson_range: tuple[float, float] = (0.05, 3.0)  # factor on Poisson noise
    grey_chance: float = 0.4  # that the noise is the same in all three colours
    jpeg_chance: float = 1.0
    jpeg_range: tuple[int, int] = (30, 95)  # quality


@dataclass(frozen=True)
class SecondPassConfig(PassConfig):
    """Real-ESRGAN's second pass: a class of its own, so that a run file that changes one setting keeps the others."""

    blur_chance: float = 0.8
    sigma: tuple[float, float] = (0.2, 1.5)
    resize: dict[str, float] = field(default_factory=lambda: {"up": 0.3, "down": 0.4, "keep": 0.3})
    resize_range: tuple[float, float] = (0.3, 1.2)
    noise_range: tuple[float, float] = (1.0, 25.0)
    poisson_range: tuple[float, float] = (0.05, 2.5)


@dataclass(frozen=True)
class DegradationConfig:
    """Both passes, and the damage that the generator itself does."""

    chance: float = 1.0  # of the two passes; else the clip is only made smaller
    first: PassConfig = field(default_factory=PassConfig)
    second: SecondPassConfig = field(default_factory=SecondPassConfig)
    final_sinc_chance: float = 0.8  # of a last sinc low-pass, of the second pass's kernel sizes
    codec_chance: float = 0.5  # of a round trip through the codec at the end
    # Std of the Gaussian noise on the latents before they are decoded, in units of their own std: it stands for what
    # diffusion leaves behind. Our reading; VideoFactory says only that the network repairs its generator's frames.
    latent_noise: tuple[float, float] = (0.0, 0.05)


def check(config: DegradationConfig, where: str = "") -> None:
    """Raise TrainingError with a sentence for the first setting that cannot be drawn from.

    where: path of the table, for messages ("degradation.").
    """
    for name in ("chance", "final_sinc_chance", "codec_chance"):
        _chance(where + name, getattr(config, name))
    _range(where + "latent_noise", config.latent_noise, 0)
    for part in ("first", "second"):
        _check_pass(getattr(config, part), f"{where}{part}.")


def _check_pass(config: PassConfig, where: str) -> None:
    for name in ("blur_chance", "sinc_chance", "gaussian_chance", "grey_chance", "jpeg_chance"):
        _chance(where + name, getattr(config, name))
    _weights(where + "kinds", config.kinds, tuple(KINDS))
    _weights(where + "resize", config.resize, RESIZES)
    if not config.kernel_sizes or not all(s % 2 and 3 <= s <= LARGEST for s in config.kernel_sizes):
        sizes = ", ".join(map(str, config.kernel_sizes)) or "empty"
        raise TrainingError(f"{where}kernel_sizes is {sizes}; expected odd sizes of 3 to {LARGEST} pixels.")
    _range(where + "sigma", config.sigma, 0.01)  # narrower is no blur at all, and 1 / sigma² grows without bound
    for name, most in (("beta_generalized", 20), ("beta_plateau", 20), ("resize_range", 4)):
        low, high = getattr(config, name)
        _range(where + name, (low, high), 0.01, most)
        if not low <= 1 <= high:
            raise TrainingError(f"{where}{name} is {low} to {high}; expected a range with 1 in it.")
    _range(where + "noise_range", config.noise_range, 0)
    _range(where + "poisson_range", config.poisson_range, 0)
    _range(where + "jpeg_range", config.jpeg_range, 1, 100)


def _chance(name: str, value: float) -> None:
    if not 0 <= value <= 1:
        raise TrainingError(f"{name} is {value}; expected 0 to 1.")


def _range(name: str, values: tuple[float, float], least: float, most: float = 1000) -> None:
    low, high = values
    if not least <= low <= high <= most:
        raise TrainingError(f"{name} is {low} to {high}; expected two values in order, {least} to {most}.")


def _weights(name: str, values: dict[str, float], known: tuple[str, ...]) -> None:
    for key, weight in values.items():
        if key not in known:
            raise TrainingError(f"{name} has {key!r}; choose from {', '.join(known)}.")
        if not 0 <= weight <= 1000:
            raise TrainingError(f"{name}.{key} is {weight}; expected a weight from 0 to 1000.")
    if not sum(values.values()) > 0:
        raise TrainingError(f"{name} has no weight above 0; give at least one of {', '.join(known)}.")
