"""A process of its own for what may crash, or never end: decoding other people's files.

The child is `python -m …curation.runners.worker`. Lines of JSON go in, one job each, and come out: {"alive": …} while
it works, and the outcome. It ends when its input ends, so it outlives nobody, however they died.
"""

from __future__ import annotations

import gc
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ...errors import CannotWrite, InputError, LibraryError, out_of_memory, reason

ALIVE = 2.0  # seconds between two signs of life
STARTING = 120.0  # seconds a child may take to begin


@dataclass(frozen=True)
class Job:
    """A source, and where what is made of it goes. Plain data."""

    key: str
    label: str
    path: str
    out: str
    shard: str
    config: dict[str, Any]


class Died(Exception):
    """A child that is no more: the sentence's end says how."""


class Fatal(Exception):
    """What concerns the whole run, and no source: a sentence."""


class Worker:
    """A child, started when there is work, and again after it died. Of one thread."""

    def __init__(self, timeout: float) -> None:
        self.timeout = timeout  # seconds without a step forward
        self.child: subprocess.Popen[str] | None = None
        self.answers: queue.Queue[str | None] = queue.Queue()
        self.begun = False  # whether it has said anything
        self.closed = False

    def do(self, job: Job) -> dict[str, Any]:
        """The outcome, as plain data. Raises Died, Fatal."""
        child = self._started()
        assert child.stdin is not None  # a pipe
        try:
            child.stdin.write(json.dumps(asdict(job)) + "\n")
            child.stdin.flush()
        except OSError as error:
            raise self._died() from error
        at, since = None, time.monotonic()
        while True:
            patience = self.timeout if self.begun else max(self.timeout, STARTING)
            try:
                line = self.answers.get(timeout=max(0.1, since + patience - time.monotonic()))
            except queue.Empty:
                self.stop()
                raise Died(f"came no step further in {self.timeout:g} seconds (engine.timeout)") from None
            if line is None:
                raise self._died()
            self.begun = True
            answer = json.loads(line)
            if "alive" not in answer:
                if "fatal" in answer:
                    raise Fatal(answer["fatal"])
                return answer
            if answer["alive"] != at:
                at, since = answer["alive"], time.monotonic()

    def close(self) -> None:
        """Stop what is done, and do no more."""
        self.closed = True
        self.stop()

    def stop(self) -> None:
        child, self.child = self.child, None
        if child is not None:
            child.kill()
            child.wait()
            for pipe in (child.stdin, child.stdout):
                if pipe is not None:
                    pipe.close()

    def _started(self) -> subprocess.Popen[str]:
        if self.closed:
            raise Died("was stopped")
        if self.child is None:
            self.answers, self.begun = queue.Queue(), False
            # One thread a library: there is a process for every core, and the same numbers on any machine.
            threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
            paths = os.pathsep.join(filter(None, sys.path))
            self.child = subprocess.Popen(
                [sys.executable, "-m", __name__],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={
                    **os.environ,
                    **threads,
                    "MKL_CBWR": "AUTO,STRICT",
                    "PYTHONPATH": paths,
                },
                encoding="utf-8",
                start_new_session=True,  # Ctrl-C is the parent's to answer
            )
            threading.Thread(target=_listen, args=(self.child.stdout, self.answers), daemon=True).start()
        return self.child

    def _died(self) -> Died:
        child = self.child
        code = None if child is None else child.wait()
        self.stop()
        if code is not None and code < 0:
            try:
                return Died(f"was ended by {signal.Signals(-code).name}")
            except ValueError:
                return Died(f"was ended by signal {-code}")
        return Died(f"ended with code {code}")


def _listen(output, answers: queue.Queue[str | None]) -> None:
    try:
        for line in output:
            answers.put(line)
    except (OSError, ValueError):  # closed under it
        pass
    answers.put(None)


# -- the child --------------------------------------------------------------------------------------------------------


def work(job: Job) -> dict[str, Any]:
    """One source, in this process: what came of it, which is written down as well. Raises Fatal."""
    from ..process import read_rows
    from ..run_file import from_dict
    from ..sources import content_id
    from ..store import Outcome, Store

    store, begun, source_id, problem, hours = Store(Path(job.out)), time.process_time(), "", "", 0.0
    try:
        source_id = _content(job, content_id)
        if not store.has(source_id):
            from ..process import process

            with store.making(source_id, job.shard) as folder:
                process(Path(job.path), from_dict(job.config), source_id, folder)
        hours = (read_rows(store.clips(source_id))[0].duration or 0.0) / 3600
    except (CannotWrite, LibraryError) as error:
        raise Fatal(str(error)) from error
    except InputError as error:
        problem = str(error)
    except Exception as error:
        if out_of_memory(error):
            problem = f"{job.path}: memory ran out ({reason(error)}); give it fewer workers beside it."
        else:
            traceback.print_exc()
            told = f"{type(error).__name__}: {reason(error)}"
            problem = f"{job.path}: a bug of DreamFactory's, and no fault of the file's ({told}); please report it."
    outcome = Outcome(job.key, job.label, "" if problem else source_id, problem, time.process_time() - begun, hours)
    try:
        store.tell(outcome)
    except CannotWrite as error:
        raise Fatal(str(error)) from error
    return asdict(outcome)


def _content(job: Job, content_id) -> str:
    from ...files import no_file
    from ..analysis import PROGRESS

    if (told := no_file(job.path)) is not None:
        raise InputError(f"{told}; restore it, or take it off the list.")
    try:
        return content_id(job.path, PROGRESS.step)
    except OSError as error:
        raise InputError(f"{job.path} cannot be read: {reason(error)}.") from error


def serve() -> None:
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # what libraries print is no answer
    jobs: queue.Queue[str] = queue.Queue()

    def read() -> None:
        for line in sys.stdin:
            jobs.put(line)
        os._exit(1)  # nobody is there to tell any more

    threading.Thread(target=read, daemon=True).start()
    import cv2

    from .. import process  # noqa: F401  # what it brings takes seconds, which are no source's
    from ..analysis import PROGRESS

    cv2.setNumThreads(1)
    gc.freeze()  # what is collected after every clip is looked for in what came since
    lock = threading.Lock()

    def say(answer: dict[str, Any]) -> None:
        with lock:
            answers.write(json.dumps(answer) + "\n")

    def live() -> None:
        while True:
            say({"alive": PROGRESS.steps})
            time.sleep(ALIVE)

    threading.Thread(target=live, daemon=True).start()
    first = True
    while True:
        job = Job(**json.loads(jobs.get()))
        try:
            answer = work(job)
        except Fatal as error:
            answer = {"fatal": str(error)}
        say(answer)
        if first:
            gc.collect()
            gc.freeze()  # models came with it
            first = False


if __name__ == "__main__":
    serve()
