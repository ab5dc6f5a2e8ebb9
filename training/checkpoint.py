"""Checkpoints on disk: whole or not there.

A checkpoint is a folder `step-000001000`, written under another name, its manifest (every file's size and hash) last,
and moved to its place in one rename. Killed at any moment, a run finds either the whole checkpoint or the one before.

    weights.safetensors     what trains, float32, and whatever else no longer is as the run's starting file has it
    averaged.safetensors    the moving average of what trains
    optimizer.safetensors   the optimizer's moments
    unet.safetensors        the network as the nodes load it (or lora, patch, upscaler.safetensors)
    run.json                the resolved config; `dreamfactory train run.json` repeats the run
    manifest.json
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import shutil
import uuid
from collections.abc import Callable, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from ..errors import CheckpointError, TrainingError
from ..files import read_json
from ..pipelines.lock import sole

FOLDER, MANIFEST, LOCK = "checkpoints", "manifest.json", "run.lock"
NAME = re.compile(r"step-(\d{9})")
STAGED = ".staged-"
FORMAT = 1
NEEDED = {"step", "stage", "stage_step", "ends_stage", "origin", "data", "files"}


@dataclass(frozen=True)
class Checkpoint:
    """A whole checkpoint: its place and what its manifest says."""

    path: Path
    step: int
    stage: int
    facts: dict

    @property
    def config(self) -> dict:
        return json.loads((self.path / "run.json").read_text("utf-8"))

    def tensors(self, name: str) -> dict[str, Tensor]:
        """A file's tensors by name; {} where there is none."""
        path = self.path / f"{name}.safetensors"
        return load_file(path) if path.exists() else {}


