"""Reading delimited files: what is read, and which row an error names."""

from __future__ import annotations

import gzip
import logging
from collections.abc import Callable
from pathlib import Path

import polars as pl
import pytest

from ranktower.data.readers.delimited import Column, Layout, find_files, load, require_file
from ranktower.errors import DataError

Writer = Callable[[str, str], Path]

LAYOUT = Layout(
    columns=(
        Column("id", "integer"),
        Column("size", "number", required=False),
        Column("name", "text", required=False),
        Column("seen", "flag"),
    )
)
HEADER = "id,size,name,seen\n"


def test_reads_every_kind_with_its_type(write: Writer) -> None:
    path = write("a.csv", HEADER + '1,2.5,x,0\n-2,,"y, z",1\n')
    frame = load([path], LAYOUT)
    assert frame.rows() == [(1, 2.5, "x", 0), (-2, None, "y, z", 1)]
    assert frame.dtypes == [pl.Int64, pl.Float64, pl.String, pl.Int8]


def test_takes_columns_by_name_in_any_order_and_leaves_others(write: Writer) -> None:
    path = write("a.csv", "seen,extra,name,size,id\n1,not a number,x,2,7\n")
    frame = load([path], LAYOUT)
    assert frame.columns == ["id", "size", "name", "seen"]
    assert frame.rows() == [(7, 2.0, "x", 1)]


def test_blanks_around_a_column_name_do_not_count(write: Writer) -> None:
    # As in the official user_profile.csv of Alimama, whose last column name ends in a blank.
    path = write("a.csv", "id,size,name,seen \n1,2,x,1\n")
    assert load([path], LAYOUT).rows() == [(1, 2.0, "x", 1)]


def test_byte_order_mark_and_windows_line_ends(write: Writer) -> None:
    path = write("a.csv", "\ufeffid,size,name,seen\r\n1,2,x,1\r\n")
    assert load([path], LAYOUT).rows() == [(1, 2.0, "x", 1)]


def test_compressed_file_reads_the_same(write: Writer) -> None:
    text = HEADER + "1,2,x,1\n3,4,y,0\n"
    assert load([write("a.csv.gz", text)], LAYOUT).equals(load([write("b.csv", text)], LAYOUT))


def test_null_values_are_missing(write: Writer) -> None:
    layout = Layout((Column("id", "integer"), Column("brand", "integer", required=False)), null_values=("NULL",))
    assert load([write("a.csv", "id,brand\n1,NULL\n2,5\n")], layout).rows() == [(1, None), (2, 5)]


def test_choices_come_out_as_an_enum(write: Writer) -> None:
    layout = Layout((Column("kind", "text", choices=("pv", "buy")),))
    frame = load([write("a.csv", "kind\nbuy\npv\n")], layout)
    assert frame["kind"].to_list() == ["buy", "pv"]
    assert frame["kind"].dtype == pl.Enum(["pv", "buy"])


def test_no_header_long_separator_and_latin_1(tmp_path: Path) -> None:
    path = tmp_path / "movies.dat"
    path.write_bytes('1::Misérables, Les (1995)::Drama|Musical\n2::"Great Day" (1977)::Comedy\n'.encode("latin-1"))
    layout = Layout(
        (Column("id", "integer"), Column("title", "text"), Column("genres", "text")),
        header=False,
        separator="::",
        encoding="latin-1",
        quoted=False,
    )
    assert load([path], layout).rows() == [
        (1, "Misérables, Les (1995)", "Drama|Musical"),
        (2, '"Great Day" (1977)', "Comedy"),
    ]


def test_several_files_are_read_below_each_other(write: Writer) -> None:
    paths = [write("a.csv", HEADER + "1,2,x,1\n"), write("b.csv", "seen,id,name,size\n0,2,y,3\n")]
    assert load(paths, LAYOUT)["id"].to_list() == [1, 2]


def test_exact_duplicates_are_dropped_and_counted(write: Writer, caplog: pytest.LogCaptureFixture) -> None:
    # The third row differs only in a column that is not read: it is a row of its own.
    paths = [
        write("a.csv", "id,size,name,seen,extra\n1,2,x,1,p\n1,2,x,1,p\n1,2,x,1,q\n"),
        write("b.csv", "id,size,name,seen,extra\n1,2,x,1,p\n"),
    ]
    with caplog.at_level(logging.INFO, logger="ranktower"):
        frame = load(paths, LAYOUT, distinct=True)
    assert frame.rows() == [(1, 2.0, "x", 1)] * 2
    assert "a.csv, b.csv: 4 rows, 2 exact duplicates dropped" in caplog.text


