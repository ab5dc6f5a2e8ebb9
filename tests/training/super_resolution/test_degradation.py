"""Real-ESRGAN's degradation for clips, against Pillow's JPEG and resizing, closed forms and statistics."""

import io
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image

from dreamfactory.errors import DreamFactoryError
from dreamfactory.settings import build
from dreamfactory.training.super_resolution import degradation
from dreamfactory.training.super_resolution.degradation import (
    blurred,
    degrade,
    downsize,
    draw_pass,
    gaussian_noise,
    poisson_noise,
)
from dreamfactory.training.super_resolution.jpeg import CHROMA, LUMA, jpeg, steps
from dreamfactory.training.super_resolution.kernels import blur, draw_blur, draw_sinc, one_of, sinc
from dreamfactory.training.upscaler_config import KINDS, DegradationConfig, PassConfig, SecondPassConfig, check
from dreamfactory.training.video.objective import generator

from ...there import there

OFF = {"noise_range": (0.0, 0.0), "gaussian_chance": 1.0, "jpeg_chance": 0.0}  # neither noise nor JPEG
SHARP = {"blur_chance": 0.0, "resize": {"keep": 1.0}, **OFF}  # nothing at all


def config(first=None, second=None, **own) -> DegradationConfig:
    """Real-ESRGAN's, with some of both passes' settings changed; no codec."""
    own = {"codec_chance": 0.0, **own}
    return DegradationConfig(first=PassConfig(**first or {}), second=SecondPassConfig(**second or {}), **own)


def picture(height=256, width=256):
    """Slow gradients, soft texture, hard edges: (3, h, w) in [0, 1], in 8-bit steps."""
    own = generator("picture")
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    out = torch.stack([0.25 + 0.5 * x, 0.7 - 0.4 * y, 0.4 + 0.3 * torch.sin(5 * x + 3 * y)])
    for cells, strength in ((6, 0.25), (24, 0.12), (96, 0.06)):
        noise = torch.rand(1, 3, cells, cells, generator=own) - 0.5
        out += strength * F.interpolate(noise, (height, width), mode="bicubic", align_corners=False)[0]
    out[:, (x - 0.3) ** 2 + (y - 0.4) ** 2 < 0.04] = torch.tensor([0.8, 0.2, 0.15])[:, None]
    out[:, (x > 0.55) & (x < 0.9) & (y > 0.5) & (y < 0.8)] = torch.tensor([0.1, 0.35, 0.75])[:, None]
    return (out.clamp(0, 1) * 255).round() / 255


def to_pillow(image):
    return Image.fromarray((image * 255).round().byte().permute(1, 2, 0).numpy())


def from_pillow(image):
    return torch.from_numpy(np.array(image)).permute(2, 0, 1) / 255


def pillow_jpeg(image, quality):
    file = io.BytesIO()
    to_pillow(image).save(file, "JPEG", quality=quality, subsampling="4:2:0")
    return Image.open(file)


def mse(a, b):
    return (a - b).square().mean().item()


def psnr(a, b):
    return -10 * math.log10(mse(a, b))


# -- JPEG --------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(256, 256), (250, 187)])
@pytest.mark.parametrize("quality", [10, 30, 50, 75, 95])
def test_jpeg_loses_what_libjpeg_loses(quality, size):
    image = picture(*size)
    ours, theirs = jpeg(image[None], quality)[0], from_pillow(pillow_jpeg(image, quality))
    assert ours.shape == image.shape
    assert psnr(theirs, image) < 35  # the picture is one that JPEG damages
    assert psnr(ours, theirs) > 43  # measured: 44.5 to 48.4 dB
    assert mse(ours, image) == pytest.approx(mse(theirs, image), rel=0.02)  # measured: within 0.6 %


@pytest.mark.parametrize("quality", [1, 10, 49, 50, 77, 95, 100])
def test_jpeg_s_tables_are_libjpeg_s(quality):
    theirs: Any = pillow_jpeg(picture(16, 16), quality)
    assert steps(LUMA, quality).tolist() == list(theirs.quantization[0])
    assert steps(CHROMA, quality).tolist() == list(theirs.quantization[1])


def test_jpeg_takes_any_size_and_keeps_flat_pictures():
    assert jpeg(torch.rand(2, 3, 3, 41), 50).shape == (2, 3, 3, 41)
    grey = torch.full((1, 3, 20, 20), 128 / 255)
    assert torch.equal(jpeg(grey, 30), grey)


# -- kernels -----------------------------------------------------------------------------------------------------------


