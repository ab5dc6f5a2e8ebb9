"""Words of clips: a column of the user's, a command of theirs, or a model that is shown pictures.

The model's way is VideoFactory's (section 3): "we extract the central frame in each clip as the keyframe, and get the
annotation for each clip by captioning the keyframe with BLIP-2".
"""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Protocol

from ..errors import SettingsError, shown
from ..files import fingerprint
from .commands import check_command, run, scripts
from .config import CaptionsConfig
from .rows import Clip
from .words import LONGEST, NoWords, one_line

if TYPE_CHECKING:
    from PIL.Image import Image

    from .image_to_text import ImageToText

DTYPES = ("auto", "fp32", "fp16", "bf16")
DEVICE = re.compile(r"auto|cpu|(cuda|xpu|mps)(:\d+)?")
METHOD = 1  # raise it where the same settings come to give other words
MOST_FRAMES, MOST_TOKENS, MOST_CLIPS = 64, 4096, 4096


@dataclass(frozen=True)
class Shown:
    """A clip as captioners and classifiers see it."""

    clip: Clip
    frames: Callable[[], list[Image]]  # the centre one, or as many as captions.frames, evenly over the clip
    image: Path  # a JPEG of the centre frame
    video: Path | None = None  # the clip's own file
    columns: Mapping[str, object] = field(default_factory=dict)  # of its source, in the user's table


class Captioner(Protocol):
    kept: ClassVar[bool]  # whether answers are. Not a column's: it costs nothing, and the table may change

    def caption(self, batch: Sequence[Shown]) -> list[str | None]:
        """A text for each clip; None: it has none. Raises InputError with one sentence; NoWords where that says
        nothing of other clips."""
        ...

    def fingerprint(self) -> str:
        """By what captions are kept, a name for a file: with the same one, the same clip has the same words."""
        ...


def check_captions(config: CaptionsConfig) -> None:
    """What can be told before a video is opened; weights are not read.

    Raises SettingsError, InputError, CheckpointError or LibraryError with one sentence.
    """
    check_device("captions", config.device)
    if config.dtype not in DTYPES:
        raise SettingsError(f"captions.dtype is {shown(config.dtype)}; expected one of {', '.join(DTYPES)}.")
    for name, most in (("frames", MOST_FRAMES), ("max_tokens", MOST_TOKENS), ("batch_size", MOST_CLIPS)):
        if not 1 <= (count := getattr(config, name)) <= most:
            raise SettingsError(f"captions.{name} is {count}; expected 1 to {most}.")
    if config.kind == "column":
        check_column("captions", config.column)
    elif config.kind == "command":
        check_command(config.command)
    elif config.kind == "transformers":
        from .image_to_text import check

        check(config)


def open_captioner(config: CaptionsConfig) -> Captioner | None:
    """None: no captions are wanted. Weights are read when the first clip is captioned, which raises as
    `check_captions` does: where all captions are there already, none are needed."""
    if config.kind == "none":
        return None
    if config.kind == "column":
        return ByColumn("captions", config.column)
    if config.kind == "command":
        return ByCommand(config.command)
    return ByModel(config)


def check_device(table: str, device: str) -> None:
    if not DEVICE.fullmatch(device):
        raise SettingsError(f"{table}.device is {shown(device)}; expected auto, cpu, cuda, cuda:1 or mps.")


def check_column(table: str, column: str) -> None:
    if not column.strip():
        raise SettingsError(f"{table}.column is empty; give the name of a column of your table.")


def named(kind: str, *decides: object) -> str:
    """A fingerprint of all that decides the answers."""
    return f"{kind}-{hashlib.blake2b(json.dumps(decides).encode(), digest_size=16).hexdigest()}"


@dataclass(frozen=True)
class ByColumn:
    """What the user's table says of a clip's source. Also for categories."""

    table: str
    column: str
    kept: ClassVar[bool] = False

    def fingerprint(self) -> str:
        return named(f"{self.table}-column", self.column)

    def caption(self, batch: Sequence[Shown]) -> list[str | None]:
        return [self._text(one) for one in batch]

    categorise = caption

    def _text(self, one: Shown) -> str | None:
        value = one.columns.get(self.column)
        if value is None or (isinstance(value, float) and math.isnan(value)):
            return None
        if not isinstance(value, str | int | float):
            raise NoWords(
                f"{self.table}.column: {one.clip.source} has {shown(value)} as its {self.column!r}; expected a text."
            )
        if len(text := str(value)) > LONGEST:
            raise NoWords(
                f"{self.table}.column: {one.clip.source} has {len(text):,} characters as its {self.column!r}; "
                f"expected at most {LONGEST:,}."
            )
        return one_line(text) or None


@dataclass(frozen=True)
class ByCommand:
    """A program of the user's, once a clip, without a shell."""

    command: tuple[str, ...]
    kept: ClassVar[bool] = True

    def fingerprint(self) -> str:
        return named("captions-command", METHOD, self.command, scripts(self.command))

    def caption(self, batch: Sequence[Shown]) -> list[str | None]:
        return [run(self.command, one.clip.clip, one.image, one.video) for one in batch]


class ByModel:
    """A captioner of transformers in a folder."""

    kept: ClassVar[bool] = True

    def __init__(self, config: CaptionsConfig) -> None:
        self.config = config

    @cached_property
    def model(self) -> ImageToText:
        from .image_to_text import ImageToText

        return ImageToText.open(self.config)

    @cached_property
    def _name(self) -> str:
        """Not of batch_size and device, which have no say in the words but by rounding."""
        c = self.config
        return named("captions-model", fingerprint(c.path, METHOD, c.prompt, c.frames, c.max_tokens, c.dtype))

    def fingerprint(self) -> str:
        return self._name  # some of every file was read for it

    def caption(self, batch: Sequence[Shown]) -> list[str | None]:
        if not batch:
            return []
        seconds = [one.clip.duration for one in batch]
        return [text or None for text in self.model.words([self._frames(one) for one in batch], seconds)]

    def _frames(self, one: Shown) -> list[Image]:
        frames = one.frames()
        if len(frames) != self.config.frames:
            raise ValueError(f"{one.clip.clip} came with {len(frames)} frames, not {self.config.frames}")
        return frames
