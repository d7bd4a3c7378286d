"""``TieredStore`` against its definition: the first store's row, else the second's, in the order of the request."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ranktower.embedding_store.protocol import Rows, Side, StoreUnavailableError
from service.stores import TieredStore

SIZE = 4


class Table:
    """A store over a dictionary; the row of id n in store s is [s, n, n, n]."""

    def __init__(self, number: int, ids: set[int], *, down: bool = False) -> None:
        self.number, self.ids, self.down = number, ids, down
        self.asked: list[list[str | int]] = []

    async def fetch(self, side: Side, ids: Sequence[str | int], *, timeout_s: float) -> Rows:
        self.asked.append(list(ids))
        if self.down:
            raise StoreUnavailableError("down", kind="connection")
        present = np.array([one in self.ids for one in ids], dtype=np.bool_)
        found = [[self.number, one, one, one] for one in ids if one in self.ids]
        return Rows(np.array(found, dtype=np.uint8).reshape(-1, SIZE), present, num_rejected=self.number)


ids = st.integers(0, 9)


@given(st.sets(ids), st.sets(ids), st.lists(ids))
async def test_each_row_comes_from_the_first_store_that_has_it(near: set[int], far: set[int], asked: list[int]) -> None:
    stores = Table(1, near), Table(2, far)
    rows = await TieredStore(*stores).fetch("item", asked, timeout_s=1)
    expected = [[1 if one in near else 2, one, one, one] for one in asked if one in near | far]
    assert rows.raw.tolist() == expected
    assert rows.present.tolist() == [one in near | far for one in asked]
    absent = [one for one in asked if one not in near]
    assert stores[1].asked == ([absent] if absent else [])
    assert rows.num_rejected == (3 if absent else 1)


async def test_a_second_store_that_is_down_matters_only_when_it_is_asked() -> None:
    store = TieredStore(Table(1, {1}), Table(2, set(), down=True))
    assert (await store.fetch("item", [1, 1], timeout_s=1)).present.all()
    with pytest.raises(StoreUnavailableError, match="down"):
        await store.fetch("item", [1, 2], timeout_s=1)
