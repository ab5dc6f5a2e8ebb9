"""What a run file of a curation may say, and the sentence that anything else costs."""

import pytest

from dreamfactory.curation.run_file import load
from dreamfactory.errors import SettingsError

from ..there import there


def refused(*settings: str, config: object = "small") -> str:
    with pytest.raises(SettingsError) as caught:
        load(str(config), settings)
    told = str(caught.value)
    assert "\n" not in told
    return told


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (["captions.kind=transformer"], "captions.kind is 'transformer'; did you mean 'transformers'?"),
        (["captions.kind=x"], "captions.kind is 'x'; expected one of none, column, command, transformers."),
        (["categories.kind=clips"], "categories.kind is 'clips'; did you mean 'clip'?"),
        (["captions.path=blip"], "captions.path is given and captions.kind is not; set captions.kind to transformers."),
        (["captions.command=say {image}"], "set captions.kind to command."),
        (["categories.path=clip"], "categories.path is given and categories.kind is not"),
    ],
)
def test_kinds_of_words_that_cannot_be_or_are_left_out(settings, told):
    assert told in refused(*settings)


def test_words_may_be_switched_off_with_all_their_settings():
    assert load("small", ["captions.path=blip", "captions.kind=none"]).captions.kind == "none"
    assert load("hd-vg", ["captions.path=blip"]).captions.kind == "transformers"


# -- filters ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            ["filters.txet=none"],
            "filters.txet is switched off, and there is no such filter; did you mean filters.text",
        ),
        (["filters.x=none"], "there are static, blurred, dark, watermark, text."),
        (["filters.duplicate=none"], "keep them all with duplicates.remove=false"),
        (["filters.duplicate.column=motion", "filters.duplicate.min=1"], "filters.duplicate cannot be"),
        (["filters.=none"], "a filter has no name"),
        (["filters..column=motion", "filters..min=1"], "a filter has no name"),
        (["filters.statc.min=1"], "filters.statc has no column; did you mean filters.static?"),
        (["filters.a.column=moton"], "filters.a.column is 'moton', which no filter can read; did you mean 'motion'?"),
        (["filters.a.column=hashes"], "which no filter can read"),
        (["filters.a.column=duplicate_of"], "'duplicate_of', which is known only once the filters have spoken"),
        (["filters.a.column=kept", "filters.a.equals=true"], "known only once the filters have spoken"),
        (["filters.a.column=caption", "filters.a.min=1"], "has min or max, and caption is a text; give it equals."),
        (["filters.a.column=width", 'filters.a.equals="108"'], "equals is '108', and width is a number"),
        (["filters.a.column=width", "filters.a.equals=true"], "equals is True, and width is a number"),
        (["filters.a.column=width", "filters.a.equals={a=1}"], "equals is {'a': 1}, and width is a number"),
        (["filters.a.column=width", "filters.a.equals=[]"], "equals is [], and width is a number"),
        (["filters.a.column=category", "filters.a.equals=108"], "equals is 108, and category is a text"),
        (["filters.a.column=category", "filters.a.equals=['a', 1]"], "and category is a text; give a text or several"),
    ],
)
def test_filters_that_cannot_be(settings, told):
    assert told in refused(*settings)


def test_filters_say_what_they_say():
    settings = ["filters.a.column=width", "filters.a.equals=[108, 1.5]", "filters.b.column=category"]
    filters = load("small", [*settings, 'filters.b.equals="108"', "filters.text=none"]).filters
    assert filters["text"] is None
    assert [there(filters[name]).equals for name in ("a", "b")] == [[108, 1.5], "108"]


def test_a_run_file_switches_off_a_filter_of_its_preset(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text('preset = "small"\n[filters]\nstatic = "none"\n')
    assert load(str(path)).filters["static"] is None
    path.write_text('preset = "small"\n[filters]\nstatc = "none"\n')
    assert "did you mean filters.static?" in refused(config=path)
    path.write_text('[filters]\nstatic = "none"\n')
    assert "there are none." in refused(config=path)
