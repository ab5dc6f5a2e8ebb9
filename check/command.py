"""`dreamfactory check`: the arguments, and which lines there are."""

from __future__ import annotations

import argparse
import datetime
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

PARTS = ("network", "upscaler", "trainer", "comfyui")
NO_CARD, FOUND_WRONG = 3, 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="out/check.json", help="the JSON file (default out/check.json)")
    parser.add_argument("--device", default="cuda", help="cuda (the first card), cuda:1, or cpu: every line in small")
    parser.add_argument("--only", action="append", choices=PARTS, help="leave the other parts out; several times")


def check(args: argparse.Namespace) -> int:
    """Exit code: 0 all right, 1 something wrong, 3 without a card."""
    import torch

    from . import device, host, network, report, trainer, upscaler

    if args.device.startswith("cuda") and not torch.cuda.is_available():
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
        print(
            f"dreamfactory check: there is no card that torch {torch.__version__} (built for {built}) can use; install "
            "a torch for your card, or give --device cpu, which runs every line in small."
        )
        return NO_CARD
    where, parts = torch.device(args.device), args.only or PARTS
    if where.type == "cuda":
        torch.cuda.set_device(where)
    lines: list[report.Line] = []

    def line(name: str, what: Callable[[], dict]) -> None:
        lines.append(report.run(name, what))

    with tempfile.TemporaryDirectory(prefix="dreamfactory-check-") as folder:
        here = device.Here(where, Path(folder), small=where.type != "cuda")
        about = device.about(here)
        print(", ".join(f"{k} {v}" for k, v in about.items()))
        line("the device at its best", partial(device.ceilings, here))
        if "network" in parts or "comfyui" in parts:
            for dtype, name in network.NAMES.items():
                line(f"demo in {name}", partial(network.demo, here, dtype))
        if "network" in parts:
            line("a full-size network", partial(network.speed, here))
            line("the same bits", partial(network.same_seed, here))
            line("CUDA graph", partial(network.cuda_graph, here))
            line("torch.compile", partial(network.compiled, here))
        if "upscaler" in parts:
            line("upscaler in six sizes of memory", partial(upscaler.ladder, here))
        if "trainer" in parts:
            for precision in ("fp32", "bf16", "fp16"):
                line(f"training in {precision}, stopped and resumed", partial(trainer.resume, here, precision))
        if "comfyui" in parts:
            lines += host.lines(here, print)
    written = Path(args.out)
    report.write(written, lines, {"date": datetime.date.today().isoformat(), **about})
    wrong = [x.name for x in lines if x.verdict == report.WRONG]
    count = {v: sum(x.verdict == v for x in lines) for v in (report.RIGHT, report.WRONG, report.ABSENT)}
    print(", ".join(f"{n} {v}" for v, n in count.items()) + f"; written: {written}")
    return FOUND_WRONG if wrong else 0
