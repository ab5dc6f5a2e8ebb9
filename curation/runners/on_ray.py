"""Sources as tasks of Ray, on this machine or a cluster whose machines see the same folders.

Plain tasks, some for every core at a time: a source's outcome is all that goes through Ray's store. Who dies is asked
again, so often and no more; a source is lost to nobody.
"""

from __future__ import annotations

import os
import socket
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from ...errors import SettingsError, reason
from ...libraries import library
from ..store import Outcome
from .worker import Fatal, Job, Worker

AHEAD = 2  # tasks for each core
REACHED = 15.0  # seconds in which Ray has to answer


def run(jobs: Sequence[Job], workers: int, *, timeout: float, retries: int) -> Iterator[dict[str, Any]]:
    """An outcome for every job, as they come. Raises Fatal. workers: 0: as many as Ray has cores for."""
    ray = library("ray", "--runner ray", "choose --runner processes")
    ours = not ray.is_initialized()
    if ours:
        _connect(ray, workers)
    retried = max(2, retries)

    @ray.remote(num_cpus=1, max_retries=retried)
    def task(job: dict[str, Any]) -> dict[str, Any]:
        return _task(job, timeout, retries)

    most = AHEAD * max(1, workers or int(ray.cluster_resources().get("CPU", 1)))
    left, waiting = iter(jobs), {}
    try:
        while True:
            while len(waiting) < most and (job := next(left, None)) is not None:
                waiting[task.remote(asdict(job))] = job
            if not waiting:
                return
            (done, *_), _ = ray.wait(list(waiting), num_returns=1)
            job = waiting.pop(done)
            try:
                answer = ray.get(done)
            except (
                ray.exceptions.WorkerCrashedError,
                ray.exceptions.NodeDiedError,
                ray.exceptions.OutOfMemoryError,
            ) as error:  # of a process that decodes nothing, so the source may be sound
                told = f"{job.path}: Ray's process that had it died, {retried + 1} times ({reason(error)}); "
                told += "give the same line again."
                answer = asdict(Outcome(job.key, job.label, problem=told))
            if "fatal" in answer:
                raise Fatal(answer["fatal"])
            yield answer
    except ray.exceptions.RayTaskError:
        raise  # a bug, with its traceback
    except (ray.exceptions.RayError, ConnectionError) as error:
        raise Fatal(f"Ray has gone away ({reason(error)}); what is done stays: give the same line again.") from error
    finally:
        for reference in waiting:
            with suppress(ray.exceptions.RayError):
                ray.cancel(reference, force=True)
        if ours:
            ray.shutdown()


def _connect(ray, workers: int) -> None:
    address = os.environ.get("RAY_ADDRESS")
    host, _, port = (address or "").removeprefix("ray://").rpartition(":")
    if host and port.isdigit():  # Ray itself waits for minutes
        try:
            socket.create_connection((host, int(port)), REACHED).close()
        except (OSError, OverflowError) as error:
            raise _unreachable(address, error) from error
    here: dict[str, Any] = {} if address else {"num_cpus": workers or None, "include_dashboard": False}
    paths = os.pathsep.join(filter(None, sys.path))
    try:
        ray.init(
            address=address,
            log_to_driver=False,
            logging_level="ERROR",
            runtime_env={"env_vars": {"PYTHONPATH": paths}},
            **here,
        )
    except (ConnectionError, ValueError, RuntimeError) as error:
        raise _unreachable(address, error) from error


def _unreachable(address: str | None, error: Exception) -> SettingsError:
    return SettingsError(f"RAY_ADDRESS {address} cannot be reached ({reason(error)}); start Ray there.")


_WORKER: list[Worker] = []  # of this process of Ray's


def _task(job: dict[str, Any], timeout: float, retries: int) -> dict[str, Any]:
    from .pool import attempt

    if not _WORKER:
        _WORKER.append(Worker(timeout))
    try:
        return attempt(_WORKER[0], Job(**job), retries)
    except Fatal as error:
        return {"fatal": str(error)}
