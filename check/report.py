"""The lines of the check: what each found, as a table for people and JSON for reports."""

from __future__ import annotations

import json
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass, field
from pathlib import Path

from ..errors import InputError, LibraryError, out_of_memory, reason
from ..files import whole
from ..libraries import fault

RIGHT, WRONG, ABSENT = "right", "wrong", "not here"


class Wrong(Exception):
    """A line that found something wrong: the sentence what. facts: what was measured all the same."""

    def __init__(self, sentence: str, facts: dict | None = None) -> None:
        super().__init__(sentence)
        self.facts = facts or {}


class NotHere(Exception):
    """A line that cannot be run here: why."""


@dataclass
class Line:
    """One line of the table."""

    name: str
    verdict: str
    told: str = ""  # what is wrong, or why it is not here
    facts: dict = field(default_factory=dict)
    seconds: float = 0.0

    @property
    def shown(self) -> str:
        return self.told or ", ".join(f"{k} {_shown(v)}" for k, v in self.facts.items())


def run(name: str, check: Callable[[], dict], say: Callable[[str], object] = print) -> Line:
    """One line: `check` gives its facts, or raises Wrong or NotHere. Any other error is wrong, with its traceback."""
    began = time.perf_counter()
    try:
        line = Line(name, RIGHT, facts=check())
    except Wrong as error:
        line = Line(name, WRONG, str(error), error.facts)
    except (NotHere, LibraryError) as error:
        line = Line(name, ABSENT, str(error))
    except Exception as error:
        found = None if out_of_memory(error) else fault(error)
        if found is not None:
            line = Line(name, ABSENT, str(found))
        else:
            where = traceback.format_exc()
            line = Line(name, WRONG, f"{type(error).__name__}: {error}".splitlines()[0], {"traceback": where})
            say(where)
    line.seconds = round(time.perf_counter() - began, 1)
    say(row(line))
    return line


def row(line: Line) -> str:
    return f"{line.verdict:<8}  {line.name:<44}  {line.seconds:6.1f} s  {line.shown}"


def write(path: Path, lines: Iterable[Line], about: dict) -> None:
    """Whole or not at all. Raises InputError with one sentence."""
    text = json.dumps({**about, "lines": [asdict(line) for line in lines]}, indent=1) + "\n"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with whole(path) as temporary:
            temporary.write_text(text, "utf-8")
    except OSError as error:
        raise InputError(f"{path} cannot be written: {reason(error)}.") from error


def close(name: str, found: float, most: float, facts: dict) -> dict:
    """The facts, if a difference is within its tolerance; else wrong."""
    if not found <= most:  # NaN is not
        raise Wrong(f"{name} is {found:.2g} off, more than {most:.2g}", facts)
    return facts


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
