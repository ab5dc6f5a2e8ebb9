"""`python -m dreamfactory.training run.toml [--set a.b=value ...]`"""

from __future__ import annotations

import argparse
import sys

from .config import load_run
from .trainer import train


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="dreamfactory train", description=__doc__)
    parser.add_argument("run", help="a run file (.toml), or the name of a preset such as demo")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=value", help="change one setting")
    parser.add_argument("--fresh", action="store_true", help="do not continue a run found in the output folder")
    args = parser.parse_args(argv)
    try:
        train(load_run(args.run, args.set), resume=not args.fresh)
    except ValueError as error:
        print(f"dreamfactory train: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
