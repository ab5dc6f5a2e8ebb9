"""Finds out what a source's files are, once: size, times of the frames, and for the cache a hash of the content."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from tqdm import tqdm

from ...pipelines.media.decode import Probe, Unreadable, probe
from .cache import Cache
from .records import LeftOut, Record

CHUNK = 1 << 20
END = 1 << 15  # bytes


@dataclass(frozen=True, eq=False)
class Probed:
    record: Record
    probe: Probe
    content: str  # hash; "" without a cache


def probe_all(
    records: Sequence[Record], cache: Cache | None, workers: int, desc: str
) -> tuple[list[Probed], list[LeftOut]]:
    """In the order of `records`. What the cache's index knows is not read again."""

    def one(record: Record) -> Probed | LeftOut:
        known = cache.index.find(record) if cache else None
        if known is not None:
            return Probed(record, known[1], known[0])
        try:
            found = Probed(record, probe(record), content_of(record) if cache else "")
        except Unreadable as error:  # not remembered: a file may be unreadable because a disk is not there today
            return LeftOut(record.name, str(error))
        if cache:
            cache.index.add(record, found.content, found.probe)
        return found

    with ThreadPoolExecutor(max(1, workers)) as pool:
        done = list(tqdm(pool.map(one, records), desc, len(records), disable=None, unit="file"))
    return [d for d in done if isinstance(d, Probed)], [d for d in done if isinstance(d, LeftOut)]


def content_of(record: Record) -> str:
    """A hash of the file's bytes, or of the tar member's."""
    digest = hashlib.blake2b(digest_size=20)
    try:
        with record.path.open("rb") as file:
            file.seek(record.offset)
            left = record.size
            while chunk := file.read(CHUNK if left is None else min(CHUNK, left)):
                digest.update(chunk)
                left = None if left is None else left - len(chunk)
    except OSError as error:
        raise Unreadable(f"unreadable: {error.strerror or error}") from error
    return digest.hexdigest()


def ends_of(record: Record) -> str:
    """A hash of a file's length and both its ends: tells most changes, at a small part of the reading."""
    digest = hashlib.blake2b(digest_size=20)
    try:
        with record.path.open("rb") as file:
            size = file.seek(0, os.SEEK_END) - record.offset if record.size is None else record.size
            digest.update(str(size).encode())
            for start in (0, max(0, size - END)):
                file.seek(record.offset + start)
                digest.update(file.read(min(END, size - start)))
    except OSError:
        return ""  # gone since it was looked at; training will say so
    return digest.hexdigest()
