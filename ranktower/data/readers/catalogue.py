"""The data sets this project reads, chosen by name; a reader is imported when it is used."""

from __future__ import annotations

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from ranktower.data.readers.delimited import find_files
from ranktower.errors import ConfigError, DataError

if TYPE_CHECKING:
    from ranktower.data.tables import Tables


@dataclass(frozen=True)
class DatasetReader:
    """What a data set is and how it is recognised.

    Attributes:
        name: the word for it on the command line.
        title: its full name.
        licence: the terms its owners publish it under.
        page: the owners' page, to cite and to download from.
        expected_files: glob patterns of the files it needs, without ``.gz``.
        module: where its ``read(folder) -> Tables`` is.
    """

    name: str
    title: str
    licence: str
    page: str
    expected_files: tuple[str, ...]
    module: str

    def detect(self, folder: Path) -> bool:
        """Whether ``folder`` (or its sub-folder ``data``) holds every expected file."""
        return all(find_files(folder, pattern) for pattern in self.expected_files)

    def read(self, folder: Path) -> Tables:
        """Canonical tables of the files in ``folder``; see the reader's module."""
        tables: Tables = importlib.import_module(self.module).read(folder)
        return tables


READERS: dict[str, DatasetReader] = {
    reader.name: reader
    for reader in (
        DatasetReader(
            name="kuairand",
            title="KuaiRand (Pure, 1K or 27K): impressions of a short-video app",
            licence="CC BY-SA 4.0",
            page="https://kuairand.com",
            expected_files=("user_features_*.csv", "video_features_basic_*.csv", "log_standard_*.csv"),
            module="ranktower.data.readers.kuairand",
        ),
        DatasetReader(
            name="taobao",
            title="Taobao UserBehavior: page views, carts, favourites and purchases",
            licence="terms on its Tianchi page",
            page="https://tianchi.aliyun.com/dataset/649",
            expected_files=("UserBehavior.csv",),
            module="ranktower.data.readers.taobao",
        ),
        DatasetReader(
            name="alimama",
            title="Alimama display advertising (Ali_Display_Ad_Click): ads and clicks",
            licence="terms on its Tianchi page",
            page="https://tianchi.aliyun.com/dataset/56",
            expected_files=("raw_sample.csv", "ad_feature.csv", "user_profile.csv"),
            module="ranktower.data.readers.alimama",
        ),
        DatasetReader(
            name="movielens-1m",
            title="MovieLens-1M: film ratings",
            licence="GroupLens terms: research only, no redistribution",
            page="https://grouplens.org/datasets/movielens/1m/",
            expected_files=("ratings.dat", "movies.dat", "users.dat"),
            module="ranktower.data.readers.movielens",
        ),
    )
}


def find_dataset(folder: Path) -> tuple[str, Path]:
    """Name of the one data set whose files lie in ``folder``, or in one folder below it, and where they lie.

    Raises:
        DataError: none or more than one does; the text lists what each needs.
    """
    _require_folder(folder)
    found = [(name, place) for name, reader in READERS.items() for place in _places(folder) if reader.detect(place)]
    own = [name for name, place in found if place == folder]
    if len(own) == 1 or len(found) == 1:
        return found[0] if not own else (own[0], folder)
    if found:
        names = ", ".join(f"{name} in {place}" for name, place in found)
        raise DataError(f"holds the files of several data sets ({names}); name the folder of one", file=folder)
    needs = "; ".join(f"{name}: {', '.join(reader.expected_files)}" for name, reader in READERS.items())
    raise DataError(f"holds the files of no known data set. Needed are {needs} (plain or .gz)", file=folder)


def read_dataset(name: str, folder: Path) -> Tables:
    """Canonical tables of the data set ``name`` from the files in ``folder``.

    Args:
        name: a key of `READERS`, or ``auto`` to tell it from the files as `find_dataset` does.
        folder: the unpacked download, or the folder above it.

    Raises:
        ConfigError: an unknown name.
        DataError: a file or column is missing, or a value is wrong.
    """
    if name == "auto":
        name, folder = find_dataset(folder)
    if name not in READERS:
        raise ConfigError(f"unknown data set {name!r}; one of: auto, {', '.join(READERS)}")
    _require_folder(folder)
    reader = READERS[name]
    places = [place for place in _places(folder) if reader.detect(place)]
    # Where the files are incomplete everywhere, the reader says which one is missing.
    return reader.read(folder if folder in places or len(places) != 1 else places[0])


def _places(folder: Path) -> list[Path]:
    return [folder, *sorted(path for path in folder.iterdir() if path.is_dir() and path.name != "data")]


def _require_folder(folder: Path) -> None:
    if not folder.is_dir():
        raise DataError("no such folder", file=folder)
