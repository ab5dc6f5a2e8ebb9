"""What a clip of a video is: which frames make it, and which size and length it takes."""

import numpy as np
import pytest

from dreamfactory.errors import TrainingError
from dreamfactory.pipelines.media.decode import Probe
from dreamfactory.training.config import DataConfig
from dreamfactory.training.data.buckets import DoesNotFit, assign, buckets_for
from dreamfactory.training.data.picks import choose_frames, frames_at

from ...there import there

# -- which frames make a clip --------------------------------------------------------------------------------------


def steady(count, fps):
    return Probe(64, 64, np.arange(count), 1 / fps, np.zeros(1, np.int64))


def test_clips_are_evenly_spaced_and_read_at_their_rate():
    video = steady(91, 30)  # 3 seconds
    assert choose_frames(video, 16, 10, 1) == [22 + 3 * k for k in range(16)]  # 1.5 s, the middle
    assert [there(choose_frames(video, 16, 10, 1, w, 3))[0] for w in range(3)] == [0, 22, 45]
    assert choose_frames(video, 16, None, 4) == [15 + 4 * k for k in range(16)]
    assert [there(choose_frames(video, 16, None, 4, w, 2))[0] for w in range(2)] == [0, 30]
    assert choose_frames(video, 31, 10, 1) == list(range(0, 91, 3))
    assert choose_frames(video, 32, 10, 1) is None
    assert choose_frames(video, 24, None, 4) is None
    assert frames_at(video, 10, 1) == 31
    assert frames_at(video, None, 4) == 23


def test_every_stretch_of_a_steady_video_has_the_same_steps():
    for fps, asked in ((30, 12), (29.97, 8), (24, 10), (25, 12)):
        video = steady(400, fps)
        steps = {tuple(np.diff(there(choose_frames(video, 16, asked, 1, w, 7)))) for w in range(7)}
        assert len(steps) == 1
        assert sum(next(iter(steps))) == pytest.approx(15 * fps / asked, abs=0.6)


def test_a_clip_that_just_fills_its_frames_is_long_enough():
    assert choose_frames(steady(16, 8), 16, 8, 1) == list(range(16))
    assert choose_frames(steady(15, 8), 16, 8, 1) is None
    assert choose_frames(steady(16, 29.97), 16, 30, 1) == list(range(16))
    rounded = Probe(64, 64, np.array([round(k * 1000 / 8.1) for k in range(16)]), 0.001, np.zeros(1, np.int64))
    assert choose_frames(rounded, 16, 8.1, 1) == list(range(16))


# -- sizes ---------------------------------------------------------------------------------------------------------


def test_buckets_have_about_one_area():
    (still, clip) = buckets_for(DataConfig(frames=16, height=64, width=96))
    assert (str(still), str(clip)) == ("1x64x96", "16x64x96")
    for height, width, step in ((64, 64, 8), (256, 256, 64), (320, 512, 64)):
        data = DataConfig(frames=16, height=height, width=width, aspect="buckets", frame_buckets=(8,))
        found = buckets_for(data)
        assert {b.frames for b in found} == {1, 8, 16}
        sizes = {(b.height, b.width) for b in found}
        assert (height, width) in sizes
        assert len(sizes) >= 4
        for h, w in sizes:
            assert h % step == w % step == 0
            assert 0.5 <= w / h <= 2
            assert 1 / 1.2 < h * w / (height * width) < 1.2
    with pytest.raises(TrainingError, match="frame_buckets has 32"):
        buckets_for(DataConfig(frames=16, frame_buckets=(32,)))


def test_a_clip_takes_its_nearest_shape_and_the_longest_length_it_fills():
    data = DataConfig(frames=16, height=256, width=256, aspect="buckets", frame_buckets=(8,), fps=8)
    buckets = buckets_for(data)

    def taken(width, height, count, media="video", fps=8):
        return str(assign(Probe(width, height, np.arange(count), 1 / fps, np.zeros(1)), media, data, buckets))

    assert taken(1920, 1080, 50) == "16x192x320"
    assert taken(1080, 1920, 50) == "16x320x192"
    assert taken(500, 490, 15) == "8x256x256"
    assert taken(4000, 1000, 8) == "8x192x384"
    assert taken(1920, 1080, 1, "image") == "1x192x320"
    with pytest.raises(DoesNotFit, match=r"too short: 0.9 s at 8 fps are 7 frames; the shortest bucket has 8"):
        taken(64, 64, 7)
    with pytest.raises(DoesNotFit, match=r"too slow: it has 5 frames a second, data.fps asks for 8"):
        taken(64, 64, 100, fps=5)
    plain = DataConfig(frames=16, stride=3)
    with pytest.raises(DoesNotFit, match=r"too short: 20 frames at stride 3 are 7; the shortest bucket has 16"):
        assign(steady(20, 8), "video", plain, buckets_for(plain))
