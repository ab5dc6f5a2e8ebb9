"""A trainer killed with SIGKILL, again and again, ends with the weights of one that was left alone, to the bit.

    KILLS=20 python -m pytest tests/training/test_kill.py -s        the long version; 2 kills otherwise

Every third kill waits for a save and strikes in the middle of it.
"""

import os
import random
import signal
import time

import torch

from dreamfactory.training import checkpoint as disk

from ..processes import end, send, start

KILLS = int(os.environ.get("KILLS", "2"))
STEPS = 6 + 3 * KILLS
RUN = f"""
seed = 1
device = "cpu"
threads = 1
[model]
config = {{ model_channels = 24, head_dim = 24, dropout = 0.1 }}
[sources.clips]
kind = "tiny_world"
[data]
frames = 2
[optim]
steps = {STEPS}
batch_size = 2
[output]
checkpoint_every = 1
keep = 2
validation_clips = 0
loggers = []
log_every = 1
"""


def wait_until(ready, process, seconds=120):
    """Whether it came true while the process lived."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        if ready():
            return True
        if not process.is_alive():
            return False
        time.sleep(0.002)
    raise AssertionError("the trainer does nothing")


def final(folder):
    last = disk.newest(folder / disk.FOLDER)
    assert last is not None
    assert last.step == STEPS
    return {f"{k}.{n}": t.clone() for k in ("weights", "averaged", "optimizer") for n, t in last.tensors(k).items()}


def test_killed_runs_end_with_the_same_weights_to_the_bit(tmp_path):
    file, log, chance = tmp_path / "run.toml", tmp_path / "log.txt", random.Random(7)
    file.write_text(RUN)

    def run(folder):
        return start(["train", file, "--set", f"output.folder={folder}"], log)

    assert end(run(tmp_path / "whole")) == 0, log.read_text()
    folder = tmp_path / "killed"
    places, in_saves, kills = folder / disk.FOLDER, 0, 0
    while kills < KILLS:
        before = disk.checkpoints(places)[-1].step if disk.checkpoints(places) else 0
        process = run(folder)

        def began():
            found = disk.checkpoints(places)
            return bool(found) and found[-1].step > before  # noqa: B023 (used in this round only)

        alive = wait_until(began, process)
        if alive and kills % 3 == 0:
            alive = wait_until(lambda: any(places.glob(disk.STAGED + "*")), process)
            time.sleep(chance.uniform(0, 0.05))
        else:
            time.sleep(chance.uniform(0, 0.8))
        if not process.is_alive():
            break  # it came to its end first
        send(process, signal.SIGKILL)
        end(process)
        kills += 1
        in_saves += any(places.glob(disk.STAGED + "*"))
        assert disk.newest(places, print) is not None, "no kill costs more than the steps since the last save"
    assert end(run(folder)) == 0, log.read_text()

    print(f"{kills} kills, {in_saves} in the middle of a save")
    assert kills == KILLS
    assert in_saves
    expected, killed = final(tmp_path / "whole"), final(folder)
    assert expected.keys() == killed.keys()
    assert all(torch.equal(expected[n], killed[n]) for n in expected)
    assert not list(places.glob(disk.STAGED + "*")), "the next run sweeps up"
    kept = [c for c in disk.checkpoints(places) if disk.damage(c) is None]
    assert len(kept) == len(disk.checkpoints(places))
