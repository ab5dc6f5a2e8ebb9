"""What is said to a person: one sentence with what was given, what was expected, what to do.

And whom it may say it of: a file is to blame for what a library makes of it, not for memory that ran out, a library
that is missing, or a bug (`blameless`); what the system says of a file keeps the system's words (`reason`).
"""

from __future__ import annotations

import difflib
import os
import sys
import unicodedata
from collections.abc import Iterable
from types import TracebackType


class DreamFactoryError(ValueError):
    """What a person can mend. Its text is one sentence; a traceback would add nothing."""


class ConfigError(DreamFactoryError):
    """A network configuration that cannot be built."""


class CheckpointError(DreamFactoryError):
    """A file that cannot be read, written or understood as a network."""


class ScheduleError(DreamFactoryError):
    """A noise schedule that cannot be built or used as asked."""


class InputError(DreamFactoryError):
    """Input that cannot be used."""


class CannotWrite(InputError):
    """A file that cannot be written where it should be: a full disk, no permission."""


class CannotShow(InputError):
    """Why a video's frames cannot become pictures: "kind: what exactly, and what to do", to be put into a sentence."""


class SettingsError(DreamFactoryError):
    """A setting of a run file that cannot be: unknown, of another type, out of range."""


class TrainingError(DreamFactoryError):
    """A training run's config, data or folder that cannot be used."""


class LibraryError(DreamFactoryError, ImportError):
    """A library that cannot be had; libraries.py says which, why, and what mends it."""


class NodeError(DreamFactoryError):
    """What a node cannot do as it is wired or set."""

    field: str | None = None  # the node's input that the sentence begins with, once it is known


# The host shows it with its module, which would be the path of this folder.
NodeError.__module__ = "DreamFactory"


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
    """On one line, and never what a terminal cannot show or obeys."""
    return printable(" ".join(text.split()))


def printable(text: object) -> str:
    """What is about to be printed, on one line: names of files may hold line breaks, and what a terminal obeys."""
    return "".join(
        c if c.isprintable() or unicodedata.category(c) == "Zs" else c.encode("unicode_escape").decode()
        for c in str(text)
    )


def shown(value: object) -> str:
    """A value that a file or a person gave, for a sentence: never long, and never what a terminal cannot show."""
    try:
        told = repr(value)
    except (RecursionError, ValueError):  # too deep; more digits than are ever written out
        return f"a {type(value).__name__}"
    return told if len(told) <= SHOWN else f"{told[: SHOWN - 1]}…"


def nearest(name: object, known: Iterable[str]) -> str | None:
    """The known name that was probably meant; None: none is near."""
    return next(iter(difflib.get_close_matches(str(name)[:SHOWN], known, 1)), None)


def reason(error: BaseException) -> str:
    """What an error says, as a part of a sentence: the system's words ("Permission denied"), else its first line."""
    told = (getattr(error, "strerror", None) or str(error)).strip()
    return (told or type(error).__name__).splitlines()[0].rstrip(":. ")


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory was asked for and not there: a GPU's, or the machine's."""
    torch = sys.modules.get("torch")  # not brought for this question
    if isinstance(error, MemoryError) or (torch is not None and isinstance(error, torch.OutOfMemoryError)):
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
    package = __name__.rpartition(".")[0]
    return last.tb_frame.f_globals.get("__name__", "").startswith(f"{package}.")


def importing(error: BaseException) -> bool:
    """Whether an error is of an import, be it of the kind that a library makes of it."""
    while error.__cause__ is not None and not isinstance(error, ImportError):
        error = error.__cause__
    return isinstance(error, ImportError) or bool(running(error.__traceback__))


def running(traceback: TracebackType | None) -> str:
    """The library whose module was being run, the innermost of those that this package was importing; "" if none."""
    found = ""
    while traceback is not None:
        name = traceback.tb_frame.f_globals.get("__name__") or ""
        if is_ours(name):
            found = ""
        elif traceback.tb_frame.f_code.co_name == "<module>" and name != "__main__":
            top = name.partition(".")[0]
            found = found if top in sys.stdlib_module_names else top
        traceback = traceback.tb_next
    return found


def is_ours(name: str) -> bool:
    return name == __package__ or name.startswith(f"{__package__}.")
