"""Captions in a table: a metadata.jsonl, .csv or .parquet whose rows name their file, as Hugging Face's ImageFolder.

`file_name` is relative to the table; the columns of the captions are the source's `text_column` ("caption" is tried
too) and `motion_column`.
"""

from __future__ import annotations

import os
from pathlib import Path

from ...errors import InputError, TrainingError, reason
from ...files import files_below
from ...pipelines.media.kinds import media_in
from ...pipelines.media.sidecars import tidy
from ...pipelines.tables import KINDS, Row, rows
from ..config import SourceConfig
from .records import METADATA, Found, LeftOut, Record


def read_metadata(name: str, path: Path, source: SourceConfig) -> Found:
    """The rows of a table; of a folder's own table also the files that no row names, which are left out."""
    whole = path.is_dir()
    if whole:
        found = table_in(path)
        if found is None:
            raise TrainingError(f"sources.{name}.path {path} has no metadata file; expected {' or '.join(METADATA)}.")
        path = found
    if path.suffix.lower() not in KINDS:
        raise TrainingError(f"sources.{name}.path {path} is no metadata file; give a .jsonl, .csv or .parquet.")
    records, left_out, rows_of = [], [], {}
    try:
        for number, row in rows(path, ("file_name", "caption", source.text_column, source.motion_column)):
            entry = _row(path, number, row, source)
            if isinstance(entry, Record) and entry.name in rows_of:
                first = rows_of[entry.name]
                entry = LeftOut(f"{path.name}:{number}", f"twice: row {first} names {entry.name} already")
            if isinstance(entry, Record):
                rows_of[entry.name] = number
            (records if isinstance(entry, Record) else left_out).append(entry)
    except InputError as error:
        raise TrainingError(f"sources.{name}.path {error}") from error
    except OSError as error:  # of a file that a row names
        raise TrainingError(f"sources.{name}.path {path} cannot be read: {reason(error)}.") from error
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


def _row(path: Path, number: int, row: Row, source: SourceConfig) -> Record | LeftOut:
    where = f"{path.name}:{number}"
    if isinstance(row, str):
        return LeftOut(where, f"no row: {row}")
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
