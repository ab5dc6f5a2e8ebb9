"""Documents are true to the tree: links lead somewhere, named paths and packages exist, the README is short."""

import ast
import re
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]  # installed for Python 3.10 alone

ROOT = Path(__file__).parents[2]
FOLDERS = (
    "check",
    "curation",
    "docs",
    "benchmarks",
    "metrics",
    "model_patches",
    "nodes",
    "pipelines",
    "schedulers",
    "training",
)
PAGES = sorted([*ROOT.glob("*.md"), *(page for folder in FOLDERS for page in (ROOT / folder).rglob("*.md"))])
LINK = re.compile(r"(?:\]\(|src=\")([^)\s\"]+)[)\"]")
OURS = "|".join((*FOLDERS, "example_workflows", "locales", "tests", "web"))
NAMED = re.compile(rf"(?<![\w./-])((?:{OURS})/[\w./-]*\.(?:py|toml|md|json|svg|png|jpg|gif))\b")
TEXT = {p: p.read_text("utf-8") for p in PAGES}
SOURCES = sorted([*ROOT.glob("*.py"), *(file for folder in FOLDERS for file in (ROOT / folder).rglob("*.py"))])


def anchors(page: Path) -> set[str]:
    """What a page's headings are called in links."""
    heads = re.findall(r"^#+ (.*)$", page.read_text("utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_links_lead_somewhere(page):
    for link in LINK.findall(TEXT[page]):
        if "://" in link:
            continue
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.relative_to(ROOT).as_posix())
def test_paths_that_are_named_exist(page):
    for path in NAMED.findall(TEXT[page]):
        assert (ROOT / path).exists() or (page.parent / path).exists(), path


def test_paths_that_docstrings_and_comments_name_exist():
    for file in SOURCES:
        above = [folder for folder in file.parents if folder.is_relative_to(ROOT)]
        for path in NAMED.findall(file.read_text("utf-8")):
            assert any((folder / path).exists() for folder in above), f"{file.relative_to(ROOT)} names {path}"


def test_modules_that_a_package_lists_exist():
    for file in SOURCES:
        if file.name == "__init__.py":
            for name in re.findall(r"[\w/]+\.py\b", ast.get_docstring(ast.parse(file.read_text("utf-8"))) or ""):
                assert (file.parent / name).exists(), f"{file.relative_to(ROOT)} lists {name}"


def test_the_readme_can_be_read_at_once():
    assert len((ROOT / "README.md").read_text("utf-8").splitlines()) <= 150


def test_packages_that_are_built_are_those_there():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    built = set(project["tool"]["setuptools"]["packages"])
    folders = {file.parent.relative_to(ROOT) for file in SOURCES if file.name == "__init__.py"}
    there = {".".join(["dreamfactory", *folder.parts]) for folder in folders}
    assert built == there
