"""How much memory one forward pass of the full-size networks needs, and what to tell ComfyUI.

    OMP_NUM_THREADS=1 <ComfyUI's python> benchmarks/memory.py --host <ComfyUI> [--out benchmarks/memory.json]

ComfyUI estimates the activations of a pass as rows * height * width * bytes of a number * 0.01 MiB * factor (rows:
frames of all clips). Here networks run on torch's meta device, where tensors have sizes and no numbers, and every
storage is counted from its making to its end; attention counts as fused. No GPU is needed, and what a GPU's kernels
take for themselves is not in it. ComfyUI's own Stable Diffusion 1.5, counted the same way, tells how much its factor
(1.0) leaves for that.
"""

from __future__ import annotations

import argparse
import datetime
import importlib.util
import json
import platform
import sys
from pathlib import Path

import torch
from torch import Tensor

ROOT = Path(__file__).parents[1]
PRESETS = ("videocrafter2", "dynamicrafter-512", "videofactory", "factorized-dreamer", "dreamfactory")
SIZES = ((16, 40, 64), (16, 64, 64), (32, 40, 64))  # frames, height, width of the latents
CLIPS = 2  # with and without the prompt
DTYPE = torch.float16


def fused_attention(q: Tensor, k: Tensor, v: Tensor, heads: int, *args, **kwargs) -> Tensor:
    """What a fused kernel leaves behind: its result."""
    return torch.empty_like(q, memory_format=torch.contiguous_format)


def factor(peak: int, rows: int, height: int, width: int) -> float:
    """The factor with which ComfyUI's estimate (BaseModel.memory_required) is this peak."""
    return peak / (rows * height * width * DTYPE.itemsize * 0.01 * 2**20)


def meta(*shape: int) -> Tensor:
    return torch.empty(shape, dtype=DTYPE, device="meta")


@torch.no_grad()
def peak_of(forward) -> int:
    from dreamfactory.training.live import Live

    with Live() as live:
        forward()
    return live.peak


def video_network(name: str, frames: int, height: int, width: int) -> int:
    from dreamfactory.model_patches import Conditions, VideoUNet
    from dreamfactory.model_patches.network.presets import preset

    config = preset(name)
    unet = VideoUNet(config, attention=fused_attention, dtype=DTYPE, device="meta").eval()
    given = {}
    if config.motion_text != "off":
        given["motion_text"] = meta(CLIPS, 77, config.motion_dim)
    if config.first_frame_concat != "off" or config.paca:
        given["first_frame"] = meta(CLIPS, config.in_channels, height, width)
    if config.image_projector is not None:
        projector = config.image_projector
        given["image_tokens"] = meta(CLIPS, projector.queries * (projector.frames or 1), projector.output_dim)
    x, t = meta(CLIPS * frames, config.in_channels, height, width), torch.empty(CLIPS, device="meta")
    conditions = Conditions(meta(CLIPS, 77, config.context_dim), **given)
    return peak_of(lambda: unet(x, t, conditions, num_frames=frames))


def image_network(rows: int, height: int, width: int) -> int:
    """ComfyUI's own UNet, as Stable Diffusion 1.5."""
    import comfy.ldm.modules.attention as attention
    import comfy.ops
    from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel

    attention.optimized_attention = attention.optimized_attention_masked = fused_attention
    unet = UNetModel(
        image_size=32, in_channels=4, out_channels=4, model_channels=320, channel_mult=(1, 2, 4, 4), context_dim=768,
        num_res_blocks=[2] * 4, transformer_depth=[1, 1, 1, 1, 1, 1, 0, 0], transformer_depth_middle=1,
        transformer_depth_output=[1] * 9 + [0] * 3, use_spatial_transformer=True, legacy=False, num_heads=8,
        num_head_channels=-1, use_linear_in_transformer=False, dtype=DTYPE, device="meta",
        operations=comfy.ops.disable_weight_init,
    ).eval()  # fmt: skip
    x, t, text = meta(rows, 4, height, width), torch.empty(rows, device="meta"), meta(rows, 77, 768)
    return peak_of(lambda: unet(x, t, context=text))


def import_package(host: str | None = None) -> None:
    """This repository as `dreamfactory`, where it is not installed, and ComfyUI if asked for."""
    if host is not None:
        sys.path.insert(0, host)
        import comfy.cli_args

        comfy.cli_args.args.cpu = True
        comfy.cli_args.args.use_pytorch_cross_attention = True  # as on a GPU; a CPU's default saves memory for time
    if importlib.util.find_spec("dreamfactory") is None:
        spec = importlib.util.spec_from_file_location(
            "dreamfactory", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
        )
        assert spec is not None  # a .py file has both
        assert spec.loader is not None
        sys.modules["dreamfactory"] = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(sys.modules["dreamfactory"])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--host", required=True, help="the folder of ComfyUI")
    parser.add_argument("--out", default="benchmarks/memory.json")
    args = parser.parse_args()
    import_package(args.host)
    rows = []

    def add(name: str, clips: int, frames: int, height: int, width: int, peak: int) -> None:
        needed = round(factor(peak, clips * frames, height, width), 3)
        known = {"network": name, "clips": clips, "frames": frames, "latents": [height, width]}
        rows.append({**known, "peak_mib": round(peak / 2**20), "factor": needed})
        print(rows[-1], flush=True)

    for height, width in ((40, 64), (64, 64)):
        add("Stable Diffusion 1.5, ComfyUI's own", CLIPS, 1, height, width, image_network(CLIPS, height, width))
    own = max(row["factor"] for row in rows)
    for name in PRESETS:
        for frames, height, width in SIZES:
            add(name, CLIPS, frames, height, width, video_network(name, frames, height, width))
    most = max(row["factor"] for row in rows)
    result = {
        "command": "OMP_NUM_THREADS=1 <ComfyUI's python> benchmarks/memory.py --host <ComfyUI>",
        "machine": f"any: meta device, {DTYPE}, torch {torch.__version__}, {platform.machine()}",
        "date": datetime.date.today().isoformat(),
        # ComfyUI says 1.0 for Stable Diffusion 1.5: the same share is left for what is not counted.
        "memory_usage_factor": round(most / own, 2),
        "rows": rows,
    }
    Path(args.out).write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
