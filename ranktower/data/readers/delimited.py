"""Reads delimited text files (CSV, gzip or not, or ``::``) into polars frames, with errors that name the bad row.

The fast path lets polars parse with a fixed schema. Only where that fails, or a required value turns out to be
missing, is the file read again row by row to say which one is wrong: a good file pays nothing for the good message.
"""

from __future__ import annotations

import csv
import gzip
import io
import logging
import math
import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

import polars as pl

from ranktower.errors import DataError

Kind = Literal["integer", "number", "text", "flag"]

_DTYPES: dict[Kind, pl.DataType] = {
    "integer": pl.Int64(),
    "number": pl.Float64(),
    "text": pl.String(),
    "flag": pl.Int8(),
}
_INTEGER = re.compile(r"[+-]?[0-9]+")
# A unit separator cannot occur in the '::' files read here, and polars takes separators of one byte only.
_ONE_BYTE_SEPARATOR = "\x1f"

_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Column:
    """One column that a reader needs.

    Attributes:
        name: the name in the file's header, surrounding blanks not counted.
        kind: integer (64 bit), number, text, or flag (0 or 1).
        required: False where a missing value is allowed; it is read as null.
        choices: for a text, the only values it may have; it is read as an Enum, one byte a row.
    """

    name: str
    kind: Kind
    required: bool = True
    choices: tuple[str, ...] = ()

    @property
    def dtype(self) -> pl.DataType:
        """What the column is read as."""
        return pl.Enum(self.choices) if self.choices else _DTYPES[self.kind]


@dataclass(frozen=True)
class Layout:
    """How a file is written.

    Attributes:
        columns: the columns to read; without a header these are all columns of the file, in its order.
        header: whether the first line holds the column names.
        separator: one or more characters between two fields.
        encoding: a Python codec name.
        quoted: whether a field may stand in double quotes.
        null_values: texts besides the empty one that mean a missing value.
    """

    columns: tuple[Column, ...]
    header: bool = True
    separator: str = ","
    encoding: str = "utf-8"
    quoted: bool = True
    null_values: tuple[str, ...] = ()


def find_files(folder: Path, pattern: str) -> list[Path]:
    """Files of an official download whose name matches, each as ``name`` or ``name.gz``.

    Args:
        folder: looked through together with its ``data`` sub-folder, where the official archives put the tables.
        pattern: glob over the file name, without ``.gz``.

    Returns:
        Paths sorted by name; where a table is there both plain and compressed, only the plain one.
    """
    found: dict[str, Path] = {}
    for place in (folder, folder / "data"):
        for path in sorted(place.glob(pattern)) + sorted(place.glob(pattern + ".gz")):
            found.setdefault(path.name.removesuffix(".gz"), path)
    return [found[name] for name in sorted(found)]


def require_file(folder: Path, name: str) -> Path:
    """The one file of this name (or ``name.gz``); DataError naming it and both folders where it is not there."""
    files = find_files(folder, name)
    if not files:
        raise DataError(f"no such file in {folder} or its sub-folder data (plain or .gz)", file=name)
    return files[0]


def load(paths: Sequence[Path], layout: Layout, *, distinct: bool = False) -> pl.DataFrame:
    """Read files of one layout below each other.

    Args:
        paths: at least one file.
        layout: columns to keep and how the files are written.
        distinct: drop rows that repeat an earlier one exactly, over all columns of the files, and log their number.

    Returns:
        The layout's columns, in its order. With ``distinct`` the order of the rows is unspecified.

    Raises:
        DataError: naming file, column and row of the first value that is missing, of a wrong type or unreadable.
    """
    names = [column.name for column in layout.columns]
    try:
        rows = pl.concat([_scan(path, layout) for path in paths], how="diagonal")
        if distinct:
            count, frame = pl.collect_all([rows.select(pl.len()), rows.unique().select(names)], engine="streaming")
            _report_duplicates(paths, count.item() - frame.height, count.item())
        else:
            frame = rows.select(names).collect(engine="streaming")
    except (pl.exceptions.PolarsError, OSError) as error:
        raise _first_fault(paths, layout, str(error).split("\n")[0]) from error
    if frame.is_empty():
        raise DataError("the table has no rows", file=paths[0])
    if _has_fault(frame, layout):
        raise _first_fault(paths, layout, "a required value is missing or out of range")
    return frame


def _report_duplicates(paths: Sequence[Path], num_duplicates: int, num_rows: int) -> None:
    files = ", ".join(path.name for path in paths)
    _logger.info("%s: %d rows, %d exact duplicates dropped", files, num_rows, num_duplicates)


def _scan(path: Path, layout: Layout) -> pl.LazyFrame:
    """Every column of the file, those of the layout with their type, the others as text."""
    written = _header(path, layout) if layout.header else [column.name for column in layout.columns]
    types = {column.name: column.dtype for column in layout.columns}
    schema = {name: types.get(name.strip(), pl.String()) for name in written}
    plain = layout.separator.isascii() and len(layout.separator) == 1 and layout.encoding == "utf-8"
    lazy = pl.scan_csv(
        path if plain else _recoded(path, layout),
        has_header=layout.header,
        schema=schema,
        separator=layout.separator if plain else _ONE_BYTE_SEPARATOR,
        quote_char='"' if layout.quoted else None,
        null_values=list(layout.null_values) or None,
    )
    return lazy.rename({name: name.strip() for name in written if name != name.strip()})