def moments(kernel):
    """Second moments of a kernel: of x, of y, and mixed, pixels²."""
    at = torch.arange(21.0) - 10
    return [(kernel * m).sum().item() for m in (at[None] ** 2, at[:, None] ** 2, at[None] * at[:, None])]


def test_every_kernel_sums_to_one_and_has_its_centre_in_the_middle():
    own, at = generator("kernels"), torch.arange(21.0) - 10
    for kernel in [draw_blur(PassConfig(sinc_chance=0.3), own) for _ in range(200)] + [draw_sinc((7, 21), own)]:
        assert (kernel.shape, kernel.dtype) == ((21, 21), torch.float32)
        assert kernel.sum().item() == pytest.approx(1, abs=1e-5)
        assert abs((kernel * at).sum()) < 1e-5
        assert abs((kernel * at[:, None]).sum()) < 1e-5


@pytest.mark.parametrize("kind", [k for k in KINDS if not k.endswith("aniso")])
def test_isotropic_kernels_look_the_same_from_every_side(kind):
    kernel = blur(kind, 15, (1.7, 0.4), 1.0, 1.5)
    for other in (kernel.T, kernel.rot90(), kernel.flip(0)):
        torch.testing.assert_close(kernel, other)


def test_a_gaussian_is_the_closed_form():
    at = torch.arange(21, dtype=torch.float64) - 10
    line = torch.exp(-(at**2) / (2 * 1.3**2))
    line[at.abs() > 6] = 0  # a kernel of 13 pixels
    truth = (line[:, None] * line).float()
    truth /= truth.sum()
    torch.testing.assert_close(blur("iso", 13, (1.3, 9.0), 0.7, 3.0), truth)
    torch.testing.assert_close(blur("generalized_iso", 13, (1.3, 9.0), 0.7, 1.0), truth)


def test_an_anisotropic_gaussian_has_the_turned_covariance():
    for angle in (0.0, 0.6, math.pi / 2, -2.0):
        c, s = math.cos(angle), math.sin(angle)
        x2, y2, xy = moments(blur("aniso", 21, (2.0, 1.0), angle, 1.0))
        assert (x2, y2) == pytest.approx((4 * c**2 + s**2, 4 * s**2 + c**2), rel=0.01)
        assert xy == pytest.approx(3 * s * c, abs=0.02)


@pytest.mark.parametrize("beta", [0.7, 1.0, 2.0])
def test_the_shapes_one_sigma_from_the_centre(beta):
    for kind, share in (("plateau", 0.5), ("generalized", math.exp(-0.5))):
        iso, aniso = (blur(f"{kind}_{shape}", 21, (3.0, 5.0), 0.0, beta) for shape in ("iso", "aniso"))
        assert [iso[10, 13] / iso[10, 10], iso[13, 10] / iso[10, 10]] == pytest.approx([share, share])
        assert [aniso[10, 13] / aniso[10, 10], aniso[15, 10] / aniso[10, 10]] == pytest.approx([share, share])


@pytest.mark.parametrize("cutoff", [math.pi / 5, math.pi / 3, 2.0])
def test_the_sinc_passes_low_frequencies_and_stops_high_ones(cutoff):
    kernel = F.pad(sinc(21, cutoff), (0, 189, 0, 189)).roll((-10, -10), (0, 1))
    response = torch.fft.fft2(kernel).real
    frequency = 2 * math.pi * torch.fft.fftfreq(210)
    frequency = torch.hypot(frequency[:, None], frequency[None])
    assert response[frequency < 0.5 * cutoff].min() > 0.85  # cut off in space, it overshoots
    assert response[frequency > 1.5 * cutoff].abs().max() < 0.12
    assert response[(frequency / cutoff - 1).abs() < 0.03].mean() == pytest.approx(0.5, abs=0.1)


def test_kinds_are_drawn_as_often_as_their_weights_say():
    numbers = torch.rand(20000, generator=generator("kinds")).tolist()
    names = [one_of(u, {"iso": 9.0, "aniso": 0.0, "plateau_iso": 3.0}) for u in numbers]
    assert names.count("iso") / len(names) == pytest.approx(0.75, abs=0.015)
    assert "aniso" not in names
    # The sinc alone goes below zero.
    own = generator("sinc")
    below = [bool((draw_blur(PassConfig(), own) < 0).any()) for _ in range(2000)]
    assert sum(below) / len(below) == pytest.approx(0.1, abs=0.025)


