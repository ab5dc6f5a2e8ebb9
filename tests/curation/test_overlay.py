"""What was laid over a clip is found where the rest moves, and nothing else is taken for it."""

import numpy as np
import pytest

pytest.importorskip("cv2", reason="frames are compared by it: pip install opencv-python-headless")

import cv2

from dreamfactory.curation import overlay as laid

from .moving_pictures import SIZE, mark, wall, words


def overlay(frames):
    return laid.covered(laid.marks(list(frames)).boxes)


def overlay_boxes(frames):
    found = laid.marks(list(frames)).boxes
    assert found is not None  # it can be told
    return found


def covers(boxes, at):
    """Whether a place, in parts of the frame, lies in one of them."""
    return any(x <= at[0] <= x + w and y <= at[1] <= y + h for x, y, w, h in boxes)


CORNERS = {
    "upper left": (0.09, 0.13), "upper right": (0.91, 0.13), "lower left": (0.09, 0.87), "lower right": (0.91, 0.87),
}  # fmt: skip


@pytest.mark.parametrize("seed", range(3))
def test_nothing_is_laid_over_a_pan(seed):
    assert overlay_boxes(wall(seed)) == []
    assert overlay(wall(seed)) == 0


@pytest.mark.parametrize("at", CORNERS.values(), ids=CORNERS)
def test_a_logo_is_found_in_any_corner(at):
    boxes = overlay_boxes(mark(wall(), at))
    assert boxes
    assert covers(boxes, at)
    assert 0.002 < sum(w * h for _, _, w, h in boxes) < 0.1


@pytest.mark.parametrize("strength", [0.85, 0.5])
def test_a_see_through_logo_is_found(strength):
    assert covers(overlay_boxes(mark(wall(1), strength=strength)), (0.9, 0.12))


def test_a_name_in_a_corner_is_found():
    assert overlay(words(wall(2), "KANAL 5", (0.14, 0.1), strength=0.85))


def test_a_logo_that_goes_with_the_scene_is_none():
    """Painted on the wall."""
    still = mark(wall(speed=0, count=1, size=(270, 900)), at=(0.5, 0.12))[0]
    frames = np.stack([still[:, 40 * k : 40 * k + 480] for k in range(8)])
    assert not overlay(frames)


def grainy(frames, deviation=6.0):
    """As filmed: no frame has the grain of another."""
    grain = np.random.default_rng(0).normal(0, deviation, frames.shape)
    return np.clip(frames + grain, 0, 255).astype(np.uint8)


@pytest.mark.parametrize("at", CORNERS.values(), ids=CORNERS)
def test_a_logo_has_no_grain_where_the_camera_stands_still(at):
    scene = grainy(wall(6, speed=0))
    assert not overlay(scene)
    assert covers(overlay_boxes(mark(scene, at)), at)


@pytest.mark.parametrize("strength", [0.4, 0.25])
def test_a_tiled_watermark_is_found_and_covers_all(strength):
    frames = wall(3)
    for row in range(5):
        for column in range(-1, 4):
            at = (0.18 + 0.3 * column + 0.15 * (row % 2), 0.1 + 0.2 * row)
            frames = words(frames, "STOCK", at, strength=strength)
    assert overlay_boxes(frames) == [(0.0, 0.0, 1.0, 1.0)]


def test_windows_of_a_house_that_passes_are_no_watermark():
    house = np.full((270, 900, 3), 150, np.uint8)
    for top in range(12, 270, 34):
        for left in range(10, 900, 30):
            cv2.rectangle(house, (left, top), (left + 12, top + 16), (60, 60, 80), -1)
    frames = np.stack([house[:, 37 * k : 37 * k + 480] for k in range(7)])
    assert not overlay(frames)


def test_bricks_in_a_few_places_are_no_watermark():
    """At even steps, but not wherever these lead to; the camera stands still."""
    still = wall(7, speed=0)
    for top in range(150, 250, 40):
        for left in range(20, 200, 60):
            still[:, top : top + 16, left : left + 36] = (150, 60, 50)
    assert overlay_boxes(still) != [(0.0, 0.0, 1.0, 1.0)]


def test_too_few_frames_tell_nothing():
    assert overlay(wall(count=3)) is None


def test_sizes_do_not_matter():
    large = np.stack([cv2.resize(frame, (960, 540), interpolation=cv2.INTER_CUBIC) for frame in mark(wall(4))])
    assert overlay(large) == pytest.approx(overlay(mark(wall(4))), rel=0.3)
    assert large.shape[1] == 2 * SIZE[0]


def test_the_same_again_for_the_same_frames():
    assert overlay_boxes(mark(wall(5))) == overlay_boxes(mark(wall(5)))
