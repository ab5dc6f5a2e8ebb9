"""What several scenes of one source have at the same place is a mark, though none of them alone is sure of it."""

import numpy as np
import pytest

pytest.importorskip("cv2", reason="pictures are compared by it: pip install opencv-python-headless")

from dreamfactory.curation.overlay import Marks
from dreamfactory.curation.repeated import BOTH, EACH, Repeated

from .moving_pictures import wall

CORNER, NEARLY, ELSEWHERE = (0.85, 0.05, 0.1, 0.1), (0.85, 0.06, 0.1, 0.1), (0.05, 0.8, 0.1, 0.1)
LIKELY, HARDLY = BOTH, EACH - 0.1


def found(*clips):
    """Of clips (sure boxes or None, [(how sure, box), …], seed of what they show)."""
    repeated = Repeated()
    for boxes, maybe, seed in clips:
        repeated.add(Marks(boxes, maybe), list(wall(seed, count=1)))
    return repeated.boxes()


def test_likely_places_that_two_scenes_share_are_marks():
    assert found(([], [(LIKELY, CORNER)], 1), ([], [(LIKELY, NEARLY)], 2)) == [[CORNER], [NEARLY]]


def test_a_scene_that_is_sure_helps_one_that_is_not_and_one_that_cannot_tell():
    sure, unsure = ([CORNER], [(3.0, CORNER)], 1), [(EACH + 0.1, NEARLY)]
    assert found(sure, ([], unsure, 2), (None, unsure, 3)) == [[CORNER], [NEARLY], [NEARLY]]


def test_alone_a_likely_place_is_none():
    assert found(([], [(LIKELY, CORNER)], 1), ([], [], 2), (None, [], 3)) == [[], [], None]


def test_places_that_are_not_the_same_do_not_count():
    assert found(([], [(LIKELY, CORNER)], 1), ([], [(LIKELY, ELSEWHERE)], 2)) == [[], []]


def test_what_hardly_looks_like_a_mark_does_not_count():
    assert found(([], [(HARDLY, CORNER)], 1), ([CORNER], [(3.0, CORNER)], 2)) == [[], [CORNER]]


def test_scenes_that_show_the_same_things_have_them_at_the_same_place():
    """Cut back and forth between two cameras that stand still."""
    assert found(([], [(LIKELY, CORNER)], 1), ([], [(LIKELY, CORNER)], 1)) == [[], []]


def test_the_same_place_is_told_once():
    assert found(([CORNER], [(3.0, CORNER)], 1), ([CORNER], [(3.0, CORNER)], 2)) == [[CORNER], [CORNER]]


def test_a_thousand_clips_take_no_time():
    draw = np.random.default_rng(0)
    repeated, one = Repeated(), list(wall(0, count=1))
    for _ in range(1000):
        repeated.add(Marks([], [(0.0, tuple(draw.uniform(0, 0.5, 4))) for _ in range(4)]), one)
    assert repeated.boxes() == [[]] * 1000  # of one scene
