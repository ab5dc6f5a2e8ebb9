"""Measures of curation mean what they say: by hand on spans and boxes, and once over a tiny corpus."""

import json

import pytest

pytest.importorskip("scenedetect", reason="cuts are proposed by it: pip install scenedetect-headless")
pytest.importorskip("cv2", reason="footage is made up by OpenCV: pip install opencv-python-headless")
pytest.importorskip("pyarrow", reason="rows are written by it: pip install pyarrow")

from dreamfactory.curation.config import CurationConfig, ScenesConfig
from dreamfactory.curation.quality import columns, scenes, transitions
from dreamfactory.curation.quality.command import lines
from dreamfactory.curation.quality.plan import SCALES
from dreamfactory.curation.quality.reel import Span
from dreamfactory.curation.quality.truth import Truth
from dreamfactory.curation.rows import CUT, DISSOLVE

FRAME = 0.04


def test_a_transition_is_found_where_both_spans_share_a_moment_or_lie_two_frames_apart():
    true = [Span(CUT, 1.0, 1.0), Span(DISSOLVE, 3.0, 4.0), Span(CUT, 6.0, 6.0)]
    seen = scenes.match(true, [Span(CUT, 1.08, 1.08), Span(CUT, 3.5, 3.5), Span(CUT, 6.2, 6.2)], FRAME)
    assert seen.found == {CUT: 1, DISSOLVE: 1}
    assert seen.missed == [true[2]]
    assert seen.alarms == [Span(CUT, 6.2, 6.2)]


def test_one_span_over_two_cuts_finds_one_of_them():
    seen = scenes.match([Span(CUT, 1.0, 1.0), Span(CUT, 1.4, 1.4)], [Span(DISSOLVE, 0.9, 1.5)], FRAME)
    assert (seen.there[CUT], seen.found[CUT], len(seen.alarms)) == (2, 1, 0)


def test_a_clip_holds_a_transition_where_it_has_frames_of_it_or_of_both_sides_of_a_cut():
    true = [Span(CUT, 1.0, 1.0), Span(DISSOLVE, 3.0, 4.0)]
    beside, across = [(0.0, 0.96), (1.0, 2.96), (4.0, 5.0)], [(0.5, 1.0), (2.0, 3.0), (3.96, 5.0)]
    assert scenes.clips_across(true, beside, FRAME) == 0
    assert scenes.clips_across(true, across, FRAME) == 3


def test_dissolves_between_alike_places_are_counted_apart():
    spans = [Span(DISSOLVE, 1.0, 2.0), Span(DISSOLVE, 4.0, 5.0, alike=True), Span(DISSOLVE, 7.0, 8.0, alike=True)]
    truth = Truth("a.mp4", "transitions", "mixed", rate=25.0, transitions=spans)
    told = scenes.summed([truth], [scenes.Seen([spans[0], spans[2], Span(DISSOLVE, 10.0, 11.0)])])
    assert (told["dissolves"]["found"], told["dissolves"]["there"], told["dissolves"]["recall"]) == (1, 1, 1)
    assert (told[scenes.ALIKE]["found"], told[scenes.ALIKE]["there"], told[scenes.ALIKE]["recall"]) == (1, 2, 0.5)
    assert told["dissolves"]["precision"] == pytest.approx(2 / 3, abs=1e-3)


def test_boxes_share_what_both_cover_of_what_either_does():
    assert columns.shared((0, 0, 10, 10), (0, 0, 10, 10)) == 1
    assert columns.shared((0, 0, 10, 10), (5, 0, 10, 10)) == pytest.approx(1 / 3)
    assert columns.shared((0, 0, 10, 10), (20, 0, 10, 10)) == 0


def test_a_file_of_which_nothing_is_known_is_not_accounted_for():
    told = columns.files([Truth("files/a.mp4", "files", "files plain")], [], [], {})
    assert (told["there"], told["accounted"], told["as_expected"]) == (1, 0, 0)


def test_cuts_of_a_made_video_are_found(tmp_path):
    plan = next(plan for plan in transitions.plans(SCALES["quick"], 1) if "/cut-0" in plan.name)
    truths, config = plan.make(tmp_path), CurationConfig(scenes=ScenesConfig(detector="content"))
    seen = scenes.look_at_all(tmp_path, truths, config, 1, True)
    told = scenes.summed(truths, seen)
    assert told["cuts"]["there"] == 6
    assert told["cuts"]["recall"] == 1
    assert told["clips_with_transition"] == 0
    assert told["dissolves"]["recall"] is None  # there is none
    json.dumps([told, scenes.events(truths, seen), scenes.cost(seen)])


def test_the_table_names_what_was_measured():
    row = {"found": 1, "there": 2, "false": 0, "recall": 0.5, "precision": None}
    names = ("cuts", "dissolves", "dissolves alike", "fades", "wipes", "letterbox", "logos", "watermarks", "marks")
    names += ("text", "duplicates")
    told = {name: row for name in names} | {
        "real": None, "over_real": None, "clips": 3, "clips_with_transition": 0,
        "events": {"flash": {"videos": 1, "alarms": 0}},
        "cost": {"ms_per_frame": 1.0, "judged": 0},
        "files": {"there": 1, "accounted": 1, "crashed": 0, "unexpected": {"files/a.mp4": "it failed"}},
    }  # fmt: skip
    printed = "\n".join(lines(told))
    assert all(name in printed for name in (*names, "flash", "files/a.mp4: it failed"))
