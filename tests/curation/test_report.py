"""A curation's report: what is counted of made-up rows, by hand; and the page, read as a person would."""

import json

import numpy as np
import pytest

from dreamfactory.curation.config import CATEGORIES, Filter
from dreamfactory.curation.filters import apply
from dreamfactory.curation.report import PAPER, facts
from dreamfactory.curation.report_page import write_report
from dreamfactory.curation.rows import COPY, FAILED, Clip, Source
from dreamfactory.pipelines import page

from ..pages import Page

TAG = "<script>alert('a')</script> & such"


def clip(name, reasons=(), **more):
    """2 s of 1280x720, kept but for reasons."""
    given = {"source": "a.mp4", "source_id": "a", "scene": 0, "start": 0.0, "end": 2.0, "first_pts": 0, "last_pts": 59}
    given |= {"time_base": "1/30", "frames": 60, "duration": 2.0, "fps": 30.0, "begins_by": "start", "ends_by": "cut"}
    given |= {"source_width": 1280, "source_height": 720, "crop_left": 0, "crop_top": 0}
    given |= {"crop_width": 1280, "crop_height": 720, "width": 1280, "height": 720}
    given |= {"aspect": 16 / 9, "kept": not reasons, "reasons": tuple(reasons), "reason": [*reasons, ""][0]}
    return Clip(clip=name, **{**given, **more})


def counted(sources=(), clips=(), seconds=None, engine=None, notes=(), **more):
    found = facts(list(sources), list(clips), seconds=seconds or {}, engine=engine or {}, notes=notes, **more)
    text = json.dumps(found, allow_nan=False, ensure_ascii=False)
    text.encode()
    assert json.loads(text) == found  # plain data
    return found


SOURCES = [
    Source("a.mp4", "a", duration=3600.0, scenes=5, too_short=1, clips=4, kept=2, damaged=3),
    Source("b.mp4", "b", duration=1800.0, scenes=2, clips=2),
    Source("bad\udcff.mp4", status=FAILED, problem=TAG),
    Source("again.mp4", "a", status=COPY, problem="a.mp4", duration=3600.0),
    Source("void.mp4", "v", duration=1800.0, scenes=3, too_short=3),
]
CLIPS = [
    clip("a0", caption="a red car", category="animals", ends_by="dissolve"),
    clip("a1", ["size", "text"]),
    clip("a2", ["text"]),
    clip("a3", caption="a dog on the beach at night", duration=4.0, frames=120, fps=29.97, width=960, height=540),
    clip("b0", ["text", "static"], source="b.mp4", source_id="b", duration=3.0),
    clip("b1", ["static"], source="b.mp4", source_id="b"),
]


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_the_counts_are_those_of_the_rows():
    found = counted(SOURCES, CLIPS)
    assert found["sources"] == 5  # the failed one and the copy too
    assert found["copies"] == 1
    assert found["failed"] == [{"source": r"bad\udcff.mp4", "problem": TAG}]
    assert (found["scenes"], found["too_short"], found["clips"], found["kept"]) == (10, 4, 6, 2)
    assert found["sources_kept"] == 1
    assert found["damaged"] == {"sources": 1, "packets": 3}
    assert found["seconds"] == {"read": 7200.0, "clips": 15.0, "kept": 6.0}  # a copy is not read again


def test_reasons_are_of_the_first_filter_of_all_and_of_one_alone():
    found = counted(SOURCES, CLIPS)
    assert found["reasons"] == {"size": 1, "text": 2, "static": 1}
    assert sum(found["reasons"].values()) == found["clips"] - found["kept"]
    assert found["all_reasons"] == {"size": 1, "text": 3, "static": 2}
    assert found["alone"] == {"size": 0, "text": 1, "static": 1}


def test_reasons_are_in_the_order_of_the_filters():
    rows = [clip("1", ["static"]), clip("2", ["text", "static"]), clip("3", ["size", "text"])]
    assert list(counted([], rows)["reasons"]) == ["size", "text", "static"]
    filters = {"dark": Filter("contrast", min=0.1), "off": None, "size": Filter("height", min=720)}
    filters |= {"text": Filter("text", max=0.0), "static": Filter("motion", min=0.002)}
    rows.append(clip("4", ["static", "duplicate"]))  # which is no filter of the run file
    found = counted([], rows, filters=filters)
    assert found["reasons"] == {"dark": 0, "size": 1, "text": 1, "static": 2, "duplicate": 0}
    assert list(found["reasons"]) == ["dark", "size", "text", "static", "duplicate"]


def test_rows_of_several_orders_are_counted_all_the_same():
    rows = [clip("1", ["a", "b"]), clip("2", ["b", "a"]), clip("3", ["c"])]
    assert counted([], rows)["reasons"] == {"a": 1, "b": 1, "c": 1}


def test_filters_say_what_they_keep():
    filters = {
        "size": Filter("height", min=720),
        "aspect": Filter("aspect", min=1.748, max=1.808),
        "news": Filter("category", equals=["news", "sports"], missing="reject"),
    }
    assert counted(filters=filters)["filters"] == {
        "size": {"column": "height", "keeps": "height ≥ 720"},
        "aspect": {"column": "aspect", "keeps": "1.748 ≤ aspect ≤ 1.808"},
        "news": {"column": "category", "keeps": "category = news or sports, and measured"},
    }


