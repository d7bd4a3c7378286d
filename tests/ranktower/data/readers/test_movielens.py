"""MovieLens-1M: hand-written files in the official format."""

from __future__ import annotations

from pathlib import Path

import pytest

from ranktower.data.readers.movielens import read
from ranktower.data.tables import validate_tables
from ranktower.errors import DataError

RATINGS = "1::1193::5::978300760\n1::661::3::978302109\n2::1193::4::978298413\n2::1193::4::978298413\n"
USERS = "1::F::1::10::48067\n2::M::56::16::70072-1234\n"
MOVIES = "661::James and the Giant Peach (1996)::Animation|Children's|Musical\n1193::Misérables, Les::Drama\n"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in (("ratings.dat", RATINGS), ("users.dat", USERS), ("movies.dat", MOVIES)):
        (tmp_path / name).write_bytes(text.encode("latin-1"))
    return tmp_path


def test_a_rating_is_an_impression_and_a_high_one_is_liked(folder: Path) -> None:
    tables = read(folder)
    validate_tables(tables, folder)
    assert tables.interactions.columns == ["user_id", "item_id", "timestamp", "stage", "like"]
    assert tables.interactions.rows() == [
        (1, 1193, 978300760000, "impression", 1),
        (1, 661, 978302109000, "impression", 0),
        (2, 1193, 978298413000, "impression", 1),
    ]


def test_features(folder: Path) -> None:
    tables = read(folder)
    assert tables.users.rows() == [(1, "F", 1, 10, "4"), (2, "M", 56, 16, "7")]
    assert tables.users.columns == ["user_id", "gender", "age", "occupation", "region"]
    # The second title has no year.
    assert tables.items.rows() == [
        (661, 1996, ["Animation", "Children's", "Musical"]),
        (1193, None, ["Drama"]),
    ]
    kinds = {feature.name: feature.kind for feature in tables.spec.item_features}
    assert kinds == {"item_id": "categorical", "release_year": "continuous", "genres": "multi_categorical"}


def test_a_next_line_character_of_latin_1_ends_no_row(folder: Path) -> None:
    (folder / "movies.dat").write_bytes(b"661::A\x85B (1990)::Drama\n1193::C (1991)::Drama\n")
    assert read(folder).items["release_year"].to_list() == [1990, 1991]


@pytest.mark.parametrize(
    ("name", "row", "where"),
    [
        ("ratings.dat", "1::661::6::978300760", "column 'rating', row 4: '6' is none of 1, 2, 3, 4, 5"),
        ("ratings.dat", "1::661::5", "row 4: 4 fields expected, 3 found"),
        ("users.dat", "1::F::1::10::48067", "column 'user_id', row 2: duplicate id 1"),
        ("users.dat", "3::F::young::10::48067", "column 'age', row 2: 'young' is not an integer"),
        ("movies.dat", "661::Again (1996)::Drama", "column 'item_id', row 2: duplicate id 661"),
    ],
)
def test_a_bad_row_is_named(folder: Path, name: str, row: str, where: str) -> None:
    with (folder / name).open("a", encoding="latin-1") as file:
        file.write(row + "\n")
    with pytest.raises(DataError) as error:
        read(folder)
    assert str(error.value) == f"{folder / name}, {where}"


@pytest.mark.parametrize("name", ["ratings.dat", "users.dat", "movies.dat"])
def test_a_missing_file_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(DataError, match=rf"^{name}: no such file in "):
        read(folder)
