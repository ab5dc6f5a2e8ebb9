"""Sources in child processes of this machine: one (inline), or as many as there are cores."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict
from typing import Any

from ..store import Outcome
from .worker import Died, Fatal, Job, Worker


def run(jobs: Sequence[Job], workers: int, *, timeout: float, retries: int) -> Iterator[dict[str, Any]]:
    """An outcome for every job, as they come. Raises Fatal. What works is stopped when the iteration is."""
    pool, own, children = ThreadPoolExecutor(workers), threading.local(), []

    def one(job: Job) -> dict[str, Any]:
        if not hasattr(own, "worker"):
            own.worker = Worker(timeout)
            children.append(own.worker)
        return attempt(own.worker, job, retries)

    waiting: set[Future] = set()
    left = iter(jobs)
    try:
        while True:
            while len(waiting) < 2 * workers and (job := next(left, None)) is not None:
                waiting.add(pool.submit(one, job))
            if not waiting:
                return
            done, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            for future in done:
                yield future.result()
    finally:
        for future in waiting:
            future.cancel()
        for worker in children:
            worker.close()
        pool.shutdown(wait=False, cancel_futures=True)


def attempt(worker: Worker, job: Job, retries: int) -> dict[str, Any]:
    """The outcome, whatever happens to the process. Raises Fatal."""
    problem = ""
    for _ in range(retries + 1):
        try:
            return worker.do(job)
        except Died as error:
            problem = f"{job.path}: the process that read it {error}"
    times = f", {retries + 1} times" if retries else ""
    return asdict(Outcome(job.key, job.label, problem=f"{problem}{times}; take it out, or save it anew."))


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


__all__ = ["Fatal", "attempt", "cores", "run"]
