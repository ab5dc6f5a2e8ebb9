"""Captions in a table: a metadata.jsonl, .csv or .parquet whose rows name their file, as Hugging Face's ImageFolder.

`file_name` is relative to the table; the columns of the captions are the source's `text_column` ("caption" is tried
too) and `motion_column`.
"""

from __future__ import annotations

import codecs
import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

from ...errors import TrainingError, reason
from ...libraries import library
from ...pipelines.media.kinds import media_in
from ..config import SourceConfig
from .records import METADATA, Found, LeftOut, Record, files_below, tidy

LONGEST_CELL = 2**24  # characters of a CSV's cell; csv's own limit is shorter than some captions


def read_metadata(name: str, path: Path, source: SourceConfig) -> Found:
    """The rows of a table; of a folder's own table also the files that no row names, which are left out."""
    whole = path.is_dir()
    if whole:
        found = table_in(path)
        if found is None:
            raise TrainingError(f"sources.{name}.path {path} has no metadata file; expected {' or '.join(METADATA)}.")
        path = found
    rows = {".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet}.get(path.suffix.lower())
    if rows is None:
        raise TrainingError(f"sources.{name}.path {path} is no metadata file; give a .jsonl, .csv or .parquet.")
    records, left_out, rows_of = [], [], {}
    try:
        for number, row in rows(path, source):
            entry = row if isinstance(row, LeftOut) else _row(path, number, row, source)
            if isinstance(entry, Record) and entry.name in rows_of:
                first = rows_of[entry.name]
                entry = LeftOut(f"{path.name}:{number}", f"twice: row {first} names {entry.name} already")
            if isinstance(entry, Record):
                rows_of[entry.name] = number
            (records if isinstance(entry, Record) else left_out).append(entry)
    except OSError as error:
        raise TrainingError(f"sources.{name}.path {path} cannot be read: {reason(error)}.") from error
    except UnicodeDecodeError as error:
        raise TrainingError(f"sources.{name}.path {path} cannot be read ({error}); save it as UTF-8.") from error
    if whole:
        left_out += _beside(path, {*rows_of, *(left.file for left in left_out)})
    return Found(records, left_out, int(whole))


def table_in(folder: Path) -> Path | None:
    """The table of a folder."""
    return next((folder / name for name in METADATA if (folder / name).exists()), None)


def _beside(path: Path, named: set[str]) -> list[LeftOut]:
    """Files in a table's folder that it does not name."""
    labels = (file.relative_to(path.parent).as_posix() for file in files_below(path.parent) if file != path)
    return [
        LeftOut(label, f"not in the table: no row of {path.name} names it") for label in labels if label not in named
    ]


def _row(path: Path, number: int, row: object, source: SourceConfig) -> Record | LeftOut:
    where = f"{path.name}:{number}"
    if not isinstance(row, dict):
        return LeftOut(where, "no row: the line is no JSON object")
    given = row.get("file_name")
    if not isinstance(given, str) or not given:
        return LeftOut(where, f"no file: the row has no file_name, only {', '.join(map(str, row)) or 'nothing'}")
    label, file = Path(os.path.normpath(given)).as_posix(), path.parent / given
    suffix = file.suffix.lower()
    if not file.exists():
        return LeftOut(label, f"missing file: {file} does not exist")
    if not file.is_file():
        return LeftOut(label, "no regular file: a folder, pipe or device is not read")
    media = media_in(file)
    if media is None:
        return LeftOut(label, "no video or image: what it holds is neither")
    text = tidy(row.get(source.text_column)) or tidy(row.get("caption"))
    if not text and not source.uncaptioned:
        return LeftOut(label, f"no caption: {where} has no {source.text_column!r}")
    return Record(label, file, 0, None, media, text, tidy(row.get(source.motion_column)) or text, suffix)


def _lines(path: Path) -> Iterator[str]:
    """Of a text in UTF-8, or UTF-16 where it begins by saying so."""
    with path.open("rb") as file:
        wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    with path.open(encoding="utf-16" if wide else "utf-8-sig", newline="") as file:
        yield from file


def _jsonl(path: Path, source: SourceConfig) -> Iterator[tuple[int, object]]:
    for number, line in enumerate(_lines(path), start=1):
        if not line.strip():
            continue
        try:
            yield number, json.loads(line)
        except (ValueError, RecursionError):
            yield number, None


def _csv(path: Path, source: SourceConfig) -> Iterator[tuple[int, object]]:
    csv.field_size_limit(LONGEST_CELL)
    reader, header, number = csv.reader(_lines(path), strict=True), None, 1
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            told = f"lines {start} to {reader.line_num}: {error}; look for a quote that nothing closes"
            yield start, LeftOut(f"{path.name}:{start}", f"no row: {told}")
            continue
        number = reader.line_num
        if not cells:
            continue
        while header is not None and len(cells) > len(header) and not cells[-1]:
            cells.pop()  # commas at the end of a row, as spreadsheets leave them
        if header is None:
            header = cells
        elif len(cells) != len(header):
            remedy = "put a caption that has commas in quotes" if len(cells) > len(header) else "write empty ones too"
            told = f"{len(cells)} cells under {len(header)} columns; {remedy}"
            yield number, LeftOut(f"{path.name}:{number}", f"no row: {told}")
        else:
            yield number, dict(zip(header, cells, strict=True))


def _parquet(path: Path, source: SourceConfig) -> Iterator[tuple[int, object]]:
    pyarrow, parquet = (library(n, f"reading {path}", "save it as .jsonl") for n in ("pyarrow", "pyarrow.parquet"))
    try:
        with parquet.ParquetFile(path) as file:
            wanted = ("file_name", "caption", source.text_column, source.motion_column)
            columns = [c for c in file.schema_arrow.names if c in wanted]
            number = 0
            for batch in file.iter_batches(columns=columns):
                for row in batch.to_pylist():
                    number += 1
                    yield number, row
    except pyarrow.ArrowException as error:
        raise TrainingError(f"{path} is no readable parquet file ({error}); save it again.") from error
