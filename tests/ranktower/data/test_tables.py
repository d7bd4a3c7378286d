"""The canonical tables: reading, writing, and one clear error for each thing that can be wrong."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from ranktower.data.feature_spec import Feature, FeatureSpec
from ranktower.data.tables import (
    STAGES,
    Tables,
    canonical_ids,
    read_tables,
    validate_tables,
    write_tables,
)
from ranktower.errors import ConfigError, DataError

SPEC = FeatureSpec(
    user_features=(Feature(name="country", kind="categorical"), Feature(name="age", kind="continuous")),
    item_features=(Feature(name="tags", kind="multi_categorical"), Feature(name="price", kind="continuous")),
    feedback={"click": 1.0},
)
FOLDER = Path("shop")


def good() -> Tables:
    users = pl.DataFrame({"user_id": [1, 2, 3], "country": ["de", None, "fr"], "age": [20, 30, None]})
    items = pl.DataFrame({"item_id": ["a", "b"], "tags": [["x", None], None], "price": [1.5, None]})
    interactions = pl.DataFrame(
        {
            "user_id": ["1", "2", "3", "3"],
            "item_id": ["a", "b", "a", "b"],
            "timestamp": [10, 20, 30, 40],
            "stage": ["impression", "impression", "ranking_candidate", "impression"],
            "click": [1, 0, 0, None],
            "teacher_scores": [0.0, 1.0, None, None],
        }
    )
    return Tables(users=users, items=items, interactions=interactions, spec=SPEC)


def with_column(table: str, **columns: Any) -> Tables:
    """The good tables with columns of one of them replaced."""
    tables = good()
    frame = getattr(tables, table).with_columns(**{name: pl.Series(values) for name, values in columns.items()})
    return replace(tables, **{table: frame})


def without(table: str, column: str) -> Tables:
    tables = good()
    return replace(tables, **{table: getattr(tables, table).drop(column)})


def emptied(table: str) -> Tables:
    tables = good()
    return replace(tables, **{table: getattr(tables, table).clear()})


def test_good_tables_are_accepted() -> None:
    validate_tables(good(), FOLDER)


@pytest.mark.parametrize(
    ("table", "columns"),
    [
        ("users", {"user_id": ["1", "2", "3"]}),
        ("users", {"user_id": ["1", "2", "3"], "extra": [float("nan")] * 3}),
        ("users", {"country": [1, 2, None]}),
        ("users", {"country": [1.0, 2.0, None]}),
        ("users", {"country": [True, False, None]}),
        ("users", {"country": pl.Series(["a", "b", "a"], dtype=pl.Categorical)}),
        ("users", {"country": [None, None, None], "age": [None, None, None]}),
        ("items", {"tags": [[1, 2], []]}),
        ("items", {"tags": [[], []]}),
        ("items", {"tags": [None, None]}),
        ("items", {"item_id": ["a", "b"], "price": [1, 2]}),
        ("interactions", {"click": [True, False, False, False]}),
        ("interactions", {"teacher_scores": [None, None, None, None]}),
        ("interactions", {"stage": pl.Series(["impression"] * 4, dtype=pl.Enum(STAGES))}),
    ],
)
def test_other_good_types(table: str, columns: dict[str, Any]) -> None:
    validate_tables(with_column(table, **columns), FOLDER)


def test_the_teacher_is_optional() -> None:
    validate_tables(without("interactions", "teacher_scores"), FOLDER)


NAN = float("nan")
LONG = "é" * 128 + "x"  # 257 bytes, 129 characters

WRONG: list[tuple[Tables, str]] = [
    (emptied("users"), "shop/users.parquet: the table is empty"),
    (emptied("items"), "shop/items.parquet: the table is empty"),
    (emptied("interactions"), "shop/interactions.parquet: the table is empty"),
    (without("users", "user_id"), "shop/users.parquet, column 'user_id': missing column"),
    (without("users", "age"), "shop/users.parquet, column 'age': missing column"),
    (without("items", "tags"), "shop/items.parquet, column 'tags': missing column"),
    (without("interactions", "stage"), "shop/interactions.parquet, column 'stage': missing column"),
    (without("interactions", "click"), "shop/interactions.parquet, column 'click': missing column"),
    (without("interactions", "timestamp"), "shop/interactions.parquet, column 'timestamp': missing column"),
    (
        with_column("users", user_id=[1.0, 2.0, 3.0]),
        "shop/users.parquet, column 'user_id': wrong type Float64, expected strings or integers",
    ),
    (
        with_column("users", age=["20", "30", "40"]),
        "shop/users.parquet, column 'age': wrong type String, expected numbers",
    ),
    (
        with_column("users", country=[["de"], ["fr"], []]),
        "shop/users.parquet, column 'country': wrong type List(String), expected strings, integers or booleans",
    ),
    (
        with_column("items", tags=["x", "y"]),
        "shop/items.parquet, column 'tags': wrong type String, expected lists of strings, integers or booleans",
    ),
    (
        with_column("items", tags=[[0.5], [1.5]]),
        "shop/items.parquet, column 'tags': wrong type List(Float64), expected lists of strings, integers or booleans",
    ),
    (
        with_column("interactions", timestamp=[1.0, 2.0, 3.0, 4.0]),
        "shop/interactions.parquet, column 'timestamp': wrong type Float64, expected an integer (milliseconds)",
    ),
    (
        with_column("interactions", stage=[0, 0, 1, 0]),
        "shop/interactions.parquet, column 'stage': wrong type Int64, expected a string",
    ),
    (
        with_column("interactions", click=[1.0, 0.0, 0.0, 0.0]),
        "shop/interactions.parquet, column 'click': wrong type Float64, expected 0/1 integers or booleans",
    ),
    (
        with_column("interactions", teacher_scores=["a", "b", "c", "d"]),
        "shop/interactions.parquet, column 'teacher_scores': wrong type String, expected floats",
    ),
    (with_column("users", user_id=[1, 2, 1]), "shop/users.parquet, column 'user_id', row 2: duplicate id 1"),
    (with_column("items", item_id=["b", "b"]), "shop/items.parquet, column 'item_id', row 1: duplicate id 'b'"),
    (with_column("users", user_id=[1, None, 3]), "shop/users.parquet, column 'user_id', row 1: null"),
    (with_column("items", item_id=["a", ""]), "shop/items.parquet, column 'item_id', row 1: empty id"),
    (
        with_column("items", item_id=["a", "b\x00c"]),
        "shop/items.parquet, column 'item_id', row 1: id 'b\\x00c' contains NUL",
    ),
    (
        with_column("items", item_id=[LONG, "b"]),
        f"shop/items.parquet, column 'item_id', row 0: id '{LONG[:80]}...' is longer than 256 bytes",
    ),
    (
        with_column("users", age=[20.0, NAN, None]),
        "shop/users.parquet, column 'age', row 1: NaN; leave the value null where it is missing",
    ),
    (
        with_column("items", price=[1.0, float("inf")]),
        "shop/items.parquet, column 'price', row 1: inf is not a finite number",
    ),
    (
        with_column("users", country=[1.0, NAN, 2.0]),
        "shop/users.parquet, column 'country', row 1: NaN; leave the value null where it is missing",
    ),
    (
        with_column("users", country=[1.0, 2.0, 2.5]),
        "shop/users.parquet, column 'country', row 2: 2.5 is no category: strings, integers or booleans",
    ),
    (
        with_column("interactions", user_id=["1", "2", "3", "4"]),
        "shop/interactions.parquet, column 'user_id', row 3: interaction of an unknown user '4'",
    ),
    (
        with_column("interactions", user_id=[1, 9, 3, 3]),
        "shop/interactions.parquet, column 'user_id', row 1: interaction of an unknown user 9",
    ),
    (
        with_column("interactions", item_id=["a", "b", "a", "z"]),
        "shop/interactions.parquet, column 'item_id', row 3: interaction of an unknown item 'z'",
    ),
    (
        with_column("interactions", timestamp=[1, 2, None, 4]),
        "shop/interactions.parquet, column 'timestamp', row 2: null",
    ),
    (
        with_column("interactions", timestamp=pl.Series([1, 2**63, 3, 4], dtype=pl.UInt64)),
        "shop/interactions.parquet, column 'timestamp', row 1: 9223372036854775808 does not fit 64 bits with a sign",
    ),
    (
        with_column("interactions", stage=["impression", None, "impression", "impression"]),
        "shop/interactions.parquet, column 'stage', row 1: null",
    ),
    (
        with_column("interactions", stage=["impression", "recall", "impression", "impression"]),
        "shop/interactions.parquet, column 'stage', row 1: unknown stage 'recall'; "
        "one of impression, ranking_candidate, preranking_candidate, random",
    ),
    (
        with_column("interactions", click=[1, 2, 0, 0]),
        "shop/interactions.parquet, column 'click', row 1: feedback is 2, not 0 or 1",
    ),
    (
        with_column("interactions", click=[1, 0, 0, -1]),
        "shop/interactions.parquet, column 'click', row 3: feedback is -1, not 0 or 1",
    ),
    (
        with_column("interactions", click=[1, 0, 1, 0]),
        "shop/interactions.parquet, column 'click', row 2: feedback on a row that is not an impression",
    ),
    (
        with_column("interactions", teacher_scores=[0.5, 1.25, None, None]),
        "shop/interactions.parquet, column 'teacher_scores', row 1: teacher score 1.25 lies outside [0, 1]",
    ),
    (
        with_column("interactions", teacher_scores=[-0.25, 0.5, None, None]),
        "shop/interactions.parquet, column 'teacher_scores', row 0: teacher score -0.25 lies outside [0, 1]",
    ),
    (
        with_column("interactions", teacher_scores=[0.5, NAN, None, None]),
        "shop/interactions.parquet, column 'teacher_scores', row 1: NaN; leave the value null where there is none",
    ),
    (
        with_column("interactions", teacher_scores=[0.5, None, 0.5, None]),
        "shop/interactions.parquet, column 'teacher_scores', row 2: teacher score off the impressions",
    ),
]


@pytest.mark.parametrize(("tables", "problem"), WRONG, ids=[problem[:90] for _, problem in WRONG])
def test_each_wrong_table_has_one_clear_error(tables: Tables, problem: str) -> None:
    with pytest.raises(DataError) as raised:
        validate_tables(tables, FOLDER)
    assert str(raised.value) == problem


def test_an_id_of_256_bytes_is_allowed() -> None:
    validate_tables(with_column("users", user_id=["1", "2", "3"]), FOLDER)
    tables = with_column("items", item_id=["é" * 128, "b"])
    interactions = tables.interactions.with_columns(item_id=pl.lit("é" * 128))
    validate_tables(replace(tables, interactions=interactions), FOLDER)


def test_the_integer_and_the_string_are_one_id() -> None:
    assert canonical_ids(pl.Series([12, 0, -3])).to_list() == ["12", "0", "-3"]
    assert canonical_ids(pl.Series(["12", "012", "x"])).to_list() == ["12", "012", "x"]


def test_what_is_written_is_read(tmp_path: Path, draw_tables: Callable[..., Tables]) -> None:
    for tables in (good(), draw_tables()):
        write_tables(tmp_path / "deep" / "shop", tables)
        read = read_tables(tmp_path / "deep" / "shop")
        assert_frame_equal(read.users, tables.users)
        assert_frame_equal(read.items, tables.items)
        assert_frame_equal(read.interactions, tables.interactions)
        assert read.spec == tables.spec
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["shop"]


def test_reading_validates_and_names_the_real_file(tmp_path: Path) -> None:
    write_tables(tmp_path, with_column("users", user_id=[1, 2, 1]))
    with pytest.raises(DataError) as raised:
        read_tables(tmp_path)
    assert str(raised.value) == f"{tmp_path / 'users.parquet'}, column 'user_id', row 2: duplicate id 1"


def test_a_folder_with_wildcards_in_its_name(tmp_path: Path) -> None:
    write_tables(tmp_path / "shop[1]*", good())
    assert read_tables(tmp_path / "shop[1]*").users.height == 3


@pytest.mark.parametrize("name", ["users.parquet", "items.parquet", "interactions.parquet", "features.yaml"])
def test_a_missing_file_is_named(tmp_path: Path, name: str) -> None:
    write_tables(tmp_path, good())
    (tmp_path / name).unlink()
    with pytest.raises(DataError) as raised:
        read_tables(tmp_path)
    assert str(raised.value) == f"{tmp_path / name}: no such file"


def test_a_missing_folder_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as raised:
        read_tables(tmp_path / "none")
    assert str(raised.value) == f"{tmp_path / 'none'}: no such folder of canonical tables"


@pytest.mark.parametrize("content", [b"", b"user_id,age\n1,2\n", b"PAR1", b"PAR1 not really PAR1"])
def test_a_file_that_is_not_parquet(tmp_path: Path, content: bytes) -> None:
    write_tables(tmp_path, good())
    (tmp_path / "items.parquet").write_bytes(content)
    with pytest.raises(DataError) as raised:
        read_tables(tmp_path)
    assert str(raised.value).startswith(f"{tmp_path / 'items.parquet'}: cannot be read as Parquet: ")


def test_a_parquet_file_cut_short(tmp_path: Path) -> None:
    write_tables(tmp_path, good())
    path = tmp_path / "users.parquet"
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"users\.parquet: cannot be read as Parquet: "):
        read_tables(tmp_path)


def test_a_wrong_specification_is_a_configuration_error(tmp_path: Path) -> None:
    write_tables(tmp_path, good())
    (tmp_path / "features.yaml").write_text("feedback: 3\n")
    with pytest.raises(ConfigError, match=r"features\.yaml: feedback: Input should be a valid dictionary, got 3"):
        read_tables(tmp_path)


def test_somebody_elses_folder_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(DataError) as raised:
        write_tables(tmp_path, good())
    assert str(raised.value) == f"{tmp_path}: will not replace this folder: it also holds 'thesis.tex'"
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.tex"]
    with pytest.raises(DataError, match=r"thesis\.tex: is a file, not a folder to write into"):
        write_tables(tmp_path / "thesis.tex", good())
