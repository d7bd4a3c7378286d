"""Files of a release that are not what its manifest says."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest

import ranktower.verification
from ranktower.errors import ReleaseError
from ranktower.release import FileEntry, Manifest, read_manifest, write_manifest
from ranktower.verification import content_hash, hash_file, hash_files, large_files, verify_files, verify_release


@pytest.fixture
def release_dir(tmp_path: Path, make_manifest: Callable[..., Manifest], monkeypatch: pytest.MonkeyPatch) -> Path:
    """A small release, complete and sealed."""
    monkeypatch.setattr(ranktower.verification, "_BLOCK_SIZE", 1 << 20)
    (tmp_path / "items").mkdir()
    (tmp_path / "items" / "rows.bin").write_bytes(bytes(range(256)) * 9000)  # more than two blocks of hashing
    (tmp_path / "scorer.onnx").write_bytes(b"graph")
    (tmp_path / "empty").write_bytes(b"")
    write_manifest(tmp_path, make_manifest(files=hash_files(tmp_path)))
    return tmp_path


def refusal(folder: Path) -> str:
    """The text of the ReleaseError, without the folder's path."""
    with pytest.raises(ReleaseError) as caught:
        verify_release(folder)
    assert str(caught.value).startswith(f"{folder}/")
    return str(caught.value).removeprefix(f"{folder}/")


def test_hashes_and_sizes_of_files(release_dir: Path) -> None:
    files = hash_files(release_dir)
    assert list(files) == ["empty", "items/rows.bin", "scorer.onnx"]
    assert files["scorer.onnx"] == FileEntry(sha256=hashlib.sha256(b"graph").hexdigest(), size_bytes=5)
    assert files["items/rows.bin"].sha256 == hashlib.sha256(bytes(range(256)) * 9000).hexdigest()
    assert files["empty"].size_bytes == 0


def test_the_content_hash_knows_names_and_contents_but_no_order() -> None:
    one, other = FileEntry(sha256="1" * 64, size_bytes=1), FileEntry(sha256="2" * 64, size_bytes=1)
    assert content_hash({"a": one, "b": other}) == content_hash({"b": other, "a": one})
    others = [{"a": one}, {"a": other, "b": one}, {"a": one, "c": other}, {}]
    assert len({content_hash(files) for files in [{"a": one, "b": other}, *others]}) == 5
    expected = hashlib.sha256(f"{'1' * 64}  a\n{'2' * 64}  b\n".encode()).hexdigest()
    assert content_hash({"a": one, "b": other}) == expected


def test_a_whole_release_is_accepted(release_dir: Path) -> None:
    assert verify_release(release_dir) == read_manifest(release_dir)


@pytest.mark.parametrize("position", [0, 1_048_576, 2_303_999])
def test_a_flipped_bit(position: int, release_dir: Path) -> None:
    path = release_dir / "items" / "rows.bin"
    content = bytearray(path.read_bytes())
    content[position] ^= 1
    path.write_bytes(content)
    text = refusal(release_dir)
    right = hashlib.sha256(bytes(range(256)) * 9000).hexdigest()
    assert text == f"items/rows.bin: SHA-256 {hashlib.sha256(content).hexdigest()}, manifest.json says {right}"


def test_large_files_can_be_hashed_later(release_dir: Path) -> None:
    manifest = read_manifest(release_dir)
    size_bytes = 256 * 9000
    assert large_files(manifest, over_bytes=size_bytes) == []
    assert large_files(manifest, over_bytes=size_bytes - 1) == ["items/rows.bin"]
    path = release_dir / "items" / "rows.bin"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    assert verify_release(release_dir, max_hashed_bytes=size_bytes - 1) == manifest
    with pytest.raises(ReleaseError, match=r"items/rows\.bin: SHA-256 "):
        verify_release(release_dir, max_hashed_bytes=size_bytes)
    verify_files(release_dir, manifest, ["scorer.onnx", "empty"])
    with pytest.raises(ReleaseError, match=r"items/rows\.bin: SHA-256 "):
        verify_files(release_dir, manifest, large_files(manifest, over_bytes=5))
    path.write_bytes(content[:-1])
    with pytest.raises(ReleaseError, match=r"items/rows\.bin: 2303999 bytes, manifest\.json says 2304000"):
        verify_release(release_dir, max_hashed_bytes=5)
    path.unlink()
    with pytest.raises(ReleaseError, match=r"items/rows\.bin: missing from the release"):
        verify_files(release_dir, manifest, ["items/rows.bin"])


def test_hashing_can_be_ended_at_every_block(release_dir: Path) -> None:
    blocks = iter(range(2))

    def stop_at_the_third() -> None:
        if next(blocks, None) is None:
            raise InterruptedError

    with pytest.raises(InterruptedError):
        hash_file(release_dir / "items" / "rows.bin", on_block=stop_at_the_third)


def test_a_truncated_file(release_dir: Path) -> None:
    (release_dir / "scorer.onnx").write_bytes(b"grap")
    assert refusal(release_dir) == "scorer.onnx: 4 bytes, manifest.json says 5"


def test_a_missing_file(release_dir: Path) -> None:
    (release_dir / "items" / "rows.bin").unlink()
    assert refusal(release_dir) == "items/rows.bin: missing from the release"


@pytest.mark.parametrize("path", ["extra", "items/rows.bin.part", "new/deep/file"])
def test_a_file_that_is_not_listed(path: str, release_dir: Path) -> None:
    (release_dir / path).parent.mkdir(parents=True, exist_ok=True)
    (release_dir / path).write_bytes(b"")
    assert refusal(release_dir) == f"{path}: not listed in manifest.json"


def test_a_link_is_no_file_of_the_release(release_dir: Path) -> None:
    (release_dir / "scorer.onnx").rename(release_dir.parent / "elsewhere.onnx")
    (release_dir / "scorer.onnx").symlink_to(release_dir.parent / "elsewhere.onnx")
    text = refusal(release_dir)
    assert text == "scorer.onnx: not a regular file; a release holds its files itself"
