"""The memory plan: weights by the papers' counts, activations by storages whose sizes are known."""

import pytest
import torch

from dreamfactory.training.live import Live
from dreamfactory.training.plan import GIB, activations, plan, plan_upscaler, show
from dreamfactory.training.run_file import load_run

TINY = ["model.config.model_channels=24", "model.config.head_dim=24", "data.frames=8"]


def test_storages_are_followed_from_their_making_to_their_end():
    x = torch.empty(1000, device="meta")  # 4000 bytes that were there before
    with Live() as live:
        a = x + 1
        b = a * 2
        del a
        c = b.view(10, 100)  # no storage of its own
        d = c + b.view(10, 100)
        assert live.bytes == 8000
    assert live.peak == 8000
    assert d.numel() == 1000


def test_videofactory_is_1_6_billion_weights_at_four_and_eight_bytes():
    """VF Table 7: 1.601 G; float32 weights and gradients, two float32 moments."""
    config = load_run("videofactory")
    rows = plan(config, config.video_stages[2], config.video_stages[2].model.network(), processes=32)
    assert rows["trained, M"] == pytest.approx(1601.86, abs=0.01)
    assert rows["trained weights, float32"] == pytest.approx(1.60186e9 * 4 / GIB, rel=1e-4)
    assert rows["optimizer (adamw)"] == pytest.approx(1.60186e9 * 8 / GIB, rel=1e-4)


def test_what_is_recomputed_is_not_kept():
    config = load_run("demo", TINY)
    kept, recomputed = (
        activations(stage.model.network(), stage, torch.float32, 2)
        for on in (False, True)
        for stage in load_run("demo", [*TINY, f"model.gradient_checkpointing={on}"]).video_stages
    )
    assert recomputed < 0.6 * kept
    stage = config.video_stages[0]
    assert activations(stage.model.network(), stage, torch.float32, 4) == pytest.approx(2 * kept, rel=0.1)


@pytest.mark.parametrize("name", ["factorized-dreamer-24gb", "videofactory-24gb"])
def test_presets_for_24_gb_fit_with_a_tenth_to_spare(name):
    sums = [float(line.split()[2]) for line in show(load_run(name)).splitlines() if "in all" in line]
    assert len(sums) == len(load_run(name).stages)
    assert max(sums) * 1.1 < 23.5


def test_the_plan_is_shown_without_loading_anything():
    text = show(load_run("tiny"))
    assert "in all" in text
    assert "train: 8 x 32x32" in text


def test_super_resolution_is_rcans_and_the_discriminators_weights():
    """RCAN of 10 x 8 blocks: 6.66 M (model.md 4); Real-ESRGAN's discriminator: 4,376,897. Twice the clips, twice the
    activations."""
    config = load_run("videofactory-upscaler", ["optim.accumulate=4"])
    rows = [plan_upscaler(config, stage, processes=2) for stage in config.upscaler_stages]
    assert [round(r["trained, M"], 6) for r in rows] == [6.660035, 6.660035 + 4.376897]
    more = plan_upscaler(config, config.upscaler_stages[1], processes=1)
    assert more["activations, 4 clip(s) a round"] == pytest.approx(
        2 * rows[1]["activations, 2 clip(s) a round"], rel=0.1
    )
    assert "gan: 3 x 1280x720" in show(config)
