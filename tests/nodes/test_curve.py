"""The curve of the noise schedule: its numbers, its picture, and the same numbers in the browser's script."""

import json
import math
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from dreamfactory.nodes.curve import draw
from dreamfactory.schedulers import SCHEDULES, ScheduleConfig, log_snr_curves

CLIP = {"frames": 16, "height": 320, "width": 512}
SCRIPT = Path(__file__).parents[2] / "web" / "js" / "schedule_math.js"
CONFIGS = SCHEDULES | {
    "fixed": ScheduleConfig(shift=3.0, rescale="none"),
    "all": ScheduleConfig(shift_reference=512.0, rescale="printed", signal_scale=0.3, signal_scale_steps=250),
    "short": ScheduleConfig(num_train_timesteps=100, beta_end=0.02),
    "linear, all": ScheduleConfig(betas="linear", rescale="printed", signal_scale=0.3, signal_scale_steps=250),
}


def test_original_is_stable_diffusions():
    original = log_snr_curves(ScheduleConfig(), **CLIP)["original"]
    betas = np.linspace(0.00085**0.5, 0.012**0.5, 1000) ** 2
    ac = np.cumprod(1 - betas)
    np.testing.assert_allclose(original.numpy(), np.log(ac / (1 - ac)), rtol=1e-10)


@pytest.mark.parametrize("shift", [None, 0.2, 4.0])
def test_shift_lifts_log_snr_by_twice_its_log(shift):
    config = ScheduleConfig(shift=shift)
    s = config.shift_for(**CLIP)
    original, shifted, _ = log_snr_curves(config, **CLIP).values()
    torch.testing.assert_close(shifted, original + 2 * math.log(s), rtol=0, atol=1e-11)


@pytest.mark.parametrize("form", ["lin", "printed"])
def test_rescaled_ends_without_signal(form):
    drawn = log_snr_curves(ScheduleConfig(rescale=form), **CLIP)
    *names, last = drawn
    assert names == ["original", "shifted, s = 0.158"]
    assert last == f"shifted + rescaled ({form})"
    assert drawn[last][-1] == -math.inf
    assert drawn[last][1:-1].isfinite().all()
    assert (drawn[last].diff() < 0).all()


@pytest.mark.parametrize("name", CONFIGS)
def test_last_curve_is_what_the_network_meets(name):
    last = list(log_snr_curves(CONFIGS[name], **CLIP).values())[-1]
    torch.testing.assert_close(last, CONFIGS[name].build(**CLIP).log_snr, rtol=0, atol=0)


def test_only_what_the_recipe_does_is_drawn():
    assert list(log_snr_curves(SCHEDULES["stable-diffusion"], **CLIP)) == ["original"]
    assert list(log_snr_curves(SCHEDULES["dynamicrafter-512"], **CLIP))[1:] == [
        "rescaled (lin)",
        "with signal scale 0.7",
    ]


@pytest.mark.parametrize("name", CONFIGS)
def test_picture_has_its_size_and_range(name):
    picture = draw(log_snr_curves(CONFIGS[name], **CLIP), "a title", size=(300, 200))
    assert picture.shape == (1, 200, 300, 3)
    assert picture.dtype == torch.float32
    assert 0 <= picture.min() < 0.5
    assert picture.max() == 1
    assert picture[0, 0].eq(1).all()  # the paper's edge is clean


def test_picture_follows_config_and_title():
    config = ScheduleConfig()
    first = draw(log_snr_curves(config, **CLIP), "one")
    assert first.shape == (1, 512, 768, 3)
    assert torch.equal(first, draw(log_snr_curves(config, **CLIP), "one"))
    assert not torch.equal(first, draw(log_snr_curves(config, **CLIP), "two"))
    assert not torch.equal(first, draw(log_snr_curves(replace(config, rescale="none"), **CLIP), "one"))
    assert not torch.equal(first, draw(log_snr_curves(config, **CLIP | {"frames": 4}), "one"))


@pytest.mark.parametrize("name", CONFIGS)
def test_browser_draws_the_same_numbers(name):
    node = shutil.which("node")
    if node is None:
        pytest.skip("Node.js is not installed: the browser's formulas are not compared with the schedulers'")
    config = CONFIGS[name]
    run = f"""
        import {{ curves }} from {json.dumps(SCRIPT.as_uri())};
        const drawn = curves({json.dumps(config.to_dict())}, 16, 320, 512);
        const infinite = (x) => typeof x === "number" && !Number.isFinite(x); // which JSON has not
        console.log(JSON.stringify(drawn, (key, x) => infinite(x) ? String(x) : x));
    """
    done = subprocess.run([node, "--input-type=module", "-e", run], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    drawn = json.loads(done.stdout)
    assert drawn.pop("shift") == pytest.approx(config.shift_for(**CLIP), rel=1e-15)
    numbers = {key: torch.tensor([float(x) for x in values], dtype=torch.float64) for key, values in drawn.items()}
    wanted = {
        "original": ScheduleConfig(**base(config), shift_reference=None, rescale="none"),
        "shifted": replace(config, rescale="none", signal_scale=1.0),
        "final": config,
    }
    for key, made in wanted.items():
        torch.testing.assert_close(numbers[key], made.build(**CLIP).log_snr, rtol=1e-9, atol=1e-12)


def base(config: ScheduleConfig) -> dict:
    return {key: getattr(config, key) for key in ("num_train_timesteps", "beta_start", "beta_end", "betas")}
