"""Redis and local stores behind a running server, Redis failing included."""

from __future__ import annotations

import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis

from ranktower.embedding_store.protocol import StoreUnavailableError
from ranktower.embedding_store.redis_client import RedisOptions
from ranktower.embedding_store.redis_releases import pointer_key, write_pointer
from ranktower.pointer import Pointer
from ranktower.registry import Registry
from ranktower.release import read_manifest, write_manifest
from ranktower.verification import hash_files
from service.settings import StoreSettings
from service.stores import ReleaseStore

MODEL = "demo"
CANDIDATES = [5, "17", 250, "nowhere", 5]
ATOL = 4e-5


def assert_right(body: dict[str, Any], release: Any, *, in_redis: bool = False) -> None:
    """Scores of CANDIDATES for user-1 are torch's on the rows of the table, or on those of Redis."""
    assert body["user"] == "PRESENT"
    assert body["missing"] == [3]
    known = [score for score in body["scores"] if score is not None]
    np.testing.assert_allclose(known, release.scores("user-1", [5, 17, 250, 5], in_redis=in_redis), atol=ATOL)


@pytest.fixture(scope="module")
def stored(build_release: Callable[..., Any], redis_server: Any, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """A promoted release whose rows are also in the session's Redis."""
    built = build_release(tmp_path_factory.mktemp("registry"), seed=20, odd_ids=True)
    built.promote()
    built.write_to_redis(redis_server.url)
    return built


@pytest.mark.parametrize(("users", "items"), [("redis", "local"), ("local", "redis"), ("redis", "redis")])
def test_either_side_in_redis_gives_the_same_scores(
    stored: Any, redis_server: Any, start_server: Callable[..., Any], users: str, items: str
) -> None:
    server = start_server(
        stored.folder.parent.parent, STORE__USERS=users, STORE__ITEMS=items, STORE__REDIS_URL=redis_server.url
    )
    server.wait_ready(stored.release)
    in_redis = items == "redis"
    assert_right(server.score("user-1", CANDIDATES).json(), stored, in_redis=in_redis)
    odd = [item for item in stored.item_ids if not item.isdigit()]
    expected = stored.scores("user-1", odd, in_redis=in_redis)
    np.testing.assert_allclose(server.score("user-1", odd).json()["scores"], expected, atol=ATOL)
    body = server.score("user-1", []).json()
    assert (body["scores"], body["user"]) == ([], "PRESENT")
    body = server.score("nobody\u0000", ["", "1\u0000", "y" * 257]).json()
    assert (body["missing"], body["user"]) == ([0, 1, 2], "FALLBACK")
    assert server.stop() == 0


def test_a_request_is_one_command_where_both_sides_are_in_redis(
    stored: Any, start_redis: Callable[..., Any], start_server: Callable[..., Any]
) -> None:
    own = start_redis()
    stored.write_to_redis(own.url)
    # No look at the pointers of releases and overlays meanwhile: those are commands too.
    places = {"STORE__USERS": "redis", "STORE__ITEMS": "redis", "STORE__REDIS_URL": own.url}
    server = start_server(stored.folder.parent.parent, RELEASE__POLL_MS="60000", **places)
    server.wait_ready(stored.release)
    with redis.Redis.from_url(own.url) as client:
        client.config_resetstat()
        assert_right(server.score("user-1", CANDIDATES).json(), stored, in_redis=True)
        assert server.score("nobody", list(range(300)), user_features={"country": "fr"}).json()["user"] == "COMPUTED"
        assert_right(server.score("user-1", CANDIDATES).json(), stored, in_redis=True)
        commands = {name: of["calls"] for name, of in client.info("commandstats").items()}
    assert commands.pop("cmdstat_mget") == 3
    # What this test's own client does is all there is besides.
    assert not {name for name in commands if name.startswith(("cmdstat_get", "cmdstat_hget", "cmdstat_exists"))}
    assert server.stop() == 0


@pytest.mark.parametrize("row_dtype", ["float16", "float32"])
@pytest.mark.parametrize("items", ["local", "local+redis"])
def test_a_table_of_multi_embeddings_alone(
    build_release: Callable[..., Any], redis_server: Any, start_server: Callable[..., Any], tmp_path: Path,
    items: str, row_dtype: str,
) -> None:  # fmt: skip
    built = build_release(tmp_path, seed=25, row_dtype=row_dtype, item_rows="embedding")
    built.promote()
    built.write_to_redis(redis_server.url)
    itemsize = 2 if row_dtype == "float16" else 4
    assert (built.folder / "items" / "rows.bin").stat().st_size == 300 * (8 + itemsize * 4 * 32)
    prefix = f"ranktower:{MODEL}:{built.release}:i:"
    redis_server.command("copy", prefix + "17", prefix + "brand-new", "replace")
    server = start_server(tmp_path, STORE__ITEMS=items, STORE__REDIS_URL=redis_server.url)
    server.wait_ready(built.release)
    assert server.client.get("/v1/release").json()["item_rows"] == "embedding"
    assert_right(server.score("user-1", CANDIDATES).json(), built)
    body = server.score("user-1", ["brand-new", 5]).json()
    assert body["missing"] == ([0] if items == "local" else [])
    if not body["missing"]:
        np.testing.assert_allclose(body["scores"], built.scores("user-1", [17, 5]), atol=ATOL)
    ranked = server.client.post("/v1/rank", json={"user_id": "user-1", "num_candidates": 20}).json()["items"]
    expected = built.scores("user-1", [item["id"] for item in ranked])
    np.testing.assert_allclose([item["score"] for item in ranked], expected, atol=ATOL)
    assert server.stop() == 0


async def test_which_store_answers_and_what_its_rows_hold(release: Any) -> None:
    def opened(users: str, items: str) -> ReleaseStore:
        chosen = StoreSettings.model_validate({"users": users, "items": items, "redis_url": "redis://127.0.0.1:1"})
        return ReleaseStore(chosen, release.folder, release.manifest)

    local = opened("local", "local")
    assert (local.one_trip, local.item_row_kinds) == (False, ("projected",))
    found = local.find("user-1", [5, "nowhere"])
    assert (found.user.layout.kind, found.user.present.tolist()) == ("embedding", [True])
    (items,) = found.items
    assert (items.layout.kind, items.present.tolist()) == ("projected", [True, False])
    with pytest.raises(RuntimeError, match="no store holds both sides"):
        await local.fetch_both("user-1", [5], timeout_s=1.0)
    in_redis = opened("redis", "redis")
    assert (in_redis.one_trip, in_redis.item_row_kinds) == (True, ("embedding",))
    mixed = opened("redis", "local+redis")
    assert (mixed.one_trip, mixed.item_row_kinds) == (False, ("projected", "embedding"))
    for store in (in_redis, mixed, opened("redis", "local"), opened("local", "redis")):
        with pytest.raises(RuntimeError, match="come from another machine"):
            store.find("user-1", [5])
        with pytest.raises(StoreUnavailableError):
            await store.check()
        await store.close()
    await local.close()


def test_redis_is_asked_for_the_items_the_release_lacks(
    stored: Any, start_redis: Callable[..., Any], redis_server: Any, start_server: Callable[..., Any]
) -> None:
    server = start_server(stored.folder.parent.parent, STORE__ITEMS="local+redis", STORE__REDIS_URL=redis_server.url)
    server.wait_ready(stored.release)
    # A new item, with the row of item 17 and another's id.
    prefix = f"ranktower:{MODEL}:{stored.release}:i:"
    redis_server.command("copy", prefix + "17", prefix + "brand-new")
    body = server.score("user-1", ["nowhere", "brand-new", 5, "brand-new", 250]).json()
    assert body["missing"] == [0]
    # Rows of two kinds in one answer, each with the score of what it holds.
    new = stored.scores("user-1", [17], in_redis=True).tolist()
    known = stored.scores("user-1", [5, 250]).tolist()
    np.testing.assert_allclose(body["scores"][1:], [*new, known[0], *new, known[1]], atol=ATOL)
    redis_server.command("del", prefix + "brand-new")
    assert server.score("user-1", ["brand-new", 5]).json()["missing"] == [0]
    assert server.stop() == 0


def test_a_row_of_another_release_is_missing_and_counted(
    stored: Any, redis_server: Any, start_server: Callable[..., Any]
) -> None:
    server = start_server(
        stored.folder.parent.parent, STORE__USERS="redis", STORE__ITEMS="redis", STORE__REDIS_URL=redis_server.url
    )
    server.wait_ready(stored.release)
    prefix = f"ranktower:{MODEL}:{stored.release}:"
    redis_server.command("set", f"{prefix}i:truncated", "short")
    redis_server.command("set", f"{prefix}u:stale", "x" * stored.manifest.layout("user").row_size)
    body = server.score("stale", ["truncated", 5]).json()
    assert body["missing"] == [0]
    assert body["user"] == "FALLBACK"
    assert server.metric("ranktower_store_errors_total", kind="rejected_row") == 2
    assert server.metric("ranktower_missing_total", side="user") == 1
    assert server.metric("ranktower_missing_total", side="item") == 1
    assert server.stop() == 0


def test_a_score_that_is_not_a_number_never_leaves(
    stored: Any, redis_server: Any, start_server: Callable[..., Any]
) -> None:
    server = start_server(stored.folder.parent.parent, STORE__ITEMS="local+redis", STORE__REDIS_URL=redis_server.url)
    server.wait_ready(stored.release)
    layout = stored.manifest.redis_layout("item")
    rows = {"nan": np.full(128, np.nan, "<f2"), "inf": np.full(128, np.inf, "<f2")}
    with redis.Redis.from_url(redis_server.url) as client:
        for name, values in rows.items():
            client.set(f"ranktower:{MODEL}:{stored.release}:i:{name}", layout.tag + values.tobytes())
    answer = server.score("user-1", [5, "nan", 17, "inf"])
    assert "NaN" not in answer.text
    assert answer.json()["missing"] == [1, 3]
    scores = [score for score in answer.json()["scores"] if score is not None]
    np.testing.assert_allclose(scores, stored.scores("user-1", [5, 17]), atol=ATOL)
    ranked = server.client.post("/v1/rank", json={"user_id": "user-1", "candidate_ids": [5, "nan", 17, "inf"]}).json()
    assert {item["id"] for item in ranked["items"]} == {5, 17}
    assert ranked["missing"] == [1, 3]
    assert server.metric("ranktower_nonfinite_scores_total") == 4
    assert server.metric("ranktower_missing_total", side="item") == 0
    assert server.stop() == 0


def test_redis_down_at_start_and_again_while_serving(
    build_release: Callable[..., Any], restartable_redis: Any, start_server: Callable[..., Any], tmp_path: Path
) -> None:
    built = build_release(tmp_path, seed=21)
    built.promote()
    restartable_redis.stop()
    server = start_server(tmp_path, STORE__USERS="redis", STORE__REDIS_URL=restartable_redis.url)
    server.wait_not_ready("store_unavailable")
    assert server.client.get("/livez").status_code == 200
    answer = server.score("user-1", CANDIDATES)
    assert (answer.status_code, answer.json()["error_type"]) == (503, "store_unavailable")

    # Up, but without the release: still not ready, for another reason.
    restartable_redis.start()
    server.wait_not_ready("release_invalid")
    built.write_to_redis(restartable_redis.url)
    server.wait_ready(built.release)
    assert_right(server.score("user-1", CANDIDATES).json(), built)

    restartable_redis.stop()
    answer = server.score("user-1", CANDIDATES)
    assert (answer.status_code, answer.json()["error_type"]) == (503, "store_unavailable")
    assert answer.json()["error"] == "the embedding store does not answer"
    assert server.metric("ranktower_store_errors_total", kind="connection") == 1
    # What the request brings itself needs no store.
    body = server.score("user-1", CANDIDATES, user_features={"country": "fr"}).json()
    assert (body["user"], body["missing"]) == ("COMPUTED", [3])
    # The release is as ready as it was: a shared Redis must not take every replica out of service at once.
    assert server.client.get("/readyz").status_code == 200
    assert server.client.get("/livez").status_code == 200

    restartable_redis.start()
    built.write_to_redis(restartable_redis.url)
    assert_right(server.score("user-1", CANDIDATES).json(), built)
    assert str(restartable_redis.port) not in answer.text
    assert server.stop() == 0


def test_a_store_that_hangs_costs_its_timeout_or_the_budget(
    build_release: Callable[..., Any], restartable_redis: Any, start_server: Callable[..., Any], tmp_path: Path
) -> None:
    built = build_release(tmp_path, seed=22)
    built.promote()
    built.write_to_redis(restartable_redis.url)
    server = start_server(
        tmp_path, STORE__USERS="redis", STORE__REDIS_URL=restartable_redis.url, STORE__TIMEOUT_MS="200"
    )
    server.wait_ready()
    assert server.score("user-1", [1]).status_code == 200
    for budget, status, error_type, most_s in (
        (None, 503, "store_unavailable", 0.9),
        (40, 504, "deadline_exceeded", 0.19),
    ):
        restartable_redis.command("client", "pause", "1000", "all")
        start = time.monotonic()
        answer = server.score("user-1", [1], budget_ms=budget)
        elapsed_s = time.monotonic() - start
        assert (answer.status_code, answer.json()["error_type"]) == (status, error_type)
        assert elapsed_s < most_s
        time.sleep(1.1)
    assert server.metric("ranktower_store_errors_total", kind="timeout") == 2
    assert_right(server.score("user-1", CANDIDATES).json(), built)
    assert server.stop() == 0


def test_the_pointer_can_be_in_redis(
    build_release: Callable[..., Any], start_redis: Callable[..., Any], start_server: Callable[..., Any], tmp_path: Path
) -> None:
    redis_server = start_redis("--requirepass", "pass-word-1")
    url = f"redis://:pass-word-1@127.0.0.1:{redis_server.port}/0"
    first, second = (build_release(tmp_path, seed=seed) for seed in (23, 24))
    server = start_server(tmp_path, RELEASE__POINTER="redis", STORE__USERS="redis", STORE__REDIS_URL=url)
    server.wait_not_ready("no_release")
    for built in (first, second):
        built.write_to_redis(url)
        write_pointer(RedisOptions(url), MODEL, Pointer(release=built.release))
        server.wait_ready(built.release)
        assert_right(server.score("user-1", CANDIDATES).json(), built)
    redis_server.stop()
    server.wait_until(lambda: server.client.get("/readyz").json()["refused"] is not None, "aware of it")
    assert server.client.get("/readyz").json()["refused"] == {"release": None, "reason": "store_unavailable"}
    assert "pass-word-1" not in server.log.read_text()
    assert pointer_key(MODEL) == f"ranktower:{MODEL}:current"
    assert server.stop() == 0


def test_a_wrong_password_is_no_start(
    release: Any, start_redis: Callable[..., Any], start_server: Callable[..., Any]
) -> None:
    redis_server = start_redis("--requirepass", "pass-word-2")
    url = f"redis://:not-the-word@127.0.0.1:{redis_server.port}/0"
    server = start_server(release.folder.parent.parent, STORE__USERS="redis", STORE__REDIS_URL=url)
    server.wait_not_ready("store_unavailable")
    assert "not-the-word" not in server.log.read_text()
    assert server.stop() == 0


def test_rows_only_in_redis_need_no_table_in_the_release(
    stored: Any, redis_server: Any, start_server: Callable[..., Any], tmp_path: Path
) -> None:
    """A side read from the release must be in it; a side read from Redis need not."""
    folder = Registry(tmp_path).release_dir(MODEL, stored.release)
    shutil.copytree(stored.folder, folder)
    shutil.rmtree(folder / "users")
    write_manifest(folder, read_manifest(folder).model_copy(update={"files": hash_files(folder)}))
    Registry(tmp_path).promote(MODEL, stored.release)
    server = start_server(tmp_path, STORE__USERS="redis", STORE__REDIS_URL=redis_server.url)
    server.wait_ready(stored.release)
    assert_right(server.score("user-1", CANDIDATES).json(), stored)
    assert server.stop() == 0
    local = start_server(tmp_path)
    local.wait_not_ready("release_invalid")
    refusal = next(line for line in local.lines() if line["message"] == "release refused")
    assert "holds no table of users, and store.users is 'local'" in refusal["detail"]
    assert local.stop() == 0
