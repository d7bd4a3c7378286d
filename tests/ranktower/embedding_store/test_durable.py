"""A file is replaced whole or not at all."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

from ranktower.embedding_store.durable import fsync_tree, write_file


def test_a_file_is_written_and_replaced(tmp_path: Path) -> None:
    path = tmp_path / "file"
    write_file(path, b"one")
    write_file(path, b"two")
    assert path.read_bytes() == b"two"
    assert list(tmp_path.iterdir()) == [path]


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.mkdir()  # a folder cannot be replaced by a file
    with pytest.raises(OSError, match="directory"):
        write_file(path, b"new")
    assert list(tmp_path.iterdir()) == [path]


def test_a_reader_never_sees_a_part(tmp_path: Path) -> None:
    path = tmp_path / "file"
    contents = {bytes([letter]) * 200_000 for letter in b"ab"}
    write_file(path, min(contents))
    stop = threading.Event()

    def write() -> None:
        while not stop.is_set():
            for content in contents:
                write_file(path, content)

    writer = threading.Thread(target=write)
    writer.start()
    try:
        seen = {path.read_bytes() for _ in range(200)}
    finally:
        stop.set()
        writer.join()
    assert seen <= contents


def test_fsync_tree_goes_through_every_folder(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "file").write_bytes(b"x")
    fsync_tree(tmp_path)
    with pytest.raises(FileNotFoundError):
        fsync_tree(tmp_path / "none")


def test_a_file_gets_the_permissions_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    write_file(path, b"new", mode=0o600)
    assert path.stat().st_mode & 0o777 == 0o600
