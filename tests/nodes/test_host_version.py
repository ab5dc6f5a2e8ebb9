"""What the pack says to the host that loads it: nodes to a new one, one clear sentence to an old one."""

import subprocess
import sys
from pathlib import Path

import pytest

from dreamfactory import NEEDS

LOAD = """
import importlib.util, logging, sys
logging.basicConfig(format="%(message)s")
root = sys.argv[1]
spec = importlib.util.spec_from_file_location("pack", root + "/__init__.py", submodule_search_locations=[root])
pack = importlib.util.module_from_spec(spec)
sys.modules["pack"] = pack
spec.loader.exec_module(pack)
told = vars(pack)
print("comfy_entrypoint" in told, told.get("NODE_CLASS_MAPPINGS"), told.get("WEB_DIRECTORY"))
print(sorted(m for m in sys.modules if m.split(".")[0] in ("torch", "comfy", "transformers")))
"""


def load_in(tmp_path, version: str | None) -> subprocess.CompletedProcess:
    """Load the pack as a host of this version does; None: no host."""
    if version is not None:
        (tmp_path / "comfyui_version.py").write_text(f'__version__ = "{version}"\n', "utf-8")
    root = Path(__file__).parents[2]
    command = [sys.executable, "-c", LOAD, str(root)]
    return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)


@pytest.mark.parametrize("version", ["0.3.64", "0.32.9", "0.0.1"])
def test_an_old_host_gets_one_sentence_and_no_nodes(tmp_path, version):
    done = load_in(tmp_path, version)
    assert done.returncode == 0
    assert done.stderr.strip().count("\n") == 0
    assert f"needs ComfyUI {NEEDS[0]}.{NEEDS[1]} or newer, this is {version}" in done.stderr
    assert done.stdout.splitlines()[0] == "False {} ./web"


@pytest.mark.parametrize("version", ["0.33.0", "0.40.1", "1.0.0"])
def test_a_new_host_gets_the_entry_point_alone(tmp_path, version):
    """NODE_CLASS_MAPPINGS, even an empty one, would hide it."""
    done = load_in(tmp_path, version)
    assert done.stderr == ""
    assert done.stdout.splitlines()[0] == "True None ./web"


@pytest.mark.parametrize("version", [None, "0.33.0"])
def test_loading_the_pack_loads_nothing_heavy(tmp_path, version):
    assert load_in(tmp_path, version).stdout.splitlines()[1] == "[]"
