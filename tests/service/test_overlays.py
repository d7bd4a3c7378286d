"""Deltas while the service runs: real commands beside a real server, its scores against torch on the stored bytes."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import torch

from offline import delta
from ranktower.embedding_store.redis import overlay_key
from ranktower.training.tensors import side_features

MODEL = "demo"
ATOL = 4e-5
USERS = {
    "user_id": ["user-1", "newcomer"],
    "country": ["fr", "atlantis"],
    "age": [44.0, None],
    "tags": [["d", "a"], []],
}
ITEMS = {"item_id": ["5", "brand-new"], "shelf": [96, 3], "price": [1.5, 59.5], "genres": [["z"], ["x", "y"]]}


@pytest.fixture
def built(build_release: Callable[..., Any], tmp_path: Path) -> Any:
    """A promoted release of the test's own."""
    built = build_release(tmp_path / "registry", seed=60)
    built.promote()
    return built


def options(built: Any, folder: Path, **tables: Mapping[str, Sequence[object]]) -> list[str]:
    """The command's options for tables that are written into ``folder``."""
    arguments = ["--registry", str(built.folder.parent.parent), "--model", MODEL]
    for name, columns in tables.items():
        pl.DataFrame(columns, strict=False).write_parquet(folder / f"{name}.parquet")
        arguments += [f"--{name}", str(folder / f"{name}.parquet")]
    return arguments


def deltas(built: Any) -> Path:
    folder: Path = built.folder.parent / ".deltas" / built.release
    return folder


def stored_now(built: Any, side: str, one: str) -> tuple[torch.Tensor, ...]:
    """The arrays [1, H, *] of a row as docs/formats.md says where they are: the overlay's, else the table's."""
    layout = built.manifest.layout(side)
    sequence = json.loads((deltas(built) / "current").read_text())["sequence"]
    for folder in (deltas(built) / str(sequence) / f"{side}s", built.folder / f"{side}s"):
        if not folder.exists():
            continue
        ids = [key.decode() if isinstance(key, bytes) else str(key) for key in np.load(folder / "ids.npy").tolist()]
        if one in ids:
            raw = np.fromfile(folder / "rows.bin", dtype=np.uint8).reshape(len(ids), -1)[ids.index(one)][8:]
            values = torch.from_numpy(raw.copy().view("<f2").astype(np.float32))
            parts = values.split([layout.heads * layout.shape(array)[1] for array in layout.arrays])
            return tuple(part.reshape(1, layout.heads, -1) for part in parts)
    raise AssertionError(f"{one} is not stored")


def torch_scores(built: Any, user: str, items: Sequence[str], *, in_redis: bool = False) -> np.ndarray:
    """Scores of the stored rows, by torch; rows ``in_redis`` hold the multi-embedding alone."""
    model = built.blueprint.model
    with torch.no_grad():
        user_arrays = model.cross_attention.project_users(*stored_now(built, "user", user))
        rows = [stored_now(built, "item", item) for item in items]
        if in_redis:
            rows = [model.cross_attention.project_items(row[0]) for row in rows]
        item_arrays = tuple(torch.stack(arrays, dim=1) for arrays in zip(*rows, strict=True))
        scores: np.ndarray = model.score_pairs(user_arrays, item_arrays)[0].numpy()
    return scores


def assert_served(server: Any, built: Any, user: str, items: Sequence[str], **more: bool) -> None:
    body = server.score(user, items).json()
    assert (body["user"], body["missing"]) == ("PRESENT", [])
    np.testing.assert_allclose(body["scores"], torch_scores(built, user, items, **more), atol=ATOL)


def wait_for_overlay(server: Any, num_items: int) -> None:
    """Until every worker serves an overlay of so many items."""
    server.wait_until(
        lambda: server.metric("ranktower_overlay_rows", side="item") == num_items, f"serving {num_items} new items"
    )


