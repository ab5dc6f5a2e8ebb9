"""What a network is, for people and for programs: parameters by part, config, schedule."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Any

from ..errors import CheckpointError
from ..model_patches import UNetConfig, VideoUNet, preset, read_header
from ..model_patches.checkpoints.files import PARTS_FIELD, Header
from ..model_patches.checkpoints.save import check_parts, check_shapes, shapes_of
from ..model_patches.network.parts import count_parameters
from ..model_patches.upscaling.rcan import rcan_config


def describe(config: UNetConfig, schedule: dict | None = None, header: Header | None = None, name: str = "") -> dict:
    """Facts of a network, counted on the meta device: no weight is allocated.

    `parameters` and `parts` count the denoising network; the image projector, which runs once a clip, is beside it.
    header: of the file called `name`, whose weights must be this network's, or CheckpointError is raised.
    """
    unet = VideoUNet(config, device="meta")
    if header is not None:
        check_shapes(shapes_of(unet.state_dict()), header.shapes, name)
    parts = count_parameters(unet)
    projector = parts.pop("image_projector", 0)
    return {
        "parameters": sum(parts.values()),
        "parts": parts,
        "image_projector": projector,
        "config": config.to_dict(),
        "schedule": schedule,
    }


def describe_preset(name: str) -> dict:
    return {"name": name, **describe(preset(name))}


def describe_file(path: str | Path) -> dict:
    """Of our own file from its header alone; a public file is converted in memory first."""
    header = read_header(path)
    if header.kind == "unet":
        return {"name": str(path), **describe(header.config, header.schedule, header, str(path))}
    if header.kind == "patch":
        parts = header.metadata.get(PARTS_FIELD, "")
        check_parts(header.config, header.shapes, parts.split(","), str(path))
        weights = sum(_size(shape) for shape in header.shapes.values())
        return {
            "name": str(path),
            "parameters": weights,
            "parts": {parts: weights},
            "config": header.config.to_dict(),
            "schedule": header.schedule,
            "patch": True,
        }
    upscaler = rcan_config(header.shapes)
    if upscaler is not None:
        weights = sum(_size(shape) for shape in header.shapes.values())
        return {
            "name": str(path),
            "parameters": weights,
            "parts": {f"RCAN x{upscaler.scale}": weights},
            "upscaler": asdict(upscaler),
        }
    from ..model_patches.checkpoints.converters import convert_file_in_memory

    if _is_image_upscaler(header):
        return {"name": str(path), **_describe_upscaler(path)}
    config, schedule, weights, report = convert_file_in_memory(path, header)
    check_shapes(shapes_of(VideoUNet(config, device="meta").state_dict()), shapes_of(weights), str(path))
    return {"name": str(path), **describe(config, schedule), "source": report.to_dict()}


def _is_image_upscaler(header: Header) -> bool:
    """Of a kind that spandrel may know."""
    from ..model_patches.checkpoints.converters.recognise import UPSCALER, recognise

    try:
        recognise(header)
    except CheckpointError as error:
        return UPSCALER in str(error)
    return False


def _describe_upscaler(path: str | Path) -> dict:
    """Facts of a public upscaler, which spandrel tells apart and builds."""
    from ..model_patches.upscaling.upscaler import load_upscaler

    upscaler = load_upscaler(path)
    descriptor: Any = upscaler.call  # spandrel's: an RCAN did not come here
    architecture = descriptor.architecture.name
    weights = sum(p.numel() for p in upscaler.network.parameters())
    return {
        "parameters": weights,
        "parts": {f"{architecture} x{upscaler.scale}": weights},
        "upscaler": {
            "architecture": architecture,
            "scale": upscaler.scale,
            "fp16": upscaler.half,
            "bf16": upscaler.bfloat16,
        },
    }


def readable(facts: dict) -> str:
    """The same as a few lines of text."""
    lines = [facts["name"], f"{facts['parameters']:>15,}  parameters"]
    lines += [f"{count:>15,}    {name}" for name, count in facts["parts"].items()]
    if facts.get("image_projector"):
        lines.append(f"{facts['image_projector']:>15,}  image projector (runs once a clip, not counted above)")
    if "upscaler" in facts:
        return "\n".join([*lines, *(f"    {k} = {v}" for k, v in facts["upscaler"].items())])
    defaults = UNetConfig().to_dict()
    changed = {k: v for k, v in facts["config"].items() if v != defaults[k]}
    lines.append("config, where it differs from Stable Diffusion 2.1's spatial half:")
    lines += [f"    {k} = {v}" for k, v in changed.items()] or ["    nowhere"]
    if facts.get("schedule"):
        lines.append("schedule:")
        lines += [f"    {k} = {v}" for k, v in facts["schedule"].items() if v is not None]
    lines += [f"note: {note}" for note in facts.get("source", {}).get("notes", [])]
    return "\n".join(lines)


def _size(shape: tuple[int, ...]) -> int:
    size = 1
    for side in shape:
        size *= side
    return size