def test_a_rejected_clip_has_a_reason():
    with pytest.raises(AssertionError, match="without a reason"):
        counted([], [clip("1", kept=False)])


def test_statistics_are_of_kept_clips():
    found = counted(SOURCES, CLIPS)["statistics"]
    assert found["videos"]["size"] == {"1280x720": 1, "960x540": 1}
    assert found["source_size"] == {"1280x720": 2}
    assert found["videos"]["duration"]["largest"] == 4
    assert found["ends_by"] == {"dissolve": 1, "cut": 1}
    words = found["caption_words"]["text"]
    assert (words["least"], words["largest"], words["empty"]) == (3, 7, 0)


def test_the_trainers_survey_of_the_same_clips_says_the_same(tmp_path):
    pytest.importorskip(
        "torchmetrics", reason="the trainer is not installed: pip install 'comfyui-dreamfactory[train]'"
    )
    import torch

    from dreamfactory.pipelines.media.files import write_video
    from dreamfactory.training.data.statistics import statistics

    from ..training.data.test_video_source import source

    rows = []
    for k, (frames, caption) in enumerate([(6, "a red car"), (16, "a dog on the beach"), (24, "a dog"), (7, "a dog")]):
        still = torch.rand(1, 3, 32, 32 + 8 * k)
        write_video(tmp_path / f"{k}.mp4", still.expand(frames, -1, -1, -1), fps=8)
        (tmp_path / f"{k}.txt").write_text(caption)
        given = {"width": 32 + 8 * k, "height": 32, "fps": 8.0, "frames": frames, "duration": frames / 8}
        rows.append(clip(str(k), caption=caption, **given))
    surveyed, ours = statistics(source(tmp_path)), counted([], rows)["statistics"]
    assert surveyed["videos"] == ours["videos"]
    assert surveyed["caption_words"]["text"] == ours["caption_words"]["text"]


def test_table_8_is_whole():
    assert sum(PAPER.values()) == pytest.approx(100)
    assert (PAPER["music"], PAPER["education"], PAPER["entertainment"]) == (1.06, 6.76, 12.67)


def test_categories_stand_beside_the_papers_where_they_are_its():
    rows = [clip(str(k), category=name) for k, name in enumerate(["music", "music", "news", None])]
    found = counted([], rows)["categories"]
    assert set(found) == set(CATEGORIES)
    assert found["music"] == {"clips": 2, "per_cent": 66.67, "paper": 1.06}
    assert found["animals"] == {"clips": 0, "per_cent": 0, "paper": 2.97}
    found = counted([], [*rows, clip("own", category="trains")])["categories"]
    assert found == {
        "music": {"clips": 2, "per_cent": 50},
        "news": {"clips": 1, "per_cent": 25},
        "trains": {"clips": 1, "per_cent": 25},
    }


def test_scores_are_of_the_clips_that_have_them():
    rows = [clip(str(k), motion=value, text=0.0) for k, value in enumerate([0.0001, 0.0002, 0.0, None, float("nan")])]
    rows.append(clip("fast", ["wild"], motion=80.0))
    found = counted([], rows)["scores"]
    assert set(found) == {"motion", "text"}
    motion = found["motion"]
    assert (motion["measured"], motion["zero"]) == (4, 1)
    assert motion["clips"]["largest"] == 80
    assert motion["kept"]["median"] == 0.0001
    assert [sum(column) for column in list(zip(*motion["histogram"], strict=True))[2:]] == [3, 2]
    assert found["text"]["histogram"] == []


def test_one_value_many_times_is_one_row():
    rows = [clip(str(k), ["dark"] * (k == 0), brightness=0.25) for k in range(3)]
    assert counted([], rows)["scores"]["brightness"]["histogram"] == [[0.25, 0.25, 3, 2]]


def test_a_score_far_out_takes_none_of_the_others_steps():
    rows = [clip(str(k), sharpness=float(k + 1)) for k in range(99)] + [clip("edge", sharpness=1e6)]
    found = counted([], rows)["scores"]["sharpness"]["histogram"]
    assert len(found) == 12
    assert found[-1][1] == 1e6
    assert sum(row[2] > 0 for row in found) == 12


def test_speed_is_hours_of_video_for_each_hour_of_a_core():
    engine = {"runner": "ray", "workers": 4, "wall_seconds": 500.0, "core_seconds": 1800.0}
    engine["slowest"] = [{"source": "bad\udcff.mp4", "seconds": 90.0}]
    found = counted(SOURCES, CLIPS, {"decode": 720.0, "encode": 1440.0, "captions": 0.0}, engine)
    assert found["core_seconds"] == {"decode": 720.0, "encode": 1440.0, "captions": 0.0}
    speeds = found["source_hours_per_core_hour"]  # of two hours
    assert speeds == {"by_stage": {"decode": 10.0, "encode": 5.0, "captions": None}, "all": 3.333}
    assert found["parallelism"] == 3.6
    assert found["slowest"] == [{"source": r"bad\udcff.mp4", "seconds": 90.0}]
    assert found["engine"]["runner"] == "ray"
    assert counted([], [], {"decode": 720.0}, {"wall_seconds": 360})["parallelism"] == 2
    assert counted([], [], {"decode": 720.0})["parallelism"] is None


