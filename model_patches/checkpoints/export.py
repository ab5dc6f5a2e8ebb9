"""Ours -> what peers read: the temporal half as AnimateDiff motion modules, ModelScope's network as diffusers'.

    animatediff        AnimateDiff's own names, read by AnimateDiff and its ComfyUI packs; one .safetensors
    diffusers-motion   diffusers' MotionAdapter
    diffusers-unet3d   diffusers' UNet3DConditionModel

A peer computes what its code says, whatever the weights were trained for: a config field that no peer knows is refused
by its name, parts that stay behind are told in the report. Inverses of converters/animatediff.py and
diffusers_names.py.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from ...errors import CheckpointError, some
from ...files import refuse_onto, whole
from ..network.attention import sine_positions
from ..network.config import UNetConfig
from ..network.layout import layout
from ..network.parts import part_of
from ..network.unet import VideoUNet
from .converters.animatediff import motion_names
from .converters.diffusers_names import diffusers_names
from .converters.folders import DIFFUSERS_WEIGHTS
from .converters.keys import rename
from .converters.report import Report
from .files import read_header, write
from .load import is_patch, read_network, read_patch

MAX_FRAMES = 32  # positions in the exported table: AnimateDiff v2's and v3's
HEADS = 8
WEIGHTS_FILE, CONFIG_FILE = f"{DIFFUSERS_WEIGHTS}.safetensors", "config.json"  # of a diffusers folder

# Fields as the peer's code has them, whatever the file says.
NO_PEER = {"motion_text": "off", "fusion": "sum", "temporal_skips": False, "swap_attention": "off"}
MOTION = {
    "temporal_attention": True,
    "temporal_conv": False,
    "init_temporal": False,
    "temporal_positions": "sinusoidal",
    **NO_PEER,
}
UNET3D = {
    "temporal_attention": True,
    "temporal_conv": True,
    "init_temporal": True,
    "init_temporal_heads": HEADS,
    "temporal_attention_middle": True,
    "temporal_positions": "none",
    "temporal_norm": "clip",
    "num_heads": None,
    "linear_projection": True,
    "first_frame_concat": "off",
    "image_adapter": "off",
    "paca": False,
    "frame_rate_embedding": "off",
    **NO_PEER,
}


@dataclass(frozen=True)
class _Form:
    peer: str
    needs: Mapping[str, object]
    part: str | None  # of the network that goes out; None: spatial and temporal


FORMS = {
    "animatediff": _Form("AnimateDiff", MOTION, "temporal"),
    "diffusers-motion": _Form("diffusers' MotionAdapter", MOTION, "temporal"),
    "diffusers-unet3d": _Form("diffusers' UNet3DConditionModel", UNET3D, None),
}


def export_motion(
    unet: VideoUNet, path: str | os.PathLike, names: str = "animatediff", dtype: torch.dtype | None = None
) -> Report:
    """Write a network, or its temporal half, in a peer's names; whole or not at all.

    names: one of FORMS. path: a .safetensors file, or for diffusers also a folder, which `from_pretrained` reads.
    Raises CheckpointError with a sentence that names the field which the peer has no place for.
    """
    return export_weights(unet.config, unet.state_dict(), path, names, dtype)


def export_file(src: str | os.PathLike, dst: str | os.PathLike, names: str, dtype: torch.dtype | None = None) -> Report:
    """As `export_motion`, from any network that `load_unet` reads, or from a temporal patch."""
    _check_place(Path(dst), names)  # before minutes of reading, not after them
    for written in (Path(dst), *(Path(dst) / name for name in (CONFIG_FILE, WEIGHTS_FILE))):
        if not written.is_dir():
            refuse_onto(written, src)
    config, _, state, _ = read_patch(src) if is_patch(read_header(src)) else read_network(src)
    return export_weights(config, state, dst, names, dtype)


def export_weights(
    config: UNetConfig,
    state: Mapping[str, Tensor],
    path: str | os.PathLike,
    names: str,
    dtype: torch.dtype | None = None,
) -> Report:
    """As `export_motion`, from weights that need not be in a network."""
    path = Path(path)
    _check_place(path, names)
    form = FORMS[names]
    _check(config, names, form)
    parts = (form.part,) if form.part else ("spatial", "temporal")
    out = {k: v for k, v in state.items() if part_of(k) in parts}
    missing = [k for k in VideoUNet(config, device="meta").state_dict() if part_of(k) in parts and k not in out]
    if missing:
        raise CheckpointError(
            f"it lacks {len(missing)} weights that {form.peer} needs ({some(missing)}); give a whole network."
        )
    report = Report("dreamfactory")
    _say_what_stays(state, out, report)
    table = diffusers_names(config) if names == "diffusers-unet3d" else motion_names(config, names == "animatediff")
    # Where diffusers' table has two names for one of our modules, the last is the one that has weights.
    renamed, report.unexpected = rename(out, {ours: theirs for theirs, ours in table.items()})
    if names == "diffusers-unet3d":
        renamed = {k: v[..., None] if ".temp_convs." in k and v.ndim == 4 else v for k, v in renamed.items()}
    else:
        renamed |= _tables(renamed, names)
        _note_norm(config, names, report)
    report.loaded = list(renamed)
    _write(path, renamed, config, names, dtype)
    return report


def _check_place(path: Path, names: str) -> None:
    if names not in FORMS:
        raise CheckpointError(f"there is no form {names!r} to export; choose from {', '.join(FORMS)}.")
    if path.suffix != ".safetensors" and (path.suffix or names == "animatediff"):
        folder = "" if names == "animatediff" else ", or be a folder without an ending"
        raise CheckpointError(f"{path.name} must end in .safetensors{folder}.")
    if not path.parent.is_dir():
        raise CheckpointError(f"{path} cannot be written: there is no folder {path.parent}.")


def _check(config: UNetConfig, names: str, form: _Form) -> None:
    """One sentence for the first field that the peer has no place for."""
    wanted = dict(form.needs)
    widths = {position.channels for position in layout(config).outputs}
    given = {"temporal_attention_levels": config.temporal_attention_levels or config.attention_levels}
    if names == "diffusers-unet3d":
        wanted |= {"temporal_attention_levels": config.attention_levels, "init_temporal_head_dim": config.head_dim}
        if any(config.temporal_heads(w) != config.heads(w) for w in widths):
            wanted["temporal_num_heads"] = None
    else:
        wanted["temporal_attention_levels"] = (True,) * len(config.channel_mult)
        if any(config.temporal_heads(w) != HEADS for w in widths):
            wanted["temporal_num_heads"] = HEADS
        if names == "animatediff":
            wanted["norm_groups"] = 32
    for name, value in wanted.items():
        own = given.get(name, getattr(config, name))
        if own != value:
            raise CheckpointError(
                f"{name} is {own!r}, for which {form.peer} has no place (it computes {value!r}); choose another form, "
                "or keep the network in our format."
            )


def _say_what_stays(state: Mapping[str, Tensor], out: Mapping[str, Tensor], report: Report) -> None:
    left = sorted({part_of(k) for k in state if k not in out})
    if left:
        report.notes.append(f"left behind: {', '.join(left)}")
    report.notes.append("the file cannot say with which noise and prediction it was trained; set them in the peer")


def _tables(renamed: Mapping[str, Tensor], names: str) -> dict[str, Tensor]:
    """The tables of positions, which peers keep beside the weights: AnimateDiff one an attention, diffusers one."""
    places = [f"attention_blocks.{i}.pos_encoder.pe" for i in range(2)] if names == "animatediff" else ["pos_embed.pe"]
    end = ".proj_in.weight"
    tables = {}
    for key, weight in renamed.items():
        if key.endswith(end):
            table = sine_positions(torch.arange(MAX_FRAMES), len(weight))[None]
            module = key.removesuffix(end)
            tables |= {f"{module}.transformer_blocks.0.{place}": table.to(weight.dtype).clone() for place in places}
    return tables


def _note_norm(config: UNetConfig, names: str, report: Report) -> None:
    theirs = "frame" if names == "animatediff" else "clip"
    if config.temporal_norm != theirs:
        report.notes.append(
            f"temporal_norm is {config.temporal_norm!r} here and {theirs!r} in {FORMS[names].peer}: expect small "
            "differences"
        )


def _write(path: Path, weights: dict[str, Tensor], config: UNetConfig, names: str, dtype: torch.dtype | None) -> None:
    metadata = {"format": "pt"}  # diffusers asks for it
    if path.suffix == ".safetensors":
        write(path, weights, metadata, dtype)
        return
    try:
        path.mkdir(exist_ok=True)
        write(path / WEIGHTS_FILE, weights, metadata, dtype)
        with whole(path / CONFIG_FILE) as temporary:
            temporary.write_text(json.dumps(_peer_config(config, names), indent=2) + "\n", "utf-8")
    except OSError as error:
        raise CheckpointError(f"{path} cannot be written: {error.strerror or error}.") from error


def _peer_config(config: UNetConfig, names: str) -> dict:
    """config.json of the diffusers class."""
    widths = [config.model_channels * m for m in config.channel_mult]
    if names == "diffusers-motion":
        return {
            "_class_name": "MotionAdapter",
            "block_out_channels": widths,
            "motion_layers_per_block": config.num_res_blocks,
            "motion_num_attention_heads": HEADS,
            "motion_norm_num_groups": config.norm_groups,
            "motion_max_seq_length": MAX_FRAMES,
            "use_motion_mid_block": config.temporal_attention_middle,
        }
    down = ["CrossAttnDownBlock3D" if attends else "DownBlock3D" for attends in config.attention_levels]
    up = ["CrossAttnUpBlock3D" if attends else "UpBlock3D" for attends in reversed(config.attention_levels)]
    return {
        "_class_name": "UNet3DConditionModel",
        "in_channels": config.in_channels,
        "out_channels": config.out_channels,
        "block_out_channels": widths,
        "layers_per_block": config.num_res_blocks,
        "down_block_types": down,
        "up_block_types": up,
        "attention_head_dim": config.head_dim,
        "cross_attention_dim": config.context_dim,
        "norm_num_groups": config.norm_groups,
    }
