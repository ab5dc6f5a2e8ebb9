"""ComfyUI: where one is, and its lines, each memory mode in a process of its own."""

from __future__ import annotations

import gc
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from .device import Here
from .network import save_full
from .report import Line

ROOT = Path(__file__).parents[1]
MODES = {"classic": "--disable-dynamic-vram", "dynamic": ""}
LIMIT = 150.0  # seconds a mode may take


def find() -> tuple[Path, str] | None:
    """(folder, interpreter) of a ComfyUI: COMFYUI_PATH and COMFYUI_PYTHON, the one this pack lies in, comfy-cli's."""
    named = os.environ.get("COMFYUI_PATH")
    places = [Path(named)] if named else [*ROOT.absolute().parents[:2], Path.home() / "comfy" / "ComfyUI"]
    folder = next((p for p in places if (p / "comfyui_version.py").is_file() and (p / "main.py").is_file()), None)
    if folder is None:
        return None
    own = [folder / ".venv/bin/python", folder / "venv/bin/python", folder / "../python_embeded/python.exe"]
    found = next((str(p) for p in own if p.exists()), sys.executable)
    return folder, os.environ.get("COMFYUI_PYTHON") or found


def lines(here: Here, say: Callable[[str], object]) -> list[Line]:
    """What inside.py finds in either mode; one line where there is no ComfyUI, or where it does not start."""
    host = find()
    if host is None:
        line = Line("ComfyUI", "not here", "no ComfyUI found: set COMFYUI_PATH (and COMFYUI_PYTHON)")
        say(f"{line.verdict:<8}  {line.name:<44}            {line.told}")
        return [line]
    file = save_full(here)
    clip = here.folder / "demo.pt"
    torch.save(here.kept.get("demo"), clip)
    here.kept.pop("full", None)  # the card is the other process's
    gc.collect()
    here.empty()
    return [line for mode in MODES for line in _mode(here, host, mode, file, clip, say)]


def _mode(here: Here, host: tuple[Path, str], mode: str, file: Path, clip: Path, say) -> list[Line]:
    folder, python = host
    out = here.folder / f"{mode}.jsonl"
    out.touch()
    arguments = [str(folder), str(ROOT), mode, here.device.type, str(int(here.small)), str(file), str(clip), str(out)]
    code = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [python, "-c", code, str(Path(__file__).with_name("inside.py")), *arguments]
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=LIMIT)
        ended = "" if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it ended without a word"])[-1]
        log = done.stderr
    except subprocess.TimeoutExpired as error:
        ended, log = f"it took more than {LIMIT:.0f} s", str(error.stderr or "")
    found = [Line(**json.loads(text)) for text in out.read_text("utf-8").splitlines()]
    if ended:
        found.append(Line(f"ComfyUI, {mode}", "wrong", ended, {"log": log[-4000:]}))
    for line in found:
        say(f"{line.verdict:<8}  {line.name:<44}  {line.seconds:6.1f} s  {line.shown}")
    return found
