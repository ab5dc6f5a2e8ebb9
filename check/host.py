"""ComfyUI: where one is, and its lines, each memory mode in a process of its own."""

from __future__ import annotations

import gc
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from .device import Here
from .network import save_full
from .report import WRONG, Line, NotHere, row

ROOT = Path(__file__).parents[1]
MODES = ("classic", "dynamic")
LIMIT = 120.0  # seconds a mode may take at most


def find() -> tuple[Path, str]:
    """(folder, interpreter) of a ComfyUI: COMFYUI_PATH and COMFYUI_PYTHON, the one this pack lies in, comfy-cli's.

    Raises NotHere with a sentence.
    """
    named = os.environ.get("COMFYUI_PATH")
    places = [Path(named)] if named else [*ROOT.absolute().parents[:2], Path.home() / "comfy" / "ComfyUI"]
    folder = next((p for p in places if (p / "comfyui_version.py").is_file() and (p / "main.py").is_file()), None)
    if folder is None and named:
        raise NotHere(f"COMFYUI_PATH is {named}, which holds no ComfyUI of 0.33 or newer")
    if folder is None:
        raise NotHere("no ComfyUI found: set COMFYUI_PATH (and COMFYUI_PYTHON)")
    folder = folder.resolve()
    own = [folder / v / p for v in (".venv", "venv") for p in ("bin/python", "Scripts/python.exe")]
    own.append(folder.parent / "python_embeded" / "python.exe")
    found = next((str(p) for p in own if p.exists()), sys.executable)
    python = os.environ.get("COMFYUI_PYTHON") or found
    if shutil.which(python) is None:
        raise NotHere(f"COMFYUI_PYTHON is {python}, which is no program")
    return folder, python


def prepare(here: Here) -> dict:
    """What the lines inside need: a ComfyUI, the full-size network as a file, the CPU's clip. All freed on the card."""
    folder, python = find()
    here.kept["host"] = folder, python
    here.kept["file"] = save_full(here)
    here.kept["clip"] = here.folder / "demo.pt"
    torch.save(here.kept.get("demo"), here.kept["clip"])
    here.kept.pop("full", None)  # the card is the other process's from here on
    gc.collect()
    here.empty()
    return {"folder": str(folder), "python": python}


def lines(here: Here, mode: str, say: Callable[[str], object]) -> list[Line]:
    """What inside.py finds in a memory mode, in a process of its own; a line more where that does not end well."""
    folder, python = here.kept["host"]
    out = here.folder / f"{mode}.jsonl"
    out.touch()
    given = [folder, ROOT, mode, here.device.type, int(here.small), here.kept["file"], here.kept["clip"], out]
    code = "import runpy, sys; sys.argv = sys.argv[1:]; runpy.run_path(sys.argv[0], run_name='__main__')"
    command = [python, "-c", code, str(Path(__file__).with_name("inside.py")), *map(str, given)]
    environment = dict(os.environ)
    if here.device.index:  # the card that was asked for is the first one that the other process sees
        seen = environment.get("CUDA_VISIBLE_DEVICES", "").split(",")
        at = here.device.index
        environment["CUDA_VISIBLE_DEVICES"] = seen[at] if at < len(seen) else str(at)
    limit, log = max(30.0, min(LIMIT, here.ends - time.monotonic())), ""
    try:
        done = subprocess.run(command, cwd=folder, capture_output=True, timeout=limit, env=environment)
        log = done.stderr.decode("utf-8", "replace")
        last = (log.strip().splitlines() or ["it ended without a word"])[-1]
        ended = f"its process was ended by signal {-done.returncode}" if done.returncode < 0 else last
        ended = ended if done.returncode else ""
    except subprocess.TimeoutExpired as error:
        ended, log = f"it took more than {limit:.0f} s", (error.stderr or b"").decode("utf-8", "replace")
    found = [Line(**json.loads(text)) for text in out.read_text("utf-8").splitlines()]
    for line in found:
        say(row(line))
    if ended:
        found.append(Line(f"ComfyUI, {mode}", WRONG, ended, {"log": log[-4000:]}))
        say(row(found[-1]))
    return found
