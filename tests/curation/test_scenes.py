"""Transitions are found in moving pictures whose truth is known, and things that only look like them are none."""

from itertools import chain

import numpy as np
import pytest

pytest.importorskip("scenedetect", reason="cuts are proposed by it: pip install scenedetect-headless")
pytest.importorskip("cv2", reason="frames are compared by it: pip install opencv-python-headless")

import cv2

from dreamfactory.curation.config import ScenesConfig
from dreamfactory.curation.rows import CUT, DISSOLVE, FADE, WIPE
from dreamfactory.curation.scenes import BLOCK, CONTEXT, TransitionFinder

SIZE = (72, 128)


def scene(seed, count, speed=0.6):
    """A painted wall, along which a camera moves slowly: (count, 72, 128, 3) in 0 to 255."""
    rng = np.random.default_rng(seed)
    paint = rng.uniform(0, 1, (8, 40, 3)) + rng.uniform(0, 1, (8, 40, 1))
    wall = 15 + 110 * cv2.resize(paint, (1200, 112), interpolation=cv2.INTER_LINEAR)
    starts = [round(speed * k) for k in range(count)]
    return np.stack([wall[20 : 20 + SIZE[0], start : start + SIZE[1]] for start in starts])


def mixed(a, b, shares):
    return np.stack([(1 - w) * x + w * y for x, y, w in zip(a, b, shares, strict=True)])


def ramp(count):
    return np.arange(1, count + 1) / (count + 1)


def found(frames, seconds=None, rate=25.0):
    """[(kind, first, last)]"""
    finder = TransitionFinder(ScenesConfig(detector="content"), rate)
    times = np.arange(len(frames)) / rate if seconds is None else seconds
    transitions = [finder.put(float(t), f.round().astype(np.uint8)) for t, f in zip(times, frames, strict=True)]
    return [(t.kind, t.first, t.last) for t in chain(*transitions, finder.finish())]


def joined(kind, count=30):
    """50 frames of one scene, a change of so many frames, 50 of another."""
    a, b = scene(1, 50 + count), scene(2, 50 + count)
    if kind == CUT:
        return np.concatenate([a[:50], b[-50:]])
    shares = ramp(count)
    if kind == DISSOLVE:
        between = mixed(a[50:], b[:count], shares)
    else:
        light = np.abs(2 * shares - 1)[:, None, None, None]
        between = np.where(shares[:, None, None, None] < 0.5, a[50:], b[:count]) * light
    return np.concatenate([a[:50], between, b[count:]])


def test_a_cut_is_the_new_scenes_first_frame():
    assert found(joined(CUT)) == [(CUT, 50, 50)]


@pytest.mark.parametrize("kind", [DISSOLVE, FADE])
def test_a_gradual_change_is_a_span_that_leaves_hardly_anything_of_either_scene_in_the_other(kind):
    ((told, first, last),) = found(joined(kind))
    assert told == kind
    # What is cut off too much costs frames, what is cut off too little is seen.
    assert 38 <= first <= 53
    assert 77 <= last <= 92


def dissolved(*lengths, speed=0.6, count=30):
    """Scenes of so many frames, between them dissolves of `count`."""
    scenes = [scene(10 + k, length + 2 * count, speed) for k, length in enumerate(lengths)]
    parts = [scenes[0][count : count + lengths[0]]]
    for a, b, length in zip(scenes, scenes[1:], lengths[1:], strict=False):
        parts += [mixed(a[-count:], b[:count], ramp(count)), b[count : count + length]]
    return np.concatenate(parts)


@pytest.mark.parametrize("speed", [0.0, 0.6, 2.0])
@pytest.mark.parametrize("count", [12, 24, 48])
def test_a_dissolve_ends_where_its_ramp_does_whatever_moves_meanwhile(speed, count):
    ((kind, first, last),) = found(dissolved(60, 60, speed=speed, count=count))
    assert kind == DISSOLVE
    # The first and last of its frames are one scene but for a few hundredths.
    assert 60 - 8 <= first <= 60 + 2
    assert 60 + count - 2 <= last <= 60 + count + 8


def test_two_dissolves_soon_after_each_other_are_two():
    kinds = [kind for kind, _, _ in found(dissolved(60, 36, 60))]
    assert kinds == [DISSOLVE, DISSOLVE]


@pytest.mark.parametrize("before", range(BLOCK - 40, BLOCK + 20, 7))
def test_a_dissolve_at_the_edge_of_what_is_decided_at_once_is_one(before):
    ((kind, first, last),) = found(dissolved(before, 150))
    assert kind == DISSOLVE
    assert before - 8 <= first <= before + 2
    assert before + 28 <= last <= before + 38


def wiped(how, count, speed=0.6):
    """60 frames of a scene, a wipe, 60 of another."""
    a, b = scene(5, 60 + count, speed), scene(6, 60 + count, speed)
    height, width = SIZE
    rows, columns = np.mgrid[:height, :width]
    turns = {  # from 0 to 1, when a pixel is new
        "left": 1 - columns / width,
        "down": rows / height,
        "corner": (rows / height + columns / width) / 2,
        "circle": np.hypot(rows - height / 2, columns - width / 2) / np.hypot(height / 2, width / 2),
    }[how]
    new = turns[None, ..., None] < ramp(count)[:, None, None, None]
    return np.concatenate([a[:60], np.where(new, b[:count], a[60:]), b[count:]])