@pytest.mark.parametrize(
    ("row", "column", "problem"),
    [
        ("x1,2,x,1", "id", "'x1' is not an integer"),
        ("1.5,2,x,1", "id", "'1.5' is not an integer"),
        ("99999999999999999999,2,x,1", "id", "'99999999999999999999' is not an integer"),
        (",2,x,1", "id", "a value is missing"),
        ("1,wide,x,1", "size", "'wide' is not a finite number"),
        ("1,nan,x,1", "size", "'nan' is not a finite number"),
        ("1,inf,x,1", "size", "'inf' is not a finite number"),
        ("1,2,x,2", "seen", "'2' is neither 0 nor 1"),
        ("1,2,x,yes", "seen", "'yes' is not an integer"),
        ("1,2,x,", "seen", "a value is missing"),
    ],
)
@pytest.mark.parametrize("name", ["a.csv", "a.csv.gz"])
def test_a_bad_value_is_named_with_file_column_and_row(
    write: Writer, name: str, row: str, column: str, problem: str
) -> None:
    path = write(name, HEADER + "1,2,x,1\n1,2,x,1\n" + row + "\n1,2,x,0\n")
    with pytest.raises(DataError) as error:
        load([path], LAYOUT)
    assert str(error.value) == f"{path}, column {column!r}, row 2: {problem}"


@pytest.mark.parametrize(("row", "found"), [("1,2,x", 3), ("1,2,x,1,5", 5)])
def test_a_row_of_another_length_is_named(write: Writer, row: str, found: int) -> None:
    path = write("a.csv", HEADER + "1,2,x,1\n" + row + "\n")
    with pytest.raises(DataError) as error:
        load([path], LAYOUT)
    assert str(error.value) == f"{path}, row 1: 4 fields expected, {found} found"


def test_a_bad_value_is_found_in_the_second_file_too(write: Writer) -> None:
    good, bad = write("a.csv", HEADER + "1,2,x,1\n"), write("b.csv", HEADER + "oops,2,x,1\n")
    with pytest.raises(DataError) as error:
        load([good, bad], LAYOUT, distinct=True)
    assert str(error.value) == f"{bad}, column 'id', row 0: 'oops' is not an integer"


def test_a_bad_choice_names_the_choices(write: Writer) -> None:
    layout = Layout((Column("user", "integer"), Column("kind", "text", choices=("pv", "buy"))), header=False)
    path = write("a.csv", "1,pv\n2,sell\n")
    with pytest.raises(DataError) as error:
        load([path], layout)
    assert str(error.value) == f"{path}, column 'kind', row 1: 'sell' is none of pv, buy"


def test_a_bad_row_of_a_long_separator_is_named(write: Writer) -> None:
    layout = Layout((Column("id", "integer"), Column("stars", "integer")), header=False, separator="::")
    path = write("ratings.dat", "1::5\n2::five\n")
    with pytest.raises(DataError) as error:
        load([path], layout)
    assert str(error.value) == f"{path}, column 'stars', row 1: 'five' is not an integer"


def test_a_missing_column_is_named_with_those_there(write: Writer) -> None:
    path = write("a.csv", "id,size,seen\n1,2,1\n")
    with pytest.raises(DataError) as error:
        load([path], LAYOUT)
    assert str(error.value) == f"{path}, column 'name': missing column; the file has ['id', 'seen', 'size']"


def test_bytes_that_are_no_text_are_named(tmp_path: Path) -> None:
    path = tmp_path / "a.csv"
    path.write_bytes(HEADER.encode() + b"1,2,x,1\n1,2,\xff\xfe,1\n")
    with pytest.raises(DataError) as error:
        load([path], LAYOUT)
    assert str(error.value) == f"{path}, column 'name', row 1: a value is not UTF-8 text"


@pytest.mark.parametrize("text", [HEADER, HEADER.strip()])
def test_a_file_without_rows_is_refused(write: Writer, text: str) -> None:
    path = write("a.csv", text)
    with pytest.raises(DataError, match=r"a\.csv: the table has no rows"):
        load([path], LAYOUT)


def test_an_empty_file_lacks_its_columns(write: Writer) -> None:
    with pytest.raises(DataError, match=r"a\.csv, column 'id': missing column"):
        load([write("a.csv", "")], LAYOUT)


def test_an_empty_file_without_header_is_refused(write: Writer) -> None:
    path = write("a.csv", "")
    with pytest.raises(DataError, match=r"a\.csv"):
        load([path], Layout((Column("id", "integer"),), header=False))


def test_a_cut_off_gzip_file_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.csv.gz"
    path.write_bytes(gzip.compress((HEADER + "1,2,x,1\n" * 5000).encode())[:-12])
    with pytest.raises(DataError, match=r"a\.csv\.gz: .*(end-of-stream|end of file|cannot be read)"):
        load([path], LAYOUT)


def test_a_quote_that_never_closes_is_refused(write: Writer) -> None:
    path = write("a.csv", HEADER + '1,2,x,1\n1,2,"x,1\n1,2,x,1\n')
    with pytest.raises(DataError, match=r"a\.csv"):
        load([path], LAYOUT)


def test_files_are_found_in_the_folder_and_in_data_plain_before_compressed(write: Writer, tmp_path: Path) -> None:
    write("log_1.csv", "x")
    write("log_1.csv.gz", "x")
    write("data/log_2.csv.gz", "x")
    write("data/other.csv", "x")
    write("deeper/data/log_3.csv", "x")
    found = [path.relative_to(tmp_path).as_posix() for path in find_files(tmp_path, "log_*.csv")]
    assert found == ["log_1.csv", "data/log_2.csv.gz"]


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        require_file(tmp_path, "UserBehavior.csv")
    assert str(error.value) == (f"UserBehavior.csv: no such file in {tmp_path} or its sub-folder data (plain or .gz)")
