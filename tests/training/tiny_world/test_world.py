"""The tiny world: reproducible, split cleanly, captioned truthfully, with an exact flow.

Directions are checked against a description of the pixels that shares nothing with the renderer: the words of
the caption, and where the pixels of the caption's colour are.
"""

from dataclasses import fields

import pytest
import torch
import torch.nn.functional as F

from dreamfactory.training.tiny_world import measure as tiny_measure, world as tiny_world


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def draw(n: int, seed: int = 0, **options) -> tiny_world.ClipSpec:
    return tiny_world.sample_specs(n, seeded(seed), **options)


def centre_of_colour(frames: torch.Tensor, rgb: torch.Tensor) -> torch.Tensor:
    """Mean (x, y) in pixels, (b, t, 2), of the pixels whose colour is within 0.1 of rgb (b, 3)."""
    near = ((frames - rgb[:, None, :, None, None]).abs().amax(2) < 0.1).float()
    at = torch.arange(frames.shape[-1]) + 0.5
    area = near.sum((-1, -2))
    return torch.stack([(near.sum(-2) * at).sum(-1), (near.sum(-1) * at).sum(-1)], dim=-1) / area[..., None]


def test_the_same_seed_gives_the_same_bits():
    one, two, other = draw(16), draw(16), draw(16, seed=1)
    for field in fields(one):
        assert torch.equal(getattr(one, field.name), getattr(two, field.name))
    assert torch.equal(tiny_world.render(one), tiny_world.render(two))
    assert not torch.equal(tiny_world.render(one), tiny_world.render(other))


def test_a_clip_does_not_depend_on_its_batch():
    specs = draw(12)
    frames = tiny_world.render(specs)
    assert torch.equal(tiny_world.render(specs[5])[0], frames[5])
    assert torch.equal(tiny_world.render(specs[3:9]), frames[3:9])
    assert torch.allclose(tiny_world.still(specs), frames[:, 0])


@pytest.mark.parametrize(("frames", "size"), [(8, 64), (4, 96), (16, 128), (1, 32)])
def test_frames_have_the_asked_shape_and_range(frames, size):
    clip = tiny_world.render(draw(7), frames, size)
    assert clip.shape == (7, frames, 3, size, size)
    assert clip.dtype == torch.float32
    assert clip.min() >= 0
    assert clip.max() <= 1


def test_one_spec_shows_the_same_scene_at_every_size():
    specs = draw(24)
    small, large = tiny_world.render(specs, 8, 64), tiny_world.render(specs, 8, 128)
    halved = F.avg_pool2d(large.flatten(0, 1), 2).view_as(small)
    assert tiny_measure.psnr(halved, small).min() > 30


def test_the_splits_share_no_combination_and_one_in_six_is_held_out():
    def combinations(split):
        specs = draw(6000, split=split)
        return set(zip(specs.colour.tolist(), specs.shape.tolist(), specs.kind.tolist(), strict=True))

    train, held_out = combinations("train"), combinations("held_out")
    total = len(tiny_world.COLOURS) * len(tiny_world.SHAPES) * len(tiny_world.BACKGROUNDS)
    assert not train & held_out
    assert len(train) + len(held_out) == total
    assert 1 / 7 < len(held_out) / total < 1 / 5


def test_train_shows_every_colour_of_every_shape():
    specs = draw(6000)
    pairs = set(zip(specs.colour.tolist(), specs.shape.tolist(), strict=True))
    assert len(pairs) == len(tiny_world.COLOURS) * len(tiny_world.SHAPES)


def test_captions_name_the_direction_that_the_coloured_pixels_take():
    specs = draw(200, motions="directions")
    _, motions = tiny_world.captions(specs)
    at = centre_of_colour(tiny_world.render(specs), specs.rgb)
    for caption, (dx, dy) in zip(motions, (at[:, -1] - at[:, 0]).tolist(), strict=True):
        words = caption.split()
        assert (dx > 4) == ("right" in words), caption
        assert (dx < -4) == ("left" in words), caption
        assert (dy > 4) == ("down" in words), caption
        assert (dy < -4) == ("up" in words), caption


