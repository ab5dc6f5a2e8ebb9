"""Clips of videos whose frames stay for as long as they like, and of files that cannot be read to their end."""

from fractions import Fraction

import pytest

pytest.importorskip("scenedetect", reason="cuts are proposed by it: pip install scenedetect-headless")
pytest.importorskip("cv2", reason="frames are compared by it: pip install opencv-python-headless")

import av

from dreamfactory.curation import scores
from dreamfactory.curation.analysis import Analysis, Seconds
from dreamfactory.curation.config import ClipsConfig, CurationConfig, ScenesConfig
from dreamfactory.pipelines.media.viewer import Viewer

from ..footage import film, scene


def uneven(path, *scenes):
    """A video of scenes, of which each is the milliseconds at which its frames are shown."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=Fraction(24))
        stream.width, stream.height, stream.pix_fmt = 192, 108, "yuv420p"
        stream.options = {"preset": "ultrafast", "threads": "1", "bf": "0"}
        stream.codec_context.time_base = Fraction(1, 1000)
        for seed, times in enumerate(scenes):
            for time, picture in zip(times, scene(seed, len(times)), strict=True):
                frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
                frame.pts, frame.time_base = time, Fraction(1, 1000)
                out.mux(stream.encode(frame))
        out.mux(stream.encode())
    return path


def analysed(path, **clips):
    analysis = Analysis(
        path, CurationConfig(scenes=ScenesConfig(detector="content"), clips=ClipsConfig(**clips)), Seconds()
    )
    return list(analysis), analysis.source


def even(first, last):
    return range(first, last, 41)


STAYING = {
    "one frame between two scenes": (even(0, 3000), [3040], even(8000, 11000)),
    "two frames between two scenes": (even(0, 3000), [3040, 3080], even(8000, 11000)),
    "the last frame of a scene": ([*even(0, 500), 520], even(9000, 12000)),
    "slides": ([0], [30000], [60000], [90000]),
    "the last frame": (even(0, 3000), [40000]),
    "nothing moves for long": ([*even(0, 3000), *even(50000, 53000)],),
}


@pytest.mark.parametrize("what", STAYING)
@pytest.mark.parametrize(("least", "most"), [(0.2, 0.2), (2.0, 20.0), (4.0, 5.0)])
def test_frames_that_stay_make_clips_too_which_are_looked_at(tmp_path, what, least, most):
    found, source = analysed(uneven(tmp_path / "a.mkv", *STAYING[what]), min_seconds=least, max_seconds=most)
    assert found
    assert all(clip.looks for clip in found)
    assert all(clip.pts[0] <= look.pts <= clip.pts[-1] for clip in found for look in clip.looks)
    assert all(clip.end - clip.start >= least - 1e-6 for clip in found)
    # A frame is not divided: longer than it may be is only what would be too short without its last one.
    assert all(clip.end - clip.start <= most + 1e-6 or clip.pts[-1] - clip.pts[0] < 1000 * least for clip in found)
    assert source.frames == sum(map(len, STAYING[what]))
    assert source.duration is not None
    assert source.duration >= found[-1].end - 1e-6


@pytest.mark.parametrize("fps", [10, 24, 25, 30])
@pytest.mark.parametrize(("least", "most"), [(0.2, 0.2), (0.25, 0.3), (1.01, 1.02)])
def test_a_clip_is_as_long_as_one_has_to_be_and_no_more_than_a_frame_longer_than_it_may(tmp_path, fps, least, most):
    found, _ = analysed(film(tmp_path / "a.mp4", [1, 2], frames=50, fps=fps), min_seconds=least, max_seconds=most)
    assert len(found) >= 2
    for clip in found:
        assert least - 1e-6 <= clip.end - clip.start < most + 1 / fps


def test_motion_is_measured_in_the_shortest_clips(tmp_path):
    found, _ = analysed(film(tmp_path / "a.mp4", [1]), min_seconds=0.2, max_seconds=0.3)
    assert all((scores.motion(clip.looks) or 0.0) > 0.01 for clip in found)


def test_what_was_seen_counts_where_a_video_cannot_be_shown_any_further(tmp_path, monkeypatch):
    path = film(tmp_path / "a.mp4", [1, 2, 3, 4, 5], frames=60)
    pixels, seen = Viewer.pixels, []

    def until(viewer, frame, *arguments):
        seen.append(frame.pts)
        if len(set(seen)) > 250:
            raise ValueError("no picture")
        return pixels(viewer, frame, *arguments)

    monkeypatch.setattr(Viewer, "pixels", until)
    analysis = Analysis(path, CurationConfig(scenes=ScenesConfig(detector="content")), Seconds())
    with pytest.raises(ValueError, match="no picture"):
        list(analysis)
    assert (analysis.source.frames, analysis.source.scenes) == (250, 1)
    assert analysis.source.duration == pytest.approx(250 / 24, abs=1e-5)
