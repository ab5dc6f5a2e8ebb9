"""`dreamfactory train`: its options, and what is done by them. What torch brings is imported when the command runs."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from ..errors import TrainingError


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
    from ..files import no_file
    from .run_file import load_run

    def refuse_no_file(path: str, or_folder: bool = False) -> None:  # a pipe would be waited for
        if Path(path).exists() and (told := no_file(path, or_folder)) is not None:
            raise TrainingError(f"{told}; give {'a folder' if or_folder else 'a .toml file'}.")

    if Path(args.run).suffix:  # presets have none, and may be called as a folder that is there
        refuse_no_file(args.run)
    if args.plan + args.survey + args.fresh > 1:
        raise TrainingError("--plan, --survey and --fresh each do something of their own; give one of them.")
    config = load_run(args.run, args.set)
    refuse_no_file(config.output.folder, or_folder=True)
    if args.plan:
        from .plan import show

        print(show(config, max(1, args.gpus)))
        return
    if args.survey:
        from .survey import survey

        pages = survey(config)
        print("look at " + ", ".join(map(str, pages)))
        return
    from .loop import train

    if not train(config, resume=not args.fresh).done:
        sys.exit(130)  # stopped by a signal
