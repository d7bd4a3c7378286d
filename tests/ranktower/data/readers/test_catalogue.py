"""The catalogue: every reader is there, and data sets are told apart by their files."""

from __future__ import annotations

import importlib
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from ranktower.data.readers.catalogue import READERS, find_dataset, read_dataset
from ranktower.errors import ConfigError, DataError

Writer = Callable[[str, str], Path]

FILES = {
    "kuairand": ["user_features_1k.csv", "video_features_basic_1k.csv", "log_standard_4_08_to_4_21_1k.csv"],
    "taobao": ["UserBehavior.csv"],
    "alimama": ["raw_sample.csv", "ad_feature.csv", "user_profile.csv"],
    "movielens-1m": ["ratings.dat", "movies.dat", "users.dat"],
}


def test_every_data_set_has_a_reader() -> None:
    assert list(READERS) == list(FILES)
    for reader in READERS.values():
        assert callable(importlib.import_module(reader.module).read)
        assert reader.page.startswith("https://")
        assert reader.title
        assert reader.licence


def test_the_catalogue_alone_imports_no_reader() -> None:
    code = (
        "import sys, ranktower.data.readers.catalogue\n"
        "sys.exit(any(name.startswith('ranktower.data.readers.') and name.split('.')[-1] in "
        "('kuairand', 'taobao', 'alimama', 'movielens') for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("name", list(FILES))
@pytest.mark.parametrize("under", ["", "data/"])
def test_a_data_set_is_told_by_its_files(write: Writer, tmp_path: Path, name: str, under: str) -> None:
    for file in FILES[name]:
        assert not READERS[name].detect(tmp_path)
        write(f"{under}{file}.gz", "")
    assert READERS[name].detect(tmp_path)
    assert find_dataset(tmp_path) == (name, tmp_path)


def test_an_unknown_folder_says_what_is_needed(write: Writer, tmp_path: Path) -> None:
    write("ratings.dat", "")
    with pytest.raises(DataError) as error:
        find_dataset(tmp_path)
    text = str(error.value)
    assert text.startswith(
        f"{tmp_path}: holds the files of no known data set. Needed are kuairand: user_features_*.csv"
    )
    assert "movielens-1m: ratings.dat, movies.dat, users.dat" in text


def test_a_folder_of_two_data_sets_must_be_named(write: Writer, tmp_path: Path) -> None:
    for file in (*FILES["taobao"], *FILES["movielens-1m"]):
        write(file, "")
    with pytest.raises(DataError) as error:
        find_dataset(tmp_path)
    assert str(error.value) == (
        f"{tmp_path}: holds the files of several data sets (taobao in {tmp_path}, movielens-1m in {tmp_path}); "
        "name the folder of one"
    )


def test_a_data_set_one_folder_below_is_found(write: Writer, tmp_path: Path) -> None:
    write("README.md", "")
    write("some-taobao/UserBehavior.csv", "1,5,80,buy,1511544070\n")
    assert find_dataset(tmp_path) == ("taobao", tmp_path / "some-taobao")
    assert read_dataset("taobao", tmp_path).interactions.height == 1
    assert read_dataset("auto", tmp_path).interactions.height == 1


def test_the_folder_itself_comes_before_those_below(write: Writer, tmp_path: Path) -> None:
    write("old/UserBehavior.csv", "1,5,80,buy,1511544070\n2,5,80,buy,1511544070\n")
    write("UserBehavior.csv", "1,5,80,buy,1511544070\n")
    assert find_dataset(tmp_path) == ("taobao", tmp_path)
    assert read_dataset("taobao", tmp_path).interactions.height == 1


def test_two_folders_below_must_be_named(write: Writer, tmp_path: Path) -> None:
    write("a/UserBehavior.csv", "")
    write("b/UserBehavior.csv", "")
    with pytest.raises(DataError, match=r"several data sets \(taobao in .*a, taobao in .*b\)"):
        find_dataset(tmp_path)


def test_a_named_data_set_with_a_file_missing_names_the_file(write: Writer, tmp_path: Path) -> None:
    write("ratings.dat", "1::1::5::1\n")
    write("users.dat", "1::F::1::10::48067\n")
    with pytest.raises(DataError, match=r"^movies\.dat: no such file in "):
        read_dataset("movielens-1m", tmp_path)


@pytest.mark.parametrize("name", ["auto", "taobao"])
def test_read_dataset_by_name_or_by_its_files(write: Writer, tmp_path: Path, name: str) -> None:
    write("UserBehavior.csv", "1,5,80,buy,1511544070\n")
    assert read_dataset(name, tmp_path).interactions["buy"].to_list() == [1]


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        read_dataset("netflix", tmp_path)
    assert str(error.value) == "unknown data set 'netflix'; one of: auto, kuairand, taobao, alimama, movielens-1m"


@pytest.mark.parametrize("name", ["auto", "taobao"])
def test_a_missing_folder_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(DataError) as error:
        read_dataset(name, tmp_path / "nowhere")
    assert str(error.value) == f"{tmp_path / 'nowhere'}: no such folder"
