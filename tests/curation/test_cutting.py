"""Clips of a source on disk: of files that break off, and as they are stored."""

import pytest

pytest.importorskip("scenedetect", reason="cuts are proposed by it: pip install scenedetect-headless")
pytest.importorskip("cv2", reason="frames are compared by it: pip install opencv-python-headless")

import av

from dreamfactory.curation.analysis import PROGRESS, Analysis, Seconds
from dreamfactory.curation.filters import passes
from dreamfactory.curation.process import process, read_rows
from dreamfactory.curation.run_file import load
from dreamfactory.curation.sources import content_id
from dreamfactory.errors import InputError
from dreamfactory.pipelines.media import clips

from ..footage import film

QUICK = ["scenes.detector=content", "scores.text=none", "clips.speed=ultrafast"]


def processed(path, folder, *settings):
    folder.mkdir()
    process(path, load(None, [*QUICK, *settings]), "0" * 40, folder)
    source, rows, _ = read_rows(folder)
    return source, rows


def frames(path):
    with av.open(str(path)) as file:
        return sum(1 for _ in file.decode(video=0))


@pytest.fixture
def breaks_off(monkeypatch):
    """Of every file no more than so many packets can be read."""
    read = clips.packets

    def after(count):
        def packets(path, container, streams):
            for number, packet in enumerate(read(path, container, streams)):
                if number == count:
                    raise InputError(f"{path} cannot be read to its end (Input/output error); copy or save it again.")
                yield packet

        monkeypatch.setattr(clips, "packets", packets)

    return after


@pytest.mark.parametrize("method", ["transcode", "copy"])
@pytest.mark.parametrize("count", [55, 62, 70, 115, 119])
def test_a_file_that_breaks_off_within_its_last_clip_counts_until_then(tmp_path, breaks_off, count, method):
    path = film(tmp_path / "a.mp4", [1, 2], keys=12)
    breaks_off(count)
    source, rows = processed(path, tmp_path / "clips", f"clips.method={method}", "clips.min_seconds=1")
    assert "cannot be read to its end" in source.problem
    assert count - 8 <= source.frames <= count
    assert [row.frames for row in rows] in ([source.frames], [48], [60], [60, source.frames - 60], [60, 48])
    for number, row in enumerate(rows):
        assert frames(tmp_path / "clips" / f"{number:04d}.mp4") == row.frames


def whole(path):
    """A piece for each two seconds of a film at 24 frames a second."""
    pts = [frame.pts for frame in clips.Played(path) if frame.pts is not None]
    for first in range(0, len(pts), 48):
        yield clips.Piece(pts[first], pts[first + 47], (192, 108), (0, 0, 192, 108), (192, 108))


def test_what_is_too_large_to_be_held_is_not_copied_and_what_follows_is(tmp_path, monkeypatch):
    path = film(tmp_path / "a.mp4", [1, 2, 3, 4, 5], frames=48, keys=24)
    with av.open(str(path)) as file:
        largest = max(packet.size for packet in file.demux(video=0))
    pieces = list(whole(path))
    longer = clips.Piece(pieces[0].first, pieces[2].last, (192, 108), (0, 0, 192, 108), (192, 108))
    copier = clips.Copier(path, 0.5)
    monkeypatch.setattr(clips, "HELD", largest)
    assert copier.copy(longer, tmp_path / "none.mp4") is None
    assert not (tmp_path / "none.mp4").exists()
    monkeypatch.undo()
    assert copier.copy(pieces[3], tmp_path / "three.mp4") == (pieces[3].first, pieces[3].last)
    assert copier.copy(pieces[4], tmp_path / "four.mp4") == (pieces[4].first, pieces[4].last)
    copier.close()
    assert frames(tmp_path / "three.mp4") == frames(tmp_path / "four.mp4") == 48


def test_where_there_is_no_key_frame_nothing_is_held(tmp_path):
    """Of a film with one key frame no packet is kept, so that the size of the file does not matter."""
    path = film(tmp_path / "a.mp4", [1, 2, 3, 4, 5], frames=48, keys=1000)
    read = []
    copier = clips.Copier(path, 0.5, step=lambda: read.append(1))
    pieces = list(whole(path))
    assert copier.copy(pieces[0], tmp_path / "a0.mp4") is None
    assert len(read) < 60  # as far as the piece goes, and not to the next key frame
    assert all(copier.copy(piece, tmp_path / "none.mp4") is None for piece in pieces[1:])
    copier.close()
    assert not list(tmp_path.glob("*0.mp4"))


def test_whatever_takes_time_shows_that_work_goes_on(tmp_path):
    """Bytes that are read, frames that are cut, packets that are copied: a process is ended where nothing steps."""
    path = film(tmp_path / "a.mp4", [1, 2, 3, 4, 5], frames=48, keys=24)
    steps = []
    content_id(path, lambda: steps.append("bytes"))
    assert len(steps) == -(-path.stat().st_size // 2**20)
    pieces = list(whole(path))
    cutter = clips.Cutter(path, crf=30, speed="ultrafast", step=lambda: steps.append("frame"))
    cutter.cut(pieces[4], tmp_path / "cut.mp4")  # what lies before it is decoded as well
    cutter.close()
    assert steps.count("frame") == 240
    copier = clips.Copier(path, 0.5, step=lambda: steps.append("packet"))
    copier.copy(pieces[4], tmp_path / "copied.mp4")
    copier.close()
    assert steps.count("packet") >= 240


def test_every_stage_of_a_source_is_a_step_and_every_frame_that_is_cut(tmp_path):
    path, before = film(tmp_path / "a.mp4", [1]), PROGRESS.steps
    with Seconds().of("text"):
        pass
    assert PROGRESS.steps == before + 1
    list(Analysis(path, load(None, QUICK), Seconds()))
    analysed, before = PROGRESS.steps - before, PROGRESS.steps
    assert analysed > 60
    processed(path, tmp_path / "clips")
    assert PROGRESS.steps - before >= analysed + 60


@pytest.mark.parametrize("preset", ["small", "hd-vg", "webvid-like"])
def test_presets_reject_what_does_not_move_because_it_is_one_frame(preset):
    filters = load(preset, []).filters
    rule = filters["static"]
    assert rule is not None
    assert not passes(rule, None)
    assert not passes(rule, 0.0)
    assert passes(rule, 0.2)


def test_a_clip_that_is_made_smaller_tells_its_own_size_and_where_it_was(tmp_path):
    path = film(tmp_path / "a.mp4", [1])
    _, (row,) = processed(path, tmp_path / "clips", "clips.height=54")
    with av.open(str(tmp_path / "clips" / "0000.mp4")) as file:
        stream = file.streams.video[0]
        assert (stream.width, stream.height) == (row.width, row.height) == (96, 54)
    assert (row.crop_width, row.crop_height) == (row.source_width, row.source_height) == (192, 108)


@pytest.mark.parametrize(("rule", "is_there"), [("min=0.001", True), ("max=0", True), ("max=-1", False)])
def test_what_a_later_clip_may_change_is_not_left_out(tmp_path, rule, is_there):
    """Marks that scenes share are told at the end, so a clip without one may have one then; not the other way."""
    settings = ["clips.encode=kept", "filters.logo.column=overlay", f"filters.logo.{rule}"]
    _, (row,) = processed(film(tmp_path / "a.mp4", [1]), tmp_path / "clips", *settings)
    assert row.overlay == 0
    assert (tmp_path / "clips" / "0000.mp4").exists() is is_there
