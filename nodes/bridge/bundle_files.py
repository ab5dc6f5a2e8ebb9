"""A bundle on disk: its bundle.json, and where its parts may lie.

    {"unet": file, "codec": file or AutoencoderKL folder, "text": folder, "motion": folder, "image": folder,
     "defaults": {"frames": ..., "uncond_image": ...}}        an encoder also as {"path": folder, option: value}

The trainer and headless generation write and read the same (pipelines/bundle.py). Paths count from the bundle's folder,
or are absolute: parts that a run did not make stay where they were. A bundle may come from a stranger, so nothing is
opened outside of it and of the folders that the host lists models in.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePath

import folder_paths

from ...errors import NodeError, reason
from .folders import is_inside, stamp

INDEX = "bundle.json"
KINDS = ("diffusion_models", "checkpoints")
# The parts, and which options their entries may have; None where an entry is a path and no more.
PARTS = {"unet": None, "codec": None, "text": {"layer"}, "motion": {"layer"}, "image": {"features"}}
NAMES = {
    "unet": "network",
    "codec": "VAE",
    "text": "text encoder",
    "motion": "motion text encoder (T5)",
    "image": "image encoder",
}


@dataclass(frozen=True)
class Part:
    """One entry. outside: it lies where the host lists no models, and is not to be opened."""

    entry: str  # as bundle.json says it
    path: Path
    options: dict
    outside: bool

    def stamps(self) -> list[str]:
        """Change when the part does."""
        if self.outside:
            return []
        return [stamp(p) for p in (sorted(self.path.iterdir()) if self.path.is_dir() else [self.path])]


@dataclass(frozen=True)
class BundleFiles:
    name: str  # for sentences
    folder: Path
    parts: dict[str, Part]
    uncond_image: str | None  # what guidance's empty prompt sees; None: as the network's file says

    def stamp(self) -> str:
        parts = [line for part in self.parts.values() for line in part.stamps()]
        return "\n".join([stamp(self.folder / INDEX), *parts])


def bundles() -> dict[str, Path]:
    """{name: folder} of every bundle beside or above the model files that the host lists."""
    found: dict[str, Path] = {}
    for kind in KINDS:
        inside = {folder for name in folder_paths.get_filename_list(kind) for folder in PurePath(name).parents}
        for root in folder_paths.get_folder_paths(kind):
            for name in map(str, inside - {PurePath()}):
                if (Path(root) / name / INDEX).is_file():
                    found.setdefault(name, Path(root) / name)
    return dict(sorted(found.items()))


def listed(name: str) -> Path:
    """The folder of a bundle that the node lists; a name from elsewhere, such as a link, is none."""
    folder = bundles().get(name)
    if folder is None:
        places = " or ".join(f"models/{kind}" for kind in KINDS)
        raise NodeError(f"there is no bundle {name!r} in {places}: a folder with {INDEX}; refresh and choose again.")
    return folder


def model_folders() -> list[str]:
    """Everywhere the host lists models; nodes are no models."""
    kinds = folder_paths.folder_names_and_paths.items()
    return [root for kind, (roots, *_) in kinds if kind != "custom_nodes" for root in roots]


def read_bundle(folder: Path, name: str, allowed: Iterable[str | Path]) -> BundleFiles:
    """What a bundle names, every path within the bundle or one of the allowed folders, or marked as outside.

    Raises NodeError with one sentence.
    """
    index = _read_index(folder, name)
    parts = {}
    for key in PARTS:
        if key in index:
            entry, options = _entry(index, key, name)
            path = folder / entry
            outside = not is_inside(path, (folder, *allowed))
            if not outside and not os.path.exists(path):
                raise NodeError(f"{name}/{INDEX} puts its {NAMES[key]} at {entry!r}, and nothing is there; copy it.")
            parts[key] = Part(entry, path, options, outside)
    defaults = index.get("defaults", {})
    if not isinstance(defaults, dict):
        raise NodeError(f"{name}/{INDEX} says defaults = {json.dumps(defaults)}; expected settings by their names.")
    return BundleFiles(name, folder, parts, defaults.get("uncond_image"))


def _read_index(folder: Path, name: str) -> dict:
    try:
        index = json.loads((folder / INDEX).read_text(encoding="utf-8"))
    except OSError as error:
        raise NodeError(f"{name}/{INDEX} cannot be read: {reason(error)}.") from error
    except (ValueError, RecursionError) as error:
        raise NodeError(f"{name}/{INDEX} is not valid JSON: {reason(error)}.") from error
    if not isinstance(index, dict) or "unet" not in index:
        raise NodeError(f"{name}/{INDEX} names no 'unet'; copy the whole bundle that `dreamfactory train` wrote.")
    return index


def _entry(index: dict, key: str, name: str) -> tuple[str, dict]:
    """(path, options) of one part."""
    options = PARTS[key]
    entry = index[key] if isinstance(index[key], dict) and options is not None else {"path": index[key]}
    if not isinstance(entry.get("path"), str) or set(entry) - {"path"} - (options or set()):
        expected = "a path" if options is None else f"a path, or path and {', '.join(options)}"
        raise NodeError(f"{name}/{INDEX} says {key} = {json.dumps(index[key])}; expected {expected}.")
    return entry["path"], {k: v for k, v in entry.items() if k != "path"}
