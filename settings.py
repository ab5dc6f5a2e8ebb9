"""Plain data -> frozen dataclasses, strictly: unknown keys are errors that name the nearest one, types are checked.

What a run file may say is the dataclasses of its config.py (training, curation); this module knows none of them.
"""

from __future__ import annotations

import ast
import math
import os
import re
import shlex
import sys
import types
from collections.abc import Iterable
from dataclasses import fields, is_dataclass
from typing import Annotated, Any, Union, get_args, get_origin, get_type_hints

from .errors import SettingsError, nearest, shown

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pyright: ignore[reportMissingImports]  # installed for Python 3.10 alone

# In a dataclass: a text that names a file or folder, or stands for one ("demo", "fresh").
UserPath = Annotated[str, "a path"]
# In a dataclass: a program and its arguments, as a list, or as one text that is split as a shell would.
Command = Annotated[tuple[str, ...], "a command"]


class Given(str):
    """A value as it was written after --set: a text where a setting is one, otherwise what Python reads in it."""

    __slots__ = ()

    def read(self) -> Any:
        try:
            return {"true": True, "false": False, "none": None}[self.lower()]
        except KeyError:
            try:
                return ast.literal_eval(self)
            except (ValueError, SyntaxError):
                return self._toml() if self.lstrip()[:1] in "[{" else str(self)

    def _toml(self) -> Any:
        """A list or table as a run file has it."""
        try:
            return tomllib.loads(f"value = {self}")["value"]
        except ValueError:
            return str(self)


DEEPEST, LONGEST_NAME, LONGEST = 12, 100, 4096


def check_plain(value: object, name: str = "", depth: int = 0) -> None:
    """Refuse what no setting can be, before any sentence quotes it: deep nesting, long names, endless values."""
    where = name or "the run"
    if depth > DEEPEST:
        raise SettingsError(f"{where} is nested more than {DEEPEST} deep; settings are at most tables in tables.")
    if isinstance(value, dict):
        for key, entry in value.items():
            if not isinstance(key, str) or len(key) > LONGEST_NAME or not key.isprintable():
                raise SettingsError(f"{where} has a name that no setting has: {shown(key)}.")
            check_plain(entry, f"{name}.{key}" if name else key, depth + 1)
    elif isinstance(value, list | tuple):
        for entry in value:
            check_plain(entry, name, depth + 1)
    elif isinstance(value, str) and (len(value) > LONGEST or not _is_text(value)):
        raise SettingsError(f"{where} is {shown(value)}; expected a text of at most {LONGEST} characters.")
    elif isinstance(value, int) and abs(value) >= 2**63:
        raise SettingsError(f"{where} is a whole number of more than 64 bits; expected a smaller one.")


def _is_text(value: str) -> bool:
    try:
        value.encode()
    except UnicodeEncodeError:  # half a character
        return False
    return True


def build(cls, values: dict, where: str = ""):
    """A dataclass from plain data; `where` is the path of the table, for messages ("stage.1.optim.")."""
    hints = get_type_hints(cls, include_extras=True)
    known(values, [f.name for f in fields(cls)], where)
    return cls(**{name: _typed(hints[name], value, where + name) for name, value in values.items()})


def known(values: Iterable[str], names: list[str], where: str) -> None:
    """Refuse settings by other names than these, with the nearest one."""
    for name in values:
        if name not in names:
            near = nearest(name, names)
            hint = f"Did you mean {near!r}?" if near else f"Known: {', '.join(names)}."
            raise SettingsError(f"unknown setting {where}{name}. {hint}")