def _recoded(path: Path, layout: Layout) -> io.BytesIO:
    """The file as UTF-8 with a one-byte separator, in memory: only MovieLens' small files need it."""
    with _open(path, layout) as stream:
        text = stream.read()
    return io.BytesIO(text.replace(layout.separator, _ONE_BYTE_SEPARATOR).encode())


def _header(path: Path, layout: Layout) -> list[str]:
    with _open(path, layout) as stream:
        header = next(_fields(stream, layout), [])
    present = {name.strip() for name in header}
    for column in layout.columns:
        if column.name not in present:
            raise DataError(f"missing column; the file has {sorted(present)}", file=path, column=column.name)
    return header


@contextmanager
def _open(path: Path, layout: Layout) -> Iterator[IO[str]]:
    """Text of a plain or gzip file; bytes that are no text come out as surrogates, so that their row can be named."""
    encoding = "utf-8-sig" if layout.encoding == "utf-8" else layout.encoding
    try:
        if path.suffix == ".gz":
            with gzip.open(path, "rt", encoding=encoding, errors="surrogateescape", newline="") as stream:
                yield stream
        else:
            with path.open(encoding=encoding, errors="surrogateescape", newline="") as stream:
                yield stream
    except (OSError, EOFError, csv.Error) as error:
        raise DataError(f"cannot be read: {error}", file=path) from error


def _fields(stream: IO[str], layout: Layout) -> Iterator[list[str]]:
    if len(layout.separator) == 1:
        yield from csv.reader(stream, delimiter=layout.separator, strict=True)
    else:
        for line in stream:
            yield line.rstrip("\r\n").split(layout.separator)


def _has_fault(frame: pl.DataFrame, layout: Layout) -> bool:
    for column in layout.columns:
        series = frame[column.name]
        if column.required and series.null_count():
            return True
        if column.kind == "flag" and not series.drop_nulls().is_in([0, 1]).all():
            return True
        if column.kind == "number" and not series.drop_nulls().is_finite().all():
            return True
    return False


def _first_fault(paths: Sequence[Path], layout: Layout, otherwise: str) -> DataError:
    """The first bad value as an error; ``otherwise`` is the problem where this slow reading finds none."""
    for path in paths:
        with _open(path, layout) as stream:
            rows = _fields(stream, layout)
            names = next(rows, []) if layout.header else [column.name for column in layout.columns]
            positions = {name.strip(): position for position, name in enumerate(names)}
            quick = [(positions[column.name], _quick_check(column)) for column in layout.columns]
            for row, fields in enumerate(rows):
                if len(fields) == len(names) and all(good(fields[position]) for position, good in quick):
                    continue
                fault = _row_fault(fields, len(names), layout, positions)
                if fault is not None:
                    column, problem = fault
                    return DataError(problem, file=path, column=column, row=row)
    return DataError(otherwise, file=paths[0])


def _quick_check(column: Column) -> Callable[[str], bool]:
    """A cheap test that only good values pass, though not all: 100 million rows may come before the bad one."""
    if column.choices:
        return frozenset(column.choices).__contains__
    if column.kind == "flag":
        return frozenset("01").__contains__
    if column.kind == "integer":
        return lambda text: text.isdecimal() and len(text) < 19
    return lambda _: False


def _row_fault(
    fields: Sequence[str], num_fields: int, layout: Layout, positions: dict[str, int]
) -> tuple[str | None, str] | None:
    """Column and problem of the first bad value of one row, None where the row is good."""
    if len(fields) != num_fields:
        return None, f"{num_fields} fields expected, {len(fields)} found"
    for column in layout.columns:
        problem = _value_fault(fields[positions[column.name]], column, layout.null_values)
        if problem is not None:
            return column.name, problem
    return None


def _value_fault(text: str, column: Column, null_values: Sequence[str]) -> str | None:
    if text == "" or text in null_values:
        return "a value is missing" if column.required else None
    if any("\udc80" <= character <= "\udcff" for character in text):
        return "a value is not UTF-8 text"
    if column.kind == "text":
        wrong = column.choices and text not in column.choices
        return f"{text!r} is none of {', '.join(column.choices)}" if wrong else None
    if column.kind == "number":
        return None if _is_finite_number(text) else f"{text!r} is not a finite number"
    if not _INTEGER.fullmatch(text.strip()) or not -(2**63) <= int(text) < 2**63:
        return f"{text!r} is not an integer"
    if column.kind == "flag" and int(text) not in (0, 1):
        return f"{text!r} is neither 0 nor 1"
    return None


def _is_finite_number(text: str) -> bool:
    try:
        return math.isfinite(float(text))
    except ValueError:
        return False
