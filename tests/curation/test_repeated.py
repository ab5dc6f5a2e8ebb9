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
    """Of clips (sure boxes or None, [(how sure, box), …], scene); each scene shows something else."""
    repeated = Repeated()
    for boxes, maybe, scene in clips:
        repeated.add(Marks(boxes, maybe), list(wall(scene, count=1)), scene)
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
    repeated = Repeated()
    for scene in (1, 2):
        repeated.add(Marks([], [(LIKELY, CORNER)]), list(wall(1, count=1)), scene)
    assert repeated.boxes() == [[], []]


def test_clips_of_one_scene_are_no_two_witnesses():
    repeated = Repeated()
    for seed in (1, 2):  # somebody steps in front of the camera
        repeated.add(Marks([], [(LIKELY, CORNER)]), list(wall(seed, count=1)), 0)
    assert repeated.boxes() == [[], []]


def test_scenes_that_show_nothing_are_no_witnesses():
    black, repeated = np.zeros((1, 90, 160, 3), np.uint8), Repeated()
    for scene in (1, 2):
        repeated.add(Marks([], [(3.0, CORNER)]), list(black), scene)
    repeated.add(Marks([], [(LIKELY, CORNER)]), list(wall(1, count=1)), 3)
    assert repeated.boxes() == [[], [], []]


def test_places_are_compared_in_the_sources_picture():
    """One scene fills it, the other lies between bars to its left and right."""
    half = (0.25, 0.0, 0.5, 1.0)
    repeated = Repeated()
    repeated.add(Marks([], [(LIKELY, (0.6, 0.05, 0.1, 0.1))]), list(wall(1, count=1)), 1)
    repeated.add(Marks([], [(LIKELY, (0.7, 0.05, 0.2, 0.1))]), list(wall(2, count=1)), 2, half)
    assert repeated.boxes() == [[(0.6, 0.05, 0.1, 0.1)], [(0.7, 0.05, 0.2, 0.1)]]


def test_the_same_place_is_told_once():
    assert found(([CORNER], [(3.0, CORNER)], 1), ([CORNER], [(3.0, CORNER)], 2)) == [[CORNER], [CORNER]]


def test_of_a_thousand_scenes_with_many_things_in_them_each_has_its_logo():
    draw, repeated = np.random.default_rng(0), Repeated()
    pictures = [list(wall(seed, count=1)) for seed in range(8)]
    for scene in range(1000):
        others = [(HARDLY, tuple(draw.uniform(0, 0.4, 4))) for _ in range(4)]
        repeated.add(Marks([], [(LIKELY, CORNER), *others]), pictures[scene % 8], scene)
    assert repeated.boxes() == [[CORNER]] * 1000
