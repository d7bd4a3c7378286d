"""What an error says survives the way from a worker process to its parent."""

from __future__ import annotations

import pickle

import pytest

from ranktower.errors import ConfigError, DataError, DivergedError, RankTowerError


@pytest.mark.parametrize(
    "error",
    [ConfigError("alpha: got -1"), DivergedError("step 3"), DataError("is empty", file="users", column="age", row=7)],
)
def test_an_error_is_the_same_after_pickling(error: RankTowerError) -> None:
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - written in the same line
    assert (type(again), str(again)) == (type(error), str(error))
