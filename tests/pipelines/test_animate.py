"""The pipeline's promises, on the committed demo model."""

from dataclasses import replace

import pytest
import torch

from dreamfactory.errors import InputError
from dreamfactory.pipelines.image_to_video import Settings, animate
from dreamfactory.training.tiny_world.held_out import held_out
from dreamfactory.training.tiny_world.measure import measure

FAST = Settings(frames=8, steps=4, seed=3)


def go(demo, clips, **changes):
    return animate(demo, clips.first_frames, clips.text, clips.motion, replace(FAST, **changes))


def test_the_caption_decides_the_direction(demo):
    """Sixteen never-seen pictures; chance is one in eight. The full measure is `make demo-quality`."""
    clips = held_out(16)
    made = go(demo, clips, steps=8)
    scores = measure(made, clips.specs, clips.first_frames).summary()
    assert scores["direction_accuracy"] >= 0.8
    assert scores["first_frame_psnr"] >= 26


def test_a_clip_does_not_depend_on_its_neighbours(demo):
    clips = held_out(3)
    together = go(demo, clips)
    alone = animate(demo, clips.first_frames[2:], clips.text[2:], clips.motion[2:], replace(FAST, seed=FAST.seed + 2))
    assert torch.allclose(together[2], alone[0], atol=1e-4)


def test_a_clip_does_not_depend_on_its_neighbours_when_noise_is_added(demo):
    clips = held_out(3)
    for changes in ({"eta": 1.0}, {"sampler": "euler_a"}):
        together = go(demo, clips, **changes)
        seed = replace(FAST, seed=FAST.seed + 2, **changes)
        alone = animate(demo, clips.first_frames[2:], clips.text[2:], clips.motion[2:], seed)
        assert torch.allclose(together[2], alone[0], atol=1e-3)
        assert not torch.allclose(together, go(demo, clips), atol=1e-2)


def test_strengths_reach_the_network(demo):
    clips = held_out(1)
    plain = go(demo, clips)
    assert not torch.equal(plain, go(demo, clips, paca_strength=0.0))
    assert not torch.equal(plain, go(demo, clips, image_strength=0.0))
    assert torch.equal(plain, go(demo, clips, swap_strength=0.0))  # the demo network has no Swap-CA


def test_any_number_of_frames_and_odd_sizes(demo):
    clips = held_out(1)
    for frames in (1, 3, 12):
        assert go(demo, clips, frames=frames).shape == (1, frames, 3, 64, 64)
    wide = animate(demo, torch.rand(1, 3, 72, 88), ["a red circle"], ["the red circle moves up"], FAST)
    assert wide.shape == (1, 8, 3, 72, 88)


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"frames": 0}, "frames is 0"),
        ({"steps": 1001}, "1 to 1000"),
        ({"eta": 2.0}, "eta"),
        ({"guidance_scale": -1}, "0 to"),
    ],
)
def test_requests_are_checked_first(demo, changes, sentence):
    with pytest.raises(InputError, match=sentence):
        go(demo, held_out(1), **changes)