def test_a_blur_is_the_convolution_written_out():
    clip, kernel = torch.rand(2, 3, 24, 30), torch.rand(21, 21)
    out = blurred(clip, kernel)
    assert out.shape == clip.shape
    assert out[1, 2, 12, 15].item() == pytest.approx((clip[1, 2, 2:23, 5:26] * kernel).sum().item(), rel=1e-5)
    flat = torch.full((1, 3, 8, 12), 0.3)  # smaller than the padding
    torch.testing.assert_close(blurred(flat, kernel / kernel.sum()), flat)


# -- noise -------------------------------------------------------------------------------------------------------------


def drawn(**settings):
    return draw_pass(PassConfig(**settings), generator("noise"))


@pytest.mark.parametrize("grey", [False, True])
def test_gaussian_noise_has_the_stated_std(grey):
    noise = gaussian_noise(
        torch.zeros(4, 3, 128, 128),
        drawn(gaussian_chance=1.0, noise_range=(12.0, 12.0), grey_chance=float(grey)),
    )
    assert noise.std().item() * 255 == pytest.approx(12, rel=0.02)
    assert abs(noise.mean()) < 0.001
    noise = noise.expand(4, 3, 128, 128)
    alike = torch.corrcoef(noise.transpose(0, 1).flatten(1))[0, 1]
    assert alike == pytest.approx(float(grey), abs=0.02)
    assert abs(torch.corrcoef(noise.flatten(1))[0, 1]) < 0.02  # every frame has its own


@pytest.mark.parametrize("grey", [False, True])
def test_poisson_noise_has_the_stated_variance(grey):
    values = torch.arange(40.0, 200) / 255  # 160 levels: counted as 256
    clip = values.expand(3, 3, 3000, 160)
    found = poisson_noise(clip, drawn(gaussian_chance=0.0, poisson_range=(1.5, 1.5), grey_chance=float(grey)))
    assert found.shape == (3, 1 if grey else 3, 3000, 160)
    variance = found.flatten(0, 2).var(0)
    assert (variance / (1.5**2 * values / 256)).sub(1).abs().max() < 0.1
    assert abs(found.mean()) < 0.001


# -- the whole ---------------------------------------------------------------------------------------------------------


def test_one_damage_for_all_frames_but_for_the_noise():
    still = picture(64, 96).expand(4, 3, 64, 96)
    for seed in range(8):
        calm = degrade(still, config({**OFF, "jpeg_chance": 1.0}, {**OFF, "jpeg_chance": 1.0}), generator(seed))
        assert all(torch.equal(calm[0], frame) for frame in calm)
        noisy = degrade(still, config(), generator(seed))
        assert not torch.equal(noisy[0], noisy[1])


def test_a_seed_says_it_all():
    clip = picture(64, 64).expand(2, 3, 64, 64)
    first = [degrade(clip, config(), generator(seed)) for seed in range(6)]
    again = [degrade(clip, config(), generator(seed)) for seed in range(6)]
    assert all(torch.equal(a, b) for a, b in zip(first, again, strict=True))
    assert not any(torch.equal(a, b) for i, a in enumerate(first) for b in first[:i])


def test_a_changed_setting_leaves_the_other_draws_as_they_are():
    def second(**first):
        own = generator("draws")
        draw_pass(PassConfig(**first), own)
        return draw_pass(SecondPassConfig(), own)

    one = second()
    for other in (second(sinc_chance=1.0), second(**SHARP), second(gaussian_chance=0.0, kinds={"plateau_aniso": 1.0})):
        assert torch.equal(there(one.kernel), there(other.kernel))
        assert one.noise.initial_seed() == other.noise.initial_seed()
        assert replace(one, kernel=None, noise=None) == replace(other, kernel=None, noise=None)


