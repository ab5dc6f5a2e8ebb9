"""Categories: a table's, or the nearest name as a CLIP sees it, held to transformers' own scores."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

from dreamfactory.curation.captions import Shown
from dreamfactory.curation.categories import Classifier, check_categories, open_categories
from dreamfactory.curation.config import CATEGORIES, CategoriesConfig
from dreamfactory.errors import DreamFactoryError, InputError, SettingsError

from ..there import there
from . import tiny_models
from .test_captions import row, seen, told
from .tiny_models import pictures, save, transformers

NAMES = tuple(["dog", "cat", "music", "sports", "news", "red", "blue", "green", "square", "circle"])
COLOURS = ("black", "white", "red", "lime", "blue", "yellow", "magenta", "cyan")
PROMPT = "a photo of {}"


def config(folder: object, **others: Any) -> CategoriesConfig:
    return CategoriesConfig(**({"kind": "clip", "path": str(folder), "names": NAMES, "prompt": PROMPT} | others))


def opened(folder: object, **others: Any) -> Classifier:
    check_categories(config(folder, **others))
    return there(open_categories(config(folder, **others)))


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "clip", tiny_models.clip)


@pytest.fixture(scope="module")
def siglip(tmp_path_factory) -> Path:
    return save(tmp_path_factory.mktemp("models") / "siglip", tiny_models.siglip)


def likeliest(folder: Path, frames: list, padding: object) -> list[str]:
    """By the scores of transformers' whole model."""
    model, processor = (
        transformers.AutoModel.from_pretrained(folder).eval(),
        transformers.AutoProcessor.from_pretrained(folder),
    )
    texts = [PROMPT.replace("{}", name) for name in NAMES]
    inputs = processor(text=texts, images=frames, return_tensors="pt", padding=padding, max_length=16, truncation=True)
    with torch.no_grad():
        return [NAMES[i] for i in model(**inputs).logits_per_image.argmax(dim=-1)]


@pytest.mark.parametrize(("kind", "padding"), [("clip", True), ("siglip", "max_length")])
def test_the_category_is_the_likeliest_name(request, kind, padding):
    folder, frames = request.getfixturevalue(kind), [Image.new("RGB", (40, 30), name) for name in COLOURS]
    expected = likeliest(folder, frames, padding)
    assert len(set(expected)) > 1  # the model sees
    classifier = opened(folder)
    assert classifier.categorise([seen([frame]) for frame in frames]) == expected
    assert [classifier.categorise([seen([frame])])[0] for frame in frames] == expected
    assert classifier.categorise([]) == []


def test_several_frames_of_a_clip_are_seen_together(clip):
    frames = pictures(3, seed=5)
    model, processor = (
        transformers.AutoModel.from_pretrained(clip).eval(),
        transformers.AutoProcessor.from_pretrained(clip),
    )
    inputs = processor(text=[f"a photo of {n}" for n in NAMES], images=frames, return_tensors="pt", padding=True)
    with torch.no_grad():
        out = model(**inputs)
    expected = NAMES[int((out.image_embeds.mean(dim=0) @ out.text_embeds.T).argmax())]
    assert opened(clip).categorise([seen(frames), seen(frames[:1])])[0] == expected


def test_braces_elsewhere_in_a_prompt_are_left_alone(clip):
    frames = [seen(pictures(1))]
    assert opened(clip, prompt="a photo of {} {x}").categorise(frames)[0] in NAMES


def test_a_column_of_the_table_is_the_category():
    classifier = opened("", kind="column", column="kind")
    assert classifier.categorise([told({"kind": " music "}), told({}), told({"kind": None})]) == ["music", None, None]
    assert classifier.fingerprint() != opened("", kind="column", column="other").fingerprint()
    with pytest.raises(InputError, match=r"categories\.column: clip\.mp4 has "):
        classifier.categorise([Shown(row(), list, Path("a.jpg"), columns={"kind": b"x"})])


def test_no_categories():
    check_categories(CategoriesConfig())
    assert open_categories(CategoriesConfig()) is None


def test_the_paper_has_fifteen():
    """VideoFactory, Table 8."""
    assert len(CATEGORIES) == 15


def test_categories_are_kept_by_what_decides_them(clip, siglip):
    same = opened(clip).fingerprint()
    assert same == opened(clip, device="cpu").fingerprint()
    others = [opened(clip, prompt="{}"), opened(clip, names=NAMES[::-1]), opened(siglip)]
    assert len({same, *(other.fingerprint() for other in others)}) == 4


OR_ELSE = "give the folder of a CLIP, or set categories.kind to none."


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"path": ""}, f"categories.path is not given; {OR_ELSE}"),
        ({"path": "no/such/folder"}, f"does not exist, and nothing is downloaded; {OR_ELSE}"),
        ({"names": ()}, "categories.names has 0 names; expected 2 to"),
        ({"names": ("a", " ")}, "categories.names has ' '; expected words on one line."),
        ({"names": ("a", "b", "a")}, "categories.names has a twice; name each category once."),
        ({"prompt": "a photo"}, "categories.prompt is 'a photo'; put {} where the category's name goes"),
        ({"device": "gpu"}, "categories.device is 'gpu'; expected auto, cpu"),
        ({"kind": "column", "column": ""}, "categories.column is empty"),
    ],
)
def test_settings_that_cannot_be_cost_a_sentence(clip, change, said):
    with pytest.raises((SettingsError, InputError)) as caught:
        check_categories(config(clip, **change))
    assert said in str(caught.value)


@pytest.mark.parametrize("kind", ["clip_vision_model", "blip-2"])
def test_a_model_that_compares_nothing_costs_a_sentence(tmp_path, kind):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": kind}))
    with pytest.raises(DreamFactoryError) as caught:
        check_categories(config(tmp_path))
    assert f"holds a '{kind}' model, which is none that compares pictures with words; {OR_ELSE}" in str(caught.value)
