"""Original downloads of the data sets that have a public direct address: resumable, checked, safely unpacked."""

from __future__ import annotations

import hashlib
import os
import shutil
import tarfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import httpx
from tqdm import tqdm

from ranktower.data.readers.catalogue import READERS
from ranktower.errors import ConfigError, DataError

_TIMEOUT_S = httpx.Timeout(30.0, connect=5.0)


@dataclass(frozen=True)
class Download:
    """One archive.

    Attributes:
        name: the word for it on the command line.
        reader: the data set in `READERS` that it is a version of.
        url: its address, with the archive's file name at the end.
        md5: checksum published beside it.
    """

    name: str
    reader: str
    url: str
    md5: str


_ZENODO = "https://zenodo.org/records/10439422/files"

DOWNLOADS: dict[str, Download] = {
    download.name: download
    for download in (
        Download("kuairand-pure", "kuairand", f"{_ZENODO}/KuaiRand-Pure.tar.gz", "0820331067a3784d9691136f772b35a7"),
        Download("kuairand-1k", "kuairand", f"{_ZENODO}/KuaiRand-1K.tar.gz", "6b0b9c8222d67fcd4c676218edca3f1f"),
        Download("kuairand-27k", "kuairand", f"{_ZENODO}/KuaiRand-27K.tar.gz", "3e3c799a24e2d23a4d2c757fbf9adf59"),
        Download(
            "movielens-1m",
            "movielens-1m",
            "https://files.grouplens.org/datasets/movielens/ml-1m.zip",
            "c4d9eecfca2ab87c1945afe126590906",
        ),
    )
}


def download_dataset(name: str, folder: Path) -> Path:
    """Bring the original files of a data set into a folder, from which `read_dataset` reads them.

    Nothing is fetched where the files lie there already; an interrupted download goes on where it stopped.

    Args:
        name: a key of `DOWNLOADS`, or ``kuairand`` for its smallest version.
        folder: made where it is not there.

    Returns:
        The folder.

    Raises:
        ConfigError: an unknown name.
        DataError: the data set needs a login, the network does not answer, or what came is damaged.
    """
    download = _find(name)
    reader = READERS[download.reader]
    if reader.detect(folder):
        return folder
    archive = folder / download.url.rsplit("/", 1)[-1]
    if not archive.exists():
        folder.mkdir(parents=True, exist_ok=True)
        try:
            fetch(download.url, archive, md5=download.md5)
        except httpx.TransportError as error:
            raise DataError(
                f"the network does not answer or broke off ({error or type(error).__name__}); run it again to go on, "
                f"or fetch the files by hand from {reader.page} and name their folder with --source",
                file=download.url,
            ) from error
    unpack(archive, folder)
    if not reader.detect(folder):
        raise DataError(f"does not hold {', '.join(reader.expected_files)}", file=archive)
    archive.unlink()
    return folder


def _find(name: str) -> Download:
    if name in DOWNLOADS:
        return DOWNLOADS[name]
    if name not in READERS:
        raise ConfigError(f"unknown data set {name!r}; one of: {', '.join(dict.fromkeys([*DOWNLOADS, *READERS]))}")
    versions = [download for download in DOWNLOADS.values() if download.reader == name]
    if not versions:
        reader = READERS[name]
        raise DataError(
            f"{name} needs a login, so it cannot be downloaded from here. Log in at this page, unpack "
            f"{', '.join(reader.expected_files)} into a folder, then: ranktower data import {name} --source FOLDER "
            "--out FOLDER",
            file=reader.page,
        )
    return versions[0]


def fetch(url: str, path: Path, *, md5: str | None) -> None:
    """Stream one file to ``path``; what has come so far lies in ``<path>.part`` and is not asked for again.

    Args:
        url: the address; redirections are followed.
        path: the file to write; it appears when the file is whole and its checksum right.
        md5: hexadecimal checksum, None where none is known.

    Raises:
        DataError: an HTTP status that is no success, fewer bytes than promised, or a wrong checksum.
        httpx.TransportError: no connection, or the connection broke.
    """
    part = path.with_name(path.name + ".part")
    start = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"} | ({"Range": f"bytes={start}-"} if start else {})
    with (
        httpx.Client(timeout=_TIMEOUT_S, follow_redirects=True) as client,
        client.stream("GET", url, headers=headers) as answer,
    ):
        if not (start and answer.status_code == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE):
            if not answer.is_success:
                raise DataError(f"the server answered {answer.status_code} {answer.reason_phrase}", file=url)
            _save(answer, part, start=start)
        # Else there is no byte after the part: it is whole, or not of this file. The checksum tells which.
    if md5 is not None and _md5(part) != md5:
        part.unlink()
        raise DataError(f"the checksum is not {md5}; the damaged file is removed, run it again", file=url)
    part.replace(path)


def _save(answer: httpx.Response, part: Path, *, start: int) -> None:
    # A server that knows no ranges answers 200 with the whole file.
    goes_on = answer.status_code == httpx.codes.PARTIAL_CONTENT
    done = start if goes_on else 0
    length = answer.headers.get("Content-Length")
    total = done + int(length) if length is not None else None
    with (
        part.open("ab" if goes_on else "wb") as file,
        # disable=None: no bar where nobody watches (standard error is no terminal).
        tqdm(total=total, initial=done, unit="B", unit_scale=True, desc=part.stem, disable=None) as bar,
    ):
        # Without a chunk size: with one, httpx holds bytes back, and they are lost when the connection breaks.
        for chunk in answer.iter_raw():
            file.write(chunk)
            bar.update(len(chunk))
    if total is not None and part.stat().st_size != total:
        raise DataError(f"{part.stat().st_size} bytes came instead of {total}; run it again", file=str(answer.url))


def _md5(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.md5(usedforsecurity=False)).hexdigest()


def unpack(archive: Path, folder: Path) -> None:
    """Unpack a ``.zip`` or ``.tar.gz`` into ``folder``, without the one directory that holds all where there is one.

    Files of the same name are replaced, all others stay.

    Raises:
        DataError: the archive is damaged, or a member points outside the folder.
    """
    staging = folder / f".{archive.name}.unpacking"
    with _emptied(staging):
        try:
            if archive.suffix == ".zip":
                with zipfile.ZipFile(archive) as source:
                    _refuse_outside(source.namelist(), archive)
                    source.extractall(staging)
            else:
                with tarfile.open(archive, "r:*") as source:
                    source.extractall(staging, filter="data")
        except (tarfile.TarError, zipfile.BadZipFile, EOFError, OSError) as error:
            raise DataError(f"cannot be unpacked: {error}", file=archive) from error
        top = list(staging.iterdir())
        root = top[0] if len(top) == 1 and top[0].is_dir() and top[0].name != "data" else staging
        for path in sorted(root.rglob("*")):
            if path.is_file():
                target = folder / path.relative_to(root)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)


@contextmanager
def _emptied(folder: Path) -> Iterator[None]:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    try:
        yield
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _refuse_outside(names: list[str], archive: Path) -> None:
    for name in names:
        path = PurePosixPath(name.replace("\\", "/"))
        if path.is_absolute() or ".." in path.parts or ":" in path.parts[0]:
            raise DataError(f"the member {name!r} points outside the folder", file=archive)
