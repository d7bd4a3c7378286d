"""The command beside a real service, on a small release."""

from __future__ import annotations

import os
from pathlib import Path

import httpx
import numpy as np
import pytest
from delta import measure, spread
from redis_run import fill_redis, redis_server
from reference_release import build_reference_release
from service_run import SETUPS, Release, running


@pytest.mark.parametrize("store", ["local", "Redis"])
def test_new_items_are_waited_for_until_they_are_served(tmp_path: Path, store: str) -> None:
    release = Release(tmp_path, build_reference_release(tmp_path, num_users=20, num_items=200))
    cores = os.sched_getaffinity(0)
    with redis_server() as redis:
        fill_redis(release, redis.url)
        redis_url = redis.url if store == "Redis" else None
        with (
            running(release, SETUPS[store], cores, redis_url=redis.url) as service,
            httpx.Client(base_url=service.address) as client,
        ):
            ids = np.arange(1 << 41, (1 << 41) + 10)
            found = measure(release, client, ids, redis_url)
            answer = client.post("/v1/score", json={"user_id": 0, "candidate_ids": [*ids.tolist(), 1 << 42]}).json()
    assert answer["missing"] == [10]  # its place among the candidates
    assert found["start_to_served_s"] == pytest.approx(found["command_s"] + found["end_to_served_s"])


def test_runs_are_told_by_their_median_and_their_longest() -> None:
    runs = [{"command_s": seconds} for seconds in (1.0, 4.0, 2.0)]
    assert spread(runs) == {"command_s": {"median": 2.0, "max": 4.0}}
