"""Kernels that give the same bits for the same numbers, wherever a device offers a choice.

cuDNN picks among algorithms by what it finds: some add in any order, some round float32 to TF32's 10 bits, and which
one is picked may follow the memory that is free. What stays is that another shape of the same work (a smaller batch, a
thinner strip) is another sum in another order: equal up to rounding.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

# The settings are the process's: whoever comes first keeps what was, whoever leaves last puts it back.
_LOCK = threading.Lock()
_WITHIN = {"fixed": 0, "float32": 0}
_BEFORE: dict[str, Any] = {}


@contextmanager
def same_bits(tf32: bool = True) -> Iterator[None]:
    """cuDNN without algorithms that add in any order or are picked by the clock. tf32: whether float32 may be TF32.

    Other settings, and what the process computes afterwards, stay as they are. Nothing happens while torch.compile
    traces, which has its own choice of kernels.
    """
    if not torch.cuda.is_available() or torch.compiler.is_compiling():
        yield
        return
    wanted = ["fixed"] if tf32 else ["fixed", "float32"]
    with _LOCK:
        for name in wanted:
            _WITHIN[name] += 1
            if _WITHIN[name] == 1:
                _BEFORE[name] = _set(name, None)
    try:
        yield
    finally:
        with _LOCK:
            for name in wanted:
                _WITHIN[name] -= 1
                if _WITHIN[name] == 0:
                    _set(name, _BEFORE.pop(name))


def _set(name: str, back: Any) -> Any:
    """Make a setting ours, or, where `back` is given, what it was; returns what it was."""
    cudnn: Any = torch.backends.cudnn  # torch puts an object with more in it in the module's place
    if name == "fixed":
        before = cudnn.deterministic, cudnn.benchmark
        cudnn.deterministic, cudnn.benchmark = (True, False) if back is None else back
        return before
    try:
        before = cudnn.allow_tf32
        cudnn.allow_tf32 = False if back is None else back
    except RuntimeError:  # someone in this process sets it by torch's newer names, which do not go with this one
        before = cudnn.conv.fp32_precision
        cudnn.conv.fp32_precision = "ieee" if back is None else back
    return before
