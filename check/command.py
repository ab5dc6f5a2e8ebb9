"""`dreamfactory check`: the arguments, and which lines there are."""

from __future__ import annotations

import argparse
import datetime
import os
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

PARTS = ("network", "upscaler", "trainer", "comfyui")
NO_CARD, FOUND_WRONG = 3, 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--out", default="out/check.json", help="the JSON file (default out/check.json)")
    parser.add_argument("--device", default="cuda", help="cuda (the first card), cuda:1, or cpu: every line in small")
    parser.add_argument("--only", action="append", choices=PARTS, help="leave the other parts out; several times")
    parser.add_argument("--minutes", type=float, default=5.0, help="lines that come later are left out (default 5)")


def check(args: argparse.Namespace) -> int:
    """Exit code: 0 all right, 1 something wrong, 3 without a card. Raises InputError with one sentence."""
    import torch

    from ..errors import InputError
    from ..files import no_file
    from . import device, host, network, report, trainer, upscaler

    if Path(args.out).exists() and (told := no_file(args.out)) is not None:
        raise InputError(f"{told}; give the name of a file as --out.")
    where = _device(args.device)
    if where is None:
        built = f"CUDA {torch.version.cuda}" if torch.version.cuda else "no CUDA"
        print(
            f"dreamfactory check: there is no card that torch {torch.__version__} (built for {built}) can use; install "
            "a torch for your card, or give --device cpu, which runs every line in small."
        )
        return NO_CARD
    if where.type == "cpu":
        torch.set_num_threads(1)  # such small networks take many times longer with more, where others compute too
    parts, written, lines = args.only or PARTS, Path(args.out), []
    with tempfile.TemporaryDirectory(prefix="dreamfactory-check-") as folder:
        # What torch.compile keeps goes with the rest.
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{folder}/inductor")
        os.environ.setdefault("TRITON_CACHE_DIR", f"{folder}/triton")
        here = device.Here(where, Path(folder), small=where.type != "cuda", ends=time.monotonic() + 60 * args.minutes)
        about = device.about(here)

        def keep() -> None:
            """After every line: whatever ends the check, what it found so far is there."""
            report.write(written, lines, {"date": datetime.date.today().isoformat(), **about})

        def line(name: str, what: Callable[[], dict]) -> report.Line:
            def in_time() -> dict:
                if time.monotonic() > here.ends:
                    raise report.NotHere(f"no time left of {args.minutes:g} minutes (--minutes)")
                return what()

            lines.append(report.run(name, in_time))
            keep()
            return lines[-1]

        keep()
        print(", ".join(f"{k} {v}" for k, v in about.items()))
        line("the device at its best", partial(device.ceilings, here))
        if "network" in parts or "comfyui" in parts:
            for dtype, name in network.NAMES.items():
                line(f"demo in {name}", partial(network.demo, here, dtype))
        if "comfyui" in parts and line("ComfyUI", partial(host.prepare, here)).verdict == report.RIGHT:
            for mode in host.MODES:
                lines += host.lines(here, mode, print)
                keep()
        if "upscaler" in parts:
            line("upscaler in six sizes of memory", partial(upscaler.ladder, here))
        if "network" in parts:
            line("a full-size network", partial(network.speed, here))
            line("the same bits", partial(network.same_seed, here))
            line("CUDA graph", partial(network.cuda_graph, here))
            line("torch.compile", partial(network.compiled, here))
        if "trainer" in parts:
            for precision in ("fp32", "bf16", "fp16"):
                line(f"training in {precision}, stopped and resumed", partial(trainer.resume, here, precision))
    count = {v: sum(x.verdict == v for x in lines) for v in (report.RIGHT, report.WRONG, report.ABSENT)}
    print(", ".join(f"{n} {v}" for v, n in count.items()) + f"; written: {written}")
    return FOUND_WRONG if count[report.WRONG] else 0


def _device(name: str):
    """The device of this name; None without a card."""
    import torch

    from ..errors import InputError, reason

    try:
        asked = torch.device(name)
    except RuntimeError as error:
        raise InputError(f"device is {name!r}; expected cuda, cuda:1 or cpu ({reason(error)}).") from error
    if asked.type not in ("cuda", "cpu"):
        raise InputError(f"device is {name!r}; the check knows cuda and cpu.")
    if asked.type == "cpu":
        return asked
    if not torch.cuda.is_available():
        return None
    index, count = asked.index or 0, torch.cuda.device_count()
    if index >= count:
        raise InputError(f"device is {name!r}; there are {count} cards here, cuda:0 to cuda:{count - 1}.")
    card = torch.device("cuda", index)
    torch.cuda.set_device(card)
    return card