# -- the page ---------------------------------------------------------------------------------------------------------


def jpeg(grey):
    return page.strip([np.full((20, 30, 3), grey, np.uint8)] * 2, 20)


def shown(tmp_path, found, kept=(), rejected=(), title="A set"):
    write_report(tmp_path / "report.html", title, found, kept, rejected)
    return Page((tmp_path / "report.html").read_text("utf-8"))


def test_the_page_needs_nothing_beside_it_and_runs_nothing(tmp_path):
    rows = [clip("x", caption=TAG, source="bad\udcff<b>.mp4", category=TAG)]
    rows.append(clip(TAG, [TAG], text_found=TAG, duplicate_of=TAG, source=TAG))
    engine = {"runner": TAG, "workers": 2, "wall_seconds": 9.0, "slowest": [{"source": TAG, "seconds": 3.0}]}
    found = counted(SOURCES, rows, {TAG: 60.0}, engine, [TAG])
    read = shown(tmp_path, found, [(rows[0], jpeg(60))], [(rows[1], jpeg(160))], TAG)
    assert not read.elsewhere
    assert not {"script", "b>", "link", "iframe"} & read.tags
    assert len(read.pictures) == 2
    assert sum(TAG in word for word in read.words) >= 10
    assert any(r"bad\udcff<b>.mp4" in word for word in read.words)


def test_the_page_tells_the_numbers(tmp_path):
    read = shown(tmp_path, counted(SOURCES, CLIPS, {"decode": 720.0}, {"wall_seconds": 360.0}, ["A note."]))
    for word in ("5", "10", "6", "2", "33.3 % of clips", "1 failed, 1 copies", "4 too short", "A note."):
        assert word in read.words, word
    at = [read.words.index(name) for name in ("sources", "scenes", "clips", "kept", "size", "text", "static")]
    assert at[4:] == sorted(at[4:])  # the filters in turn
    assert "−2" in read.words
    assert "3 in all, 1 alone" in read.words
    assert "2 cores busy on average" in " ".join(read.words)


def test_rejected_clips_are_grouped_by_their_first_reason_with_what_it_asks(tmp_path):
    filters = {"size": Filter("height", min=720), "static": Filter("motion", min=0.002)}
    rows = [clip("1", motion=0.0011), clip("2", height=360, motion=0.5), clip("3", height=361, motion=0.0)]
    apply(filters, rows)
    read = shown(tmp_path, counted([], rows, filters=filters), [], [(row, jpeg(40 * k)) for k, row in enumerate(rows)])
    text = " ".join(read.words)
    assert text.index("1 of 1; kept is motion ≥ 0.002") > text.index("2 of 2; kept is height ≥ 720")
    assert {"height\u00a0360", "height\u00a0361", "motion\u00a00.0011"} <= set(
        read.words
    )  # what it was, before all else
    assert "also static" in read.words
    assert len(read.pictures) == 3


def test_a_kept_clip_has_its_caption_size_and_place(tmp_path):
    row = clip("a-0001", caption="a red car", source="talks/a.mp4", start=3723.5, category="news")
    read = shown(tmp_path, counted([], [row]), [(row, jpeg(90)), (clip("b"), jpeg(30))])
    assert "a red car" in read.words
    assert "2 s, 1280x720, 30 fps, news; talks/a.mp4 at 1:02:03; a-0001" in read.words
    assert "no caption" in read.words


def test_the_first_hundred_failed_sources_are_named(tmp_path):
    failed = [Source(f"{k}.mp4", status=FAILED, problem="no frame can be decoded") for k in range(130)]
    read = shown(tmp_path, counted(failed))
    assert read.words.count("no frame can be decoded") == 100
    assert "and 30 more, in report.json and sources.parquet" in read.words


EMPTY = {
    "There was no source.": ([], []),
    "No source could be read: 1 of 2 failed, for the reasons below.": (SOURCES[2:4], []),
    "There is no clip: 3 of 3 scenes are too short.": (SOURCES[4:], []),
    "No clip is kept: filters reject all 2.": (SOURCES[:2], CLIPS[1:3]),
}


@pytest.mark.parametrize("told", EMPTY)
def test_an_empty_set_says_so(told, tmp_path):
    sources, clips = EMPTY[told]
    read = shown(tmp_path, counted(sources, clips))
    assert told in read.words
    assert told not in shown(tmp_path, counted(SOURCES, CLIPS)).words


def test_the_page_can_be_made_again_from_report_json(tmp_path):
    found = counted(SOURCES, CLIPS, {"decode": 720.0}, {"wall_seconds": 360.0})
    shown(tmp_path, found)
    before = (tmp_path / "report.html").read_bytes()
    shown(tmp_path, json.loads(json.dumps(found)))
    assert (tmp_path / "report.html").read_bytes() == before
