"""LoRAs in PEFT's names -> `diffusion_model.<our key>.lora_A/B.weight`, which ComfyUI's own LoRA loader maps.

PEFT and diffusers write `base_model.model.<module>.lora_A.weight` or `unet.<module>.lora_A.weight`, with diffusers'
module names or with ours. The host maps none of the two on networks of Stable Diffusion's kind.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor

from ..errors import CheckpointError
from ..files import Header
from ..parts import PARTS
from ..presets import preset
from .diffusers_names import diffusers_names
from .keys import rename
from .report import Report

PEFT = re.compile(r"^(?:base_model\.model\.)?(?:unet\.)?(?P<module>.+)\.lora_(?P<side>[AB])(?:\.\w+)?\.weight$")
PREFIXES = ("base_model.model.", "unet.")
TARGET = "diffusion_model."


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
    scale = _scale(path, header)
    renamed: dict[str, Tensor] = {}
    for key, weight in state.items():
        match = found.get(key)
        if not match or match["module"] not in places:
            renamed[key] = weight
            continue
        place = TARGET + places[match["module"]]
        renamed[f"{place}.lora_{match['side']}.weight"] = weight
        report.loaded.append(f"{place}.lora_{match['side']}.weight")
        if match["side"] == "A" and scale is not None:
            renamed[f"{place}.alpha"] = torch.tensor(scale * weight.shape[0])
    report.notes.append(
        "the file states no scale; the host takes it as 1 (alpha = rank)" if scale is None else f"scale {scale:g}"
    )
    return renamed, report


def _scale(path: Path, header: Header) -> float | None:
    """alpha / rank (rank-stabilised: alpha / sqrt(rank)) as PEFT's config states it."""
    try:
        if "lora_adapter_metadata" in header.metadata:
            stated = json.loads(header.metadata["lora_adapter_metadata"])
        elif (path.parent / "adapter_config.json").is_file():
            stated = json.loads((path.parent / "adapter_config.json").read_text("utf-8"))
        else:
            return None
        values = {k.removeprefix("unet."): v for k, v in stated.items()}
        rank, alpha = values["r"], values["lora_alpha"]
        return alpha / rank**0.5 if values.get("use_rslora") else alpha / rank
    except (OSError, ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise CheckpointError(
            f"{path}: its LoRA config (r, lora_alpha) cannot be read; save the LoRA again."
        ) from error