@pytest.mark.parametrize("speed", [0.0, 0.6])
@pytest.mark.parametrize("count", [15, 30])
@pytest.mark.parametrize("how", ["left", "down", "corner", "circle"])
def test_a_wipe_of_any_shape_ends_where_the_last_of_the_old_scene_is_gone(how, count, speed):
    ((kind, first, last),) = found(wiped(how, count, speed))
    assert kind == WIPE
    # A corner of a few pixels that turns before or after may go unseen.
    assert 60 - 6 <= first <= 60 + 3
    assert 60 + count - 3 <= last <= 60 + count + 6


def brighter(frames, places):
    frames = frames.copy()
    frames[places] = 0.2 * frames[places] + 0.8 * 255
    return frames


ONE_SCENE = {
    "nothing": lambda: scene(3, 150),
    "a flash": lambda: brighter(scene(3, 150), [70, 71]),
    "a strobe light": lambda: brighter(scene(3, 150), list(range(60, 100, 5))),
    "lights that go on": lambda: scene(3, 150) * np.where(np.arange(150) < 70, 0.3, 1.0)[:, None, None, None],
    "a pan": lambda: scene(3, 150, speed=4),
    # Pictures of another rate, played at this one: every second frame is a repeated one, and the rest jump.
    "repeated frames": lambda: np.repeat(scene(3, 75, speed=8), 2, axis=0),
}


@pytest.mark.parametrize("event", ONE_SCENE)
def test_what_happens_within_a_scene_is_no_transition(event):
    assert found(ONE_SCENE[event]()) == []


def crossed(frames, first, last, seed=9):
    """Something bright and large goes by from left to right, from the frame `first` to `last`."""
    frames, thing = frames.copy(), scene(seed, 1)[0] + 100
    height, width = SIZE
    rows, columns = np.mgrid[:height, :width]
    for k in range(first, last + 1):
        middle = -50 + (width + 100) * (k - first) / (last - first)
        inside = np.hypot(rows - 0.5 * height, columns - middle) < 48
        frames[k][inside] = np.roll(thing, round(middle), axis=1)[inside]
    return frames


def faded_out_and_in(colour, count=20):
    """From 40 frames of a scene to a colour, and from it to 40 of another."""
    a, b = scene(1, 40 + count), scene(2, 40 + count)
    out, into = np.linspace(1, 0, count)[:, None, None, None], np.linspace(0, 1, count)[:, None, None, None]
    return np.concatenate([a[:40], colour + (a[40:] - colour) * out, colour + (b[:count] - colour) * into, b[count:]])


@pytest.mark.parametrize("colour", [0, 40, 120, 235])
def test_a_fade_may_go_to_any_colour(colour):
    assert [kind for kind, _, _ in found(faded_out_and_in(colour))] == [FADE]


@pytest.mark.parametrize("taking", [5, 7, 10, 16, 24, 36])
@pytest.mark.parametrize("contrast", [0.15, 1.0])
def test_what_goes_by_and_gives_the_scene_back_is_no_transition(taking, contrast):
    wall = 30 + contrast * scene(3, 150)
    assert found(crossed(wall, 50, 50 + taking)) == []


@pytest.mark.parametrize("shown", [10, 16, 24])
def test_a_scene_that_is_shown_for_a_moment_between_two_parts_of_another_lies_between_cuts(shown):
    frames = scene(1, 150)
    frames[60 : 60 + shown] = scene(2, shown)
    assert found(frames) == [(CUT, 60, 60), (CUT, 60 + shown, 60 + shown)]


@pytest.mark.parametrize("taking", [10, 16, 24])
def test_what_goes_by_in_front_of_a_dark_wall_is_no_fade(taking):
    wall = 30 + 0.04 * scene(3, 120)
    assert FADE not in [kind for kind, _, _ in found(crossed(wall, 50, 50 + taking))]


@pytest.mark.parametrize("place", range(60, 90, 6))
def test_lights_that_are_switched_where_much_moves_are_no_dissolve(place):
    light = np.where(np.arange(150) < place, 0.3, 1.0)[:, None, None, None]
    assert found(scene(3, 150, speed=2) * light) == []


def test_frames_count_and_not_their_times():
    """Of variable rate: the same frames are found; when they are shown is another matter."""
    frames = np.concatenate([joined(CUT), joined(DISSOLVE)])
    uneven = np.cumsum(np.random.default_rng(0).uniform(0.02, 0.08, len(frames)))
    assert found(frames, uneven) == found(frames)


def test_several_changes_are_found_across_the_blocks_that_are_decided_at_once():
    parts = [joined(kind) for kind in (CUT, DISSOLVE, FADE, CUT, DISSOLVE)]
    kinds = [kind for kind, _, _ in found(np.concatenate(parts))]
    # The parts themselves are joined by cuts, since each begins with another scene than the last one ends with.
    assert kinds == [CUT, CUT, DISSOLVE, CUT, FADE, CUT, CUT, CUT, DISSOLVE]


def test_memory_does_not_grow_with_the_video():
    finder = TransitionFinder(ScenesConfig(detector="content"), 25.0)
    frames, most = scene(4, 100).astype(np.uint8), 0
    for k in range(1500):
        finder.put(k / 25, frames[k % 200 if k % 200 < 100 else 199 - k % 200])
        most = max(most, len(finder.frames.luma))
    assert most <= BLOCK + 2 * CONTEXT
