"""Tests lie as the packages do, and come in by the door that everyone uses: no private name of the package is named."""

import ast
import re
import sys
from pathlib import Path

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]  # installed for Python 3.10 alone

ROOT = Path(__file__).parents[2]
TESTS = ROOT / "tests"
ELSEWHERE = {"fixtures", "host", "repository"}  # of no package: files, a real ComfyUI, the repository itself
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
PACKAGES = {Path(*name.split(".")[1:]) for name in PROJECT["tool"]["setuptools"]["packages"]}
PRIVATE = re.compile(r"_[A-Za-z]\w*")
NAMED = re.compile(rf"(?<![\w}}]){PRIVATE.pattern}")  # what follows a } is the rest of a word in an f-string


def defined(file: Path) -> set[str]:
    """Private names that a module, or a class in it, gives to something."""
    names = {file.stem}
    for node in ast.walk(ast.parse(file.read_text("utf-8"))):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                names.add(name)
    return {name for name in names if PRIVATE.fullmatch(name)}


def test_no_private_name_of_the_package_is_named():
    """Not imported, not reached through a module or an object, and in no string, be it a script for another process."""
    private = {name for package in PACKAGES for file in (ROOT / package).glob("*.py") for name in defined(file)}
    assert len(private) > 100
    for file in TESTS.rglob("*.py"):
        named = private & set(NAMED.findall(file.read_text("utf-8"))) - defined(file)
        assert not named, f"{file.relative_to(ROOT)} names {', '.join(sorted(named))}"


def test_each_folder_is_that_of_a_package():
    folders = {file.parent.relative_to(TESTS) for file in TESTS.rglob("test_*.py")}
    assert {folder for folder in folders if folder.parts and folder.parts[0] not in ELSEWHERE} <= PACKAGES
