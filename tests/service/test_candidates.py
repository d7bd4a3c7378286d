"""Rows of several stores as one sequence, against a list of what each candidate should get."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from ranktower.embedding_store.codec import RowLayout, Rows
from service.candidates import CandidateRows

KINDS = ("projected", "embedding", "embedding")
LAYOUTS = [RowLayout(1, 1, 1, "float16", b"release1", kind=kind) for kind in KINDS]


def make_part(owner: int, owners: NDArray[np.int64]) -> Rows:
    """The rows of the candidates that one store has: every byte is the candidate's number."""
    present = owners == owner
    raw = np.repeat(np.flatnonzero(present).astype(np.uint8)[:, None], LAYOUTS[owner].row_size, axis=1)
    return Rows(LAYOUTS[owner], raw, present, num_rejected=owner)


owners = st.lists(st.integers(0, 3), max_size=40)  # 3: of no store


@given(owners, st.integers(1, 3), st.randoms(use_true_random=False))
def test_any_choice_of_rows_leads_to_the_rows_of_those_candidates(
    owner_of: list[int], num_parts: int, random: np.random.Generator
) -> None:
    owned = np.array(owner_of, dtype=np.int64)
    rows = CandidateRows([make_part(owner, owned) for owner in range(num_parts)], len(owner_of))
    # By definition: the first store's candidates in order, then the second's, ...
    expected = np.concatenate([np.flatnonzero(owned == owner) for owner in range(num_parts)])
    assert len(rows) == len(expected)
    assert rows.num_rejected == sum(range(num_parts))
    start, stop = sorted(random.choices(range(len(expected) + 1), k=2))
    shuffled = random.sample(range(len(expected)), k=stop)
    for chosen in (slice(start, stop), np.array(shuffled, dtype=np.intp)):
        found = np.full(len(expected[chosen]), -1)
        for part, own, places in rows.split(chosen):
            found[places] = part.whole(own)[:, 0]
            np.testing.assert_array_equal(part.embeddings(own), part.whole(own)[:, : part.layout.embedding_size])
        np.testing.assert_array_equal(found, expected[chosen])


@given(owners, st.integers(1, 3))
def test_values_go_back_to_their_candidates(owner_of: list[int], num_parts: int) -> None:
    owned = np.array(owner_of, dtype=np.int64)
    rows = CandidateRows([make_part(owner, owned) for owner in range(num_parts)], len(owner_of))
    expected = np.where(owned < num_parts, np.arange(len(owned)), np.nan)
    order = np.concatenate([np.flatnonzero(owned == owner) for owner in range(num_parts)])
    np.testing.assert_array_equal(rows.to_candidates(order.astype(np.float32)), expected)


def test_rows_are_counted_by_kind() -> None:
    owned = np.array([0, 1, 2, 0, 3, 1])
    rows = CandidateRows([make_part(owner, owned) for owner in range(3)], len(owned))
    assert rows.count_by_kind(slice(0, 5)) == {"projected": 2, "embedding": 3}
    assert rows.count_by_kind(slice(1, 2)) == {"projected": 1}


def test_no_stores_and_no_candidates() -> None:
    assert len(CandidateRows([], 2)) == 0
    np.testing.assert_array_equal(CandidateRows([], 2).to_candidates(np.empty(0, np.float32)), [np.nan] * 2)
    empty = CandidateRows([make_part(0, np.empty(0, dtype=np.int64))], 0)
    assert len(empty) == len(empty.to_candidates(np.empty(0, np.float32))) == 0
