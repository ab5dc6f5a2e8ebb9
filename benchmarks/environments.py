"""Every command in every environment: it works, or says at once what is missing and the line that mends it.

    python benchmarks/environments.py [--host ComfyUI/.venv] [--only "base,train"] [--work FOLDER]

Makes virtual environments in a temporary folder (some gigabytes; pip downloads what its cache has not), installs what
is committed into each, and runs each command as `python -m dreamfactory`. What a command advises, the script does in a
copy of that environment, and runs it again: it must work then, and torch must be the build it was. Advice is never run
by a shell, and only where it is `pip install` or `pip uninstall`. Writes `environments.json` and `environments.md`
beside this script. --host: the virtual environment of a ComfyUI, of which a copy is used; without it one is made.

Right are: "works"; "mended", and how many lines that took; "refused", where a file is none that the command takes. All
else is wrong, and the exit code is 1.
"""

from __future__ import annotations

import argparse
import datetime
import io
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tarfile
import tempfile
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

ROOT = Path(__file__).parents[1]
AT_ONCE = 60  # seconds in which a command has to say that something is missing; most of them is Python's imports
LINES = 3  # of advice that one command may take
SECONDS = 600


@dataclass(frozen=True)
class Environment:
    """after: the environment that it is a copy of; steps: what pip does in it then."""

    told: str
    after: str | None
    steps: tuple[str, ...] = ()


PINNED = "install --constraint constraints.txt"
ENVIRONMENTS = {
    "base": Environment("torch of constraints.txt, `pip install .`", None, (f"{PINNED} .",)),
    "generate": Environment("base, `.[generate]`", "base", (f"{PINNED} .[generate]",)),
    "train": Environment("base, `.[train]`: no torchvision, no spandrel", "generate", (f"{PINNED} .[train]",)),
    "make demo": Environment(
        "as `make demo` leaves it: `.[dev]`, spandrel, no torchvision",
        "train",
        (f"{PINNED} .[dev]", "install --no-deps spandrel>=0.4.1"),
    ),
    "torchvision for another torch": Environment(
        "make demo, and torchvision 0.27.0", "make demo", ("install --no-deps torchvision==0.27.0",)
    ),
    "host": Environment("ComfyUI's: torch 2.11, torchvision 0.26, spandrel; `pip install .`", "HOST", ("install .",)),
    "host, torch updated": Environment(
        "host, `pip install torch==2.12.1`: its torchvision is left behind", "host", ("install torch==2.12.1",)
    ),
    "host, train": Environment("host, `pip install '.[train]'`", "host", ("install .[train]",)),
    "older torch": Environment(
        "torch 2.9.1, `pip install '.[train]'`", None, ("install torch==2.9.1", "install .[train]")
    ),
}
HOST = "install torch==2.11.0 torchvision==0.26.0 torchaudio==2.11.0 spandrel transformers einops av safetensors tqdm"

SMALL = (
    "--set device=cpu --set threads=1 --set optim.batch_size=1 --set optim.warmup=1 --set data.workers=0 "
    "--set output.folder=run --set output.validation_clips=2"
)
TINY = f"train tiny {SMALL} --set optim.steps=2 --set output.validate_every=2"
COMMANDS = {
    "generate, the demo": "generate --checkpoint demo --image red_circle.png --text 'a red circle' "
    "--motion 'the red circle moves left' --frames 4 --steps 2 --seed 7 --out clip.mp4",
    "generate, captions alone, enlarged": "generate --checkpoint demo-text-to-video --text 'a yellow moon' "
    "--motion 'the yellow moon moves right' --frames 2 --steps 2 --upscale demo --out clip.mp4",
    "upscale, the demo's": "upscale small.mp4 large.mp4 --model demo --quiet",
    "upscale, a public network": "upscale small.mp4 large.mp4 --model compact.safetensors --quiet",
    "info, the demo": "info unet.safetensors --json",
    "info, a public upscaler": "info compact.safetensors",
    "info, a LoRA": "info lora.safetensors",
    "schedule, plotted": "schedule --frames 16 --height 512 --width 512 --plot curve.png",
    "train demo-upscaler": f"train demo-upscaler {SMALL} --set upscaler.patch=64 --set optim.steps=20 "
    "--set output.validate_every=10",
    "train demo": f"train demo {SMALL} --set optim.steps=4 --set output.validate_every=2 --set data.frames=4",
    "train, flow": f"{TINY} --set model.config.predict_net=true --set loss.flow_weight=1.0",
    "train, a LoRA": f"{TINY} --set model.lora.rank=4",
    "train, 8-bit Adam": f"{TINY} --set optim.optimizer=adamw8bit",
    "train, Prodigy": f"{TINY} --set optim.optimizer=prodigy --set optim.lr=1.0",
    "train, a parquet list": f"{TINY} --set sources.mine.path=clips --set data.frames=2 --set data.mix.mine=1.0 "
    "--set data.validation=0 --set output.validation_clips=0",
}