def test_new_and_changed_users_and_items_without_a_restart(
    built: Any, start_server: Callable[..., Any], tmp_path: Path
) -> None:
    server = start_server(built.folder.parent.parent, "--workers", "2")
    server.wait_ready(built.release)
    before = server.score("user-1", [5, 6, "brand-new"]).json()
    assert before["missing"] == [2]
    assert server.score("newcomer", [5]).json()["user"] == "FALLBACK"
    assert server.metric("ranktower_delta_timestamp_seconds") == 0
    command = [str(Path(sys.executable).with_name("ranktower")), "precompute", "--delta"]
    started = time.time()
    subprocess.run([*command, *options(built, tmp_path, users=USERS, items=ITEMS)], check=True)
    wait_for_overlay(server, 2)
    for user in ("user-1", "newcomer", "user-2"):
        assert_served(server, built, user, ["5", "6", "brand-new"])
    after = server.score("user-1", [5, 6, "brand-new"]).json()["scores"]
    assert after[0] != before["scores"][0]
    assert server.metric("ranktower_overlay_rows", side="user") == 2
    assert int(started) <= server.metric("ranktower_delta_timestamp_seconds") <= time.time()
    # What is stored is what torch computes of the features, in float16.
    encoded = built.blueprint.encoder.item.encode({name: ITEMS[name] for name in ("shelf", "price", "genres")}, 2)
    with torch.no_grad():
        rows = built.blueprint.model.encode_items(side_features(encoded))
    for number, item in enumerate(ITEMS["item_id"]):
        for ours, exact in zip(stored_now(built, "item", str(item)), rows, strict=True):
            torch.testing.assert_close(ours[0], exact[number], rtol=2**-10, atol=1e-5)
    assert server.stop() == 0


def test_what_is_served_after_a_restart_and_after_a_second_delta(
    built: Any, start_server: Callable[..., Any], tmp_path: Path
) -> None:
    assert delta.main(options(built, tmp_path, items=ITEMS)) == 0
    server = start_server(built.folder.parent.parent)
    server.wait_ready(built.release)
    assert_served(server, built, "user-1", ["5", "6", "brand-new"])  # from the first request on
    more = {"item_id": [7, 6], "shelf": [1, 2], "price": [30, None], "genres": [None, ["y"]]}
    assert delta.main(options(built, tmp_path, items=more)) == 0
    wait_for_overlay(server, 4)
    assert_served(server, built, "user-3", ["5", "6", "7", "8", "brand-new", "5"])
    assert server.stop() == 0


def test_new_items_are_retrieved(built: Any, start_server: Callable[..., Any], tmp_path: Path) -> None:
    server = start_server(built.folder.parent.parent)
    server.wait_ready(built.release)

    def retrieved(num_candidates: int) -> list[str]:
        body = {"user_id": "user-1", "num_candidates": num_candidates}
        return [item["id"] for item in server.client.post("/v1/rank", json=body).json()["items"]]

    before = retrieved(300)
    assert len(before) == 300
    far = before[-1]
    num_new = 40
    items = {
        "item_id": [f"new-{number}" for number in range(num_new)] + [far],
        "shelf": [number % 97 for number in range(num_new + 1)],
        "price": [float(number) for number in range(num_new + 1)],
        "genres": [["x"]] * (num_new + 1),
    }
    assert delta.main(options(built, tmp_path, items=items)) == 0
    wait_for_overlay(server, num_new + 1)
    everything = [*built.item_ids, *items["item_id"][:num_new]]
    assert sorted(retrieved(1000)) == sorted(everything)

    def pooled(row: tuple[torch.Tensor, ...]) -> torch.Tensor:
        return torch.nn.functional.normalize(row[0], dim=2).mean(dim=1)[0]

    user = pooled(stored_now(built, "user", "user-1"))
    products = {item: float(pooled(stored_now(built, "item", item)) @ user) for item in everything}
    nearest = sorted(everything, key=lambda item: -products[item])
    for num_candidates in (1, 30, 150):
        assert set(retrieved(num_candidates)) == set(nearest[:num_candidates])
    assert server.stop() == 0


def test_the_age_of_every_candidate(built: Any, start_server: Callable[..., Any], tmp_path: Path) -> None:
    server = start_server(built.folder.parent.parent)
    server.wait_ready(built.release)
    started = time.time()
    assert delta.main(options(built, tmp_path, items=ITEMS)) == 0
    wait_for_overlay(server, 2)
    body = server.score("user-1", ["brand-new", 6, "nowhere", 5], freshness=True).json()
    fresh, old, missing, changed = body["ages_s"]
    assert missing is None
    assert fresh == changed
    assert 0 <= fresh <= time.time() - started + 1
    assert old == pytest.approx(time.time() - built.manifest.created.timestamp(), abs=60)
    assert "ages_s" not in server.score("user-1", [5]).json()
    assert server.stop() == 0


