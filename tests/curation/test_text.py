"""Burned-in text is found where it stays while the scene moves; what was filmed is none."""

import numpy as np
import pytest

pytest.importorskip("cv2", reason="frames are compared by it: pip install opencv-python-headless")

from dreamfactory.curation.text import open_reader

from .moving_pictures import mark, wall, words

LINE = "Nobody knew the way home"


@pytest.fixture(scope="module")
def gradient():
    return open_reader("gradient")


@pytest.fixture(scope="module")
def rapidocr():
    why = "text is read by it: pip install rapidocr onnxruntime"
    pytest.importorskip("rapidocr", reason=why)
    pytest.importorskip("onnxruntime", reason=why)
    return open_reader("rapidocr")


def painted():
    """A wall with words on it, which pass with it."""
    wide = words(wall(speed=0, count=1, size=(270, 1000)), LINE, (0.4, 0.5), high=0.1)[0]
    return np.stack([wide[:, 60 * k : 60 * k + 480] for k in range(7)])


def test_none_is_asked_for():
    assert open_reader("none") is None


@pytest.mark.parametrize("seed", range(3))
def test_a_scene_that_moves_has_no_text(gradient, seed):
    assert gradient.read(wall(seed)).area == 0


@pytest.mark.parametrize("at", [(0.5, 0.87), (0.5, 0.5), (0.4, 0.1)], ids=["subtitle", "title", "above"])
def test_a_line_of_text_is_found_where_it_is(gradient, at):
    found = gradient.read(words(wall(), LINE, at))
    assert 0.005 < found.area < 0.25
    assert any(x < at[0] < x + w and y < at[1] < y + h for x, y, w, h in found.boxes)


@pytest.mark.parametrize(("first", "last"), [(0, 4), (3, 7)], ids=["first half", "second half"])
def test_a_subtitle_of_half_a_clip_is_found(gradient, first, last):
    assert gradient.read(words(wall(1), LINE, (0.5, 0.87), first=first, last=last)).area > 0


def test_a_subtitle_over_a_scene_that_stands_still_is_found_when_it_comes(gradient):
    assert gradient.read(words(wall(2, speed=0), LINE, (0.5, 0.87), first=3)).area > 0


def test_over_a_scene_that_stands_still_all_along_it_cannot_be_told(gradient):
    assert gradient.read(words(wall(2, speed=0), LINE, (0.5, 0.87))).area is None


def test_words_that_were_filmed_are_no_burned_in_text(gradient):
    assert not gradient.read(painted()).area


def test_a_logo_is_no_line_of_text(gradient):
    assert not gradient.read(mark(wall(3))).area


def test_what_is_said_is_read(rapidocr):
    found = rapidocr.read(words(wall(), LINE, (0.5, 0.87), high=0.07))
    assert found.area > 0.005
    assert "nobody" in found.words.lower()


def test_nothing_is_read_off_a_bare_wall_or_one_with_words_on_it(rapidocr):
    assert rapidocr.read(wall(1)).area == 0
    assert rapidocr.read(painted()).area == 0
