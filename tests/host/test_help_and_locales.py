"""What the browser gets of the nodes' words: translations at /i18n, a help page a node, both as the nodes are today.

English translations override the nodes' own words, so they must be these to the letter. After a change of words in
``nodes/``, write them anew from a running ComfyUI:

    python tests/host/test_help_and_locales.py 127.0.0.1:8188
"""

import json
import re
import sys
import urllib.request
from pathlib import Path
from urllib.parse import urljoin

import pytest

LOCALES = Path(__file__).parents[2] / "locales"
PREFIX = "DreamFactory"


def our_nodes(object_info: dict) -> dict:
    return {name: info for name, info in object_info.items() if name.startswith(PREFIX)}


def words(object_info: dict) -> dict:
    """The nodes' own words in the form of nodeDefs.json."""
    found = {}
    for name, info in our_nodes(object_info).items():
        given = {k: v for kind in ("required", "optional") for k, v in info["input"].get(kind, {}).items()}
        order = [k for kind in ("required", "optional") for k in info["input_order"].get(kind, [])]
        outputs = zip(info["output_name"], info["output_tooltips"], strict=True)
        found[name] = {
            "display_name": info["display_name"],
            "description": info["description"],
            "inputs": {k: {"name": k, "tooltip": given[k][1].get("tooltip")} for k in order},
            "outputs": {str(i): {"name": title, "tooltip": tip} for i, (title, tip) in enumerate(outputs)},
        }
    return found


def flat(tree: dict, path: str = "") -> dict:
    """{"a": {"b": 1}} → {"a.b": 1}"""
    pairs = {}
    for key, value in tree.items():
        pairs |= flat(value, f"{path}{key}.") if isinstance(value, dict) else {f"{path}{key}": value}
    return pairs


@pytest.fixture(scope="module")
def object_info(server) -> dict:
    return server.client.ask("/object_info")


@pytest.fixture(scope="module")
def i18n(server) -> dict:
    return server.client.ask("/i18n")


@pytest.fixture(scope="module")
def get(server):
    """What the server answers to a path, as bytes; an error for anything but 200."""
    return lambda path: server.client.opener.open(server.client.url + path).read()


def docs_of(info: dict) -> str:
    """Where the front end looks for a node's help: under the pack's folder, whatever it is called."""
    return f"/extensions/{info['python_module'].split('.')[1]}/docs/"


def test_english_says_what_the_nodes_say(object_info):
    english = flat(json.loads((LOCALES / "en" / "nodeDefs.json").read_text(encoding="utf-8")))
    nodes = flat(words(object_info))
    different = [
        f"{key}: nodes/ say {nodes.get(key)!r}, locales/en says {english.get(key)!r}"
        for key in sorted(nodes.keys() | english.keys())
        if nodes.get(key) != english.get(key)
    ]
    assert not different, "\n".join([*different, f"Write it anew: {str(__doc__).strip().splitlines()[-1].strip()}"])


def test_every_input_and_output_has_a_tooltip(object_info):
    assert [key for key, value in flat(words(object_info)).items() if not value] == []


def test_every_part_of_a_category_has_a_name_in_both_languages(object_info, i18n):
    parts = {part for info in our_nodes(object_info).values() for part in info["category"].split("/")}
    for language in ("en", "zh"):
        assert parts <= i18n[language]["nodeCategories"].keys()


def test_browser_gets_chinese_names(object_info, i18n):
    chinese = i18n["zh"]["nodeDefs"]
    assert our_nodes(object_info).keys() <= chinese.keys()
    assert chinese["DreamFactoryImageToVideo"]["display_name"] == "图生视频（DreamFactory）"
    assert chinese["DreamFactoryImageToVideo"]["inputs"]["first_frame"]["name"] == "首帧"


def test_browser_gets_help_and_its_pictures(object_info, get):
    for name, info in our_nodes(object_info).items():
        docs = docs_of(info)
        # The front end asks for the language's page first, then for the one that serves all others.
        for page in (f"{docs}{name}/zh.md", f"{docs}{name}.md"):
            text = get(page).decode("utf-8")
            for picture in re.findall(r"!\[[^\]]*\]\(([^)]+)\)", text):
                # Relative paths start at docs/, for every page alike.
                assert get(urljoin(docs, picture)).startswith(b"\x89PNG"), f"{page}: {picture}"


if __name__ == "__main__":
    with urllib.request.urlopen(f"http://{sys.argv[1]}/object_info") as answer:
        english = words(json.load(answer))
    text = json.dumps(english, ensure_ascii=False, indent=2) + "\n"
    (LOCALES / "en" / "nodeDefs.json").write_text(text, encoding="utf-8")
