"""The retrieval index against a plain matrix product."""

from __future__ import annotations

import resource
from pathlib import Path

import faiss
import numpy as np
import pytest

import ranktower.embedding_store.faiss_index
from ranktower.embedding_store.faiss_index import (
    build_index,
    default_factory,
    load_index,
    pooled_vectors,
    search,
    search_products,
)
from ranktower.errors import ConfigError, ReleaseError

RNG = np.random.default_rng(7)
VECTORS = RNG.standard_normal((500, 8)).astype(np.float32)
QUERY = RNG.standard_normal(8).astype(np.float32)
BEST = np.argsort(-(VECTORS.astype(np.float64) @ QUERY), kind="stable")


def test_the_flat_index_is_exact(tmp_path: Path) -> None:
    build_index(tmp_path / "items.faiss", VECTORS)
    index = load_index(tmp_path / "items.faiss", num_items=500, width=8)
    rows = search(index, QUERY, 20)
    assert rows.dtype == np.int64
    assert rows.tolist() == BEST[:20].tolist()
    found, products = search_products(index, QUERY, 20)
    assert found.tolist() == rows.tolist()
    np.testing.assert_allclose(products, VECTORS[BEST[:20]] @ QUERY, rtol=1e-5)
    assert [path.name for path in tmp_path.iterdir()] == ["items.faiss"]


def test_more_than_there_is(tmp_path: Path) -> None:
    build_index(tmp_path / "index", VECTORS)
    index = load_index(tmp_path / "index", num_items=500, width=8)
    assert search(index, QUERY, 10_000).tolist() == BEST.tolist()


def test_an_empty_index(tmp_path: Path) -> None:
    build_index(tmp_path / "index", VECTORS[:0])
    assert search(load_index(tmp_path / "index", num_items=0, width=8), QUERY, 5).tolist() == []


def test_places_that_faiss_leaves_empty_are_left_out(tmp_path: Path) -> None:
    """Of 16 lists eight are probed: they hold fewer items than are asked for, and FAISS fills up with -1."""
    build_index(tmp_path / "index", VECTORS, factory="IVF16,Flat")
    index = load_index(tmp_path / "index", num_items=500, width=8)
    rows = search(index, QUERY, 500)
    assert 0 < len(rows) < 500
    assert rows.min() >= 0
    assert len(set(rows.tolist())) == len(rows)
    products = VECTORS[rows] @ QUERY
    assert (np.diff(products) <= 1e-5).all()


@pytest.mark.parametrize("factory", ["IVF16,Flat", "HNSW16"])
def test_approximate_indexes_find_most(factory: str, tmp_path: Path) -> None:
    """Vectors in clusters, as trained embeddings are."""
    centres = RNG.standard_normal((16, 8)) * 4
    vectors = (centres[np.arange(3000) % 16] + RNG.standard_normal((3000, 8)) * 0.3).astype(np.float32)
    build_index(tmp_path / "index", vectors, factory=factory)
    index = load_index(tmp_path / "index", num_items=3000, width=8)
    hits = 0
    for centre in centres.astype(np.float32):
        best = np.argsort(-(vectors @ centre))[:10]
        hits += len(set(best.tolist()) & set(search(index, centre, 10).tolist()))
    assert hits >= 0.9 * 160


@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat", "HNSW16"])
def test_a_mapped_index_finds_what_one_in_memory_finds(factory: str, tmp_path: Path) -> None:
    build_index(tmp_path / "index", VECTORS, factory=factory)
    mapped = load_index(tmp_path / "index", num_items=500, width=8)
    in_memory = faiss.read_index(str(tmp_path / "index"))
    for query in VECTORS[:50]:
        assert search(mapped, query, 30).tolist() == search(in_memory, query, 30).tolist()


@pytest.mark.parametrize("factory", ["Flat", "IVF64,Flat"])
def test_the_vectors_of_an_open_index_are_the_files(factory: str, tmp_path: Path) -> None:
    """As many processes as there are share one copy: the mapping names the file, and no memory of its own grows."""
    vectors = RNG.standard_normal((100_000, 32)).astype(np.float32)
    build_index(tmp_path / "index", vectors, factory=factory)
    before = own_memory_bytes()
    index = load_index(tmp_path / "index", num_items=100_000, width=32)
    for vector in vectors[:20]:
        search(index, vector, 10)
    assert str(tmp_path / "index") in Path("/proc/self/maps").read_text()
    assert own_memory_bytes() - before < vectors.nbytes / 4


