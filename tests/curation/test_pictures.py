"""Bars are found to the pixel, whatever is between or in them; what is only dark has none."""

import numpy as np
import pytest

pytest.importorskip("cv2", reason="frames are looked at by it: pip install opencv-python-headless")

import cv2

from dreamfactory.curation.pictures import Look, grey, picture_box, within

from .moving_pictures import SIZE, barred, wall, words


def looks(frames):
    found = []
    for number, frame in enumerate(frames):
        luma = grey(frame)
        small = cv2.resize(luma, (256, 144), interpolation=cv2.INTER_AREA)
        found.append(Look(number, frame, luma.max(1), luma.max(0), small))
    return found


def box(frames):
    """left, top, width, height"""
    found = picture_box(looks(frames), frames.shape[2], frames.shape[1])
    return found.left, found.top, found.width, found.height


WHOLE = (0, 0, 480, 270)


def test_a_picture_without_bars_is_whole():
    assert box(wall()) == WHOLE


@pytest.mark.parametrize(
    ("bars", "expected"),
    [
        ({"top": 34, "bottom": 34}, (0, 34, 480, 202)),
        ({"left": 60, "right": 60}, (60, 0, 360, 270)),
        ({"top": 20, "bottom": 20, "left": 36, "right": 36}, (36, 20, 408, 230)),
        ({"top": 4, "bottom": 4}, (0, 4, 480, 262)),
        ({"bottom": 30}, (0, 0, 480, 240)),
    ],
    ids=["letterbox", "pillarbox", "both", "thin", "below alone"],
)
def test_bars_are_found_to_the_pixel(bars, expected):
    assert box(barred(wall(), **bars)) == expected


def test_pictures_of_odd_sides_are_made_even_inwards():
    left, top, width, height = box(barred(wall(), top=33, bottom=33))
    assert (top % 2, height % 2) == (0, 0)
    assert top >= 33
    assert top + height <= 270 - 33
    assert (left, width) == (0, 480)


@pytest.mark.parametrize("gain", [0.5, 0.25, 0.15])
def test_bars_around_a_dark_scene_are_found(gain):
    frames = (wall() * gain).astype(np.uint8)
    assert box(barred(frames, top=34, bottom=34)) == (0, 34, 480, 202)


def test_bars_that_are_not_quite_black_are_found():
    assert box(barred(wall(), top=34, bottom=34, black=9)) == (0, 34, 480, 202)


def test_a_dark_scene_has_no_bars():
    assert box((wall() * 0.12).astype(np.uint8)) == WHOLE


def test_a_scene_that_is_lit_in_the_middle_has_no_bars():
    """Night around a lamp: it grows dark slowly."""
    y, x = np.mgrid[-1 : 1 : SIZE[0] * 1j, -1 : 1 : SIZE[1] * 1j]
    light = np.exp(-4 * (x * x + y * y))[..., None]
    assert box((wall() * light).astype(np.uint8)) == WHOLE


def test_a_black_frame_at_the_beginning_of_a_fade_changes_nothing():
    frames = barred(wall(), top=34, bottom=34)
    frames[0] = 0
    assert box(frames) == (0, 34, 480, 202)


def test_a_black_clip_has_no_bars():
    assert box(np.zeros((5, *SIZE, 3), np.uint8)) == WHOLE


@pytest.mark.parametrize("at", [(0.5, 0.94), (0.12, 0.05)], ids=["subtitle", "a name in the corner"])
def test_words_in_a_bar_do_not_hide_it(at):
    frames = words(barred(wall(), top=34, bottom=34), "Nobody knew", at, high=0.05)
    assert box(frames) == (0, 34, 480, 202)


def test_pictures_within_are_what_is_between_the_bars():
    frames = barred(wall(), top=34, bottom=34)
    for look in looks(frames):
        assert grey(within(look, picture_box(looks(frames), 480, 270))).min() > 5