class Staged:
    """A checkpoint being written. `add` a file at a time; leaving the context without an error puts it in its place."""

    def __init__(self, folder: Path, step: int, stage: int, facts: dict) -> None:
        self.target = folder / f"step-{step:09d}"
        self.path = folder / f"{STAGED}{step}-{uuid.uuid4().hex[:8]}"
        self.manifest = {"format": FORMAT, "step": step, "stage": stage, **facts}

    def tensors(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        if tensors:
            save_file(dict(tensors), self.path / f"{name}.safetensors")

    def __enter__(self) -> Staged:
        self.path.mkdir(parents=True)
        return self

    def __exit__(self, kind, error, trace) -> None:
        try:
            if kind is None:
                self._finish()
        finally:
            shutil.rmtree(self.path, ignore_errors=True)

    def _finish(self) -> None:
        files = sorted(p for p in self.path.rglob("*") if p.is_file())
        for path in files:
            _flush(path)
        sums = {str(p.relative_to(self.path)): {"size": p.stat().st_size, "hash": _hash(p)} for p in files}
        manifest = self.path / MANIFEST
        manifest.write_text(json.dumps({**self.manifest, "files": sums}, indent=2) + "\n")
        _flush(manifest)
        _flush(self.path)
        aside = self.path.with_name(f"{self.path.name}-replaced")
        if self.target.exists():  # one of this step that did not verify, or that a run from before it redoes
            os.replace(self.target, aside)
        os.replace(self.path, self.target)
        _flush(self.target.parent)
        shutil.rmtree(aside, ignore_errors=True)


@contextmanager
def disk_errors(where: Path, what: str = "checkpoint"):
    """A full disk, or one that cannot be written, as one sentence."""
    try:
        yield
    except (OSError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise TrainingError(f"no {what} could be written to {where}: {reason}; make room there.") from error


def check_room(folder: Path, needed: int) -> None:
    """Raise TrainingError unless so many bytes, and a little more, are free."""
    free = shutil.disk_usage(folder).free
    if free < needed * 1.05 + 2**20:
        raise TrainingError(
            f"no checkpoint could be written to {folder}: it needs {needed / 2**30:.2f} GiB and {free / 2**30:.2f} GiB "
            "are free; make room there."
        )


def checkpoints(folder: Path) -> list[Checkpoint]:
    """Checkpoints whose manifest can be read, oldest first."""
    found = []
    for path in sorted(folder.glob("step-*")):
        match = NAME.fullmatch(path.name)
        try:
            facts = read_json(path / MANIFEST)
            if match and facts.get("format") == FORMAT and facts.keys() >= NEEDED and _is_sound(facts):
                found.append(Checkpoint(path, facts["step"], facts["stage"], facts))
        except CheckpointError:
            continue
    return found


def _is_sound(facts: dict) -> bool:
    """Whether every fact is of its kind; files are named inside of their checkpoint."""
    numbers = [facts[name] for name in ("step", "stage", "stage_step")]
    files, born = facts["files"], facts.get("born", {})
    return (
        all(type(n) is int and 0 <= n < 2**53 for n in numbers)
        and isinstance(facts["origin"], dict)
        and isinstance(born, dict)
        and all(type(n) is int for n in born.values())
        and isinstance(files, dict)
        and all(isinstance(entry, dict) and {"size", "hash"} <= entry.keys() for entry in files.values())
        and not any(Path(name).is_absolute() or ".." in Path(name).parts or "\0" in name for name in files)
    )


def damage(checkpoint: Checkpoint) -> str | None:
    """What is wrong with a checkpoint, by sizes and hashes; None if it is whole."""
    for name, expected in checkpoint.facts["files"].items():
        path = checkpoint.path / name
        if not path.is_file():
            return f"{name} is missing"
        if path.stat().st_size != expected["size"]:
            return f"{name} has {path.stat().st_size:,} bytes of {expected['size']:,}"
        if _hash(path) != expected["hash"]:
            return f"{name} is not what was written"
    return None


def newest(folder: Path, say: Callable[[str], object] = print) -> Checkpoint | None:
    """The newest whole checkpoint, None where there is none; damaged ones are told and passed over.

    Raises TrainingError where there are checkpoints and none is whole: a run must not begin over them unasked.
    """
    readable = {c.path: c for c in checkpoints(folder)}
    there = sorted((p for p in folder.glob("step-*") if p.is_dir()), reverse=True)
    for path in there:
        wrong = damage(readable[path]) if path in readable else f"its {MANIFEST} cannot be read"
        if wrong is None:
            return readable[path]
        say(f"{path.name} is damaged ({wrong}); going back to the one before")
    if there:
        raise TrainingError(f"none of the {len(there)} checkpoints in {folder} is whole; begin anew with --fresh.")
    return None


def keep_newest(folder: Path, count: int) -> None:
    """Remove all but the newest, and those at the end of a stage."""
    passing = [c for c in checkpoints(folder) if not c.facts.get("ends_stage")]
    for checkpoint in passing[:-count]:
        remove(checkpoint.path)


def remove(path: Path) -> None:
    """The manifest goes first: what is left of a checkpoint half removed is none."""
    (path / MANIFEST).unlink(missing_ok=True)
    shutil.rmtree(path, ignore_errors=True)


def sweep(folder: Path) -> None:
    """Remove what a killed process left half-written."""
    for path in folder.glob(STAGED + "*"):
        shutil.rmtree(path, ignore_errors=True)


@contextmanager
def only_run(folder: Path):
    """Hold a run's folder; raises TrainingError if another process holds it."""
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(sole(folder / LOCK))
        except BlockingIOError as error:
            raise TrainingError(
                f"another run is writing to {folder}; stop it, or choose another output.folder."
            ) from error
        except OSError as error:
            raise TrainingError(f"output.folder {folder} cannot be written: {error.strerror}.") from error
        yield


def _hash(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=20)
    with path.open("rb") as file:
        while block := file.read(2**22):
            digest.update(block)
    return digest.hexdigest()


def _flush(path: Path) -> None:
    """To the disk itself: a rename must not overtake the data it names."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