def test_a_damaged_overlay_is_refused_and_the_one_before_goes_on(
    built: Any, start_server: Callable[..., Any], tmp_path: Path
) -> None:
    assert delta.main(options(built, tmp_path, items=ITEMS)) == 0
    server = start_server(built.folder.parent.parent, RELEASE__RETRY_MAX_MS="100")
    server.wait_ready(built.release)
    wait_for_overlay(server, 2)
    served = server.score("user-1", [5, 6, "brand-new"]).json()["scores"]

    # A copy of the overlay under the next number, with one byte of it changed after it was sealed.
    pointer = json.loads((deltas(built) / "current").read_text())
    shutil.copytree(deltas(built) / "1", deltas(built) / "2")
    rows = deltas(built) / "2" / "items" / "rows.bin"
    good = rows.read_bytes()
    rows.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    aside = deltas(built) / "aside"
    aside.write_text(json.dumps(pointer | {"sequence": 2, "created_s": pointer["created_s"] + 7}))
    aside.replace(deltas(built) / "current")
    server.wait_until(lambda: server.metric("ranktower_overlay_refused_total") >= 2, "refusing, again and again")
    assert server.score("user-1", [5, 6, "brand-new"]).json()["scores"] == served
    assert server.client.get("/readyz").status_code == 200
    refused = [line for line in server.lines() if line["message"] == "overlay refused"]
    assert len(refused) == 1
    assert (refused[0]["release"], refused[0]["overlay"]) == (built.release, 2)
    assert "2/items/rows.bin" in refused[0]["detail"]
    assert "SHA-256" in refused[0]["detail"]

    rows.write_bytes(good)  # mended: it is tried again
    server.wait_until(
        lambda: server.metric("ranktower_delta_timestamp_seconds") == pointer["created_s"] + 7, "serving overlay 2"
    )
    (deltas(built) / "current").write_text("half a line")
    num_refused = server.metric("ranktower_overlay_refused_total")
    server.wait_until(lambda: server.metric("ranktower_overlay_refused_total") > num_refused, "refusing the pointer")
    assert server.score("user-1", [5, 6, "brand-new"]).json()["scores"] == served
    (deltas(built) / "current").unlink()
    wait_for_overlay(server, 0)
    assert server.score("user-1", [5, 6, "brand-new"]).json()["missing"] == [2]
    assert server.stop() == 0


@pytest.mark.parametrize(("users", "items"), [("redis", "redis"), ("local", "local+redis"), ("redis", "local")])
def test_a_delta_in_redis(
    built: Any, redis_server: Any, start_server: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    users: str, items: str,
) -> None:  # fmt: skip
    monkeypatch.setenv("RANKTOWER_STORE__REDIS_URL", redis_server.url)
    redis_server.command("flushall")
    built.write_to_redis(redis_server.url)
    stores = {"STORE__USERS": users, "STORE__ITEMS": items, "STORE__REDIS_URL": redis_server.url}
    server = start_server(built.folder.parent.parent, **stores)
    server.wait_ready(built.release)
    assert server.score("user-1", [5, 6, "brand-new"]).json()["missing"] == [2]
    assert delta.main([*options(built, tmp_path, users=USERS, items=ITEMS), "--store", "redis"]) == 0
    wait_for_overlay(server, 2)
    in_redis = items == "redis"
    for user in ("user-1", "newcomer"):
        assert_served(server, built, user, ["5", "6", "brand-new"], in_redis=in_redis)
    ages_s = server.score("user-1", ["brand-new", 6, "nowhere"], freshness=True).json()["ages_s"]
    assert 0 <= ages_s[0] < 60 < ages_s[1]
    assert ages_s[2] is None
    # Whether the rows of some golden pairs have changed or those of all, the release can be loaded again.
    everybody = {"user_id": built.user_ids, "country": ["de"] * 20, "age": [1.0] * 20, "tags": [["a"]] * 20}
    assert delta.main([*options(built, tmp_path, users=everybody), "--store", "redis"]) == 0
    again = start_server(built.folder.parent.parent, **stores)
    again.wait_ready(built.release)
    assert_served(again, built, "user-7", ["5", "6", "brand-new"], in_redis=in_redis)
    pointer = json.loads((deltas(built) / "current").read_text())
    assert json.loads(redis_server.command("get", overlay_key(MODEL, built.release))) == pointer
    again.wait_until(
        lambda: again.metric("ranktower_delta_timestamp_seconds") == pointer["created_s"], "telling the delta's time"
    )
    assert [one.stop() for one in (server, again)] == [0, 0]
