"""Parameter counts of the published networks and of the papers, on torch's meta device (no memory)."""

import pytest

from dreamfactory.model_patches import VideoUNet, preset
from dreamfactory.model_patches.network.parts import count_parameters


def counts(name: str) -> dict[str, int]:
    return count_parameters(VideoUNet(preset(name), device="meta"))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("sd15", 859_520_964),
        ("sd21", 865_910_724),
        ("modelscope", 1_411_233_860),
        ("videocrafter2", 1_413_284_420),
        ("videocrafter1-i2v", 1_438_843_460),
        ("dynamicrafter-256", 1_438_854_996),
        ("dynamicrafter-512", 1_438_854_980),
        ("dynamicrafter-512-interp", 1_438_854_980),
        ("dynamicrafter-1024", 1_438_854_980),
    ],
)
def test_published_networks(name, expected):
    parts = counts(name)
    projector = parts.pop("image_projector", 0)
    assert sum(parts.values()) == expected
    assert projector == {"dynamicrafter": 48_787_456, "videocrafter1": 48_541_696}.get(name.split("-")[0], 0)


def test_modelscope_halves():
    parts = counts("modelscope")
    assert parts["spatial"] == 865_910_724
    assert parts["temporal"] == 266_891_520 + 272_850_880 + 5_580_736


@pytest.mark.parametrize(("name", "billions"), [("videofactory-base", "1.48049"), ("videofactory", "1.60186")])
def test_videofactory(name, billions):
    """VF Table 2 prints 1.480 G and 1.601 G, cut after the third decimal."""
    assert f"{sum(counts(name).values()) / 1e9:.5f}" == billions


def test_swap_attention_has_eight_sites():
    """VF 4: at the end of each of 4 encoder and 4 decoder blocks."""
    unet = VideoUNet(preset("videofactory"), device="meta")
    assert len(unet.swap_attentions) == 8
    base = VideoUNet(preset("videofactory-base"), device="meta")
    assert len(base.conv_fusions) + len(base.attention_fusions) == 38
