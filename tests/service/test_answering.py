"""What an answer says besides its scores: how old the rows are. The rest of the way is tested endpoint by endpoint."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

MORE = {"freshness": True, "item_features": {"new": {"shelf": 5}}}


def age_s(release: Any) -> float:
    """Of a row that was published with the release."""
    return time.time() - float(release.manifest.created.timestamp())


def test_the_age_of_every_candidates_row(server: Any, release: Any) -> None:
    body = server.score("user-1", [5, "nobody", "new", "5"], **MORE).json()
    assert body["ages_s"] == [pytest.approx(age_s(release), abs=60), None, 0.0, body["ages_s"][0]]
    assert body["missing"] == [1]


def test_the_age_of_every_ranked_item(server: Any, release: Any) -> None:
    body = {"user_id": "user-1", "candidate_ids": [5, "nobody", "new", 6]} | MORE
    items = server.client.post("/v1/rank", json=body).json()["items"]
    old = pytest.approx(age_s(release), abs=60)
    assert {item["id"]: item["age_s"] for item in items} == {5: old, 6: old, "new": 0.0}


def test_the_age_of_retrieved_items(server: Any, release: Any) -> None:
    body = {"user_id": "user-1", "num_candidates": 7, "freshness": True}
    items = server.client.post("/v1/rank", json=body).json()["items"]
    assert [item["age_s"] for item in items] == [pytest.approx(age_s(release), abs=60)] * 7


@pytest.mark.parametrize("freshness", [False, None])
def test_ages_are_only_told_where_they_are_asked_for(server: Any, freshness: object) -> None:
    assert "ages_s" not in server.score("user-1", [1], freshness=freshness).json()
    items = server.client.post("/v1/rank", json={"user_id": 1, "num_candidates": 2, "freshness": freshness}).json()
    assert "age_s" not in items["items"][0]


def test_ages_come_from_redis_too(
    build_release: Callable[..., Any], redis_server: Any, start_server: Callable[..., Any], tmp_path: Path
) -> None:
    built = build_release(tmp_path, seed=75)
    built.promote()
    built.write_to_redis(redis_server.url)
    server = start_server(tmp_path, STORE__USERS="redis", STORE__ITEMS="redis", STORE__REDIS_URL=redis_server.url)
    server.wait_ready(built.release)
    ages_s = server.score("user-1", [5, "nobody", "new"], **MORE).json()["ages_s"]
    assert ages_s == [pytest.approx(age_s(built), abs=60), None, 0.0]
    body = {"user_id": "user-1", "num_candidates": 3, "freshness": True}
    items = server.client.post("/v1/rank", json=body).json()["items"]
    assert [item["age_s"] for item in items] == [pytest.approx(age_s(built), abs=60)] * 3
    assert server.stop() == 0