REFUSED = {"info, a LoRA": "this is a LoRA"}  # what is no network

# What the commands open, made in the environment "make demo", in the present folder.
FILES = """
import shutil, sys
from pathlib import Path
import av, numpy as np, pyarrow as pa, pyarrow.parquet as parquet, torch
from safetensors.torch import save_file
from dreamfactory.model_patches import load_unet
from dreamfactory.pipelines.bundle import DEMO
from dreamfactory.training.config import LoraConfig
from dreamfactory.training.video.lora import inject, is_lora, save_lora
from dreamfactory.model_patches.upscaling.upscaler import torchvision_or_none

with torchvision_or_none():
    from spandrel.architectures.Compact import Compact
shutil.copy(DEMO / "unet.safetensors", "unet.safetensors")
shutil.copy(DEMO / "pictures/red_circle.png", "red_circle.png")
torch.manual_seed(0)
save_file(Compact(num_conv=16, upscale=4).state_dict(), "compact.safetensors")
unet, config = load_unet("unet.safetensors"), LoraConfig(rank=4)
inject(unet, config, 0)
additions = {n: p.detach() for n, p in unet.named_parameters() if is_lora(n)}
save_lora(additions, config, Path("lora.safetensors"), torch.float32)
Path("clips").mkdir()
for name in ["small.mp4", *(f"clips/{k}.mp4" for k in range(4))]:
    with av.open(name, "w") as file:
        stream = file.add_stream("mpeg4", 8)
        stream.width = stream.height = 64
        for k in range(4):
            file.mux(stream.encode(av.VideoFrame.from_ndarray(np.full((64, 64, 3), 40 * k, np.uint8), format="rgb24")))
        file.mux(stream.encode())
rows = {"file_name": [f"{k}.mp4" for k in range(4)], "caption": ["a grey square"] * 4}
parquet.write_table(pa.table(rows), "clips/metadata.parquet")
"""


@dataclass
class Cell:
    """What came of one command in one environment."""

    environment: str
    command: str
    verdict: str  # "works" | "mended" | "refused" | "wrong: …"
    told: list[str] = field(default_factory=list)  # the sentences
    advice: list[str] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)  # of each time it was run

    @property
    def right(self) -> bool:
        return not self.verdict.startswith("wrong")


# -- environments -----------------------------------------------------------------------------------------------------


def python(environment: Path) -> str:
    return str(environment / ("Scripts/python.exe" if os.name == "nt" else "bin/python"))


def pip(environment: Path, arguments: list[str], folder: Path, answers: str = "") -> str:
    """What pip said. Raises SystemExit where it fails."""
    command = [python(environment), "-m", "pip", *arguments]
    done = subprocess.run(command, cwd=folder, input=answers, capture_output=True, text=True, timeout=1800, check=False)
    if done.returncode:
        raise SystemExit(f"pip {shlex.join(arguments)} failed in {environment.name}:\n{done.stdout}{done.stderr}")
    return done.stdout + done.stderr


def twin(source: Path, target: Path) -> None:
    """A copy by hard links, as pip removes files before it writes them anew. It is run by its own Python."""

    def link(a: str, b: str) -> None:
        try:
            os.link(a, b)
        except OSError:
            shutil.copy2(a, b)

    shutil.copytree(source, target, symlinks=True, copy_function=link)


