"""`python -m dreamfactory.training run.toml [--set a.b=value ...]`, the same as `dreamfactory train`."""

from __future__ import annotations

import argparse
import os
import sys


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run", help="a .toml file, or the name of a preset such as demo")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=value", help="change one setting")
    parser.add_argument("--plan", action="store_true", help="show the memory each stage needs, and stop")
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
    from .run import train

    train(config, resume=not args.fresh)


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m dreamfactory.training", description=__doc__)
    add_arguments(parser)
    from ..model_patches.errors import CheckpointError, ConfigError
    from ..pipelines.errors import InputError
    from ..schedulers import ScheduleError
    from .errors import TrainingError

    try:
        run(parser.parse_args())
    except (CheckpointError, ConfigError, InputError, ScheduleError, TrainingError) as error:
        print(f"dreamfactory train: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