@pytest.mark.parametrize(("height", "width", "scale"), [(64, 64, 4), (100, 60, 4), (36, 20, 2), (16, 16, 4)])
def test_sizes_and_range(height, width, scale):
    for seed in range(6):
        out = degrade(torch.rand(2, 3, height, width), config(), generator(seed), scale)
        assert out.shape == (2, 3, height // scale, width // scale)
        assert out.min() >= 0
        assert out.max() <= 1
        torch.testing.assert_close(out * 255, (out * 255).round())
    with pytest.raises(ValueError, match=f"the clip is {width}x{height + 1}; both sides must be multiples of {scale}"):
        degrade(torch.rand(1, 3, height + 1, width), config(), generator(0), scale)


def test_the_plain_reduction_is_pillow_s():
    image = picture(128, 96)
    theirs = from_pillow(to_pillow(image).resize((24, 32), Image.Resampling.BICUBIC))
    assert (downsize(image[None], 4)[0] - theirs).abs().max() < 1.01 / 255
    assert (degrade(image[None], config(chance=0.0), generator(0))[0] - theirs).abs().max() < 1.01 / 255
    # Both passes with everything off and nothing to resize make it smaller once.
    out = degrade(image[None], config(SHARP, SHARP, final_sinc_chance=0.0), generator(3))[0]
    assert psnr(out, theirs) > 30


def test_the_end_is_jpeg_once_before_or_after_resizing_and_low_pass(monkeypatch):
    clip, calls = picture(80, 80)[None], []

    def spy(name):
        real = getattr(degradation, name)
        monkeypatch.setattr(degradation, name, lambda *given: calls.append((name, given)) or real(*given))

    spy("jpeg")
    spy("blurred")
    orders, low_passes = [], 0
    second = {**SHARP, "resize": {"up": 1.0}, "resize_range": (1.0, 1.2), "jpeg_chance": 1.0}
    for seed in range(40):
        calls.clear()
        degrade(clip, config(SHARP, second, final_sinc_chance=0.7), generator(seed))
        _, _, *end = calls  # the passes' own blurs
        orders.append(tuple(name for name, _ in end))
        sizes = {name: clip.shape[-1] for name, (clip, _) in end}
        assert sizes["blurred"] == 20
        assert sizes["jpeg"] >= 20
        low_passes += next(given[1] for name, given in end if name == "blurred") is not None
    assert set(orders) == {("jpeg", "blurred"), ("blurred", "jpeg")}
    assert 10 <= orders.count(("jpeg", "blurred")) <= 30
    assert 19 <= low_passes <= 37


ISOTROPIC = {"kinds": {"iso": 1.0, "generalized_iso": 1.0, "plateau_iso": 1.0}, **OFF}


def test_nothing_shifts():
    y, x = torch.meshgrid(torch.arange(96.0), torch.arange(128.0), indexing="ij")
    at = torch.stack(torch.meshgrid(torch.arange(24.0), torch.arange(32.0), indexing="ij"))

    def shifts(to_y, to_x):
        """How far a blob is from where it belongs, (20, 2) pixels of the small picture."""
        blob = 0.2 + 0.6 * torch.exp(-((y - to_y) ** 2 + (x - to_x) ** 2) / (2 * 8**2))
        clip, belongs = blob.expand(1, 3, 96, 128), (torch.tensor([to_y, to_x]) + 0.5) / 4 - 0.5
        small = [degrade(clip, config(ISOTROPIC, ISOTROPIC), generator(seed))[0, 0] - 0.2 for seed in range(20)]
        small = [out.where(out > 0.1, torch.zeros(())) for out in small]
        return torch.stack([(at * out).sum((1, 2)) / out.sum() for out in small]) - belongs

    assert shifts(47.5, 63.5).abs().max() < 1e-3
    # Elsewhere coarse grids take a blob a little along, in any direction.
    shifted = shifts(40.5, 70.5)
    assert shifted.abs().max() < 0.3
    assert shifted.mean(0).abs().max() < 0.06


def test_a_mirrored_clip_is_damaged_in_the_mirror():
    image = picture(64, 96)[None]
    for seed in range(10):
        one, other = (
            degrade(clip, config(ISOTROPIC, ISOTROPIC), generator(seed)) for clip in (image, image.flip(-1, -2))
        )
        assert (one - other.flip(-1, -2)).abs().max() < 1.01 / 255, seed  # values between two levels go either way


def test_neither_gradients_nor_mixed_precision():
    clip = picture(64, 64)[None].requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        out = degrade(clip, config(), generator(1))
    assert not out.requires_grad
    assert out.dtype == torch.float32
    assert torch.equal(out, degrade(clip, config(), generator(1)))


class Codec(torch.nn.Module):
    """Pixels averaged over cells of 8, in its own precision; keeps what it was given."""

    downscale = 8

    def __init__(self):
        super().__init__()
        self.weight = torch.nn.Parameter(torch.ones((), dtype=torch.bfloat16))
        self.images, self.latents = [], []

    def encode(self, images):
        self.images.append(images)
        return F.avg_pool2d(images, 8) * self.weight

    def decode(self, latents):
        self.latents.append(latents)
        return F.interpolate(latents, scale_factor=8, mode="nearest")


def test_the_codec_comes_last_and_only_when_drawn():
    clip = picture(80, 128).expand(2, 3, 80, 128)  # 20x32 when small: padded to 24x32
    codec: Any = Codec()
    without = degrade(clip, config(codec_chance=0.0), generator(5), codec=codec)
    assert not codec.images
    assert torch.equal(without, degrade(clip, config(codec_chance=1.0), generator(5)))  # there is none

    out = degrade(clip, config(codec_chance=1.0, latent_noise=(0.0, 0.0)), generator(5), codec=codec)
    (images,), (latents,) = codec.images, codec.latents
    assert (images.shape, images.dtype) == ((2, 3, 24, 32), torch.bfloat16)
    assert (out.shape, out.dtype) == ((2, 3, 20, 32), torch.float32)
    assert (images[..., :20, :].float() - (without * 2 - 1)).abs().max() < 0.02
    assert torch.equal(images[..., 20:, :], images[..., 19:20, :].expand(2, 3, 4, 32))
    assert not latents.requires_grad
    assert (out - (codec.decode(F.avg_pool2d(images, 8)).float()[..., :20, :] + 1) / 2).abs().max() < 0.01

    codec = Codec()
    for seed in range(100):
        degrade(clip, config(SHARP, SHARP, codec_chance=0.3), generator(seed), codec=codec)
    assert 18 <= len(codec.images) <= 42


def test_the_noise_on_latents_is_in_units_of_their_own_std():
    codec: Any = Codec().float()
    clip = picture().expand(4, 3, 256, 256)
    degrade(clip, config(chance=0.0, codec_chance=1.0, latent_noise=(0.2, 0.2)), generator(2), codec=codec)
    clean = F.avg_pool2d(codec.images[0], 8)
    noise = codec.latents[0] - clean
    assert (noise.std() / clean.std()).item() == pytest.approx(0.2, rel=0.1)
    assert not torch.equal(noise[0], noise[1])


# -- settings ----------------------------------------------------------------------------------------------------------


def test_settings_come_from_plain_data_and_a_pass_keeps_its_other_defaults():
    values = {"codec_chance": 1, "second": {"jpeg_range": [50, 90], "kinds": {"iso": 1}, "kernel_sizes": [7]}}
    made = build(DegradationConfig, values)
    assert (made.first, made.codec_chance) == (PassConfig(), 1.0)
    assert made.second == SecondPassConfig(jpeg_range=(50, 90), kinds={"iso": 1.0}, kernel_sizes=(7,))
    assert made.second.sigma == (0.2, 1.5)
    check(made)
    check(DegradationConfig())


@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"chance": 1.5}, "degradation.chance is 1.5; expected 0 to 1."),
        ({"codec_chance": -0.1}, "degradation.codec_chance is -0.1"),
        ({"latent_noise": [0.2, 0.1]}, "degradation.latent_noise is 0.2 to 0.1; expected two values in order"),
        ({"first": {"kinds": {"isotropic": 1.0}}}, "degradation.first.kinds has 'isotropic'; choose from iso, aniso"),
        ({"first": {"kinds": {"iso": 0.0}}}, "degradation.first.kinds has no weight above 0"),
        ({"first": {"kinds": {"iso": -1.0, "aniso": 2.0}}}, "degradation.first.kinds.iso is -1.0"),
        ({"second": {"resize": {"left": 1.0}}}, "degradation.second.resize has 'left'; choose from up, down, keep."),
        ({"first": {"kernel_sizes": [7, 8]}}, "kernel_sizes is 7, 8; expected odd sizes of 3 to 21 pixels."),
        ({"first": {"kernel_sizes": [23]}}, "kernel_sizes is 23"),
        ({"first": {"kernel_sizes": []}}, "kernel_sizes is empty"),
        ({"first": {"sigma": [0.0, 1.0]}}, "degradation.first.sigma is 0.0 to 1.0"),
        ({"first": {"beta_plateau": [2.0, 3.0]}}, "beta_plateau is 2.0 to 3.0; expected a range with 1 in it."),
        ({"second": {"resize_range": [0.0, 1.2]}}, "degradation.second.resize_range is 0.0 to 1.2"),
        ({"second": {"resize_range": [1.1, 1.2]}}, "expected a range with 1 in it."),
        ({"second": {"jpeg_range": [0, 95]}}, "degradation.second.jpeg_range is 0 to 95; expected two values in order"),
        ({"second": {"jpeg_range": [30, 101]}}, "1 to 100."),
        ({"second": {"noise_range": [-1.0, 3.0]}}, "degradation.second.noise_range is -1.0 to 3.0"),
        ({"second": {"poisson_range": [float("nan"), 3.0]}}, "degradation.second.poisson_range is nan"),
        ({"second": {"grey_chance": 2.0}}, "degradation.second.grey_chance is 2.0"),
    ],
)
def test_bad_settings_are_told_in_a_sentence(values, sentence):
    with pytest.raises(DreamFactoryError) as error:
        check(build(DegradationConfig, values, "degradation."), "degradation.")
    assert sentence in str(error.value)
    assert "\n" not in str(error.value)
