"""Downloads from a real HTTP server on this machine: whole, broken off, resumed, damaged, hostile."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import socket
import tarfile
import threading
import time
import zipfile
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import httpx
import pytest

from ranktower.data import download
from ranktower.data.download import DOWNLOADS, download_dataset, fetch, unpack
from ranktower.data.readers.catalogue import READERS, read_dataset
from ranktower.errors import ConfigError, DataError

CONTENT = bytes(range(256)) * 20_000
ML_1M = {
    "ml-1m/README": b"terms",
    "ml-1m/ratings.dat": b"1::1193::5::978300760\n",
    "ml-1m/users.dat": b"1::F::1::10::48067\n",
    "ml-1m/movies.dat": b"1193::One Flew Over the Cuckoo's Nest (1975)::Drama\n",
}


def zipped(files: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return buffer.getvalue()


def tarred(files: dict[str, bytes], links: dict[str, str] | None = None) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
        for name, target in (links or {}).items():
            member = tarfile.TarInfo(name)
            member.type, member.linkname = tarfile.SYMTYPE, target
            archive.addfile(member)
    return buffer.getvalue()


class Server(ThreadingHTTPServer):
    """Serves one content under every path but a few; counts what it is asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.content = CONTENT
        self.ranges: list[str | None] = []
        self.break_after: int | None = None
        self.knows_ranges = True

    def url(self, name: str = "file.zip") -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"


class Handler(BaseHTTPRequestHandler):
    """GET with Range, a redirection, an error, and connections that break off."""

    server: Server

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.server.ranges.append(asked)
        if self.path == "/moved":
            self.send_response(302)
            self.send_header("Location", self.server.url())
            self.end_headers()
            return
        if self.path == "/gone":
            self.send_error(404)
            return
        content, start = self.server.content, 0
        if asked is not None and self.server.knows_ranges:
            start = int(asked.removeprefix("bytes=").removesuffix("-"))
            if start >= len(content):
                self.send_error(416)
                return
            self.send_response(206)
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        else:
            self.send_response(200)
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        self.wfile.write(content[start : self.server.break_after])

    def log_message(self, *_: object) -> None:
        """Keep the tests' output clean."""


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    server = Server()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    yield server
    server.shutdown()
    thread.join()
    server.server_close()


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def offer(
    server: Server, monkeypatch: pytest.MonkeyPatch, content: bytes, *, file: str, name: str = "movielens-1m"
) -> None:
    """Let the server stand in for the owner's."""
    server.content = content
    entry = dataclasses.replace(DOWNLOADS[name], url=server.url(file), md5=md5(content))
    monkeypatch.setitem(DOWNLOADS, name, entry)


def test_a_file_comes_whole(server: Server, tmp_path: Path) -> None:
    fetch(server.url(), tmp_path / "file.zip", md5=md5(CONTENT))
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert [path.name for path in tmp_path.iterdir()] == ["file.zip"]
    assert server.ranges == [None]


def test_a_redirection_is_followed(server: Server, tmp_path: Path) -> None:
    fetch(server.url("moved"), tmp_path / "file.zip", md5=None)
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("size", [1, 1_000_000, len(CONTENT) - 1])
def test_what_has_come_is_not_asked_for_again(server: Server, tmp_path: Path, size: int) -> None:
    server.break_after = size
    with pytest.raises(httpx.TransportError):
        fetch(server.url(), tmp_path / "file.zip", md5=md5(CONTENT))
    part = tmp_path / "file.zip.part"
    assert part.read_bytes() == CONTENT[:size]
    assert not (tmp_path / "file.zip").exists()

    server.break_after = None
    fetch(server.url(), tmp_path / "file.zip", md5=md5(CONTENT))
    assert server.ranges == [None, f"bytes={size}-"]
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert not part.exists()


def test_broken_off_again_and_again_it_still_arrives(server: Server, tmp_path: Path) -> None:
    for size in range(1_000_000, len(CONTENT), 1_000_000):
        server.break_after = size
        with pytest.raises(httpx.TransportError):
            fetch(server.url(), tmp_path / "file.zip", md5=md5(CONTENT))
    server.break_after = None
    fetch(server.url(), tmp_path / "file.zip", md5=md5(CONTENT))
    assert (tmp_path / "file.zip").read_bytes() == CONTENT
    assert len(server.ranges) == 6


def test_a_server_without_ranges_starts_anew(server: Server, tmp_path: Path) -> None:
    server.knows_ranges = False
    (tmp_path / "file.zip.part").write_bytes(b"rest of something else")
    fetch(server.url(), tmp_path / "file.zip", md5=md5(CONTENT))
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


