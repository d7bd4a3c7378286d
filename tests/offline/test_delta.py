"""``ranktower precompute --delta`` on a trained, exported and published release."""

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

from model_export.command import main as export
from offline import delta, precompute, promote, publish
from ranktower.data.encoder import SideEncoder
from ranktower.data.feature_spec import FeatureSpec
from ranktower.data.field_encoder import FieldEncoder
from ranktower.data.fit import table_columns
from ranktower.data.simulator import SimulatorOptions, simulate
from ranktower.data.tables import Tables
from ranktower.embedding_store.codec import Side
from ranktower.embedding_store.local import LocalStore
from ranktower.embedding_store.overlay import deltas_dir
from ranktower.embedding_store.overlay_writer import alone_with_overlays, current_overlay
from ranktower.embedding_store.protocol import StoreUnavailableError
from ranktower.embedding_store.redis_client import RedisOptions, open_sync_client
from ranktower.errors import ConfigError, DataError, ReleaseError
from ranktower.registry import Registry
from ranktower.release import Manifest, read_manifest
from ranktower.training.run import load_run
from ranktower.training.tensors import side_features

MODEL = "demo"


@pytest.fixture(scope="module")
def tables() -> Tables:
    """What the session's ``simulated`` data were prepared from."""
    return simulate(SimulatorOptions(num_users=150, num_items=300, requests_per_user=8.0, seed=5)).tables


