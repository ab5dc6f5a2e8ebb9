"""What every node looks at before it works.

The host holds widgets to their ranges and choices, but for NaN; what comes by a link it takes as it is.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable
from numbers import Real
from typing import Any

from comfy_api.latest import io

from ..errors import NodeError


class CheckedNode(io.ComfyNode):
    """A node whose numbers, choices and texts are what its widgets allow, wherever they come from."""

    def __init_subclass__(cls, **kwargs) -> None:
        super().__init_subclass__(**kwargs)
        own = vars(cls).get("execute")
        if own is not None and not hasattr(
            own.__func__, "__wrapped__"
        ):  # the host makes a copy of a class for each run
            cls.execute = classmethod(_checked(own.__func__))


def _checked(execute: Callable) -> Callable:
    takes = inspect.signature(execute)

    @functools.wraps(execute)
    def checked(cls, *args, **kwargs):
        values = takes.bind_partial(cls, *args, **kwargs).arguments
        for spec in cls.define_schema().inputs:
            if values.get(spec.id) is not None:
                check(spec, values[spec.id])
        return execute(cls, *args, **kwargs)

    return checked


def check(spec: io.Input, value: Any) -> None:
    """Refuse a value that an input's widget could not have. Raises NodeError with one sentence."""
    told = None
    if isinstance(spec, io.Float.Input | io.Int.Input):
        low, high = spec.min, spec.max
        if not isinstance(value, Real) or not math.isfinite(value) or not low <= value <= high:
            told = f"{value} is not within {low:g} to {high:g}; choose a number there."
    elif isinstance(spec, io.Combo.Input) and not spec.id.endswith("_name"):  # a node looks names of files up itself
        if value not in spec.options:
            told = f"{str(value)[:80]!r} is none of its choices; refresh and choose again."
    elif isinstance(spec, io.String.Input) and isinstance(value, str) and "\0" in value:
        told = "there is a NUL character in the text; take it out."
    if told is not None:
        error = NodeError(f"{spec.id}: {told}")
        error.field = spec.id
        raise error
