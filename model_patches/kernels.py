"""Kernels that give the same bits for the same numbers, wherever a device offers a choice.

cuDNN picks among algorithms by what it finds: some add in any order, some round float32 to TF32's 10 bits, and which
one is picked may follow the memory that is free. What stays is that another shape of the same work (a smaller batch, a
thinner strip) is another sum in another order: equal up to rounding.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def same_bits(tf32: bool = True) -> Iterator[None]:
    """cuDNN without algorithms that add in any order or are picked by the clock. tf32: whether float32 may be TF32.

    Other settings, and what else the process computes later, stay as they are. Nothing happens while torch.compile
    traces, which has its own choice of kernels.
    """
    cudnn = torch.backends.cudnn
    if not torch.cuda.is_available() or torch.compiler.is_compiling():
        yield
        return
    before = cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32
    cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = True, False, tf32 and before[2]
    try:
        yield
    finally:
        cudnn.deterministic, cudnn.benchmark, cudnn.allow_tf32 = before
