"""What a run file of a curation may say, and the sentence that anything else costs."""

import pytest

from dreamfactory.curation.run_file import load
from dreamfactory.errors import SettingsError


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
