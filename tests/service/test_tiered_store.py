"""``TieredStore`` against its definition: the first store's row, else the second's, in the order of the request."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranktower.embedding_store.codec import RowLayout
from ranktower.embedding_store.protocol import Rows, Side, StoreUnavailableError
from service.stores import TieredStore

KINDS = ("projected", "embedding")


class Table:
    """A store over a set of ids; the row of id n in store s is full of 10 s + n. The first has rows of another kind
    than the second, as the local table and Redis do."""

    def __init__(self, number: int, ids: set[int], *, down: bool = False) -> None:
        self.number, self.ids, self.down = number, ids, down
        self.layout = RowLayout(1, 1, 1, "float16", b"release1", kind=KINDS[number - 1])
        self.asked: list[list[str | int]] = []

    async def fetch(self, side: Side, ids: Sequence[str | int], *, timeout_s: float) -> Rows:
        self.asked.append(list(ids))
        if self.down:
            raise StoreUnavailableError("down", kind="connection")
        present = np.array([one in self.ids for one in ids], dtype=np.bool_)
        values = np.array([10 * self.number + int(one) for one in ids if one in self.ids], dtype=np.uint8)
        raw = np.repeat(values[:, None], self.layout.row_size, axis=1)
        return Rows(self.layout, raw, present, num_rejected=self.number)

    async def fetch_times(self, side: Side, ids: Sequence[str | int], *, timeout_s: float) -> np.ndarray:
        self.asked.append(list(ids))
        return np.array([10.0 * self.number + int(one) if one in self.ids else np.nan for one in ids])


ids = st.integers(0, 9)


@given(st.sets(ids), st.sets(ids), st.lists(ids))
async def test_each_row_comes_from_the_first_store_that_has_it(near: set[int], far: set[int], asked: list[int]) -> None:
    stores = Table(1, near), Table(2, far)
    answers = await TieredStore(*stores).fetch("item", asked, timeout_s=1)
    absent = [one for one in asked if one not in near]
    assert stores[0].asked == [asked]
    assert stores[1].asked == ([absent] if absent else [])
    assert [rows.layout.kind for rows in answers] == (["projected", "embedding"] if absent else ["projected"])
    assert [rows.num_rejected for rows in answers] == ([1, 2] if absent else [1])
    assert answers[0].present.tolist() == [one in near for one in asked]
    if absent:
        assert answers[1].present.tolist() == [one in far - near for one in asked]
    merged: list[int | None] = [None] * len(asked)
    for rows in answers:
        assert rows.raw.shape == (rows.present.sum(), rows.layout.row_size)
        for place, row in zip(np.flatnonzero(rows.present).tolist(), rows.raw.tolist(), strict=True):
            assert len(set(row)) == 1
            merged[place] = row[0]
    expected = [10 + one if one in near else 20 + one if one in far else None for one in asked]
    assert merged == expected


async def test_a_second_store_that_is_down_matters_only_when_it_is_asked() -> None:
    store = TieredStore(Table(1, {1}), Table(2, set(), down=True))
    (rows,) = await store.fetch("item", [1, 1], timeout_s=1)
    assert rows.present.all()
    with pytest.raises(StoreUnavailableError, match="down"):
        await store.fetch("item", [1, 2], timeout_s=1)


async def test_each_store_can_be_asked_for_every_id() -> None:
    stores = Table(1, {1, 2}), Table(2, {2, 3})
    answers = await TieredStore(*stores).fetch_each("item", [1, 2, 3], timeout_s=1)
    assert [rows.present.tolist() for rows in answers] == [[True, True, False], [False, True, True]]
    assert len(await TieredStore(stores[0]).fetch_each("item", [1], timeout_s=1)) == 1


@given(st.sets(ids), st.sets(ids), st.lists(ids))
async def test_each_time_is_that_of_the_row(near: set[int], far: set[int], asked: list[int]) -> None:
    stores = Table(1, near), Table(2, far)
    times_s = await TieredStore(*stores).fetch_times("item", asked, timeout_s=1)
    expected = [10 + one if one in near else 20 + one if one in far else np.nan for one in asked]
    np.testing.assert_array_equal(times_s, expected)
    absent = [one for one in asked if one not in near]
    assert stores[1].asked == ([absent] if absent else [])
    each = await TieredStore(*stores).fetch_times_of_each("item", asked, timeout_s=1)
    assert [np.isnan(one).tolist() for one in each] == [[one not in of for one in asked] for of in (near, far)]
