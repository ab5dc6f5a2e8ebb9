"""Where a real ComfyUI is: COMFYUI_PATH and COMFYUI_PYTHON, else comfy-cli's default place. Without one, these
tests skip and say so."""

import os
import sys
from pathlib import Path

import pytest

from .server import start


def find_host() -> tuple[Path, str] | None:
    """(folder, interpreter) of a ComfyUI, or None."""
    folder = Path(os.environ.get("COMFYUI_PATH") or Path.home() / "comfy" / "ComfyUI")
    if not (folder / "main.py").exists():
        return None
    own = [folder / ".venv" / "bin" / "python", folder / "venv" / "bin" / "python"]
    found = next((str(p) for p in own if p.exists()), sys.executable)
    return folder, os.environ.get("COMFYUI_PYTHON") or found


@pytest.fixture(scope="session")
def host() -> tuple[Path, str]:
    found = find_host()
    if found is None:
        pytest.skip("no ComfyUI found: set COMFYUI_PATH (and COMFYUI_PYTHON) to run the host tests")
    return found


@pytest.fixture(scope="session")
def server(host, tmp_path_factory):
    """A running ComfyUI: .client, .base, .models(kind), .log()."""
    with start(host, tmp_path_factory.mktemp("comfy") / "base") as running:
        yield running