def build(name: str, work: Path, host: Path | None) -> Path:
    """The environment, made if it is not there."""
    place = work / re.sub(r"\W+", "-", name)
    if place.exists():
        return place
    environment = ENVIRONMENTS[name]
    unfinished = place.with_name("unfinished")
    shutil.rmtree(unfinished, ignore_errors=True)
    steps = [shlex.split(step) for step in environment.steps]
    source = host if environment.after == "HOST" else None
    if environment.after is not None and environment.after != "HOST":
        source = build(environment.after, work, host)
    if source is not None:
        twin(source, unfinished)
    else:
        subprocess.run([sys.executable, "-m", "venv", str(unfinished)], check=True)
        steps = [shlex.split(HOST), *steps] if environment.after == "HOST" else steps
    print(f"making {name}: {environment.told}", flush=True)
    for step in steps:
        pip(unfinished, ["install", "--quiet", *step[1:]], work / "clone")
    unfinished.rename(place)
    return place


def clone(work: Path, revision: str) -> None:
    """The repository's files, as someone has them who cloned it."""
    shutil.rmtree(work / "clone", ignore_errors=True)
    packed = subprocess.run(["git", "archive", revision], cwd=ROOT, capture_output=True, check=True).stdout
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(work / "clone", filter="data")


def torch_of(environment: Path) -> str:
    """Version and build, without importing it."""
    (version,) = environment.glob("[Ll]ib/**/site-packages/torch/version.py")
    found = re.search(r"__version__ = '(.*?)'", version.read_text())
    assert found is not None, f"{version} states no version"
    return found[1]


# -- commands ---------------------------------------------------------------------------------------------------------


def run(environment: Path, command: str, files: Path) -> tuple[int, str, float, list[str]]:
    """Exit code, standard error, seconds, and what lies in the folder that did not before."""
    with tempfile.TemporaryDirectory(dir=environment.parent) as here:
        folder = Path(here) / "here"
        shutil.copytree(files, folder)
        before = set(folder.rglob("*"))
        began = time.perf_counter()
        # The environment stands first on the path, as it does for someone who has activated it.
        path = os.pathsep.join([str(Path(python(environment)).parent), os.environ["PATH"]])
        done = subprocess.run(
            [python(environment), "-m", "dreamfactory", *shlex.split(command)],
            cwd=folder,
            env={**os.environ, "OMP_NUM_THREADS": "1", "PATH": path, "CUDA_VISIBLE_DEVICES": ""},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )
        made = sorted(str(p.relative_to(folder)) for p in folder.rglob("*") if p not in before and p.is_file())
    return done.returncode, done.stderr, round(time.perf_counter() - began, 1), made


ADVICE = re.compile(r"(?:\S+ -m )?\bpip ((?:un)?install (?:'[^']*'|[^\s;,.()']+(?:\.[^\s;,.()']+)*|[ ])+)")


def advised(sentence: str) -> list[str] | None:
    """pip's arguments, of the first line of advice."""
    found = ADVICE.search(sentence)
    return found and shlex.split(found[1])


def try_out(name: str, command: str, place: Path, files: Path) -> Cell:
    cell = Cell(name, command, "works")
    torch = torch_of(place)
    mended = place.with_name("mended")
    shutil.rmtree(mended, ignore_errors=True)
    here = place
    for _ in range(LINES + 1):
        code, error, seconds, made = run(here, COMMANDS[command], files)
        cell.seconds.append(seconds)
        if code == 0:
            break
        sentence = next((x for x in error.splitlines() if x.startswith("dreamfactory ")), error.strip()[-300:])
        cell.told.append(sentence)
        if command in REFUSED and REFUSED[command] in sentence:
            cell.verdict = "refused"
            break
        advice = advised(sentence)
        faults = {
            f"exit code {code}": code != 2,
            "a traceback": "Traceback" in error,
            f"said after {seconds} s": seconds > AT_ONCE,
            f"it had made {', '.join(made)}": bool(made),
            "no line that mends it": advice is None,
            f"{LINES} lines did not mend it": len(cell.advice) == LINES,
            "the same advice again": advice is not None and shlex.join(advice) in cell.advice,
        }
        if advice is None or any(faults.values()):
            cell.verdict = "wrong: " + ", ".join(what for what, so in faults.items() if so)
            break
        if here == place:
            twin(place, mended)
            here = mended
        cell.advice.append(shlex.join(advice))
        try:
            pip(mended, advice, files, "y\n")
        except SystemExit as failure:
            cell.verdict = f"wrong: {str(failure).strip().splitlines()[-1]}"
            break
        if torch_of(mended) != torch:
            cell.verdict = f"wrong: torch {torch} became {torch_of(mended)}"
            break
        lines = len(cell.advice)
        cell.verdict = "mended" + (f" by {lines} lines" if lines > 1 else "")
    shutil.rmtree(mended, ignore_errors=True)
    return cell


