"""diffusers folders: which files hold the weights, and what the others say of the network and its noise."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TypeGuard

from ....errors import CheckpointError, shown, some
from ....files import read_json
from .infer import heads_from_counts

PREDICTIONS = {"epsilon": "eps", "v_prediction": "v", "sample": "x0"}  # diffusers' names
BETAS = ("scaled_linear", "linear")
MOST = 2**20  # heads or channels
DIFFUSERS_WEIGHTS = "diffusion_pytorch_model"


def diffusers_files(path: Path) -> tuple[Path, list[Path]]:
    """The folder of a diffusers UNet and its weight files, from the shard index where there is one; safetensors where
    there are any, else torch.save's."""
    folder = path / "unet" if (path / "unet").is_dir() else path
    for suffix in (".safetensors", ".bin"):
        files = _files(folder, suffix)
        if files:
            return folder, files
    raise CheckpointError(f"{path} is no diffusers folder: it holds no {DIFFUSERS_WEIGHTS}*.safetensors (or .bin).")


def _files(folder: Path, suffix: str) -> list[Path]:
    for index in sorted(folder.glob(f"{DIFFUSERS_WEIGHTS}*{suffix}.index*.json"), key=lambda p: len(p.name)):
        try:
            names = sorted(set(read_json(index, "download it again")["weight_map"].values()))
            leads_out = [name for name in names if Path(name).name != name]
        except (KeyError, AttributeError, TypeError) as error:
            raise CheckpointError(f"{index} is no index of shards, or is damaged; download it again.") from error
        if leads_out:
            raise CheckpointError(f"{index} names {some(leads_out)}, outside of its folder; download it again.")
        missing = [name for name in names if not (folder / name).is_file()]
        if missing:
            raise CheckpointError(f"{folder} lacks {len(missing)} of {len(names)} weight files: {some(missing)}.")
        return [folder / name for name in names]
    # The plain file before its half-precision and EMA variants.
    files = [f for f in folder.glob(f"{DIFFUSERS_WEIGHTS}*{suffix}") if "-of-" not in f.name]
    return [min(files, key=lambda f: (len(f.name), f.name))] if files else []


def config_overrides(kind: str, path: Path, folder: Path) -> dict:
    """Fields that a folder says beside the weights. path: the pipeline's, where there is one; folder: the UNet's."""
    if kind == "animatediff":
        return _motion_of(folder / "config.json")
    known = _schedule_of(path / "scheduler" / "scheduler_config.json")
    return known | (_heads_of(folder / "config.json") if kind == "diffusers-unet2d" else {})


def _heads_of(config_file: Path) -> dict:
    """Heads from diffusers' config.json, where UNet2D's `attention_head_dim` is really their number."""
    values = _json(config_file)
    counts = values.get("num_attention_heads") or values.get("attention_head_dim")
    widths = values.get("block_out_channels")
    if not counts or not widths:
        return {}
    if isinstance(counts, int) and isinstance(widths, list):
        counts = [counts] * len(widths)
    if not (_are_counts(counts) and _are_counts(widths)):
        raise CheckpointError(f"{config_file} states widths or heads that are none; download it again.")
    return heads_from_counts(widths, counts)


def _are_counts(numbers: object) -> TypeGuard[list[int]]:
    return isinstance(numbers, list) and all(type(n) is int and 0 < n <= MOST for n in numbers)


def _motion_of(config_file: Path) -> dict:
    """Heads and groups from the config.json of a diffusers MotionAdapter."""
    values = _json(config_file)
    names = {"motion_num_attention_heads": "temporal_num_heads", "motion_norm_num_groups": "norm_groups"}
    return {ours: values[theirs] for theirs, ours in names.items() if isinstance(values.get(theirs), int)}


def _schedule_of(scheduler_file: Path) -> dict:
    """The noise schedule from a pipeline's scheduler: the only place where SD 2.x says v-prediction outright."""
    values = _json(scheduler_file)
    told: dict = {}
    prediction = values.get("prediction_type")
    if prediction is not None and not isinstance(prediction, str):
        raise CheckpointError(f"{scheduler_file} says prediction_type = {shown(prediction)}; download it again.")
    if prediction is not None:
        told["prediction"] = PREDICTIONS.get(prediction, prediction)
    if values.get("rescale_betas_zero_snr"):
        told["rescale"] = "lin"
    if values.get("timestep_spacing") is not None:
        told["spacing"] = values["timestep_spacing"]
    if values.get("beta_schedule") in BETAS:
        names = ("num_train_timesteps", "beta_start", "beta_end")
        told |= {name: values[name] for name in names if name in values} | {"betas": values["beta_schedule"]}
    return told


def _json(path: Path) -> dict:
    """A JSON object; {} where there is no such file."""
    return read_json(path, "download it again") if os.path.lexists(path) else {}