def test_captions_name_the_speed():
    specs = draw(300, motions="directions")
    at = centre_of_colour(tiny_world.render(specs, 4), specs.rgb)
    length = (at[:, -1] - at[:, 0]).norm(dim=1) / 3
    _, motions = tiny_world.captions(specs)
    slow = torch.tensor(["slowly" in m for m in motions])
    quick = torch.tensor(["quickly" in m for m in motions])
    assert length[slow].max() < length[~slow & ~quick].min()
    assert length[~slow & ~quick].max() < length[quick].min()


def test_captions_name_growing_and_shrinking():
    specs = draw(400)
    _, motions = tiny_world.captions(specs)
    area = tiny_world.coverage(specs).sum((-1, -2))
    ratio = area[:, -1] / area[:, 0]
    grows = torch.tensor(["grows" in m for m in motions])
    shrinks = torch.tensor(["shrinks" in m for m in motions])
    assert ratio[grows].min() > 2
    assert ratio[shrinks].max() < 0.5
    assert ratio[~grows & ~shrinks].max() < 1.1


def test_a_triangle_rotates_the_way_its_caption_says():
    specs = draw(6000)
    turning = (specs.motion == tiny_world.CLOCKWISE) | (specs.motion == tiny_world.COUNTERCLOCKWISE)
    specs = specs[turning & (specs.shape == tiny_world.SHAPES.index("triangle"))][:40]
    _, motions = tiny_world.captions(specs)
    cover = tiny_world.coverage(specs, 4)
    at = (torch.arange(64) + 0.5) / 64
    x = at[None, None, None, :] - specs.position[:, 0, None, None, None]
    y = specs.position[:, 1, None, None, None] - at[None, None, :, None]  # up
    # The third harmonic of the area about the centre turns three times as fast as the triangle.
    third = (cover * torch.complex(x + 0 * y, y + 0 * x) ** 3).sum((-1, -2))
    turn = (third[:, 1:] / third[:, :-1]).angle().mean(1) / 3
    for caption, radians in zip(motions, turn.tolist(), strict=True):
        assert (radians > 0) == ("counterclockwise" in caption), caption
        assert abs(radians) == pytest.approx(tiny_world.SPIN, rel=0.05)


def test_appearance_captions_name_colour_shape_and_background():
    specs = draw(50)
    texts, _ = tiny_world.captions(specs, canonical=True)
    for i, text in enumerate(texts):
        colour = tuple(tiny_world.COLOURS)[specs.colour[i]]
        shape, kind = tiny_world.SHAPES[specs.shape[i]], tiny_world.BACKGROUNDS[specs.kind[i]]
        assert text == f"a {colour} {shape} on a {kind} background"


def test_the_canonical_captions_read_as_documented():
    assert tiny_world.motion_phrase(4) == "moves left"
    assert tiny_world.motion_phrase(3) == "moves up and to the left"
    assert tiny_world.motion_phrase(7, 2) == "moves quickly down and to the right"
    known = set(tiny_world.all_captions())
    assert {
        "the red circle moves left",
        "the green square rotates clockwise",
        "the blue star bounces up and down",
        "a red circle on a striped background",
    } <= known


def test_every_drawn_caption_is_among_all_captions():
    texts, motions = tiny_world.captions(draw(2000))
    assert set(texts + motions) <= set(tiny_world.all_captions())
    words = {word for caption in texts + motions for word in caption.split()}
    assert words <= set(tiny_world.vocabulary())


def test_the_first_frame_does_not_give_the_motion_away():
    specs = draw(20000)
    start = torch.cat([specs.position, specs.radius[:, None], specs.angle[:, None]], dim=1)
    start = (start - start.mean(0)) / start.std(0)
    for motion in range(len(tiny_world.MOTIONS)):
        chosen = start[specs.motion == motion]
        # Under independence a mean of n standardised draws has a standard error of 1 / sqrt(n).
        assert (chosen.mean(0).abs() < 4.5 / len(chosen) ** 0.5).all()
        assert (chosen.std(0) - 1).abs().max() < 4.5 / len(chosen) ** 0.5


