"""`dreamfactory curate`: its options, and what is done by them."""

from __future__ import annotations

import argparse
import json
import re
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from ..errors import SettingsError, place, printable

if TYPE_CHECKING:
    from .curate import Result

ABOUT = """\
dreamfactory curate videos set
dreamfactory curate videos set --config hd-vg --set captions.path=models/blip2-opt-2.7b --runner processes
dreamfactory curate videos set --set filters.text=none

SOURCES is a folder of videos, a list of paths (.txt) or a table (.jsonl, .csv, .parquet) with a column file_name. The
same line again goes on where the last one stopped; other filters need no video again. Ends with 3 where some sources
failed, which are named.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("sources", help="a folder of videos, a video, a list (.txt) or a table (.csv …)")
    parser.add_argument("out", help="the folder of the set: shards, tables, a report")
    parser.add_argument("--config", metavar="PRESET|FILE", help="small (default), hd-vg, webvid-like or a .toml file")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=value", help="change one setting")
    parser.add_argument("--runner", choices=("inline", "processes", "ray"), help="engine.runner; default inline")
    parser.add_argument("--shard", metavar="i/n", help="this job's part of the sources, of an array of n jobs")
    parser.add_argument(
        "--json", action="store_true", help="print report.json; of an array's job that is not the last, what it did"
    )
    parser.add_argument("--quiet", action="store_true", help="no progress")


def run(args: argparse.Namespace) -> int:
    from .curate import curate, say
    from .run_file import load

    overrides = [*args.set, *([f"engine.runner={args.runner}"] if args.runner else [])]
    config = load(args.config, overrides)
    shard = None if args.shard is None else _shard(args.shard)
    if not args.out.strip():  # a variable that is not set
        raise SettingsError("OUT is empty; give the folder of the set.")
    out = Path(args.out)
    result = curate(args.sources, out, config, shard=shard, quiet=args.quiet or args.json)
    if args.json:
        print(json.dumps(result.facts or _unfinished(result)))
    else:
        say(result, out)
        for note in result.facts["notes"] if result.facts else ():
            print(f"note: {printable(note)}", file=sys.stderr)
    for label, problem in result.failed[:20]:
        print(f"failed: {place(label)}: {printable(problem)}", file=sys.stderr)
    if len(result.failed) > 20:
        print(f"and {len(result.failed) - 20} more, in {place(out / 'sources.parquet')}", file=sys.stderr)
    return 3 if result.failed else 0


def _unfinished(result: Result) -> dict[str, object]:
    """Of a job of an array while others are at work."""
    failed = [{"source": printable(source), "problem": printable(problem)} for source, problem in result.failed]
    return {"unfinished": True, "sources": result.done, "failed": failed}


def _shard(text: str) -> tuple[int, int]:
    """i from 1 to n, or from 0 to n - 1 as some schedulers count."""
    match = re.fullmatch(r"(\d{1,9})/(\d{1,9})", text)
    part, count = (int(match[1]), int(match[2])) if match else (1, 0)
    if count < 1 or part > count:
        raise SettingsError(f"--shard is {text!r}; expected i/n, the part i of n, such as 1/8.")
    return part, count
