"""What an endpoint makes of a release's parts where one of them fails; the whole way is tested over HTTP."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import pytest

from ranktower.embedding_store.codec import RowLayout
from ranktower.errors import DataError
from service.answering import Answering
from service.budget import Deadline
from service.errors import MalformedError
from service.metrics import Metrics
from service.stores import Fetched

LAYOUT = RowLayout(1, 8, 8, "float16", b"release1", kind="embedding")


async def test_features_whose_embedding_is_too_large_for_a_row_are_refused() -> None:
    def too_large(feed: Any) -> None:
        raise DataError("a value is not finite in float16", file="rows to store", column="embedding", row=0)

    nothing = LAYOUT.no_rows(1)
    release: Any = SimpleNamespace(
        store=SimpleNamespace(find=lambda user, items: Fetched(nothing, (nothing,))),
        user_tower=SimpleNamespace(encode=dict, compute=too_large),
    )
    answering = Answering(release, Deadline(math.inf), Metrics())
    with pytest.raises(MalformedError, match=r"^user_features: their embedding is too large for the release's rows$"):
        await answering.score("user", ["item"], {"age": 1e30})
