"""Translations and help pages as files; that a real ComfyUI serves them is in tests/host."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "web" / "docs"
PICTURE = re.compile(r"!\[([^\]]*)\]\(([^)]+)\)")
LARGEST_PICTURE = 60_000  # bytes
# Front end's message format (vue-i18n) takes these for syntax.
SYNTAX = set("{}@|")


def read(language: str, file: str = "nodeDefs") -> dict:
    return json.loads((ROOT / "locales" / language / f"{file}.json").read_text(encoding="utf-8"))


EN, ZH = read("en"), read("zh")
NODES = sorted(EN)


def flat(tree: dict, path: str = "") -> dict:
    """{"a": {"b": 1}} → {"a.b": 1}"""
    pairs = {}
    for key, value in tree.items():
        pairs |= flat(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return pairs


def page(node: str, language: str) -> Path:
    """English serves every language without a page of its own, so it lies where the front end looks last."""
    return DOCS / f"{node}.md" if language == "en" else DOCS / node / f"{language}.md"


def rows(text: str) -> str:
    """The first cells of a page's tables: what they are about."""
    return "\n".join(line.split("|")[1] for line in text.splitlines() if line.startswith("|"))


def test_chinese_has_what_english_has():
    assert flat(ZH).keys() == flat(EN).keys()
    assert flat(read("zh", "main")).keys() == flat(read("en", "main")).keys()


@pytest.mark.parametrize("language", ["en", "zh"])
def test_no_words_are_empty_or_syntax(language):
    for key, value in flat({**read(language), **read(language, "main")}).items():
        assert value.strip() == value != "", key
        assert not SYNTAX & set(value), key


def test_every_sentence_is_translated():
    for key, value in flat(ZH).items():
        if key.endswith((".tooltip", ".description")):
            assert re.search(r"[\u4e00-\u9fff]", value), key


@pytest.mark.parametrize("language", ["en", "zh"])
@pytest.mark.parametrize("node", NODES)
class TestHelpPage:
    def test_shows_pictures_that_exist_and_are_small(self, node, language):
        pictures = PICTURE.findall(page(node, language).read_text(encoding="utf-8"))
        assert (DOCS / node / "node.png") in [DOCS / path for _, path in pictures]
        for described, path in pictures:
            assert described  # read out to those who do not see it
            assert 0 < (DOCS / path).stat().st_size <= LARGEST_PICTURE

    def test_tells_every_input_by_the_name_the_node_shows(self, node, language):
        table = rows(page(node, language).read_text(encoding="utf-8"))
        for name, shown in read(language)[node]["inputs"].items():
            entry = f"`{name}`" if language == "en" else f"`{name}` {shown['name']}"
            assert entry in table, name

    def test_tells_of_no_input_that_is_not_there(self, node, language):
        table = rows(page(node, language).read_text(encoding="utf-8"))
        assert set(re.findall(r"`(\w+)`", table)) <= EN[node]["inputs"].keys()

    def test_is_short(self, node, language):
        assert len(page(node, language).read_text(encoding="utf-8").splitlines()) <= 45


def test_no_page_or_picture_is_left_over():
    pages = {page(node, language) for node in NODES for language in ("en", "zh")}
    shown = {DOCS / path for file in pages for _, path in PICTURE.findall(file.read_text(encoding="utf-8"))}
    assert {path for path in DOCS.rglob("*") if path.is_file()} == pages | shown