def test_at_most_about_a_third_of_a_shape_leaves_the_frame():
    specs = draw(1000, motions="directions")
    specs = specs[specs.speed == 2]
    area = tiny_world.coverage(specs).sum((-1, -2))
    assert (area[:, -1] / area[:, 0]).min() > 0.6


def test_flow_carries_every_frame_to_the_next():
    specs = draw(64)
    frames = tiny_world.render(specs, 8, 96)
    flow, valid = tiny_world.flow(specs, 8, 96)
    assert flow.shape == (64, 7, 2, 96, 96)
    assert valid.shape == (64, 7, 96, 96)
    at = torch.arange(96) + 0.5
    target = torch.stack([at.expand(96, 96), at[:, None].expand(96, 96)]) + flow
    where = (2 * target / 96 - 1).flatten(0, 1).permute(0, 2, 3, 1)
    following = frames[:, 1:].flatten(0, 1)
    warped = F.grid_sample(following, where, align_corners=False, padding_mode="border")
    mask = valid.flatten(0, 1)[:, None].float()
    now = frames[:, :-1].flatten(0, 1)

    def error(image):
        return ((image - now).square() * mask).sum() / (3 * mask.sum())

    # What remains is the interpolation of anti-aliased edges.
    gain = 10 * torch.log10(error(following) / error(warped))
    assert gain > 10
    assert mask.mean() > 0.95


def test_flow_of_a_translation_is_its_velocity_in_pixels():
    specs = draw(20, motions="directions")
    flow, _ = tiny_world.flow(specs, 3, 64)
    inside = tiny_world.coverage(specs, 2, 64) > 0.99
    for i in range(20):
        moved = flow[i].permute(0, 2, 3, 1)[inside[i]]
        assert torch.allclose(moved, (specs.velocity[i] * 64).expand_as(moved), atol=1e-4)
        speed = (1.25, 2.25, 3.25)[specs.speed[i]]
        assert moved.norm(dim=1).mean().item() == pytest.approx(speed, rel=1e-4)


def test_unknown_splits_and_motions_are_refused():
    with pytest.raises(ValueError, match="split"):
        draw(1, split="test")
    with pytest.raises(ValueError, match="motions"):
        draw(1, motions="left")


def test_true_clips_measure_as_right():
    specs = draw(100, motions="directions", split="held_out")
    measured = tiny_measure.measure(tiny_world.render(specs), specs)
    assert measured.direction_right.all()
    assert torch.allclose(measured.speed_ratio, torch.ones(100))
    assert measured.flicker.max() == 0


def test_a_repeated_first_frame_measures_as_wrong():
    specs = draw(100, motions="directions")
    frames = tiny_world.still(specs)[:, None].expand(-1, 8, -1, -1, -1)
    measured = tiny_measure.measure(frames, specs)
    assert not measured.direction_right.any()
    assert (measured.direction == -1).all()
    assert measured.speed_ratio.max() == 0
    assert measured.visible.all()


def test_another_direction_or_a_vanished_shape_measures_as_wrong():
    specs = draw(64, motions="directions")
    frames = tiny_world.render(specs)
    backwards = tiny_measure.measure(frames.flip(1), specs)
    assert not backwards.direction_right.any()
    assert torch.equal(backwards.direction, (specs.motion + 4) % 8)
    empty = tiny_world.background(specs)[:, None].expand_as(frames)
    vanished = tiny_measure.measure(torch.cat([frames[:, :7], empty[:, 7:]], dim=1), specs)
    assert not vanished.visible.any()
    assert not vanished.direction_right.any()


def test_measuring_bears_noise():
    specs = draw(100, motions="directions")
    frames = tiny_world.render(specs)
    noisy = frames + 0.03 * torch.randn(frames.shape, generator=seeded(3))
    measured = tiny_measure.measure(noisy, specs)
    summary = measured.summary()
    assert summary["direction_accuracy"] >= 0.99
    assert summary["speed_ratio"] == pytest.approx(1, abs=0.02)
    # -20 log10(0.03) = 30.46 dB, a little more where clamping to [0, 1] removes noise.
    assert summary["video_psnr"] == pytest.approx(30.46, abs=0.15)
