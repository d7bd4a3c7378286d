"""The canonical tables: what every reader of a data set and the cascade simulator produce, and a user brings.

A folder holds ``users.parquet`` (``user_id`` + feature columns), ``items.parquet`` (``item_id`` + feature columns),
``interactions.parquet`` and ``features.yaml``. The columns of the interactions are ``user_id``, ``item_id``,
``timestamp`` (integer, milliseconds), ``stage`` (one of `STAGES`), one column a feedback (0/1 integer or boolean; null
where the log does not have it, read as 0) and optionally ``teacher_scores`` (float in [0, 1]; null where absent, and
always null off the impressions).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import polars as pl

from ranktower.data.feature_spec import Feature, FeatureSpec
from ranktower.data.staged_folder import staged_folder
from ranktower.errors import DataError

STAGES = ("impression", "ranking_candidate", "preranking_candidate", "random")
"""The stages of the cascade, furthest first. Their index is the code used everywhere in arrays."""

USERS_FILE = "users.parquet"
ITEMS_FILE = "items.parquet"
INTERACTIONS_FILE = "interactions.parquet"
SPEC_FILE = "features.yaml"
TABLE_FILES = (USERS_FILE, ITEMS_FILE, INTERACTIONS_FILE, SPEC_FILE)

MAX_ID_BYTES = 256


@dataclass(frozen=True, eq=False)
class Tables:
    """The canonical tables of one data set."""

    users: pl.DataFrame
    items: pl.DataFrame
    interactions: pl.DataFrame
    spec: FeatureSpec


def read_tables(folder: Path) -> Tables:
    """Read and validate the four files of a folder.

    Raises:
        DataError: a file is missing or is not Parquet, or the tables are wrong (see `validate_tables`).
        ConfigError: the feature specification is wrong.
    """
    if not folder.is_dir():
        raise DataError("no such folder of canonical tables", file=folder)
    users, items, interactions = (_read_parquet(folder / name) for name in TABLE_FILES[:3])
    if not (folder / SPEC_FILE).is_file():
        raise DataError("no such file", file=folder / SPEC_FILE)
    tables = Tables(users=users, items=items, interactions=interactions, spec=FeatureSpec.load(folder / SPEC_FILE))
    validate_tables(tables, folder)
    return tables


def read_side(path: Path, id_column: str, features: Sequence[Feature]) -> pl.DataFrame:
    """Read and validate users or items by themselves; there may be none. Raises DataError as `read_tables`."""
    frame = _read_parquet(path)
    _Table(frame, path).check_side(id_column, features)
    return frame


def write_tables(folder: Path, tables: Tables) -> None:
    """Write the four files, aside first and then renamed, so that ``folder`` is whole or not there.

    Raises:
        DataError: ``folder`` exists and holds something else than canonical tables.
    """
    with staged_folder(folder, owned=TABLE_FILES) as staging:
        tables.users.write_parquet(staging / USERS_FILE)
        tables.items.write_parquet(staging / ITEMS_FILE)
        tables.interactions.write_parquet(staging / INTERACTIONS_FILE)
        tables.spec.dump(staging / SPEC_FILE)


def _read_parquet(path: Path) -> pl.DataFrame:
    if not path.is_file():
        raise DataError("no such file", file=path)
    try:
        return pl.read_parquet(path, glob=False)
    except (pl.exceptions.PolarsError, OSError) as error:
        raise DataError(f"cannot be read as Parquet: {error}", file=path) from error


def canonical_ids(column: pl.Series) -> pl.Series:
    """Ids as their strings: the integer 12 and the string "12" are the same id."""
    return column.cast(pl.String)


def validate_tables(tables: Tables, folder: Path) -> None:
    """Check everything the rest of the code relies on.

    Extra columns are allowed and ignored. Null is allowed in feature, feedback and teacher columns and means missing.

    Args:
        tables: the tables to check.
        folder: named in the errors.

    Raises:
        DataError: the first thing that is wrong, with file, column and row (rows count from 0).
    """
    for frame, name, id_column, features in (
        (tables.users, USERS_FILE, "user_id", tables.spec.user_features),
        (tables.items, ITEMS_FILE, "item_id", tables.spec.item_features),
    ):
        table = _Table(frame, folder / name)
        table.check_filled()
        table.check_side(id_column, features)
    _check_interactions(tables, _Table(tables.interactions, folder / INTERACTIONS_FILE))


def _check_interactions(tables: Tables, table: _Table) -> None:
    table.check_filled()
    for id_column, known in (("user_id", tables.users), ("item_id", tables.items)):
        ids = table.check_ids(id_column)
        side = id_column.removesuffix("_id")
        unknown = ~ids.is_in(canonical_ids(known[id_column]).implode())
        table.refuse(id_column, unknown, f"interaction of an unknown {side} {{value!r}}")
    time = table.check_no_null("timestamp", table.column("timestamp", "an integer (milliseconds)", _is_integer))
    table.refuse("timestamp", time > 2**63 - 1, "{value!r} does not fit 64 bits with a sign")
    stage = table.check_no_null("stage", table.column("stage", "a string", _is_string)).cast(pl.String)
    table.refuse("stage", ~stage.is_in(list(STAGES)), f"unknown stage {{value!r}}; one of {', '.join(STAGES)}")
    impression = stage == STAGES[0]
    for name in tables.spec.feedback:
        feedback = table.column(name, "0/1 integers or booleans", _is_flag)
        table.refuse(name, ~feedback.cast(pl.Int64, strict=False).is_in([0, 1]), "feedback is {value!r}, not 0 or 1")
        table.refuse(name, (feedback.cast(pl.Boolean)) & ~impression, "feedback on a row that is not an impression")
    if "teacher_scores" in tables.interactions.columns:
        scores = table.column("teacher_scores", "floats", _is_float).cast(pl.Float64)
        table.refuse("teacher_scores", scores.is_nan(), "NaN; leave the value null where there is none")
        table.refuse("teacher_scores", (scores < 0) | (scores > 1), "teacher score {value!r} lies outside [0, 1]")
        table.refuse("teacher_scores", scores.is_not_null() & ~impression, "teacher score off the impressions")


@dataclass(frozen=True)
class _Table:
    """One table under check, with the file its errors name."""

    frame: pl.DataFrame
    file: Path

    def refuse(self, column: str, wrong: pl.Series, problem: str) -> None:
        """Raise for the first row where ``wrong`` is true (null counts as false)."""
        rows = wrong.fill_null(False).arg_true()
        if len(rows):
            row = int(rows[0])
            value = self.frame[column][row]
            shown = value if not isinstance(value, str) or len(value) <= 80 else f"{value[:80]}..."
            raise DataError(problem.format(value=shown), file=self.file, column=column, row=row)

    def check_filled(self) -> None:
        if self.frame.height == 0:
            raise DataError("the table is empty", file=self.file)

    def column(self, name: str, kinds: str, accept: Callable[[pl.DataType], bool]) -> pl.Series:
        """The column, after a check that it is there and of an accepted type; all-null columns have any type."""
        if name not in self.frame.columns:
            raise DataError("missing column", file=self.file, column=name)
        column = self.frame[name]
        if not accept(column.dtype) and column.dtype != pl.Null:
            raise DataError(f"wrong type {column.dtype}, expected {kinds}", file=self.file, column=name)
        return column

    def check_no_null(self, name: str, column: pl.Series) -> pl.Series:
        self.refuse(name, column.is_null(), "null")
        return column

    def check_ids(self, name: str) -> pl.Series:
        """The canonical ids of a column, after a check of each."""
        column = self.check_no_null(name, self.column(name, "strings or integers", _is_id))
        ids = canonical_ids(column)
        if column.dtype == pl.String:
            self.refuse(name, ids == "", "empty id")
            self.refuse(name, ids.str.contains("\x00", literal=True), "id {value!r} contains NUL")
            self.refuse(name, ids.str.len_bytes() > MAX_ID_BYTES, f"id {{value!r}} is longer than {MAX_ID_BYTES} bytes")
        return ids

    def check_side(self, id_column: str, features: Iterable[Feature]) -> None:
        """Distinct ids, and every feature's column."""
        self.check_ids(id_column)
        self.refuse(id_column, ~self.frame[id_column].is_first_distinct(), "duplicate id {value!r}")
        for feature in features:
            self.check_feature(feature)

    def check_feature(self, feature: Feature) -> None:
        name = feature.name
        if feature.kind == "continuous":
            column = self.column(name, "numbers", _is_number)
            self.check_finite(name, column)
        elif feature.kind == "categorical":
            column = self.column(name, "strings, integers or booleans", _is_category)
            self.check_finite(name, column)
            if column.dtype.is_float():
                self.refuse(name, column != column.floor(), "{value!r} is no category: strings, integers or booleans")
        elif feature.kind == "multi_categorical":
            self.column(name, "lists of strings, integers or booleans", _is_category_list)

    def check_finite(self, name: str, column: pl.Series) -> None:
        if column.dtype.is_float():
            self.refuse(name, column.is_nan(), "NaN; leave the value null where it is missing")
            self.refuse(name, column.is_infinite(), "{value!r} is not a finite number")


def _is_integer(kind: pl.DataType) -> bool:
    return kind.is_integer()


def _is_float(kind: pl.DataType) -> bool:
    return kind.is_float()


def _is_string(kind: pl.DataType) -> bool:
    return kind in (pl.String, pl.Categorical, pl.Enum)


def _is_number(kind: pl.DataType) -> bool:
    return kind.is_integer() or kind.is_float()


def _is_flag(kind: pl.DataType) -> bool:
    return kind.is_integer() or kind == pl.Boolean


def _is_id(kind: pl.DataType) -> bool:
    return kind.is_integer() or kind == pl.String


def _is_category(kind: pl.DataType) -> bool:
    # Integers with gaps come out of many tools as floats; whole ones are taken back as integers.
    return _is_string(kind) or _is_number(kind) or kind == pl.Boolean


def _is_category_list(kind: pl.DataType) -> bool:
    if not isinstance(kind, pl.List):
        return False
    inner = pl.Series([], dtype=kind.inner).dtype
    return _is_string(inner) or inner.is_integer() or inner in (pl.Boolean, pl.Null)