def test_a_part_that_is_already_whole_is_taken(server: Server, tmp_path: Path) -> None:
    (tmp_path / "file.zip.part").write_bytes(CONTENT)
    fetch(server.url(), tmp_path / "file.zip", md5=md5(CONTENT))
    assert (tmp_path / "file.zip").read_bytes() == CONTENT


@pytest.mark.parametrize("stale", [b"x", b"x" * (len(CONTENT) + 5)])
def test_a_part_of_another_file_is_found_out_and_removed(server: Server, tmp_path: Path, stale: bytes) -> None:
    (tmp_path / "file.zip.part").write_bytes(stale)
    with pytest.raises(DataError) as error:
        fetch(server.url(), tmp_path / "file.zip", md5=md5(CONTENT))
    expected = f"the checksum is not {md5(CONTENT)}; the damaged file is removed, run it again"
    assert str(error.value) == f"{server.url()}: {expected}"
    assert list(tmp_path.iterdir()) == []
    fetch(server.url(), tmp_path / "file.zip", md5=md5(CONTENT))


def test_an_error_of_the_server_is_told(server: Server, tmp_path: Path) -> None:
    with pytest.raises(DataError) as error:
        fetch(server.url("gone"), tmp_path / "file.zip", md5=None)
    assert str(error.value) == f"{server.url('gone')}: the server answered 404 Not Found"
    assert list(tmp_path.iterdir()) == []


