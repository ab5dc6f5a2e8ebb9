"""`python -m dreamfactory.training run.toml [--set a.b=value ...]`, the same as `dreamfactory train`.

`accelerate launch -m dreamfactory.training run.toml` starts it on several processes.
"""

from __future__ import annotations

import argparse
import os
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a .toml file, or the name of a preset such as demo")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=value", help="change one setting")
    parser.add_argument("--plan", action="store_true", help="show the memory each stage needs, and stop")
    parser.add_argument("--survey", action="store_true", help="look at the data, write a page about it, and stop")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="of the plan: how many share a batch")
    parser.add_argument(
        "--fresh", action="store_true", help="begin anew; a run found in the output folder is moved aside"
    )


def run(args: argparse.Namespace) -> None:
    # The same bits wherever memory lies: MKL's products may otherwise depend on it, and with them a resumed run.
    os.environ.setdefault("MKL_CBWR", "AUTO,STRICT")
    from .config import load_run

    config = load_run(args.run, args.set)
    if args.plan:
        from .plan import show

        print(show(config, max(1, args.gpus)))
        return
    if args.survey:
        from .survey import survey

        pages = survey(config)
        print("look at " + ", ".join(map(str, pages)))
        return
    from .run import train

    if not train(config, resume=not args.fresh).done:
        sys.exit(130)  # stopped by a signal


if __name__ == "__main__":
    from ..cli import main

    sys.exit(main(["train", *sys.argv[1:]]))
