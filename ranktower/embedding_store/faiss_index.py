"""Retrieval: the items whose pooled embedding has the largest inner product with the user's.

Pooling: each of the H sub-space embeddings is scaled to length 1 and the mean of them is taken. The inner product of a
pooled user and a pooled item is then the mean of all Hu x Hi cosines, the coarse relative of the maximum similarity
that scores the candidates, whatever Hu and Hi are.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from ranktower.embedding_store.durable import fsync_file, fsync_folder
from ranktower.errors import ConfigError, ReleaseError

FLAT_LIMIT = 200_000  # items up to which an exact scan is the default
_BLOCK = 65_536  # vectors added at once
_TRAINING_VECTORS_PER_LIST = 64
_MIN_PROBES = 8  # lists searched at least


def pooled_vectors(embedding: NDArray[np.float32]) -> NDArray[np.float32]:
    """``[n, H, D]`` to ``[n, D]``: the mean of the sub-space embeddings, each scaled to length 1; zeros stay zeros."""
    lengths = np.linalg.norm(embedding, axis=2, keepdims=True)
    scaled = np.divide(embedding, lengths, out=np.zeros_like(embedding), where=lengths > 0)
    return np.ascontiguousarray(scaled.mean(axis=1), dtype=np.float32)


def default_factory(num_items: int) -> str:
    """FAISS factory string for so many items: an exact scan, or inverted lists above ``FLAT_LIMIT``."""
    if num_items <= FLAT_LIMIT:
        return "Flat"
    return f"IVF{round(4 * num_items**0.5)},Flat"


def build_index(path: Path, vectors: NDArray[np.float32], *, factory: str | None = None) -> None:
    """Write an inner-product index of ``vectors [n, d]`` to ``path``, whole or not at all.

    Args:
        vectors: row k is the vector of row k of the items' table; may be memory-mapped.
        factory: FAISS factory string, such as "Flat", "IVF1024,Flat" or "HNSW32"; by default ``default_factory(n)``.

    Raises:
        ConfigError: FAISS knows no such factory string, or there are too few items for it.
        ReleaseError: ``path`` cannot be written.
    """
    if vectors.ndim != 2:
        raise ValueError(f"vectors: shape {vectors.shape}, expected [n, d]")
    factory = default_factory(len(vectors)) if factory is None else factory
    try:
        index = faiss.index_factory(vectors.shape[1], factory, faiss.METRIC_INNER_PRODUCT)
        _train(index, vectors)
        for start in range(0, len(vectors), _BLOCK):
            index.add(np.ascontiguousarray(vectors[start : start + _BLOCK], dtype=np.float32))
    except RuntimeError as error:
        problem = str(error).splitlines()[-1]
        raise ConfigError(f"factory: {factory!r} cannot index {len(vectors)} items: {problem}") from error
    aside = path.with_name(f".{path.name}.part")
    try:
        try:
            faiss.write_index(index, str(aside))
        except RuntimeError as error:  # a full disk, a folder that is not there: FAISS knows one error for all
            raise ReleaseError(f"{path}: cannot be written: {str(error).splitlines()[-1]}") from error
        fsync_file(aside)
        aside.replace(path)
    finally:
        aside.unlink(missing_ok=True)
    fsync_folder(path.parent)


def _train(index: Any, vectors: NDArray[np.float32]) -> None:
    """Train on a sample spread evenly over the table; probe enough lists that little is lost."""
    if index.is_trained:
        return
    num_lists = faiss.extract_index_ivf(index).nlist
    step = max(1, len(vectors) // (num_lists * _TRAINING_VECTORS_PER_LIST))
    index.train(np.ascontiguousarray(vectors[::step], dtype=np.float32))
    faiss.extract_index_ivf(index).nprobe = min(num_lists, max(_MIN_PROBES, num_lists // 16))


def load_index(path: Path, *, num_items: int, width: int) -> Any:
    """The index in ``path``; ReleaseError if it cannot be read or is not of ``num_items`` vectors of ``width``.

    The file is mapped, not read: opening costs nothing, whatever the number of items, and all processes of a machine
    share one copy. So it must stay as it is while the index is used, as every file of a release does.
    """
    if not path.is_file():
        raise ReleaseError(f"{path}: cannot be read: no such file")
    try:
        index = faiss.read_index(str(path), faiss.IO_FLAG_MMAP_IFC)
    except RuntimeError as error:
        raise ReleaseError(f"{path}: not a FAISS index: {str(error).splitlines()[-1]}") from error
    if (index.ntotal, index.d) != (num_items, width):
        problem = f"{index.ntotal} vectors of width {index.d}, the release has {num_items} of width {width}"
        raise ReleaseError(f"{path}: {problem}")
    return index


def search(index: Any, vector: NDArray[np.float32], k: int) -> NDArray[np.int64]:
    """Row numbers of the at most ``k`` items nearest to ``vector [d]``, best first; fewer where FAISS finds fewer."""
    return search_products(index, vector, k)[0]


def search_products(index: Any, vector: NDArray[np.float32], k: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """``search``, and the inner products of the items found."""
    if k < 1:
        raise ValueError(f"k must be at least 1, got {k}")
    wanted = min(k, int(index.ntotal))
    if not wanted:
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    products, rows = index.search(np.ascontiguousarray(vector, dtype=np.float32)[None, :], wanted)
    found: NDArray[np.int64] = rows[0]
    # -1 stands where a list had no more to give. A number above is of a damaged file, and would name no row.
    good = (found >= 0) & (found < int(index.ntotal))
    return found[good], products[0][good]
