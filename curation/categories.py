"""What kind of video a clip is of (VideoFactory, Table 8): a column of the user's, or the nearest of some names as a
CLIP folder sees pictures and words."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from typing import TYPE_CHECKING, Any, ClassVar, Protocol

from ..errors import SettingsError, shown, some
from ..files import fingerprint
from .captions import ByColumn, Shown, check_column, check_device, named
from .config import CategoriesConfig
from .model_folders import ModelFolder, Wanted, as_tensor, look, open_model, open_processor, using
from .words import one_line

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

METHOD = 1  # raise it where the same settings come to give other categories
WITHOUT = "set categories.kind to none"
CLASSES = {"clip": "CLIPModel", "siglip": "SiglipModel"}
WANTED = Wanted("categories.path", "a CLIP", "compares pictures with words", WITHOUT, CLASSES)
MOST_NAMES = 10_000
REMEDY = "set categories.device to cpu"


class Classifier(Protocol):
    kept: ClassVar[bool]  # whether answers are. Not a column's: it costs nothing, and the table may change

    def categorise(self, batch: Sequence[Shown]) -> list[str | None]:
        """A category for each clip; None: it has none. Raises InputError with one sentence."""
        ...

    def fingerprint(self) -> str:
        """By what categories are kept, a name for a file: with the same one, the same clip has the same."""
        ...


def check_categories(config: CategoriesConfig) -> None:
    """What can be told before a video is opened; weights are not read.

    Raises SettingsError, InputError, CheckpointError or LibraryError with one sentence.
    """
    check_device("categories", config.device)
    if config.kind == "column":
        check_column("categories", config.column)
    elif config.kind == "clip":
        _check_names(config)
        _opened(config)


def open_categories(config: CategoriesConfig) -> Classifier | None:
    """None: none are wanted. Weights are read for the first clip, which raises as `check_categories` does."""
    if config.kind == "none":
        return None
    if config.kind == "column":
        return ByColumn("categories", config.column)
    return ByClip(config)


def _check_names(config: CategoriesConfig) -> None:
    names = config.names
    if not 2 <= len(names) <= MOST_NAMES:
        raise SettingsError(f"categories.names has {len(names)} names; expected 2 to {MOST_NAMES:,}.")
    odd = [name for name in names if not name or name != one_line(name)]
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

    kept: ClassVar[bool] = True

    def __init__(self, config: CategoriesConfig) -> None:
        self.config = config

    @cached_property
    def _name(self) -> str:
        c = self.config
        return named("categories-clip", fingerprint(c.path, METHOD, c.prompt, *c.names))

    def fingerprint(self) -> str:
        return self._name  # some of every file was read for it

    @cached_property
    def model(self) -> Nearest:
        return Nearest(self.config)

    def categorise(self, batch: Sequence[Shown]) -> list[str | None]:
        return [self.config.names[i] for i in self.model.nearest([one.frames() for one in batch])] if batch else []


class Nearest:
    """An opened CLIP that knows the features of the names."""

    def __init__(self, config: CategoriesConfig) -> None:
        """Raises SettingsError, InputError, CheckpointError or LibraryError with one sentence."""
        import torch

        _check_names(config)
        self.folder, self.processor, where = _opened(config)
        self.model = open_model(self.folder, **where)
        with using(self.folder, "reading the names of categories", REMEDY), torch.no_grad():
            self.names = self._of_words([config.prompt.replace("{}", name) for name in config.names])

    def nearest(self, frames: Sequence[list[Image]]) -> list[int]:
        """The number of the name for each clip, of which there are some frames."""
        import torch

        with using(self.folder, f"telling the category of {len(frames)} clips", REMEDY), torch.no_grad():
            seen = self._of_pictures([p.convert("RGB") for clip in frames for p in clip])
            clips = [of.mean(dim=0) for of in seen.split([len(clip) for clip in frames])]
            return (torch.stack(clips) @ self.names.T).argmax(dim=-1).tolist()

    def _of_words(self, texts: list[str]) -> Tensor:
        """Features of texts, of length 1."""
        length = self.model.config.text_config.max_position_embeddings
        padding = "max_length" if self.folder.kind == "siglip" else True  # as it was trained
        tokens = self.processor.tokenizer(
            texts, padding=padding, truncation=True, max_length=length, return_tensors="pt"
        ).to(self.model.device)
        given = {name: tokens[name] for name in ("input_ids", "attention_mask") if name in tokens}
        return _features(self.model.get_text_features(**given))

    def _of_pictures(self, pictures: list[Image]) -> Tensor:
        pixels = self.processor.image_processor(images=pictures, return_tensors="pt")["pixel_values"]
        return _features(self.model.get_image_features(pixel_values=pixels.to(self.model.device, self.model.dtype)))


def _features(output: Any) -> Tensor:
    """transformers 5 gives them in an object, versions before as they are."""
    features = as_tensor(output, "pooler_output")
    return features / features.norm(dim=-1, keepdim=True)
