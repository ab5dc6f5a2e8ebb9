"""Captions in a table: a metadata.jsonl, .csv or .parquet whose rows name their file, as Hugging Face's ImageFolder.

`file_name` is relative to the table; the columns of the captions are the source's `text_column` ("caption" is tried
too) and `motion_column`.
"""

from __future__ import annotations

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

from ...model_patches.errors import reason
from ..config import SourceConfig
from ..errors import TrainingError
from .records import METADATA, LeftOut, Record, media_of, tidy


def read_metadata(name: str, path: Path, source: SourceConfig) -> tuple[list[Record], list[LeftOut]]:
    if path.is_dir():
        found = [path / m for m in METADATA if (path / m).exists()]
        if not found:
            raise TrainingError(f"sources.{name}.path {path} has no metadata file; expected {' or '.join(METADATA)}.")
        path = found[0]
    rows = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}.get(path.suffix.lower())
    if rows is None:
        raise TrainingError(f"sources.{name}.path {path} is no metadata file; give a .jsonl, .csv or .parquet.")
    records, left_out = [], []
    try:
        for number, row in rows(path, source):
            entry = _row(path, number, row, source)
            (records if isinstance(entry, Record) else left_out).append(entry)
    except OSError as error:
        raise TrainingError(f"sources.{name}.path {path} cannot be read: {reason(error)}.") from error
    except (UnicodeDecodeError, csv.Error) as error:
        raise TrainingError(f"sources.{name}.path {path} cannot be read ({error}); save it as UTF-8.") from error
    return records, left_out


def _row(path: Path, number: int, row: object, source: SourceConfig) -> Record | LeftOut:
    where = f"{path.name}:{number}"
    if not isinstance(row, dict):
        return LeftOut(where, "no row: the line is no JSON object")
    given = row.get("file_name")
    if not isinstance(given, str) or not given:
        return LeftOut(where, f"no file: the row has no file_name, only {', '.join(map(str, row)) or 'nothing'}")
    label, file = Path(os.path.normpath(given)).as_posix(), path.parent / given
    suffix = file.suffix.lower()
    media = media_of(suffix)
    if media is None:
        return LeftOut(label, f"no video or image: its name ends in {suffix or 'nothing'}")
    if not file.is_file():
        return LeftOut(label, f"missing file: {file} does not exist")
    text = tidy(row.get(source.text_column)) or tidy(row.get("caption"))
    if not text and not source.uncaptioned:
        return LeftOut(label, f"no caption: {where} has no {source.text_column!r}")
    return Record(label, file, 0, None, media, text, tidy(row.get(source.motion_column)) or text, suffix)


def _jsonl(path: Path, source: SourceConfig) -> Iterator[tuple[int, object]]:
    with path.open(encoding="utf-8-sig") as file:
        for number, line in enumerate(file, start=1):
            if not line.strip():
                continue
            try:
                yield number, json.loads(line)
            except ValueError:
                yield number, None


def _csv(path: Path, source: SourceConfig) -> Iterator[tuple[int, object]]:
    with path.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            yield reader.line_num, row


def _parquet(path: Path, source: SourceConfig) -> Iterator[tuple[int, object]]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise TrainingError(f"{path} needs pyarrow to be read; pip install pyarrow, or save it as .jsonl.") from error
    try:
        with pyarrow.parquet.ParquetFile(path) as file:
            wanted = ("file_name", "caption", source.text_column, source.motion_column)
            columns = [c for c in file.schema_arrow.names if c in wanted]
            number = 0
            for batch in file.iter_batches(columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pyarrow.ArrowException as error:
        raise TrainingError(f"{path} is no readable parquet file ({error}); save it again.") from error
