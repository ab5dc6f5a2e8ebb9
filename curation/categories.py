"""What kind of video a clip is of (VideoFactory, Table 8): a column of the user's, or the nearest of some names as a
CLIP folder sees pictures and words."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import SettingsError, shown, some
from ..files import fingerprint
from .captions import ByColumn, Shown, check_column, check_device, check_kind
from .config import CategoriesConfig
from .model_folders import ModelFolder, Wanted, as_tensor, look, open_model, open_processor, using
from .words import tidy

if TYPE_CHECKING:
    from torch import Tensor

KINDS = ("none", "column", "clip")
METHOD = 1  # raise it where the same settings come to give other categories
WITHOUT = "set categories.kind to none"
CLASSES = {"clip": "CLIPModel", "siglip": "SiglipModel"}
WANTED = Wanted("categories.path", "a CLIP", "compares pictures with words", WITHOUT, CLASSES)
MOST_NAMES = 10_000


class Classifier(Protocol):
    def categorise(self, batch: Sequence[Shown]) -> list[str | None]:
        """A category for each clip; None: it has none. Raises InputError with one sentence."""
        ...

    def fingerprint(self) -> str:
        """By what categories are kept: with the same one, the same clip has the same."""
        ...


def check_categories(config: CategoriesConfig) -> None:
    """What can be told before a video is opened; weights are not read.

    Raises SettingsError, InputError, CheckpointError or LibraryError with one sentence.
    """
    check_kind("categories", config.kind, KINDS)
    check_device("categories", config.device)
    if config.kind == "column":
        check_column("categories", config.column)
    elif config.kind == "clip":
        _check_names(config)
        _opened(config)


def open_categories(config: CategoriesConfig) -> Classifier | None:
    """None: none are wanted. Raises as `check_categories`, and where weights cannot be read."""
    check_kind("categories", config.kind, KINDS)
    if config.kind == "none":
        return None
    if config.kind == "column":
        return ByColumn("categories", config.column)
    return ByClip(config)


def _check_names(config: CategoriesConfig) -> None:
    names = config.names
    if not 2 <= len(names) <= MOST_NAMES:
        raise SettingsError(f"categories.names has {len(names)} names; expected 2 to {MOST_NAMES:,}.")
    odd = [name for name in names if not name or name != tidy(name)]
    twice = [name for i, name in enumerate(names) if name in names[:i]]
    if odd:
        raise SettingsError(f"categories.names has {shown(odd[0])}; expected words on one line.")
    if twice:
        raise SettingsError(f"categories.names has {some([twice[0]])} twice; name each category once.")
    if "{}" not in config.prompt:
        raise SettingsError(
            f"categories.prompt is {shown(config.prompt)}; put {{}} where the category's name goes, such as "
            "'a frame of a video about {}'."
        )


def _opened(config: CategoriesConfig) -> tuple[ModelFolder, Any, dict[str, Any]]:
    """Folder, processor and placement. In float32: CLIPs are small, and a name should not hang on a rounding."""
    from ..libraries import library
    from ..pipelines.placement import placement

    library("transformers", "categories.kind = clip", WITHOUT)
    folder = look(config.path, WANTED)
    where = placement(config.device, "fp32")
    return folder, open_processor(folder), where


class ByClip:
    """Zero-shot: the name whose prompt's features are the nearest to the frames', by cosine."""

    def __init__(self, config: CategoriesConfig) -> None:
        """Raises SettingsError, InputError, CheckpointError or LibraryError with one sentence."""
        import torch

        _check_names(config)
        self.config = config
        self.folder, self.processor, where = _opened(config)
        self.model = open_model(self.folder, **where)
        self.remedy = "set categories.device to cpu"
        with using(self.folder, "reading the names of categories", self.remedy), torch.no_grad():
            self.names = self._of_words([config.prompt.replace("{}", name) for name in config.names])
        self._fingerprint = ""

    def fingerprint(self) -> str:
        if not self._fingerprint:  # reads some of every file
            c = self.config
            self._fingerprint = json.dumps(["clip", fingerprint(c.path, METHOD, c.prompt, *c.names)])
        return self._fingerprint

    def categorise(self, batch: Sequence[Shown]) -> list[str | None]:
        import torch

        if not batch:
            return []
        frames = [one.frames() for one in batch]
        with using(self.folder, f"telling the category of {len(batch)} clips", self.remedy), torch.no_grad():
            seen = self._of_pictures([p.convert("RGB") for clip in frames for p in clip])
            clips = [of.mean(dim=0) for of in seen.split([len(clip) for clip in frames])]
            nearest = (torch.stack(clips) @ self.names.T).argmax(dim=-1)
        return [self.config.names[i] for i in nearest.tolist()]

    def _of_words(self, texts: list[str]) -> Tensor:
        """Features of texts, of length 1."""
        length = self.model.config.text_config.max_position_embeddings
        padding = "max_length" if self.folder.kind == "siglip" else True  # as it was trained
        tokens = self.processor.tokenizer(
            texts, padding=padding, truncation=True, max_length=length, return_tensors="pt"
        ).to(self.model.device)
        given = {name: tokens[name] for name in ("input_ids", "attention_mask") if name in tokens}
        return _features(self.model.get_text_features(**given))

    def _of_pictures(self, pictures: list) -> Tensor:
        pixels = self.processor.image_processor(images=pictures, return_tensors="pt")["pixel_values"]
        return _features(self.model.get_image_features(pixel_values=pixels.to(self.model.device, self.model.dtype)))


def _features(output: Any) -> Tensor:
    """transformers 5 gives them in an object, versions before as they are."""
    features = as_tensor(output, "pooler_output")
    return features / features.norm(dim=-1, keepdim=True)
