"""The committed picture of the architecture shows the imports and packages that the code has."""

import importlib.util
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def drawing():
    spec = importlib.util.spec_from_file_location("draw_architecture", ROOT / "docs/draw_architecture.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # where dataclasses look for the module they are in
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


@pytest.fixture(scope="module")
def code(drawing):
    return drawing.read_code()


def test_the_committed_picture_shows_what_the_code_imports(drawing, code):
    arrows, rooms = drawing.read_picture()
    assert arrows == code[0], "draw it anew: make architecture"
    assert rooms == code[1], "draw it anew: make architecture"


def test_rooms_stand_on_lower_floors_alone(drawing, code):
    upwards = {(a, b) for a, b in code[0] if drawing.ROOMS[a].floor >= drawing.ROOMS[b].floor}
    assert upwards == {("training", "cli")}  # only for its exit codes


def test_a_drawn_picture_is_read_as_it_was_drawn(drawing, tmp_path):
    arrows, rooms = {("cli", "errors"), ("nodes", "schedulers")}, {name: [] for name in drawing.ROOMS}
    rooms["nodes"] = ["bridge"]
    (tmp_path / "a.svg").write_text(drawing.draw(arrows, rooms), "utf-8")
    assert drawing.read_picture(tmp_path / "a.svg") == (arrows, rooms)
