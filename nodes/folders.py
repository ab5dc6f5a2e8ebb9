"""Files the host knows, and errors that name the node's input."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import folder_paths

from ..model_patches import CheckpointError, ConfigError
from ..schedulers import ScheduleError
from .errors import NodeError

NONE = "none"


def names(*kinds: str) -> list[str]:
    """safetensors files of these model folders, as the host lists them."""
    found = {name for kind in kinds for name in folder_paths.get_filename_list(kind)}
    return sorted(name for name in found if name.lower().endswith((".safetensors", ".sft")))


def path_of(field: str, name: str, *kinds: str) -> str:
    """The full path of a listed file. field: the node's input, for the sentence."""
    for kind in kinds:
        path = folder_paths.get_full_path(kind, name)
        if path is not None:
            return path
    raise NodeError(f"{field}: there is no {name!r} in models/{' or models/'.join(kinds)}; refresh and choose again.")


def stamp(path: str | os.PathLike) -> str:
    """Changes when a file does, so that the host loads it again."""
    try:
        stat = os.stat(path)
    except OSError:
        return "missing"
    return f"{path} {stat.st_size} {stat.st_mtime_ns}"


@contextmanager
def blame(field: str, path: str = "", name: str = "") -> Iterator[None]:
    """Let our one-sentence errors name the node's input they are about, and a file as the node lists it."""
    try:
        yield
    except (CheckpointError, ConfigError, ScheduleError, NodeError) as error:
        told = str(error).replace(path, name) if path else str(error)
        blamed = NodeError(told if getattr(error, "field", None) else f"{field}: {told}")
        blamed.field = getattr(error, "field", None) or field
        raise blamed from None