def test_a_data_set_is_fetched_unpacked_and_readable(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(server, monkeypatch, zipped(ML_1M), file="ml-1m.zip")
    folder = tmp_path / "new" / "movielens"
    assert download_dataset("movielens-1m", folder) == folder
    assert sorted(path.name for path in folder.iterdir()) == ["README", "movies.dat", "ratings.dat", "users.dat"]
    assert read_dataset("auto", folder).interactions["like"].to_list() == [1]
    download_dataset("movielens-1m", folder)
    assert len(server.ranges) == 1


def test_kuairand_means_its_smallest_version(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {
        f"KuaiRand-Pure/data/{name}_pure.csv": b"user_id\n1\n"
        for name in ("user_features", "video_features_basic", "log_standard_4_08_to_4_21")
    }
    offer(server, monkeypatch, tarred(files), file="KuaiRand-Pure.tar.gz", name="kuairand-pure")
    download_dataset("kuairand", tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    assert READERS["kuairand"].detect(tmp_path)


def test_an_interrupted_data_set_goes_on(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(server, monkeypatch, zipped(ML_1M), file="ml-1m.zip")
    server.break_after = 100
    with pytest.raises(
        DataError, match=r"ml-1m\.zip: the network does not answer or broke off \(.*run it again to go on"
    ):
        download_dataset("movielens-1m", tmp_path)
    assert (tmp_path / "ml-1m.zip.part").stat().st_size == 100
    server.break_after = None
    download_dataset("movielens-1m", tmp_path)
    assert server.ranges == [None, "bytes=100-"]
    assert READERS["movielens-1m"].detect(tmp_path)


def test_an_archive_that_came_by_hand_is_used(server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    offer(server, monkeypatch, zipped(ML_1M), file="ml-1m.zip")
    (tmp_path / "ml-1m.zip").write_bytes(server.content)
    download_dataset("movielens-1m", tmp_path)
    assert server.ranges == []


def test_an_archive_without_the_files_is_refused(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    offer(server, monkeypatch, zipped({"ml-1m/ratings.dat": b""}), file="ml-1m.zip")
    with pytest.raises(DataError) as error:
        download_dataset("movielens-1m", tmp_path)
    assert str(error.value) == f"{tmp_path / 'ml-1m.zip'}: does not hold ratings.dat, movies.dat, users.dat"


def test_nobody_listening_is_told_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    with socket.socket() as closed:
        closed.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{closed.getsockname()[1]}/ml-1m.zip"
        monkeypatch.setitem(DOWNLOADS, "movielens-1m", dataclasses.replace(DOWNLOADS["movielens-1m"], url=url))
        started = time.monotonic()
        with pytest.raises(DataError) as error:
            download_dataset("movielens-1m", tmp_path)
    assert time.monotonic() - started < 6
    text = str(error.value)
    assert text.startswith(f"{url}: the network does not answer or broke off (")
    assert "fetch the files by hand from https://grouplens.org/datasets/movielens/1m/ and name" in text


def test_a_silent_host_is_given_up_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    monkeypatch.setattr(download, "_TIMEOUT_S", httpx.Timeout(0.3))
    with socket.create_server(("127.0.0.1", 0)) as silent:
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/ml-1m.zip"
        monkeypatch.setitem(DOWNLOADS, "movielens-1m", dataclasses.replace(DOWNLOADS["movielens-1m"], url=url))
        with pytest.raises(DataError, match="the network does not answer"):
            download_dataset("movielens-1m", tmp_path)


def test_connecting_takes_five_seconds_at_most() -> None:
    assert download._TIMEOUT_S.connect == 5.0


@pytest.mark.parametrize(
    ("name", "page", "files"),
    [
        ("taobao", "https://tianchi.aliyun.com/dataset/649", "UserBehavior.csv"),
        ("alimama", "https://tianchi.aliyun.com/dataset/56", "raw_sample.csv, ad_feature.csv, user_profile.csv"),
    ],
)
def test_a_login_is_explained(tmp_path: Path, name: str, page: str, files: str) -> None:
    with pytest.raises(DataError) as error:
        download_dataset(name, tmp_path)
    assert str(error.value) == (
        f"{page}: {name} needs a login, so it cannot be downloaded from here. Log in at this page, unpack {files} "
        f"into a folder, then: ranktower data import {name} --source FOLDER --out FOLDER"
    )


def test_an_unknown_name_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as error:
        download_dataset("netflix", tmp_path)
    assert str(error.value) == (
        "unknown data set 'netflix'; one of: kuairand-pure, kuairand-1k, kuairand-27k, movielens-1m, kuairand, "
        "taobao, alimama"
    )


def test_every_download_belongs_to_a_reader_and_has_a_checksum() -> None:
    for name, entry in DOWNLOADS.items():
        assert entry.name == name
        assert entry.reader in READERS
        assert entry.url.startswith("https://")
        assert len(bytes.fromhex(entry.md5)) == 16


def test_unpacking_replaces_and_leaves_others(tmp_path: Path) -> None:
    (tmp_path / "a.zip").write_bytes(zipped({"top/data/x.csv": b"new", "top/y.csv": b"new"}))
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "x.csv").write_text("old")
    (tmp_path / "data" / "mine.csv").write_text("mine")
    unpack(tmp_path / "a.zip", tmp_path)
    assert (tmp_path / "data" / "x.csv").read_text() == "new"
    assert (tmp_path / "data" / "mine.csv").read_text() == "mine"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.zip", "data", "y.csv"]


def test_a_lone_data_directory_stays(tmp_path: Path) -> None:
    (tmp_path / "a.tar.gz").write_bytes(tarred({"data/x.csv": b"1"}))
    unpack(tmp_path / "a.tar.gz", tmp_path)
    assert (tmp_path / "data" / "x.csv").read_bytes() == b"1"


@pytest.mark.parametrize("name", ["../evil", "/evil", "a/../../evil", "C:/evil", "..\\evil"])
def test_a_zip_member_outside_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.zip").write_bytes(zipped({"good": b"", name: b"evil"}))
    with pytest.raises(DataError, match=r"a\.zip: the member .* points outside the folder"):
        unpack(folder / "a.zip", folder)
    assert [path.name for path in folder.iterdir()] == ["a.zip"]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize(
    "content",
    [
        tarred({"good": b"", "../evil": b"evil"}),
        tarred({"good": b""}, links={"evil": "../../outside"}),
        tarred({"good": b""}, links={"evil": "/etc/passwd"}),
    ],
)
def test_a_tar_member_outside_is_refused(tmp_path: Path, content: bytes) -> None:
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.tar.gz").write_bytes(content)
    with pytest.raises(DataError, match=r"a\.tar\.gz: cannot be unpacked: .*(outside|absolute)"):
        unpack(folder / "a.tar.gz", folder)
    assert [path.name for path in folder.iterdir()] == ["a.tar.gz"]
    assert [path.name for path in tmp_path.iterdir()] == ["in"]


@pytest.mark.parametrize("name", ["a.zip", "a.tar.gz"])
@pytest.mark.parametrize("damage", ["cut", "noise"])
def test_a_damaged_archive_is_refused(tmp_path: Path, name: str, damage: str) -> None:
    files = {"top/x.csv": CONTENT}
    whole = zipped(files) if name.endswith(".zip") else tarred(files)
    (tmp_path / name).write_bytes(whole[: len(whole) // 2] if damage == "cut" else b"<html>busy</html>")
    with pytest.raises(DataError, match=rf"{name}: cannot be unpacked"):
        unpack(tmp_path / name, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [name]
