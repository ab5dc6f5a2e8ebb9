"""Training on two processes of one machine, and what came of it."""

import os
import subprocess
import sys

from dreamfactory.training import checkpoint as disk

TORCHRUN = ("torch.distributed.run", "--standalone", "--nproc_per_node", "2")
ACCELERATE = ("accelerate.commands.launch", "--num_processes", "2")


def launch(file, folder, *changes, launcher=TORCHRUN, **environment):
    """Two processes; returns what they wrote."""
    command = [sys.executable, "-m", *launcher, "-m", "dreamfactory.training", str(file)]
    command += [x for c in (f"output.folder={folder}", *changes) for x in ("--set", c)]
    environment = {**os.environ, "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1", **environment}
    for _ in range(2):
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300, check=False)
        output = done.stdout + done.stderr
        # torchrun looks for a free port, and lets go of it before it takes it: another run may have been quicker.
        if "EADDRINUSE" not in output and "already in use" not in output:
            break
    return done.returncode, output


def final(folder):
    last = disk.newest(folder / disk.FOLDER)
    assert last is not None
    return {f"{k}.{n}": t for k in ("weights", "averaged") for n, t in last.tensors(k).items()}


def distance(a, b):
    assert a.keys() == b.keys()
    squares = [((a[n] - b[n]).double().square().sum(), a[n].double().square().sum()) for n in a]
    return float((sum(d for d, _ in squares) / sum(s for _, s in squares)) ** 0.5)
