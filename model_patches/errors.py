"""What this layer says to a person: one sentence with what was given, what was expected, what to do.

And whom it may say it of: a file is to blame for what a library makes of it, not for memory that ran out, a library
that is missing, or a bug (`blameless`); what the system says of a file keeps the system's words (`reason`).
"""

from __future__ import annotations

import os

import torch

from ..libraries import importing


class ConfigError(ValueError):
    """A network configuration that cannot be built."""


class CheckpointError(ValueError):
    """A file that cannot be read, written or understood as a network."""


SHOWN = 60  # characters of a value or a name, in a sentence
SHOWN_PATH = 200  # of a path


def some(keys: list[str], limit: int = 3) -> str:
    """The first few names, and how many more, for a sentence."""
    return ", ".join(_short(key) for key in keys[:limit]) + (
        f" and {len(keys) - limit} more" if len(keys) > limit else ""
    )


def _short(key: str) -> str:
    told = _shown(key)
    return told if len(told) <= SHOWN else f"{told[: SHOWN - 1]}…"


def place(path: str | os.PathLike) -> str:
    """A path that a file or a person gave, for a sentence; of a very long one its end."""
    told = _shown(str(path))
    return told if len(told) <= SHOWN_PATH else f"…{told[1 - SHOWN_PATH :]}"


def _shown(text: str) -> str:
    """On one line, and never what a terminal cannot show."""
    return " ".join(text.encode(errors="backslashreplace").decode().split())


def shown(value: object) -> str:
    """A value that a file or a person gave, for a sentence: never long, and never what a terminal cannot show."""
    try:
        told = repr(value)
    except (RecursionError, ValueError):  # too deep; more digits than are ever written out
        return f"a {type(value).__name__}"
    return told if len(told) <= SHOWN else f"{told[: SHOWN - 1]}…"


def reason(error: BaseException) -> str:
    """What an error says, as a part of a sentence: the system's words ("Permission denied"), else its first line."""
    told = (getattr(error, "strerror", None) or str(error)).strip()
    return (told or type(error).__name__).splitlines()[0].rstrip(":. ")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was asked for and not there: a GPU's, or the machine's."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    marks = ("out of memory", "not enough memory", "can't allocate memory", "Cannot allocate memory", "ALLOC_FAILED")
    return isinstance(error, (RuntimeError, OSError)) and any(mark in str(error) for mark in marks)


def blameless(error: BaseException) -> bool:
    """Whether a file that was being read has nothing to do with an error: memory, a missing library, a bug of ours."""
    return out_of_memory(error) or importing(error) or is_bug(error)


def is_bug(error: BaseException) -> bool:
    """Whether code of this package made a mistake of its own, which no file or setting can be blamed for."""
    if not isinstance(error, (TypeError, AttributeError, NameError, AssertionError)) or error.__traceback__ is None:
        return False
    last = error.__traceback__
    while last.tb_next is not None:
        last = last.tb_next
    package = __name__.rsplit(".", 2)[0]
    return last.tb_frame.f_globals.get("__name__", "").startswith(f"{package}.")
