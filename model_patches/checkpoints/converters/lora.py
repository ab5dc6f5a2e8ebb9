"""LoRAs in PEFT's names -> `diffusion_model.<our key>.lora_A/B.weight`, which ComfyUI's own LoRA loader maps.

PEFT and diffusers write `base_model.model.<module>.lora_A.weight` or `unet.<module>.lora_A.weight`, with diffusers'
module names or with ours. The host maps none of the two on networks of Stable Diffusion's kind.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from ....errors import CheckpointError, some
from ....files import read_json
from ...network.parts import PARTS
from ...network.presets import preset
from ..files import Header, settings
from .diffusers_names import diffusers_names
from .keys import rename
from .report import Report

PEFT = re.compile(r"^(?:base_model\.model\.)?(?:unet\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.\w+)?\.weight$")
PREFIXES = ("base_model.model.", "unet.")
TARGET = "diffusion_model."
LONGEST_PATTERN = 300  # characters of a module's name, as PEFT's config may have it


def is_peft(header: Header) -> bool:
    """Whether a file is a LoRA that the host would not map."""
    return any(k.startswith(PREFIXES) and PEFT.match(k) for k in header.shapes)


def rename_lora(path: Path, header: Header, state: Mapping[str, Tensor]) -> tuple[dict[str, Tensor], Report]:
    """Weights under the names the host maps, and what became of them.

    A scale that PEFT keeps beside the weights (the file's metadata or adapter_config.json) becomes `.alpha`. Weights
    of other modules, such as a text encoder's, keep their names.
    """
    report = Report("lora")
    found = {k: PEFT.match(k) for k in state if k.startswith(PREFIXES)}
    modules = {m["module"]: m["module"] for m in found.values() if m}
    ours = {part: part for spec in PARTS.values() for part in spec.prefixes}
    table, unknown = rename(modules, {**diffusers_names(preset("modelscope")), **ours})
    places = {source: target for target, source in table.items()}
    if not places:
        raise CheckpointError(f"{path}: none of its {len(state)} weights belongs to a UNet of this kind.")
    report.unexpected = [k for k, m in found.items() if m is None or m["module"] in unknown]
    alpha = stated_alpha(path, header)
    renamed: dict[str, Tensor] = {}
    for key, weight in state.items():
        match = found.get(key)
        if not match or match["module"] not in places:
            renamed[key] = weight
            continue
        place = TARGET + places[match["module"]]
        if f"{place}.lora_{match['side']}.weight" in renamed:
            raise CheckpointError(
                f"{path} holds several LoRAs of one network ({some([key])} is a second one); save one."
            )
        renamed[f"{place}.lora_{match['side']}.weight"] = weight
        report.loaded.append(f"{place}.lora_{match['side']}.weight")
        if match["side"] == "A" and alpha is not None:
            renamed[f"{place}.alpha"] = torch.tensor(alpha(match["module"], weight.shape[0]))
    _check_pairs(path, renamed)
    report.notes.append(
        "the file states no alpha; the host takes it as the rank" if alpha is None else "alpha as PEFT's config has it"
    )
    return renamed, report


def _check_pairs(path: Path, renamed: Mapping[str, Tensor]) -> None:
    """What a LoRA adds is B A: both sides are there, and of one rank."""
    for key, weight in renamed.items():
        place, dot, side = key.rpartition(".lora_")
        if not (dot and key.startswith(TARGET)):
            continue
        other = renamed.get(f"{place}.lora_{'B' if side == 'A.weight' else 'A'}.weight")
        module = some([place.removeprefix(TARGET)])
        if other is None:
            raise CheckpointError(f"{path} is damaged: {module} has lora_{side[0]} alone; save the LoRA again.")
        down, up = (weight, other) if side[0] == "A" else (other, weight)
        if min(down.ndim, up.ndim) < 2 or down.shape[0] != up.shape[1]:
            shapes = " and ".join("x".join(map(str, side.shape)) for side in (down, up))
            raise CheckpointError(
                f"{path} is damaged: lora_A and lora_B of {module} are {shapes}; save the LoRA again."
            )


def _matching(pattern: str) -> re.Pattern:
    """PEFT's matching. Raises ValueError for patterns that may search for longer than anyone waits."""
    if len(pattern) > LONGEST_PATTERN or len(re.findall(r"[*+{]", pattern)) > 2 or re.search(r"\)[*+?{]", pattern):
        raise ValueError("no name of a module")
    return re.compile(rf"(.*\.)?({pattern})$")


def stated_alpha(path: Path, header: Header, part: str = "unet") -> Callable[[str, int], float] | None:
    """(module, rank) -> alpha, as PEFT's config states it; None where none does.

    The config lies in the file's metadata, where diffusers writes it by part ("unet.lora_alpha"), or beside the file.
    What is added is alpha / rank * B A; rank-stabilised LoRA (rsLoRA) divides by the root of the rank instead.
    """
    try:
        if "lora_adapter_metadata" in header.metadata:
            stated = settings(header.metadata, "lora_adapter_metadata")
        elif (path.parent / "adapter_config.json").exists():
            stated = read_json(path.parent / "adapter_config.json", "save the LoRA again")
        else:
            return None
        values = {k.removeprefix(f"{part}."): v for k, v in stated.items()}
        if "lora_alpha" not in values and any(k.endswith(".lora_alpha") for k in values):
            return None  # of another part alone
        default, stabilised = float(values["lora_alpha"]), bool(values.get("use_rslora"))
        modules = (values.get("alpha_pattern") or {}).items()
        own = [(_matching(pattern), float(alpha)) for pattern, alpha in modules]
        if not all(map(math.isfinite, [default, *(alpha for _, alpha in own)])):
            raise ValueError("no number")
    except CheckpointError:
        raise
    except (ValueError, OverflowError, KeyError, TypeError, AttributeError, re.error) as error:
        raise CheckpointError(f"{path}: its LoRA config (lora_alpha) cannot be read; save the LoRA again.") from error

    def alpha(module: str, rank: int) -> float:
        stated = next((alpha for pattern, alpha in own if pattern.match(module)), default)
        return stated * rank**0.5 if stabilised else stated

    return alpha