def _typed(hint, value, name: str):
    origin, inner = get_origin(hint), get_args(hint)
    if hint == Command:
        return _command(value, name)
    if isinstance(value, Given) and origin not in (Union, types.UnionType):
        value = _as_given(hint, value)
    if hint is Any:
        return value
    if origin in (Union, types.UnionType):
        if value is None or (isinstance(value, Given) and value.read() is None):
            return None
        return _typed(next(h for h in inner if h is not type(None)), value, name)
    if is_dataclass(hint):
        if not isinstance(value, dict):
            raise SettingsError(f"{name} is {value!r}; expected a table.")
        return build(hint, value, name + ".")
    if origin is tuple:
        count = None if inner[-1] is Ellipsis else len(inner)
        if not isinstance(value, list | tuple) or count not in (None, len(value)):
            raise SettingsError(f"{name} is {value!r}; expected {'a list' if count is None else f'{count} values'}.")
        kinds = inner if count else [inner[0]] * len(value)
        names = [f"{name}[{i}]" if is_dataclass(h) else name for i, h in enumerate(kinds, start=1)]
        return tuple(_typed(h, v, n) for h, v, n in zip(kinds, value, names, strict=True))
    if origin is dict:
        if not isinstance(value, dict):
            raise SettingsError(f"{name} is {value!r}; expected a table.")
        return {k: _typed(inner[1], v, f"{name}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint == UserPath:
        if not isinstance(value, str):
            raise SettingsError(f"{name} is {value!r}; expected a path.")
        return _expanded(value, name)
    if hint is float and isinstance(value, float) and not math.isfinite(value):
        raise SettingsError(f"{name} is {value}; expected a finite number.")
    if not isinstance(value, hint) or (hint is int and isinstance(value, bool)):
        raise SettingsError(f"{name} is {value!r}; expected {hint.__name__}.")
    return value


def _as_given(hint, value: Given) -> Any:
    """2024 is a folder's name where a path is asked for, and a number elsewhere."""
    read = value.read()
    return str(value) if hint in (str, UserPath) and not isinstance(read, str) else read


def _command(value: object, name: str) -> tuple[str, ...]:
    if isinstance(value, str):
        try:
            return tuple(shlex.split(value))
        except ValueError as error:  # a quotation without an end
            raise SettingsError(f"{name} is {shown(value)}, which cannot be split into words: {error}.") from error
    if not isinstance(value, list | tuple) or not all(isinstance(part, str) for part in value):
        raise SettingsError(f"{name} is {shown(value)}; expected a command and its arguments, all texts.")
    return tuple(value)


def _expanded(value: str, name: str) -> str:
    """With the home folder for ~ and environment variables for $NAME."""
    expanded = os.path.expandvars(os.path.expanduser(value))
    unset = re.search(r"\$(\w+|\{\w+\})", expanded)
    if unset and not os.path.exists(expanded):
        raise SettingsError(f"{name} is {value!r}, and no environment variable {unset[1].strip('{}')} is set.")
    return expanded


def override(values: dict, text: str) -> None:
    """Apply one `a.b=value` to plain data, in place. Tables in a list are named by number from 1, or by `name`."""
    path, equals, value = text.partition("=")
    if not equals:
        raise SettingsError(f"--set {text!r} has no '='; write a.b=value.")
    *parents, leaf = path.split(".")
    for i, parent in enumerate(parents):
        values = _entry(values, parent, text) if isinstance(values, list) else values.setdefault(parent, {})
        if not isinstance(values, dict | list):
            raise SettingsError(f"--set {text!r}: {'.'.join(parents[: i + 1])} is no table.")
    if isinstance(values, list):
        raise SettingsError(f"--set {text!r}: {'.'.join(parents)} is a list of tables; name one by its number from 1.")
    values[leaf] = _value(value, path)


def _entry(tables: list, name: str, text: str):
    for i, table in enumerate(tables, start=1):
        if name in (str(i), table.get("name") if isinstance(table, dict) else None):
            return table
    names = ", ".join(str(t.get("name", i)) for i, t in enumerate(tables, start=1))
    raise SettingsError(f"--set {text!r}: there is no {name!r}; choose from {names}.")


def _value(text: str, name: str):
    """Tables at once, as they are merged with others; anything else when its type is known."""
    if text.strip() in ("...", "…"):
        raise SettingsError(f"--set {name}={text} is a placeholder; write your own value in its place.")
    read = Given(text).read()
    return read if isinstance(read, dict | list | tuple) else Given(text)


def merged(base: dict, changes: dict) -> dict:
    """`changes` on top of `base`, table by table; neither is altered. Tables of shares replace each other whole."""
    out = dict(base)
    for key, value in changes.items():
        both = isinstance(value, dict) and isinstance(out.get(key), dict) and key not in ("mix", "kinds", "resize")
        out[key] = merged(out[key], value) if both else value
    return out
