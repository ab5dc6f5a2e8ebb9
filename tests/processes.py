"""Commands in processes of their own, two of them that share their work, and what came of it.

Reading the libraries takes a process seconds, and is no part of what a test of it asks. So each is a fork of one that
has read them and done nothing; processes of a launcher, which cannot be forks, are for the tests of launchers.
"""

import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any

from dreamfactory.training import checkpoint as disk

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")
ACCELERATE = ("accelerate.commands.launch", "--num_processes", "2")

LONGEST = 300  # seconds of one process, a guard
LIBRARIES = [
    "diffusers", "matplotlib.figure", "transformers.models.auto", "transformers.models.clip.modeling_clip",
    "transformers.models.t5.modeling_t5", "accelerate.utils.fsdp_utils", "torch.distributed.fsdp",
    "dreamfactory.check.network", "dreamfactory.pipelines.generate.engine", "dreamfactory.pipelines.upscale",
    "dreamfactory.training.loop",
]  # fmt: skip
FORKS = "forkserver" in multiprocessing.get_all_start_methods()
PROCESSES: Any = multiprocessing.get_context("forkserver" if FORKS else "spawn")
PROCESSES.set_forkserver_preload(LIBRARIES)
COMMAND = """
import os
for own, place in enumerate(places, start=1):
    os.dup2(os.open(place, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600), own)
os.environ.update(environment)
from dreamfactory.cli import main
raise SystemExit(main(arguments))
"""


def start(arguments, out: Path, err: Path | None = None, **environment: str):
    """`dreamfactory` with these arguments, begun; a process of multiprocessing. What it writes goes to files' ends."""
    given = {"arguments": list(map(str, arguments)), "environment": environment}
    process = PROCESSES.Process(target=exec, args=(COMMAND, {**given, "places": (str(out), str(err or out))}))
    process.start()
    return process


def send(process, number: int) -> None:
    with suppress(ProcessLookupError):  # it has come to its end
        os.kill(process.pid, number)


def end(process) -> int:
    """The exit code, waited for; of a signal its negative number."""
    process.join(LONGEST)
    if process.exitcode is None:
        send(process, signal.SIGKILL)
        process.join()
    code = process.exitcode
    assert code is not None
    return code


def together(arguments, **environment: str) -> list[tuple[int, str, str]]:
    """(exit code, output, errors) of two processes that share their work, started as a launcher would, whose own words
    would be in the way."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    shared = {"ACCELERATE_USE_CPU": "true", "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}
    with tempfile.TemporaryDirectory() as folder:
        places = [(Path(folder, f"out{rank}"), Path(folder, f"err{rank}")) for rank in range(2)]
        running = [
            start(arguments, out, err, **shared, **environment, RANK=str(rank), LOCAL_RANK=str(rank))
            for rank, (out, err) in enumerate(places)
        ]
        codes = [end(process) for process in running]
        return [(code, out.read_text(), err.read_text()) for code, (out, err) in zip(codes, places, strict=True)]


def launch(file, folder, *changes, launcher=None, **environment):
    """Training on two processes, by a launcher or started alike; returns the exit code and what they wrote."""
    command = [str(file), *(x for c in (f"output.folder={folder}", *changes) for x in ("--set", c))]
    for _ in range(2):
        if launcher is None:
            done = together(["train", *command], **environment)
            code, output = max((code for code, _, _ in done), key=abs), "".join(out + err for _, out, err in done)
        else:
            code, output = launched(launcher, ["-m", "dreamfactory.training", *command], **environment)
        # A free port is looked for, and let go of before it is taken: another run may have been quicker.
        if "EADDRINUSE" not in output and "already in use" not in output:
            break
    return code, output


def launched(launcher, command, **environment):
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", **environment}
    command = [sys.executable, "-m", *launcher, *command]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=LONGEST, check=False)
    return done.returncode, done.stdout + done.stderr


def final(folder):
    last = disk.newest(folder / disk.FOLDER)
    assert last is not None
    return {f"{k}.{n}": t for k in ("weights", "averaged") for n, t in last.tensors(k).items()}


def distance(a, b):
    assert a.keys() == b.keys()
    squares = [((a[n] - b[n]).double().square().sum(), a[n].double().square().sum()) for n in a]
    return float((sum(d for d, _ in squares) / sum(s for _, s in squares)) ** 0.5)
