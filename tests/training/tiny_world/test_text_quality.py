"""What measures a text-to-video demo, on clips whose truth is known."""

import torch

from dreamfactory.training.tiny_world.held_out import held_out
from dreamfactory.training.tiny_world.text_quality import colours, scores, shapes, train_judge


def test_true_clips_score_full_and_other_captions_chance(demo):
    clips = held_out(64, size=32)
    before = torch.get_rng_state()
    judge = train_judge(32, 8, demo.codec, steps=200)
    assert torch.equal(torch.get_rng_state(), before)  # measuring changes nothing that is drawn afterwards
    true = scores(clips.clips, clips.specs, judge)
    assert true["colour_direction"] == 1
    assert true["colour"] == 1
    assert true["shape"] > 0.6  # after 200 steps of 600: how far it comes by then differs between processors
    other = scores(clips.clips.roll(1, 0), clips.specs, judge)
    assert other["colour_direction"] < 0.3
    assert other["colour"] < 0.3
    assert other["shape"] < 0.4
    # A shape is judged whatever its colour, a colour whatever its shape.
    inverted = 1 - clips.clips[:, :1]
    assert (colours(inverted) != clips.specs.colour).all()
    assert shapes(clips.clips[:, :1], judge).shape == (64,)


def test_no_shape_is_no_colour():
    grey = torch.full((2, 3, 3, 16, 16), 0.4)
    assert colours(grey).tolist() == [-1, -1]
