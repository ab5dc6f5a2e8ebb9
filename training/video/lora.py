"""LoRA by PEFT: low-rank additions to a network's projections, saved under names ComfyUI's LoRA loader maps."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import torch
from torch import Tensor, nn

from ...errors import TrainingError
from ...libraries import library
from ...model_patches.checkpoints.converters.lora import TARGET
from ...model_patches.checkpoints.files import write
from ...model_patches.network.parts import PARTS
from ..config import LoraConfig

ADAPTER = "default"  # PEFT's name of the one adapter here
ATTENTION = r"to_q|to_k|to_v|to_out\.0"
FEED_FORWARD = r"ff\.net\.0\.proj|ff\.net\.2"


def is_lora(name: str) -> bool:
    return f".lora_A.{ADAPTER}." in name or f".lora_B.{ADAPTER}." in name


def targets(unet: nn.Module, config: LoraConfig) -> list[str]:
    """Names of the linear layers that get an addition."""
    roots = "|".join(root for part in config.parts for root in PARTS[part].prefixes)
    leaves = f"{ATTENTION}|{FEED_FORWARD}" if config.feed_forward else ATTENTION
    pattern = re.compile(rf"^(?:{roots})\..*\.(?:{leaves})$")
    found = [n for n, m in unet.named_modules() if pattern.match(n) and isinstance(m, nn.Linear)]
    if not found:
        raise TrainingError(
            f"model.lora.parts {', '.join(config.parts)} have no attention in this network; choose spatial, temporal, "
            "or a part that is switched on."
        )
    return found


def inject(unet: nn.Module, config: LoraConfig, seed: int) -> None:
    """Put zero additions on the network, in place; only they train afterwards."""
    peft = library("peft", "LoRA training")
    torch.manual_seed(seed)
    chosen = "|".join(re.escape(name) for name in targets(unet, config))
    additions = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, target_modules=f"^(?:{chosen})$")
    peft.inject_adapter_in_model(additions, unet)


def lora_weights(named: Mapping[str, Tensor], config: LoraConfig) -> dict[str, Tensor]:
    """`diffusion_model.<key>.lora_A/B.weight` and `.alpha` from the network's own names."""
    out: dict[str, Tensor] = {}
    for name, weight in named.items():
        if (match := re.fullmatch(rf"(.+)\.lora_([AB])\.{ADAPTER}\.weight", name)) is not None:
            module, side = match.groups()
            out[f"{TARGET}{module}.lora_{side}.weight"] = weight
            out[f"{TARGET}{module}.alpha"] = torch.tensor(float(config.alpha))
    return out


def save_lora(named: Mapping[str, Tensor], config: LoraConfig, path: Path, dtype: torch.dtype) -> None:
    metadata = {
        "modelspec.sai_model_spec": "1.0.0",
        "modelspec.architecture": "dreamfactory-video-unet/lora",
        "modelspec.title": "DreamFactory LoRA",
        "dreamfactory.lora": f"rank {config.rank}, alpha {config.alpha:g}, {','.join(config.parts)}",
    }
    write(path, lora_weights(named, config), metadata, dtype)
