"""Pages for people: what is given is shown as it is, nothing is fetched or run; and the numbers on them, by hand."""

import io

import numpy as np
import pytest
from PIL import Image

from dreamfactory.pipelines import page

from ..pages import Page

TAG = "<script>alert('a')</script> & such"


def written(tmp_path, body, **more):
    page.write(tmp_path / "page.html", "A title", "about it", body, **more)
    return Page((tmp_path / "page.html").read_text("utf-8"))


def colour(*rgb):
    return np.full((40, 60, 3), rgb, np.uint8)


def test_a_page_holds_all_that_it_shows(tmp_path):
    jpeg = page.strip([colour(255, 0, 0), colour(0, 0, 255)])
    found = written(tmp_path, page.figure(jpeg, "a caption") + page.card("Sizes", {"64x64": 3}), style=page.COLUMNS)
    assert not found.elsewhere
    assert "script" not in found.tags
    assert [picture.size for picture in found.pictures] == [Image.open(io.BytesIO(jpeg)).size]
    assert {"A title", "about it", "a caption", "64x64", "3"} <= set(found.words)


def test_words_are_shown_as_they_are(tmp_path):
    parts = [
        page.card(TAG, {TAG: 1}, TAG),
        page.columns(TAG, [[0, 1, 1]], TAG),
        page.listing(TAG, [(TAG, TAG)], TAG),
        page.faint(TAG),
        page.short(TAG),
    ]
    found = written(tmp_path, "".join(parts))
    assert "script" not in found.tags
    assert found.words.count(TAG) == 3 + 2 + 3 + 1 + 1


def test_a_name_that_is_no_text_can_be_written(tmp_path):
    found = written(tmp_path, page.listing("Left out", [("bad\udcff.mp4", "no video")], "a table"))
    assert r"bad\udcff.mp4" in found.words


def test_a_page_that_cannot_be_written_leaves_the_one_before(tmp_path, monkeypatch):
    written(tmp_path, "the first")
    before = (tmp_path / "page.html").read_bytes()
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("the disk is full")))
    with pytest.raises(OSError, match="full"):
        page.write(tmp_path / "page.html", "A title", "", "the second")
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]
    assert (tmp_path / "page.html").read_bytes() == before


def test_the_longest_bar_is_that_of_the_largest_number():
    html = page.card("Counts", {"a": 10, "b": 5, "c": 0})
    assert [f"width:{n}%" in html for n in ("100.0", "50.0", "0.0")] == [True] * 3
    assert "100.0%" not in page.card("Nothing", {"a": 0})
    assert "1,234 s" in page.card("Told", {"a": 1234}, told=lambda n: f"{n:,} s")


def test_columns_say_where_they_begin_and_end(tmp_path):
    rows = [[2, 4, 8], [4, 6, 4], [6, 8, 0], [8, 10, 2]]
    assert [n for n in ("2", "6", "10") if n in written(tmp_path, page.columns("Seconds", rows)).words] == [
        "2",
        "6",
        "10",
    ]
    html = page.columns("Seconds", rows, parts=[2, 4, 0, 1])
    assert [f"height:{n}%" in html for n in ("100.0", "25.0", "50.0", "0.0")] == [True] * 4
    assert "2 to 4: 2 of 8" in html
    assert written(tmp_path, page.columns("One", [[7, 7, 3]])).words.count("7") == 1
    assert "Nothing" in page.columns("Nothing", [])


def test_a_listing_names_the_first_hundred_and_says_where_the_rest_is(tmp_path):
    rows = [(f"file {k}", "no video") for k in range(130)]
    found = written(tmp_path, page.listing("Left out", rows, "a table"))
    assert [word for word in found.words if word.startswith("file ")] == [f"file {k}" for k in range(100)]
    assert "and 30 more, in a table" in found.words
    assert not any("more" in word for word in written(tmp_path, page.listing("Left out", rows[:100], "a table")).words)


def test_long_captions_are_cut():
    assert page.short("x" * 600) == "x" * 600
    assert page.short("x" * 601) == "x" * 600 + "…"


def test_a_strip_is_frames_side_by_side():
    jpeg = Image.open(io.BytesIO(page.strip([colour(200, 0, 0), colour(0, 200, 0), colour(0, 0, 200)], 40, gap=4)))
    assert jpeg.size == (3 * 60 + 2 * 4, 40)
    for k in range(3):
        middle = np.asarray(jpeg)[20, k * 64 + 30].astype(int)
        assert abs(middle - 200 * np.eye(3)[k]).max() < 20
    assert Image.open(io.BytesIO(page.strip([colour(0, 0, 0)], 80))).size == (120, 80)


# -- numbers ----------------------------------------------------------------------------------------------------------


def test_quantiles_are_those_of_their_names():
    values = [k / 10 for k in range(11)]
    assert page.quantiles(values) == {"least": 0, "10 %": 0.1, "median": 0.5, "90 %": 0.9, "largest": 1}
    assert page.quantiles([0.00012345], digits=6)["median"] == 0.000123


def test_histograms_count_every_clip():
    for values in ([10 + 0.002 * k for k in range(20)], list(range(10_000, 10_020)), [7, 7, 7], [0.25]):
        pairs = page.bins(page.histogram(values))
        assert sum(n for _, n in pairs) == len(values)
        assert len({label for label, _ in pairs}) == len(pairs), pairs


def test_what_is_rare_is_counted_together():
    sizes = [f"{k}x{k}" for k in range(40) for _ in range(100 - k)]
    found = page.counted(sizes)
    assert list(found)[:2] == ["0x0", "1x1"]
    assert len(found) == 31
    assert found["others"] == sum(100 - k for k in range(30, 40))


def test_empty_captions_are_counted_apart():
    found = page.of_captions(["a red car", "", "a dog", "a dog", ""])
    assert (found["empty"], found["different"], found["least"], found["largest"]) == (2, 2, 2, 3)
    assert page.of_captions(["", ""]) == {"empty": 2, "different": 0}


@pytest.mark.parametrize(("seconds", "told"), [(9.27, "9.27 s"), (120, "2 min"), (7200, "2.0 h")])
def test_times_are_told_in_their_own_unit(seconds, told):
    assert page.time(seconds) == told


@pytest.mark.parametrize(
    ("value", "told"), [(0.0006764, "0.000676"), (12.34, "12.3"), (130e6, "130,000,000"), (0, "0")]
)
def test_numbers_have_three_digits_or_all_before_the_point(value, told):
    assert page.number(value) == told
