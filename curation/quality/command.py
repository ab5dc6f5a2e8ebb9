"""`dreamfactory curate-quality`: its options, and what is done by them."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ABOUT = """\
dreamfactory curate-quality
dreamfactory curate-quality --scale full --seed 1 --set scenes.detector=content --json

Makes videos of which everything is known in a temporary folder, works on them as `curate` does, and says how much was
found, and how much of what was found is true. quick takes some minutes of one core, full an hour.
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print everything as JSON")
    parser.add_argument("--scale", choices=("quick", "full"), default="quick", help="how many videos; default quick")
    parser.add_argument("--seed", type=int, default=0, help="other videos of the same kinds")
    parser.add_argument(
        "--previews", metavar="FOLDER", help="comfyui-workflow-templates-media-video, unpacked: real footage"
    )
    parser.add_argument("--set", action="append", default=[], metavar="a.b=value", help="change one setting")


def run(args: argparse.Namespace) -> None:
    from ...libraries import libraries
    from ..run_file import load

    config = load(None, args.set)
    libraries({name: ("curate-quality", "") for name in ("av", "cv2", "pyarrow", "scenedetect")})
    from .measure import measure

    previews = None if args.previews is None else Path(args.previews)
    found = measure(args.scale, args.seed, config, previews, quiet=args.json)
    print(json.dumps(found) if args.json else "\n".join(lines(found)))


def lines(found: dict[str, Any]) -> Iterator[str]:
    """For a person."""
    yield f"{'':22}{'found':>7}{'there':>7}{'false':>7}{'recall':>9}{'precision':>11}"
    kinds = ("cuts", "dissolves", "dissolves alike", "fades", "wipes")
    laid = ("letterbox", "logos", "watermarks", "marks", "text")
    for name in (*kinds, *laid, "duplicates"):
        yield _line(name, found[name])
    for name in kinds if found["real"] else ():
        if found["real"][name]["there"] or name != "dissolves alike":  # of which real footage has none
            yield _line(f"{name}, real footage", found["real"][name])
    for name in laid if found["over_real"] else ():
        yield _line(f"{name}, real footage", found["over_real"][name])
    for where, row in (("clips", found), ("clips, real footage", found["real"])):
        if row:
            yield f"{where:22}{row['clips']:>7}, {row['clips_with_transition']} of them with frames of a transition"
    for event, row in found["events"].items():
        yield f"{'no ' + event:22}{row['videos']:>7} videos, {row['alarms']} alarms"
    cost, files = found["cost"], found["files"]
    yield f"{'scene detector':22}{cost['ms_per_frame']:>7.2f} ms a frame, {cost['judged']} times TransNetV2"
    yield f"{'files':22}{files['there']:>7}, {files['accounted']} accounted for, {files['crashed']} crashed a process"
    for file, why in files["unexpected"].items():
        yield f"  {file}: {why}"


def _line(name: str, row: dict[str, Any]) -> str:
    shares = "".join(
        f"{'-' if row.get(k) is None else format(row[k], '.3f'):>{w}}" for k, w in (("recall", 9), ("precision", 11))
    )
    told = row.get("cannot_tell")
    more = f"   {told['there']} cannot be told" if told and told["there"] else ""
    return f"{name:22}{row['found']:>7}{row['there']:>7}{row['false']:>7}{shares}{more}"
