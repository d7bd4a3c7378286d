"""Canary and shadow on running servers: who gets which, what is said of them, and that they disturb nobody."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from ranktower.pointer import Variation, VariationRole
from ranktower.registry import Registry
from ranktower.release import write_manifest

MODEL = "demo"
CANDIDATES = list(range(120))
ATOL = 4e-5


def vary(root: Path, role: VariationRole, release: str | None, share: float = 0.5, model: str | None = None) -> None:
    variation = Variation(release=release, share=share, model=model) if release else None
    Registry(root).vary(MODEL, role, variation)


def trial(server: Any, role: str) -> Any:
    return server.client.get("/readyz").json()[role]


def wait_serving(server: Any, role: str, release: str, share: float = 0.5) -> None:
    wanted = {"model": MODEL, "release": release, "share": share, "serving": True, "refused": None}
    server.wait_until(lambda: trial(server, role) == wanted, f"{role} serving {release}")


def releases_by_user(server: Any, users: list[object]) -> dict[object, str]:
    return {user: server.score(user, [1]).json()["release"] for user in users}


def times_loaded(server: Any) -> int:
    return sum(line["message"] == "release loaded" for line in server.lines())


def in_share(release: str, user: object, share: float) -> bool:
    """The formula of docs/formats.md."""
    first = hashlib.sha256(f"{release}:{user}".encode()).hexdigest()[:16]
    return int(first, 16) < share * 2**64


@pytest.fixture(scope="module")
def three(build_release: Callable[..., Any], tmp_path_factory: pytest.TempPathFactory) -> list[Any]:
    """Three published releases, the first one promoted; each test leaves no canary and no shadow behind."""
    root = tmp_path_factory.mktemp("trial")
    built = [build_release(root, seed=seed) for seed in (41, 42, 43)]
    built[0].promote()
    return built


@pytest.fixture(scope="module")
def root(three: list[Any]) -> Path:
    folder: Path = three[0].folder.parent.parent
    return folder


@pytest.fixture(scope="module")
def tried(three: list[Any], root: Path, start_server: Callable[..., Any]) -> Any:
    server = start_server(root)
    server.wait_ready(three[0].release)
    return server


def test_a_canary_answers_its_share_of_the_users_and_no_others(three: list[Any], root: Path, tried: Any) -> None:
    current, canary, _ = (one.release for one in three)
    users: list[object] = [*(f"user-{number}" for number in range(20)), *range(100), "ключ-ß"]
    before = tried.metric("ranktower_answers_total", role="canary")
    vary(root, "canary", canary, 0.3)
    wait_serving(tried, "canary", canary, 0.3)
    served = releases_by_user(tried, users)
    assert served == {user: canary if in_share(canary, user, 0.3) else current for user in users}
    few = {user for user, release in served.items() if release == canary}
    assert 20 < len(few) < 55
    assert tried.metric("ranktower_answers_total", role="canary") - before == len(few)
    # Twice the same, and 12 is "12".
    assert releases_by_user(tried, users) == served
    assert releases_by_user(tried, [str(user) for user in users]) == {str(user): one for user, one in served.items()}
    # A larger share keeps those it had, and needs no loading.
    num_loaded = times_loaded(tried)
    vary(root, "canary", canary, 0.6)
    wait_serving(tried, "canary", canary, 0.6)
    many = {user for user, release in releases_by_user(tried, users).items() if release == canary}
    assert few < many
    assert times_loaded(tried) == num_loaded
    vary(root, "canary", None)
    tried.wait_until(lambda: trial(tried, "canary") is None, "off")
    assert set(releases_by_user(tried, users).values()) == {current}


def test_another_canary_has_other_users(three: list[Any]) -> None:
    users = range(2000)
    first, second = (
        {user for user in users if Variation(release=one.release, share=0.1).has_user(user)} for one in three[1:]
    )
    for chosen in (first, second):
        assert 130 < len(chosen) < 270  # 200 expected, 13 standard deviations
    assert len(first & second) < 50  # 20 expected


def test_each_answer_of_a_canary_is_its_own(three: list[Any], root: Path, tried: Any) -> None:
    vary(root, "canary", three[1].release)
    wait_serving(tried, "canary", three[1].release)
    by_release = {one.release: one for one in three}
    for number in range(20):
        body = tried.score(f"user-{number}", CANDIDATES).json()
        expected = by_release[body["release"]].scores(f"user-{number}", CANDIDATES)
        np.testing.assert_allclose(body["scores"], expected, atol=ATOL)
        ranked = tried.client.post("/v1/rank", json={"user_id": f"user-{number}", "candidate_ids": CANDIDATES}).json()
        assert ranked["release"] == body["release"]
        assert ranked["items"][0]["score"] == pytest.approx(expected.max(), abs=ATOL)
    vary(root, "canary", None)
    tried.wait_until(lambda: trial(tried, "canary") is None, "off")


def test_what_the_server_says_of_its_trials(three: list[Any], root: Path, tried: Any) -> None:
    current, canary, shadow = (one.release for one in three)
    vary(root, "canary", canary, 0.25)
    vary(root, "shadow", shadow, 1.0)
    wait_serving(tried, "canary", canary, 0.25)
    wait_serving(tried, "shadow", shadow, 1.0)
    body = tried.client.get("/v1/release").json()
    assert body["release"] == current
    assert (body["canary"], body["shadow"]) == (trial(tried, "canary"), trial(tried, "shadow"))
    for role, release in (("current", current), ("canary", canary), ("shadow", shadow)):
        assert tried.metric("ranktower_release_info", role=role, release=release) == 1
    # Promoted, the canary is current for everybody, and it is open already.
    num_loaded = times_loaded(tried)
    assert Registry(root).promote(MODEL, canary).canary is None
    tried.wait_ready(canary)
    tried.wait_until(lambda: trial(tried, "canary") is None, "no canary")
    assert trial(tried, "shadow")["release"] == shadow
    assert times_loaded(tried) == num_loaded
    assert tried.metric("ranktower_release_info", role="canary") == 0
    assert tried.metric("ranktower_release_info", role="current", release=canary) == 1
    vary(root, "shadow", None)
    Registry(root).rollback(MODEL)
    tried.wait_ready(current)


def test_a_damaged_canary_leaves_everybody_on_the_current_release(three: list[Any], root: Path, tried: Any) -> None:
    current, _, canary = three
    features = canary.folder / "features.json"
    content = features.read_bytes()
    features.write_bytes(content.replace(b"{", b"[", 1))
    before = tried.metric("ranktower_release_refused_total", role="canary", reason="release_invalid")
    pointer = root / MODEL / "current"  # by hand, for the command verifies first
    pointer.write_text(json.dumps({"release": current.release, "canary": {"release": canary.release, "share": 1}}))
    refused = {"model": MODEL, "release": canary.release, "share": 1.0, "serving": False, "refused": "release_invalid"}
    tried.wait_until(lambda: trial(tried, "canary") == refused, "refused")
    assert tried.client.get("/readyz").json()["refused"] is None  # of the promoted release there is nothing to say
    assert set(releases_by_user(tried, list(range(20))).values()) == {current.release}
    assert tried.metric("ranktower_release_refused_total", role="canary", reason="release_invalid") > before
    assert tried.metric("ranktower_release_refused_total", role="current") == 0
    features.write_bytes(content)
    tried.wait_until(lambda: trial(tried, "canary")["serving"], "mended")
    assert set(releases_by_user(tried, list(range(20))).values()) == {canary.release}
    vary(root, "canary", None)
    tried.wait_until(lambda: trial(tried, "canary") is None, "off")


def test_a_canary_of_another_model(three: list[Any], root: Path, tried: Any) -> None:
    current, canary, _ = three
    folder = root / "other" / canary.release
    shutil.copytree(canary.folder, folder)
    write_manifest(folder, canary.manifest.model_copy(update={"model": "other"}))
    vary(root, "canary", canary.release, model="other")
    wanted = {"model": "other", "release": canary.release, "share": 0.5, "serving": True, "refused": None}
    tried.wait_until(lambda: trial(tried, "canary") == wanted, "serving another model's release")
    assert tried.metric("ranktower_release_info", model="other", role="canary") == 1
    served = releases_by_user(tried, canary.user_ids)
    assert set(served.values()) == {current.release, canary.release}
    user = next(user for user, release in served.items() if release == canary.release)
    scores = tried.score(user, CANDIDATES).json()["scores"]
    np.testing.assert_allclose(scores, canary.scores(user, CANDIDATES), atol=ATOL)
    vary(root, "canary", None)
    tried.wait_until(lambda: trial(tried, "canary") is None, "off")


def test_every_worker_follows_and_chooses_alike(three: list[Any], root: Path, start_server: Callable[..., Any]) -> None:
    current, canary, _ = (one.release for one in three)
    server = start_server(root, "--workers", "2")
    server.wait_ready(current)
    vary(root, "canary", canary)

    def both_serve() -> bool:
        served = [line for line in server.lines() if line["message"] == "release served"]
        return sum(line["role"] == "canary" for line in served) == 2

    server.wait_until(both_serve, "served by both")
    for user in range(30):
        for _ in range(3):  # a connection each: the kernel gives it to either worker
            body = httpx.post(f"{server.url}/v1/score", json={"user_id": user, "candidate_ids": [1]}).json()
            assert body["release"] == (canary if in_share(canary, user, 0.5) else current)
    canaries = server.metric("ranktower_answers_total", role="canary")
    assert canaries == 3 * sum(in_share(canary, user, 0.5) for user in range(30))
    vary(root, "canary", None)
    served = [0]

    def all_current() -> bool:
        bodies = [
            httpx.post(f"{server.url}/v1/score", json={"user_id": user, "candidate_ids": [1]}).json()
            for user in range(30)
        ]
        served.append(sum(body["release"] == canary for body in bodies))
        return served[-1] == 0 == served[-2]

    served.append(1)
    server.wait_until(all_current, "off on both")
    assert server.stop() == 0