def page(cells: list[Cell], about: dict) -> str:
    names = [n for n in ENVIRONMENTS if any(c.environment == n for c in cells)]
    commands = [n for n in COMMANDS if any(c.command == n for c in cells)]
    found = {(c.environment, c.command): c for c in cells}
    lines = [
        "# Every command in every environment",
        "",
        f"`python benchmarks/environments.py`, {about['date']}, {about['machine']}.",
        "",
        "A command works; or it says at once what is missing and the line that mends it. That line was run, in a copy",
        "of the environment, and the command again: *mended* means that it worked then, and that torch was still the",
        "same build. *refused*: the file is none that this command takes, and it says so. Empty: not run.",
        "",
        "| | " + " | ".join(names) + " |",
        "|---" * (len(names) + 1) + "|",
    ]
    for command in commands:
        row = [found.get((n, command)) for n in names]
        lines.append(f"| {command} | " + " | ".join(c.verdict if c else "" for c in row) + " |")
    lines += ["", "| environment | what it is | torch |", "|---|---|---|"]
    lines += [f"| {n} | {ENVIRONMENTS[n].told} | {about['torch'].get(n, '')} |" for n in names]
    lines += ["", "## What was said", ""]
    said: dict[str, list[str]] = {}
    for cell in cells:
        for sentence in cell.told:
            said.setdefault(sentence, []).append(cell.environment)
    for sentence, where in said.items():
        quoted = " ".join(sentence.split()).removeprefix("dreamfactory ")
        lines += [f"- {', '.join(dict.fromkeys(where))}: `{quoted}`"]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--host", type=Path, help="a ComfyUI's virtual environment; a copy of it is used")
    parser.add_argument("--revision", default="HEAD", help="of this repository, which is installed")
    parser.add_argument("--only", help="environments, between semicolons; what the page says of others stays")
    parser.add_argument("--commands", help="commands that hold this text; what the page says of others stays")
    parser.add_argument("--work", type=Path, help="keep the environments here, and use those that are there")
    parser.add_argument("--out", type=Path, default=Path(__file__).with_suffix(""), help="without a suffix")
    args = parser.parse_args()
    names = [n.strip() for n in args.only.split(";")] if args.only else list(ENVIRONMENTS)
    commands = [c for c in COMMANDS if args.commands is None or args.commands in c]
    with tempfile.TemporaryDirectory() as temporary:
        work = (args.work or Path(temporary)).resolve()
        work.mkdir(parents=True, exist_ok=True)
        clone(work, args.revision)
        maker = build("make demo", work, args.host)
        pip(maker, ["install", "--quiet", "--no-deps", "--force-reinstall", "."], work / "clone")
        files = work / "files"
        shutil.rmtree(files, ignore_errors=True)
        files.mkdir()
        subprocess.run([python(maker), "-c", FILES], cwd=files, check=True)
        kept = args.out.with_suffix(".json")
        before = json.loads(kept.read_text()) if kept.exists() else {"cells": [], "torch": {}}
        cells, torch = [Cell(**c) for c in before["cells"]], before["torch"]
        for name in names:
            place = build(name, work, args.host)
            pip(place, ["install", "--quiet", "--no-deps", "--force-reinstall", "."], work / "clone")
            torch[name] = torch_of(place)
            for command in commands:
                cell = try_out(name, command, place, files)
                print(f"{name:<36} {command:<36} {cell.verdict}  {cell.seconds}", *cell.told, sep="\n    ", flush=True)
                cells = [c for c in cells if (c.environment, c.command) != (name, command)] + [cell]
                about = {"date": str(datetime.date.today()), "machine": machine(), "torch": torch}
                cells = [c for c in cells if c.environment in ENVIRONMENTS and c.command in COMMANDS]
                kept.write_text(json.dumps({**about, "cells": [asdict(c) for c in cells]}, indent=1) + "\n")
                args.out.with_suffix(".md").write_text(page(cells, about))
    wrong = [c for c in cells if not c.right]
    print(f"{len(cells) - len(wrong)} right, {len(wrong)} wrong")
    return bool(wrong)


def machine() -> str:
    return f"{platform.system()} {platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}"


if __name__ == "__main__":
    sys.exit(main())