@pytest.fixture(scope="module")
def inputs(trained_run: Path, simulated_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    out = tmp_path_factory.mktemp("exported") / "export"
    export(["--run", str(trained_run), "--data", str(simulated_folder), "--out", str(out), "--no-ladder"])
    options = ["--run", str(trained_run), "--data", str(simulated_folder), "--export", str(out), "--model", MODEL]
    return [*options, "--max-users", "0"]


def released(root: Path, inputs: list[str], *more: str) -> Path:
    place = ["--registry", str(root), "--model", MODEL]
    assert precompute.main([*inputs, "--registry", str(root), *more]) == 0
    assert publish.main(place) == 0
    assert promote.main(place) == 0
    return root


@pytest.fixture(scope="module")
def registry(inputs: list[str], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return released(tmp_path_factory.mktemp("registry"), inputs)


@pytest.fixture
def own(registry: Path, tmp_path: Path) -> Path:
    """A copy of the registry, with one promoted release."""
    shutil.copytree(registry, tmp_path / "own")
    return tmp_path / "own"


def place(root: Path) -> tuple[Path, Manifest]:
    pointer = Registry(root).current(MODEL)
    assert pointer is not None
    folder = Registry(root).release_dir(MODEL, pointer.release)
    return folder, read_manifest(folder)


def run(root: Path, *options: str, **frames: pl.DataFrame) -> int:
    return delta.main([*command(root, **frames), *options])


def command(root: Path, **frames: pl.DataFrame) -> list[str]:
    arguments = ["--registry", str(root), "--model", MODEL]
    for name, frame in frames.items():
        frame.write_parquet(root / f"{name}.parquet")
        arguments += [f"--{name}", str(root / f"{name}.parquet")]
    return arguments


def opened(root: Path) -> LocalStore:
    folder, manifest = place(root)
    store = LocalStore(folder, manifest)
    store.use_overlay(current_overlay(deltas_dir(folder), manifest))
    return store


def by_torch(trained_run: Path, side: Side, frame: pl.DataFrame, spec: FeatureSpec) -> tuple[torch.Tensor, ...]:
    """The arrays of a table's rows in full precision: trained model and fitted encoder, nothing exported."""
    loaded = load_run(trained_run)
    features = spec.user_features if side == "user" else spec.item_features
    encoder = loaded.encoder.user if side == "user" else loaded.encoder.item
    encoded = side_features(encoder.encode(table_columns(frame, features), frame.height))
    with torch.no_grad():
        encode = loaded.model.encode_users if side == "user" else loaded.model.encode_items
        return tuple(encode(encoded))


def assert_stored(root: Path, trained_run: Path, side: Side, frame: pl.DataFrame, spec: FeatureSpec) -> None:
    ids = frame[f"{side}_id"].to_list()
    found, layout = opened(root).find(side, ids), place(root)[1].layout(side)
    assert found.present.all()
    arrays = layout.decode(found.raw).values()
    for ours, exact in zip(arrays, by_torch(trained_run, side, frame, spec)[: len(arrays)], strict=True):
        np.testing.assert_allclose(ours, exact.numpy(), rtol=2**-10, atol=2e-5)


def changed_items(tables: Tables) -> pl.DataFrame:
    """Five items of the catalogue with the features of others, and two new ones, one with features never seen."""
    changed = tables.items[:5].with_columns(tables.items[name][100:105] for name in ("category", "price", "tags"))
    new = tables.items[200:202].with_columns(
        pl.Series("item_id", [5_000_001, 5_000_002]),
        pl.Series("category", ["never seen", None], dtype=pl.String),
        pl.Series("price", [None, 1e9], dtype=pl.Float64),
    )
    return pl.concat([changed, new])


def test_the_tables_of_the_release_itself_change_nothing(
    own: Path, tables: Tables, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(own, users=tables.users, items=tables.items) == 0
    folder, manifest = place(own)
    told = capsys.readouterr().out
    assert f"0 users and 0 items of release {manifest.release} are new or changed; no overlay" in told
    assert [path.name for path in deltas_dir(folder).iterdir()] == [".lock"]


@pytest.mark.parametrize("item_rows", ["projected", "embedding"])
def test_new_and_changed_rows_are_the_models(
    registry: Path, inputs: list[str], trained_run: Path, tables: Tables, tmp_path: Path, item_rows: str
) -> None:
    root = tmp_path / "own"
    if item_rows == "projected":
        shutil.copytree(registry, root)
    else:
        released(root, inputs, "--item-rows", "embedding")
    items = changed_items(tables)
    users = tables.users[:1].with_columns(pl.Series("user_id", [777_777]))
    started = int(time.time())
    assert run(root, users=users, items=items) == 0
    assert_stored(root, trained_run, "item", items, tables.spec)
    assert_stored(root, trained_run, "user", users, tables.spec)
    assert_stored(root, trained_run, "item", tables.items[5:], tables.spec)
    store = opened(root)
    assert store.overlay is not None
    assert (store.overlay.pointer.num_users, store.overlay.pointer.num_items) == (1, 7)
    times_s = store.find_times("item", items["item_id"].to_list())
    assert (times_s == store.overlay.pointer.created_s).all()
    assert started <= store.overlay.pointer.created_s


def test_it_may_be_run_again(own: Path, tables: Tables, capsys: pytest.CaptureFixture[str]) -> None:
    """Also in other batches, and with what is new among it."""
    items = changed_items(tables)
    assert run(own, items=items) == 0
    folder, _ = place(own)
    before = {path: path.read_bytes() for path in deltas_dir(folder).rglob("*") if path.is_file()}
    assert run(own, "--batch-rows", "3", items=items.reverse()) == 0
    assert "0 items" in capsys.readouterr().out
    assert {path: path.read_bytes() for path in deltas_dir(folder).rglob("*") if path.is_file()} == before
    assert run(own, items=pl.concat([items, tables.items[50:51].with_columns(price=pl.lit(1.25))])) == 0
    assert "1 items" in capsys.readouterr().out
    # An item that gets its old features back gets its old bytes back.
    assert run(own, items=tables.items[:1]) == 0
    store = opened(own)
    one = tables.items["item_id"][0]
    assert store.find("item", [one]).raw.tobytes() == store.tables["item"].fetch([one]).raw.tobytes()
    assert store.overlay is not None
    assert (store.overlay.pointer.sequence, store.overlay.pointer.num_items) == (3, 8)


def test_a_release_of_integers_gets_strings(own: Path, trained_run: Path, tables: Tables) -> None:
    items = tables.items[:2].with_columns(item_id=pl.Series(["brand-new", "0012"]))
    assert run(own, items=items) == 0
    folder, _ = place(own)
    assert np.load(folder / "items" / "ids.npy", mmap_mode="r").dtype.kind == "i"
    assert_stored(own, trained_run, "item", items, tables.spec)
    assert opened(own).find("item", [12, "12", 1_000_001]).present.tolist() == [False, False, True]


def test_an_empty_table_is_no_error(own: Path, tables: Tables, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(own, items=tables.items[:0]) == 0
    assert "0 items" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("change", "text"),
    [
        (lambda items: items.drop("price"), "column 'price': missing column"),
        (lambda items: pl.concat([items, items[3:4]]), r"column 'item_id', row 10: duplicate id 1000004"),
        (lambda items: items.with_columns(price=pl.lit("dear")), "column 'price': wrong type String, expected numbers"),
        (lambda items: items.with_columns(tags=pl.lit("t1")), "column 'tags': wrong type String, expected lists"),
        (lambda items: items.with_columns(item_id=pl.lit("")), "column 'item_id', row 0: empty id"),
    ],
)
def test_a_wrong_table_writes_nothing(
    own: Path, tables: Tables, change: Callable[[pl.DataFrame], pl.DataFrame], text: str
) -> None:
    with pytest.raises(DataError, match=text) as caught:
        run(own, users=tables.users, items=change(tables.items[:10]))
    assert "items.parquet" in str(caught.value)
    assert not deltas_dir(place(own)[0]).exists()


def test_what_is_not_there(own: Path, tables: Tables, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="neither --users nor --items names a table"):
        run(own)
    with pytest.raises(ConfigError, match="--batch-rows 0 must be positive"):
        run(own, "--batch-rows", "0", items=tables.items)
    with pytest.raises(DataError, match=r"absent\.parquet: no such file"):
        run(own, "--items", str(tmp_path / "absent.parquet"))
    other = "20260101T000000Z-00000000"
    with pytest.raises(ReleaseError, match=f"release '{other}' is not published"):
        run(own, "--release", other, items=tables.items)


def test_before_the_first_promotion_there_is_nothing_to_do(
    own: Path, tables: Tables, capsys: pytest.CaptureFixture[str]
) -> None:
    folder, _ = place(own)
    (own / MODEL / "current").unlink()
    assert run(own, items=tables.items) == 0
    assert f"{MODEL}: no release has been promoted in {own}, so there is nothing to do" in capsys.readouterr().out
    assert not deltas_dir(folder).exists()


def test_a_damaged_tower_computes_nothing(own: Path, tables: Tables) -> None:
    folder, _ = place(own)
    tower = folder / "item_tower.onnx"
    tower.write_bytes(tower.read_bytes()[:-1])
    with pytest.raises(ReleaseError, match=r"item_tower\.onnx: SHA-256"):
        run(own, items=tables.items)
    assert run(own, users=tables.users) == 0  # which needs another tower


def test_a_killed_run_is_not_seen_and_the_next_begins_anew(
    own: Path, tables: Tables, trained_run: Path, kill_when: Callable[..., None]
) -> None:
    """Killed with the new overlay on the disk and the pointer still to come, which it never gets to."""
    items = changed_items(tables)
    assert run(own, items=items[:3]) == 0
    folder, _ = place(own)
    deltas = deltas_dir(folder)
    before = (deltas / "current").read_bytes()
    program = f"""
import time
import offline.delta
offline.delta.point_to = lambda *_: time.sleep(600)
offline.delta.main({command(own, items=items)!r})
"""
    kill_when([sys.executable, "-c", program], (deltas / "2" / "items" / "times.npy").exists)
    assert (deltas / "current").read_bytes() == before
    store = opened(own)
    assert store.find("item", items["item_id"].to_list()).present.tolist() == [True] * 5 + [False] * 2
    assert run(own, items=items) == 0
    assert_stored(own, trained_run, "item", items, tables.spec)
    assert json.loads((deltas / "current").read_text())["sequence"] == 2


def test_the_second_of_two_runs_waits(own: Path, tables: Tables, trained_run: Path) -> None:
    items = changed_items(tables)
    deltas = deltas_dir(place(own)[0])
    arguments = [sys.executable, "-m", "ranktower.cli", "precompute", "--delta", *command(own, items=items)]
    with alone_with_overlays(deltas):
        second = subprocess.Popen(arguments)
        with pytest.raises(subprocess.TimeoutExpired):
            second.wait(4)
        assert not (deltas / "current").exists()
    assert second.wait(60) == 0
    assert_stored(own, trained_run, "item", items, tables.spec)


def test_the_command_needs_no_torch(own: Path, tables: Tables) -> None:
    program = f"""
import sys
sys.modules["torch"] = None
from ranktower.cli import main
sys.exit(main({["precompute", "--delta", *command(own, items=changed_items(tables))]!r}))
"""
    subprocess.run([sys.executable, "-c", program], check=True)
    assert opened(own).overlay is not None


def test_a_history_is_a_column_of_lists(tmp_path: Path) -> None:
    encoder = SideEncoder((FieldEncoder("seen", "history", vocabulary=("1", "2", "x"), max_length=2),))
    path = tmp_path / "users.parquet"
    pl.DataFrame({"user_id": [1, 2, 3], "seen": [["x", "2", "1"], None, ["gone"]]}).write_parquet(path)
    found = delta.read_input(path, "user", encoder)
    assert found.ids == ["1", "2", "3"]
    assert found.features.bags["seen"].tolist() == [[3, 2], [0, 0], [0, 0]]
    assert found.features.lengths["seen"].tolist() == [2, 0, 1]
    pl.DataFrame({"user_id": [1]}).write_parquet(path)
    with pytest.raises(DataError, match="column 'seen': missing column"):
        delta.read_input(path, "user", encoder)


def redis_values(client: Any, release: str, kind: str, ids: Sequence[object]) -> list[bytes | None]:
    values: list[bytes | None] = client.mget([f"ranktower:{MODEL}:{release}:{kind}:{one}" for one in ids])
    return values


def test_redis_gets_the_rows_and_their_times(
    own: Path, inputs: list[str], tables: Tables, redis_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANKTOWER_STORE__REDIS_URL", redis_server.url)
    client = open_sync_client(RedisOptions(redis_server.url))
    client.flushdb()
    folder, manifest = place(own)
    frames: Mapping[str, pl.DataFrame] = {"users": tables.users[:3], "items": changed_items(tables)}
    with pytest.raises(ReleaseError, match=rf"redis 127\.0\.0\.1:{redis_server.port}: release .* is not complete"):
        run(own, "--store", "redis", **frames)
    assert not (deltas_dir(folder) / "current").exists()
    assert precompute.main([*inputs, "--registry", str(own), "--store", "redis"]) == 0
    assert run(own, **frames) == 0  # without Redis first: what is not new in the registry still has to get there
    store = opened(own)
    assert store.overlay is not None
    created_s = [str(int(manifest.created.timestamp())).encode(), str(store.overlay.pointer.created_s).encode()]
    assert run(own, "--store", "redis", **frames) == 0
    for side, frame, is_new in (("user", frames["users"], 0), ("item", frames["items"], 1)):
        ids = frame[f"{side}_id"].to_list()
        raw = store.find(side, ids).raw[:, : manifest.redis_layout(side).row_size]
        assert redis_values(client, manifest.release, side[0], ids) == [row.tobytes() for row in raw]
        assert redis_values(client, manifest.release, f"{side[0]}t", ids) == [created_s[is_new]] * len(ids)
    pointer = json.loads(client.get(f"ranktower:{MODEL}:{manifest.release}:delta"))
    assert pointer == json.loads((deltas_dir(folder) / "current").read_text())
    client.close()


def test_redis_ends_with_all_that_the_overlay_holds(
    own: Path, inputs: list[str], tables: Tables, redis_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The first run was without Redis, and the second has another table."""
    monkeypatch.setenv("RANKTOWER_STORE__REDIS_URL", redis_server.url)
    client = open_sync_client(RedisOptions(redis_server.url))
    client.flushdb()
    assert precompute.main([*inputs, "--registry", str(own), "--store", "redis"]) == 0
    first, second = changed_items(tables), tables.items[50:51].with_columns(item_id=pl.Series([5_000_003]))
    users = tables.users[:1].with_columns(user_id=pl.Series([777_777]))
    assert run(own, items=first, users=users) == 0
    assert run(own, "--store", "redis", items=second) == 0
    _, manifest = place(own)
    store = opened(own)
    for side, ids in (("item", [*first["item_id"], *second["item_id"]]), ("user", [777_777])):
        raw = store.find(side, ids).raw[:, : manifest.redis_layout(side).row_size]
        assert redis_values(client, manifest.release, side[0], ids) == [row.tobytes() for row in raw]
        times_s = [str(int(one)).encode() for one in store.find_times(side, ids)]
        assert redis_values(client, manifest.release, f"{side[0]}t", ids) == times_s
    # Redis is up to date now, so the next run writes its own table alone.
    marked = f"ranktower:{MODEL}:{manifest.release}:i:5000001"
    client.set(marked, b"not written again")
    assert run(own, "--store", "redis", items=tables.items[60:61].with_columns(price=pl.lit(1.25))) == 0
    assert client.get(marked) == b"not written again"
    client.close()


def test_redis_that_fails_leaves_the_overlay_as_it_was(
    own: Path, inputs: list[str], tables: Tables, redis_server: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A real Redis on which this user may read and not write."""
    monkeypatch.setenv("RANKTOWER_STORE__REDIS_URL", redis_server.url)
    assert precompute.main([*inputs, "--registry", str(own), "--store", "redis"]) == 0
    client = open_sync_client(RedisOptions(redis_server.url))
    client.execute_command("ACL", "SETUSER", "reader", "on", ">secret-word", "~*", "+get", "+hello", "+client")
    monkeypatch.setenv(
        "RANKTOWER_STORE__REDIS_URL", redis_server.url.replace("redis://", "redis://reader:secret-word@")
    )
    with pytest.raises(StoreUnavailableError, match="auth") as caught:
        run(own, "--store", "redis", items=changed_items(tables))
    assert "secret-word" not in str(caught.value)
    assert opened(own).overlay is None
    client.execute_command("ACL", "DELUSER", "reader")
    client.close()