def own_memory_bytes() -> int:
    """Memory of this process alone that no file stands behind."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Anonymous:"))


@pytest.mark.parametrize("factory", ["Flat", "IVF16,Flat", "HNSW16"])
def test_an_index_that_was_cut_off_anywhere(factory: str, tmp_path: Path) -> None:
    path = tmp_path / "index"
    build_index(path, VECTORS, factory=factory)
    content = path.read_bytes()
    for length in range(0, len(content), 997):
        path.write_bytes(content[:length])
        with pytest.raises(ReleaseError, match=r"index: not a FAISS index: "):
            load_index(path, num_items=500, width=8)


def test_a_damaged_list_never_names_a_row_that_is_not_there(tmp_path: Path) -> None:
    path = tmp_path / "index"
    build_index(path, VECTORS, factory="IVF1,Flat")
    content = path.read_bytes()
    numbers = np.arange(500, dtype=np.int64).tobytes()
    assert content.count(numbers) == 1
    far = np.arange(500, dtype=np.int64)
    far[BEST[0]] = 1 << 40
    path.write_bytes(content.replace(numbers, far.tobytes()))
    assert search(load_index(path, num_items=500, width=8), QUERY, 5).tolist() == BEST[1:5].tolist()


def test_the_same_vectors_give_the_same_bytes(tmp_path: Path) -> None:
    for name in ("one", "two"):
        build_index(tmp_path / name, VECTORS, factory="IVF4,Flat")
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes()


def test_vectors_are_added_block_by_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ranktower.embedding_store.faiss_index, "_BLOCK", 33)
    np.save(tmp_path / "vectors.npy", VECTORS)
    build_index(tmp_path / "index", np.load(tmp_path / "vectors.npy", mmap_mode="r"))
    index = load_index(tmp_path / "index", num_items=500, width=8)
    assert search(index, QUERY, 500).tolist() == BEST.tolist()


@pytest.mark.parametrize(("num_items", "factory"), [(0, "Flat"), (200_000, "Flat"), (1_000_000, "IVF4000,Flat")])
def test_the_default_factory(num_items: int, factory: str) -> None:
    assert default_factory(num_items) == factory


@pytest.mark.parametrize("factory", ["Nonsense", "IVF1000,Flat"])
def test_a_factory_that_does_not_work(factory: str, tmp_path: Path) -> None:
    (tmp_path / "index").write_bytes(b"old")
    with pytest.raises(ConfigError) as caught:
        build_index(tmp_path / "index", VECTORS, factory=factory)
    assert str(caught.value).startswith(f"factory: {factory!r} cannot index 500 items: ")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == {"index": b"old"}


def test_an_index_that_cannot_be_written_names_its_file(tmp_path: Path) -> None:
    with pytest.raises(ReleaseError, match=r"absent/items\.faiss: cannot be written: "):
        build_index(tmp_path / "absent" / "items.faiss", np.ones((3, 4), dtype=np.float32))


def test_a_full_disk_leaves_the_index_that_was_there(tmp_path: Path) -> None:
    path = tmp_path / "items.faiss"
    build_index(path, np.ones((3, 4), dtype=np.float32))
    before = path.read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))
    try:
        with pytest.raises(ReleaseError, match=r"items\.faiss: cannot be written: "):
            build_index(path, np.ones((10_000, 4), dtype=np.float32))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_indexes_that_are_not_the_releases(tmp_path: Path) -> None:
    path = tmp_path / "index"
    with pytest.raises(ReleaseError, match=r"index: cannot be read: no such file$"):
        load_index(path, num_items=500, width=8)
    build_index(path, VECTORS)
    with pytest.raises(ReleaseError, match=r"index: 500 vectors of width 8, the release has 499 of width 8$"):
        load_index(path, num_items=499, width=8)
    with pytest.raises(ReleaseError, match=r"index: 500 vectors of width 8, the release has 500 of width 32$"):
        load_index(path, num_items=500, width=32)
    for content in (b"", b"not faiss at all", path.read_bytes()[:100]):
        path.write_bytes(content)
        with pytest.raises(ReleaseError, match=r"index: not a FAISS index: "):
            load_index(path, num_items=500, width=8)


def test_misuse() -> None:
    with pytest.raises(ValueError, match=r"^k must be at least 1, got 0$"):
        search(None, QUERY, 0)
    with pytest.raises(ValueError, match=r"^vectors: shape \(8,\), expected \[n, d\]$"):
        build_index(Path("never"), QUERY)


def test_pooled_products_are_mean_cosines() -> None:
    user = RNG.standard_normal((1, 2, 6)).astype(np.float32)
    items = RNG.standard_normal((5, 3, 6)).astype(np.float32) * 9
    products = pooled_vectors(items) @ pooled_vectors(user)[0]
    for item, product in zip(items, products, strict=True):
        cosines = [
            float(u.astype(np.float64) @ i.astype(np.float64)) / float(np.linalg.norm(u) * np.linalg.norm(i))
            for u in user[0]
            for i in item
        ]
        assert product == pytest.approx(sum(cosines) / 6, abs=1e-6)


def test_pooling_a_zero_vector_is_finite() -> None:
    embedding = np.zeros((2, 2, 3), dtype=np.float32)
    embedding[1, 1] = (0, 3, 4)
    np.testing.assert_allclose(pooled_vectors(embedding), [[0, 0, 0], [0, 0.3, 0.4]], rtol=1e-6)
    assert pooled_vectors(embedding[:0]).shape == (0, 3)
