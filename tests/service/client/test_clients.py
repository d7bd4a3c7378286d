"""Both clients on a real server: what they return is what the service says."""

from __future__ import annotations

import copy
import math
import pickle
import subprocess
import sys
import threading
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from service.client import (
    AuthenticationError,
    DeadlineError,
    Explanation,
    InvalidRequestError,
    OverloadedError,
    RankTowerClient,
    RankTowerError,
    UnavailableError,
)

MakeClient = Callable[..., Any]
KEY = "a-key-of-some-length"


def without_times(content: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in content.items() if name not in {"took_ms", "request_id"}}


def test_scores(server: Any, make_client: MakeClient, release: Any) -> None:
    found = make_client(server.url).score("user-3", [5, "none", "17"], request_id="mine")
    said = server.score("user-3", [5, "none", "17"]).json()
    assert without_times(asdict(found)) == without_times(said) | {"computed": None, "ages_s": None}
    assert (found.request_id, found.release) == ("mine", release.release)
    assert found.scores[1] is None
    assert found.filled(-math.inf) == [found.scores[0], -math.inf, found.scores[2]]
    with pytest.raises(FrozenInstanceError):
        found.user = "FALLBACK"


def test_scores_with_features_and_freshness(server: Any, make_client: MakeClient) -> None:
    options = {
        "user_features": {"country": "fr"},
        "item_features": {"new": {"shelf": 3, "price": 2.5}},
        "freshness": True,
    }
    found = make_client(server.url).score("new-user", iter(["1", "new"]), low_priority=True, **options)
    assert (found.user, found.computed, found.ages_s[1]) == ("COMPUTED", [1], 0.0)
    assert list(found.scores) == server.score("new-user", ["1", "new"], **options).json()["scores"]


@pytest.mark.parametrize(
    "options", [{"candidate_ids": ["3", 1, "none", 2], "top_k": 2}, {"num_candidates": 5}, {"freshness": True}]
)
def test_rankings(server: Any, make_client: MakeClient, options: dict[str, Any]) -> None:
    found = make_client(server.url).rank("user-3", **options)
    said = server.client.post("/v1/rank", json={"user_id": "user-3", **options}).json()
    assert [(one.id, one.score, one.rank) for one in found.items] == [
        (one["id"], one["score"], one["rank"]) for one in said["items"]
    ]
    assert list(found.missing) == said["missing"]
    assert all((one.age_s is not None) is ("freshness" in options) for one in found.items)


def test_explanations(server: Any, make_client: MakeClient) -> None:
    first, none = make_client(server.url).explain("user-3", [1, "none"]).explanations
    assert none is None
    assert isinstance(first, Explanation)
    assert sum(match.contribution for match in first.matches) == pytest.approx(first.score, abs=1e-4)
    assert all(sum(row) == pytest.approx(1, abs=1e-5) for row in first.user_attention)


def test_the_release_and_readiness(
    server: Any, release: Any, make_client: MakeClient, start_faulty: Callable[..., Any]
) -> None:
    client = make_client(server.url)
    assert client.ready() is True
    assert asdict(client.release()) == server.client.get("/v1/release").json()
    assert client.release().release == release.release
    gone = start_faulty("hang")
    assert make_client(gone.url).ready(deadline_ms=50) is False
    gone.stop()
    assert make_client(gone.url).ready() is False


@pytest.mark.parametrize(
    ("ask", "kind", "status", "error_type", "text"),
    [
        (
            lambda client: client.score("u", [1.5]),
            InvalidRequestError, 422, "malformed", "candidate_ids[0]: must be a string or an integer",
        ),
        (
            lambda client: client.score("u", range(10_001)),
            InvalidRequestError, 413, "too_many_candidates", "candidate_ids: 10001 candidates",
        ),
        (lambda client: client.rank("u", top_k=0), InvalidRequestError, 422, "malformed", "top_k: "),
    ],
)  # fmt: skip
def test_errors_have_the_services_words(
    server: Any,
    make_client: MakeClient,
    ask: Callable[[Any], Any],
    kind: type[RankTowerError],
    status: int,
    error_type: str,
    text: str,
) -> None:
    with pytest.raises(kind) as error:
        ask(make_client(server.url))
    assert error.value.message.startswith(text)
    assert (error.value.status, error.value.error_type) == (status, error_type)
    assert error.value.request_id in str(error.value)


