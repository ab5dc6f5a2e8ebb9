"""Files the host knows, and errors that name the node's input."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import comfy.memory_management
import comfy.utils
import folder_paths
from torch import Tensor

from ...errors import NodeError
from ...model_patches import CheckpointError, ConfigError
from ...model_patches.checkpoints.files import PICKLES, SAFETENSORS, is_pickled, read_weights
from ...schedulers import ScheduleError

NONE = "none"


def names(*kinds: str) -> list[str]:
    """Weight files of these model folders, as the host lists them."""
    found = {name for kind in kinds for name in folder_paths.get_filename_list(kind)}
    return sorted(name for name in found if name.lower().endswith((*SAFETENSORS, *PICKLES)))


def path_of(field: str, name: str, *kinds: str) -> str:
    """The full path of a listed file: a link may bring any other name. field: the node's input, for the sentence."""
    if name in names(*kinds):
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


def is_inside(path: str | os.PathLike, folders: Iterable[str | os.PathLike]) -> bool:
    """Whether a path lies in one of these folders, also after links are followed.

    Its spelling is looked at first: on Windows, following a path that names another machine would call that machine.
    """
    spelt = os.path.abspath(path)
    return any(
        any(_begins(spelt, known) for known in (os.path.abspath(folder), os.path.realpath(folder)))
        and folder_paths.is_within_directory(str(folder), spelt)
        for folder in folders
    )


def _begins(path: str, folder: str) -> bool:
    try:
        return os.path.commonpath((folder, path)) == folder
    except ValueError:  # another drive
        return False


def read_file(path: str | os.PathLike) -> dict[str, Tensor]:
    """A file's weights, its header checked before.

    Where the host loads dynamically its own reader reads safetensors: what it gives goes from the disk straight to the
    card, if it stays whole until then. It cannot be written to.
    """
    by_host = comfy.memory_management.aimdo_enabled and str(path).lower().endswith(SAFETENSORS)
    if not by_host or is_pickled(path):
        return read_weights(path)
    return comfy.utils.load_torch_file(str(path), safe_load=True)


@contextmanager
def name_input_in_errors(field: str, path: str = "", name: str = "") -> Iterator[None]:
    """Let our one-sentence errors name the node's input they are about, and a file as the node lists it."""
    try:
        yield
    except (CheckpointError, ConfigError, ScheduleError, NodeError) as error:
        told = str(error).replace(path, name) if path else str(error)
        blamed = NodeError(told if getattr(error, "field", None) else f"{field}: {told}")
        blamed.field = getattr(error, "field", None) or field
        raise blamed from None
