"""The set on disk: WebDataset tars and the two tables, the same to the byte for the same clips."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any

from ..files import whole
from ..libraries import library
from .config import ShardsConfig
from .rows import Clip, Source
from .store import Store, writing

SHARD, SHARDS = "clips-{:06d}.tar", "clips-" + "[0-9]" * 6 + ".tar"
KINDS = {"str": "string", "int": "int64", "float": "float64", "bool": "bool_"}


def write_shards(store: Store, clips: Sequence[Clip], config: ShardsConfig, step: Callable[[], object]) -> list[str]:
    """Tars of the kept clips in their order, into which their video, caption and row go; `shard` is written into the
    rows. Those that are there already stay; those that are none of the set's any more are taken away. Their names."""
    names, known = [], _known(store)
    for number, part in enumerate(_parts(store, clips, config)):
        name = SHARD.format(number)
        names.append(name)
        for clip in part:
            clip.shard = name
        digest = hashlib.blake2b(json.dumps([_facts(clip) for clip in part]).encode(), digest_size=16).hexdigest()
        if known.get(name) != [digest, *_state(store.out / name)]:
            with writing(store.out), whole(store.out / name) as temporary, tarfile.open(temporary, "w") as tar:
                for clip in part:
                    _add(tar, store, clip)
                    step()
            known[name] = [digest, *_state(store.out / name)]
            _know(store, known)
        else:
            for _ in part:
                step()
    for left in sorted(store.out.glob(SHARDS)):
        if left.name not in names:
            with writing(store.out):
                left.unlink()
            known.pop(left.name, None)
    _know(store, known)
    return names


def _parts(store: Store, clips: Sequence[Clip], config: ShardsConfig) -> Iterator[list[Clip]]:
    part, size = [], 0
    for clip in clips:
        clip.bytes = video_of(store, clip).stat().st_size
        if part and (len(part) == config.clips or size + clip.bytes > config.megabytes * 1_000_000):
            yield part
            part, size = [], 0
        part.append(clip)
        size += clip.bytes
    if part:
        yield part


def video_of(store: Store, clip: Clip) -> Path:
    return store.clips(clip.source_id) / f"{clip.clip.rpartition('-')[2]}.mp4"


def _add(tar: tarfile.TarFile, store: Store, clip: Clip) -> None:
    members = {".mp4": video_of(store, clip).read_bytes()}
    if clip.caption:
        members[".txt"] = clip.caption.encode()
    members[".json"] = json.dumps(_facts(clip), ensure_ascii=False).encode(errors="surrogateescape")
    for ending, data in members.items():
        member = tarfile.TarInfo(clip.clip + ending)  # owner and time are nobody's and none
        member.size = len(data)
        tar.addfile(member, io.BytesIO(data))


def _facts(clip: Clip) -> dict[str, Any]:
    """A row as a sample has it; "caption" is what trainers look for."""
    facts = {name: value for name, value in asdict(clip).items() if name not in ("kept", "reason", "reasons", "shard")}
    return {name: value for name, value in facts.items() if value is not None}


def _known(store: Store) -> dict[str, list]:
    """What the shards that were written hold, by a digest, and the state of their files then."""
    try:
        known = json.loads((store.work / "shards.json").read_text("utf-8"))
    except (OSError, ValueError):
        return {}
    return known if isinstance(known, dict) else {}


def _state(path: Path) -> tuple[int, int]:
    """Size and time of a file: one that was cut short or changed since has others. (0, 0): there is none."""
    if not path.is_file():
        return 0, 0
    state = path.stat()
    return state.st_size, state.st_mtime_ns


def _know(store: Store, known: dict[str, list]) -> None:
    with writing(store.out), whole(store.work / "shards.json") as temporary:
        temporary.write_text(json.dumps(known), "utf-8")


# -- tables -----------------------------------------------------------------------------------------------------------


def write_table(path: Path, rows: Sequence[Clip] | Sequence[Source], kind: type) -> None:
    """A parquet file with the columns of rows.py."""
    arrow = library("pyarrow", "a curated set's tables")
    parquet = library("pyarrow.parquet", "a curated set's tables")
    columns: dict[str, Any] = {}
    for field in fields(kind):
        values: list[Any] = [getattr(row, field.name) for row in rows]
        name = str(field.type).removesuffix(" | None")
        if name.startswith("tuple"):
            form, values = arrow.list_(arrow.string()), [list(v) for v in values]
        elif name.startswith("dict"):
            form, values = arrow.string(), [json.dumps(v, ensure_ascii=False, sort_keys=True) for v in values]
        else:
            form = getattr(arrow, KINDS[name])()
        if form == arrow.string():
            values = [_clean(v) for v in values]
        columns[field.name] = arrow.array(values, form)
    with writing(path.parent), whole(path) as temporary:
        parquet.write_table(arrow.table(columns), temporary, compression="zstd")


def _clean(value: str | None) -> str | None:
    """As UTF-8 can write it."""
    return None if value is None else value.encode(errors="surrogateescape").decode(errors="backslashreplace")
