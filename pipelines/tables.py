"""Tables of a user: the rows of a .jsonl, .csv or .parquet, one by one, and why a line is none.

Texts are UTF-8, or UTF-16 where they begin by saying so.
"""

from __future__ import annotations

import codecs
import csv
import json
from collections.abc import Callable, Collection, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..errors import InputError, reason, shown
from ..libraries import library

Row = dict[str, Any] | str  # values by column, or why the line is no row, as a part of a sentence

LONGEST_CELL = 2**24  # characters of a CSV's cell; csv's own limit is shorter than some captions


def rows(path: Path, columns: Collection[str] | None = None) -> Iterator[tuple[int, Row]]:
    """Each row's number (of its line, in a parquet from 1) and its values by column.

    columns: those that are needed; others are not read where that costs less, which is in a parquet. None: all.
    A file that cannot be read, or is no table: InputError, with one sentence that begins with the path.
    """
    kind = KINDS.get(path.suffix.lower())
    if kind is None:
        raise InputError(f"{path} is no table; give a .jsonl, .csv or .parquet.")
    try:
        yield from kind(path, columns)
    except OSError as error:
        raise InputError(f"{path} cannot be read: {reason(error)}.") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} cannot be read ({error}); save it as UTF-8.") from error


def lines(path: Path) -> Iterator[str]:
    """Of a text, each with its end. Raises OSError, UnicodeDecodeError."""
    with path.open("rb") as file:
        wide = file.read(2) in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)
    with path.open(encoding="utf-16" if wide else "utf-8-sig", newline="") as file:
        yield from file


def _jsonl(path: Path, columns: Collection[str] | None) -> Iterator[tuple[int, Row]]:
    for number, line in enumerate(lines(path), start=1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            row = None
        yield number, row if isinstance(row, dict) else "the line is no JSON object"


def _csv(path: Path, columns: Collection[str] | None) -> Iterator[tuple[int, Row]]:
    csv.field_size_limit(LONGEST_CELL)
    reader, header, number = csv.reader(lines(path), strict=True), None, 1
    while True:
        start = reader.line_num + 1
        try:
            cells = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            yield start, f"lines {start} to {reader.line_num}: {error}; look for a quote that nothing closes"
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
            yield number, f"{len(cells)} cells under {len(header)} columns; {parted(header) or remedy}"
        else:
            yield number, dict(zip(header, cells, strict=True))


def parted(header: Sequence[str]) -> str:
    """A remedy, where a table's columns are parted by something else than commas, as some spreadsheets do; ""."""
    marks = {";": "semicolons", "\t": "tabs", "|": "bars"}
    mark = next((mark for mark in marks if mark in header[0]), None) if len(header) == 1 else None
    return "" if mark is None else f"its columns are parted by {marks[mark]}: save it with commas"


def _parquet(path: Path, columns: Collection[str] | None) -> Iterator[tuple[int, Row]]:
    pyarrow, parquet = (library(n, f"reading {path}", "save it as .jsonl") for n in ("pyarrow", "pyarrow.parquet"))
    try:
        with parquet.ParquetFile(path) as file:
            wanted = [c for c in file.schema_arrow.names if columns is None or c in columns]
            number = 0
            for batch in file.iter_batches(columns=wanted):
                names = batch.schema.names
                values = {name: _values(path, name, of) for name, of in zip(names, batch.columns, strict=True)}
                for i in range(batch.num_rows):
                    number += 1
                    yield number, {name: column[i] for name, column in values.items()}
    except pyarrow.ArrowException as error:
        raise InputError(f"{path} is no readable parquet file ({error}); save it again.") from error


def _values(path: Path, name: str, column: Any) -> list[Any]:
    """Of an array of arrow's. Raises InputError, UnicodeDecodeError."""
    try:
        return column.to_pylist()
    except UnicodeDecodeError:
        raise
    except (OverflowError, ValueError) as error:  # a date after the year 9999, a time by the nanosecond
        raise InputError(
            f"{path} has a {column.type} in its column {shown(name)} that cannot be read ({reason(error)}); save that "
            "column as text, or leave it out."
        ) from error


KINDS: dict[str, Callable[[Path, Collection[str] | None], Iterator[tuple[int, Row]]]] = {
    ".jsonl": _jsonl, ".csv": _csv, ".parquet": _parquet,
}  # fmt: skip