def test_a_deadline_that_the_service_cannot_keep(server: Any, make_client: MakeClient) -> None:
    """3 ms are 1 ms of budget, too little for ten thousand candidates: the client or the service finds out, and the
    service may know it before it has begun."""
    with pytest.raises((DeadlineError, OverloadedError)) as error:
        make_client(server.url).score("user-1", [number % 300 for number in range(10_000)], deadline_ms=3)
    assert error.value.error_type in {"deadline_exceeded", "shed"}


def test_ids_and_features_of_numpy(server: Any, make_client: MakeClient) -> None:
    client = make_client(server.url)
    features = {"new": {"shelf": np.int64(3), "price": np.float32(2.5)}}
    expected = server.score("user-3", [5, 17, "new"], item_features={"new": {"shelf": 3, "price": 2.5}}).json()
    for candidates in (np.array(["5", "17", "new"]), [np.int64(5), np.int16(17), np.str_("new")]):
        found = client.score(np.str_("user-3"), candidates, item_features=features)
        assert (list(found.scores), found.computed) == (expected["scores"], [2])
    assert [one.id for one in client.rank("user-3", candidate_ids=np.array([5, 17]), top_k=np.int64(2)).items]
    assert client.score(np.int64(12), np.arange(3)).scores == client.score(12, [0, 1, 2]).scores
    with pytest.raises(TypeError, match=r"Decimal Decimal\('1'\) cannot be sent as JSON"):
        client.score("user-3", [Decimal(1)])


def test_an_error_survives_pickle_and_copy(server: Any, make_client: MakeClient) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        make_client(server.url).score("u", [1.5])
    for again in (pickle.loads(pickle.dumps(refused.value)), copy.copy(refused.value)):  # noqa: S301
        assert (type(again), str(again), vars(again)) == (InvalidRequestError, str(refused.value), vars(refused.value))


def test_an_api_key_and_a_service_without_a_release(
    tmp_path: Path, start_server: Callable[..., Any], make_client: MakeClient
) -> None:
    server = start_server(tmp_path, AUTH__API_KEY=KEY)
    server.wait_not_ready("no_release")
    with pytest.raises(UnavailableError) as unavailable:
        # As it comes out of the file that `ranktower keys create` was sent to.
        make_client(server.url, api_key=f"{KEY}\n").score("u", [1])
    assert (unavailable.value.status, unavailable.value.error_type) == (503, "no_release")
    assert make_client(server.url).ready() is False
    for options, status in (({}, 401), ({"api_key": "another-key-of-some-length"}, 403)):
        with pytest.raises(AuthenticationError) as refused:
            make_client(server.url, **options).release()
        assert refused.value.status == status
    server.stop()


def test_threads_share_one_client(server: Any) -> None:
    expected = server.score("user-3", list(range(100))).json()["scores"]
    found = []
    with RankTowerClient(server.url, deadline_ms=20_000) as client:
        threads = [
            threading.Thread(target=lambda: found.extend(client.score("user-3", range(100)) for _ in range(10)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert [one.scores for one in found] == [expected] * 80
    assert len({one.request_id for one in found}) == 80


def test_importing_it_loads_nothing_of_the_services_application() -> None:
    code = """
import sys
import service.client
loaded = set(sys.modules)
heavy = loaded & {"fastapi", "starlette", "uvicorn", "pydantic", "onnxruntime", "numpy", "orjson", "torch", "redis"}
assert not heavy, heavy
own = {name for name in loaded if name.split(".")[0] in {"service", "ranktower"}}
assert all(name in {"service", "ranktower"} or name.startswith("service.client") for name in own), own
"""
    subprocess.run([sys.executable, "-c", code], check=True)
