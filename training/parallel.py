"""One process or many: the little that training needs to know of Accelerate, DDP and FSDP.

`accelerate launch -m dreamfactory.training run.toml` decides how many processes there are and how weights are spread
over them; nothing else here asks.
"""

from __future__ import annotations

import datetime
import os
from typing import TYPE_CHECKING, TypeGuard

import torch
from torch import Tensor, nn

from ..errors import TrainingError, reason
from .config import RunConfig

if TYPE_CHECKING:
    from torch.distributed.tensor import DTensor

# What FSDP shards by itself, where the launcher names nothing: the blocks that hold nearly all weights.
SHARDED = ("SpatialTransformer", "TemporalTransformer", "ResBlock", "TemporalConv", "SwapAttention", "Resampler")
WHOLE = ("Adafactor", "Prodigy")  # optimizers that look at a whole weight, or at all of them
PATIENCE = datetime.timedelta(hours=6)  # how long processes wait for the first one, while it validates or encodes


def accelerator(config: RunConfig):
    """Accelerate's handle on devices and processes. Raises TrainingError for a device that is not there."""
    from accelerate import Accelerator, DistributedDataParallelKwargs, InitProcessGroupKwargs
    from accelerate.state import AcceleratorState

    # A second run in the same Python process may want another precision.
    AcceleratorState._reset_state(reset_partial_state=True)
    device = config.device
    if device not in ("auto", "cpu"):
        try:
            torch.empty(0, device=device)
        except (RuntimeError, AssertionError) as error:
            raise TrainingError(f"device {device!r} cannot be used: {reason(error)}.") from error
        if device.startswith("cuda:"):
            torch.cuda.set_device(device)
    if config.precision == "fp16" and (device == "cpu" or not torch.cuda.is_available()):
        raise TrainingError("precision fp16 needs a GPU, whose small gradients are scaled; choose bf16 or fp32.")
    # Accelerate overlooks other processes on a machine without a card, unless it is told to use the CPU.
    cpu = device == "cpu" or (device == "auto" and not _has_card())
    precision = {"fp32": "no"}.get(config.precision, config.precision)
    handlers = [
        # A step may leave branches unused: still images the temporal half, an absent first frame the adapter.
        DistributedDataParallelKwargs(find_unused_parameters=True),
        InitProcessGroupKwargs(timeout=PATIENCE),
    ]
    try:
        made = Accelerator(mixed_precision=precision, cpu=cpu, kwargs_handlers=handlers)
    except ValueError as error:
        raise TrainingError(f"precision {config.precision} does not go with this device: {error}") from error
    _shard(made)
    return made


def _has_card() -> bool:
    known = getattr(torch, "accelerator", None)  # torch 2.6 and later
    return known.is_available() if known else torch.cuda.is_available() or torch.backends.mps.is_available()


def _shard(made) -> None:
    """FSDP where it was asked for; Accelerate overlooks that among CPUs."""
    from accelerate import DistributedType, FullyShardedDataParallelPlugin

    asked = os.environ.get("ACCELERATE_USE_FSDP", "false").lower() == "true"
    if asked and made.distributed_type == DistributedType.MULTI_CPU:
        made.state.distributed_type = DistributedType.FSDP
        made.state.fsdp_plugin = FullyShardedDataParallelPlugin()
    plugin = getattr(made.state, "fsdp_plugin", None)
    if plugin is not None and plugin.fsdp_version != 2:
        raise TrainingError("FSDP 1 cannot train a part of a network; launch with --fsdp_version 2.")


def prepare(made, module: nn.Module, optimizer: torch.optim.Optimizer):
    """Both as Accelerate spreads them over the processes."""
    plugin = getattr(made.state, "fsdp_plugin", None)
    if plugin is not None:
        from torch.distributed.fsdp import MixedPrecisionPolicy

        if type(optimizer).__name__ in WHOLE:
            raise TrainingError(
                f"optim.optimizer {type(optimizer).__name__.lower()} needs whole weights; launch without FSDP, or set "
                "optim.optimizer = 'adamw'."
            )
        present = {type(m).__name__ for m in module.modules()}
        plugin.transformer_cls_names_to_wrap = [name for name in SHARDED if name in present]
        plugin.set_auto_wrap_policy(module)
        plugin.cpu_ram_efficient_loading = False  # every process has read the weights itself
        # Autocast decides what computes in half precision, as without FSDP: weights are gathered as they are.
        plugin.mixed_precision_policy = MixedPrecisionPolicy()
    return made.prepare(module, optimizer)


def _is_dtensor(tensor: Tensor) -> TypeGuard[DTensor]:
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def whole(tensor: Tensor) -> Tensor:
    """A weight or moment, whole, wherever its shards are. All processes must ask for it together."""
    tensor = tensor.detach()
    return tensor.full_tensor() if _is_dtensor(tensor) else tensor


def spread_like(tensor: Tensor, like: Tensor) -> Tensor:
    """A whole tensor spread over the processes as `like` is, on its device, of its own dtype."""
    tensor = tensor.to(like.device)
    if _is_dtensor(like) and tensor.shape == like.shape:
        from torch.distributed.tensor import distribute_tensor

        return distribute_tensor(tensor, like.device_mesh, like.placements)
    return tensor.clone()


def any_process(made, flag: bool) -> bool:
    """Whether the flag is up on any process: all must stop at the same step."""
    if made.num_processes == 1:
        return flag
    return bool(made.reduce(torch.tensor(float(flag), device=made.device), "sum").item())


def mean_over_processes(made, numbers: dict[str, Tensor | float]) -> dict[str, float]:
    """Numbers of this process's share of a batch -> of the whole."""
    values = torch.tensor([float(v) for v in numbers.values()], dtype=torch.float64).float().to(made.device)
    if made.num_processes > 1:
        values = made.reduce(values, "mean")
    return dict(zip(numbers, values.tolist(), strict=True))


def of_every_process(made, value: object) -> list:
    """What each process holds, in their order; all ask together."""
    if made.num_processes == 1:
        return [value]
    from accelerate.utils import gather_object

    return gather_object([value])
