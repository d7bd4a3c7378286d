"""Real releases and real servers for the service's tests: ONNX files from the exporter, uvicorn in its own process."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from model_export.calibration import build_ladder
from model_export.graphs import write_level, write_scorer, write_tower
from model_export.level_scorer import LevelScorer
from ranktower.data.encoder import FeatureEncoder, FieldEncoder, SideEncoder
from ranktower.embedding_store.codec import ARRAYS, ROW_DTYPES, ROW_KINDS, SIDES, RowDtype, RowKind, Side
from ranktower.embedding_store.faiss_index import build_index, pooled_vectors
from ranktower.embedding_store.local import LocalTable, write_fallback_user
from ranktower.embedding_store.redis import RedisWriter
from ranktower.embedding_store.redis_client import RedisOptions
from ranktower.embedding_store.table_writer import write_table
from ranktower.ladder import LadderLevel
from ranktower.models import RankTower, RankTowerConfig
from ranktower.registry import Registry
from ranktower.release import (
    LEVEL_GRAPHS,
    SCORERS,
    Manifest,
    Shape,
    export_name,
    read_manifest,
    release_id,
    release_tag,
    write_manifest,
)
from ranktower.training.tensors import field_sizes, side_features
from ranktower.verification import hash_files

MODEL = "demo"
NUM_USERS = 20
CREATED = datetime(2026, 1, 1, tzinfo=UTC)
MARKUP = '<img src="x" onerror="alert(1)">'
ODD_IDS = ('a "quoted" id', "line\nbreak", "ключ-ß-鍵", "back\\slash", "{}:*?[x]", "-", "007", "1e3", "x" * 256, MARKUP)
USER_COLUMNS = {"country": ["de", "fr", "us"], "tags": [["a"], ["b", "c"], ["a", "d", "c"], []]}


@dataclass(frozen=True)
class Blueprint:
    """A model with its graphs; releases share them and differ in their rows."""

    model: RankTower
    encoder: FeatureEncoder
    folder: Path


@dataclass(frozen=True)
class BuiltRelease:
    """A published release, and torch's scores of its stored rows."""

    release: str
    folder: Path
    user_ids: Sequence[str]
    item_ids: Sequence[str]
    blueprint: Blueprint
    manifest: Manifest

    def promote(self) -> None:
        """Make it the current release of its registry."""
        Registry(self.folder.parent.parent).promote(MODEL, self.release)

    def write_to_redis(self, url: str) -> None:
        """Copy the rows into Redis and declare the release complete there."""
        with RedisWriter(RedisOptions(url), self.manifest) as writer:
            for side in SIDES:
                writer.write_table(side, LocalTable(self.folder / f"{side}s", self.manifest.layout(side)))
            writer.finish()

    def arrays(self, side: str, *, in_redis: bool = False) -> tuple[torch.Tensor, ...]:
        """The five arrays of all rows in the order of ``user_ids`` or ``item_ids``: what is stored, read off the bytes
        of the table, and the rest projected from it by torch. Rows ``in_redis`` hold the multi-embedding alone."""
        layout = self.manifest.layout("user" if side == "user" else "item")
        folder, ids = (self.folder / f"{side}s"), (self.user_ids if side == "user" else self.item_ids)
        positions, present = LocalTable(folder, layout).find(list(ids))
        assert present.all()
        raw = np.fromfile(folder / "rows.bin", dtype=np.uint8).reshape(-1, layout.row_size)[positions]
        values = raw[:, 8:].copy().view("<f2" if layout.dtype == "float16" else "<f4").astype(np.float32)
        heads, sizes = layout.heads, [layout.width] + [layout.attention_width] * 4
        parts = np.split(values, np.cumsum([heads * size for size in sizes])[:-1], axis=1)
        network = self.blueprint.model.cross_attention
        if side == "item" and self.manifest.item_rows == "projected" and not in_redis:
            return tuple(torch.from_numpy(p.reshape(-1, heads, s).copy()) for p, s in zip(parts, sizes, strict=True))
        embedding = torch.from_numpy(parts[0].reshape(-1, heads, layout.width).copy())
        with torch.no_grad():
            return tuple((network.project_users if side == "user" else network.project_items)(embedding))

    def scores(self, user_id: object, item_ids: Sequence[object], *, in_redis: bool = False) -> NDArray[np.float32]:
        """Scores of stored items for a stored user, by torch."""
        user = self.user_ids.index(str(user_id))
        arrays = tuple(array[user : user + 1] for array in self.arrays("user"))
        return self.scores_for(arrays, item_ids, in_redis=in_redis)

    def scores_for(
        self, user: tuple[torch.Tensor, ...], item_ids: Sequence[object], *, in_redis: bool = False
    ) -> NDArray[np.float32]:
        """Scores of stored items for a user's arrays ``[1, Hu, *]``, by torch."""
        rows = [self.item_ids.index(str(item)) for item in item_ids]
        with torch.no_grad():
            items = tuple(array[rows][None] for array in self.arrays("item", in_redis=in_redis))
            return self.blueprint.model.score_pairs(user, items)[0].numpy()


@pytest.fixture(scope="session")
def blueprint(tmp_path_factory: pytest.TempPathFactory) -> Blueprint:
    """An untrained model of the reference shape, exported once."""
    folder = tmp_path_factory.mktemp("graphs")
    users = (
        FieldEncoder("country", "categorical", vocabulary=("de", "fr", "us")),
        FieldEncoder("age", "continuous", edges=(20.0, 30.0, 40.0)),
        FieldEncoder("tags", "multi_categorical", vocabulary=("a", "b", "c", "d"), max_length=3),
    )
    items = (
        FieldEncoder("shelf", "categorical", vocabulary=tuple(map(str, range(97)))),
        FieldEncoder("price", "continuous", edges=tuple(float(edge) for edge in range(1, 60))),
        FieldEncoder("genres", "multi_categorical", vocabulary=("x", "y", "z"), max_length=2),
    )
    encoder = FeatureEncoder(SideEncoder(users), SideEncoder(items))
    torch.manual_seed(7)
    model = RankTower(RankTowerConfig(), field_sizes(encoder.user), field_sizes(encoder.item)).eval()
    for dtype in ROW_DTYPES:
        for kind in ROW_KINDS:
            write_scorer(model, folder / export_name(SCORERS[kind], dtype), kind=kind, dtype=dtype)
        for level, name in LEVEL_GRAPHS.items():
            write_level(model, folder / export_name(name, dtype), level=level, dtype=dtype)
    write_tower(
        model, "user", field_sizes(encoder.user), folder / "user_tower.onnx", bag_slots=encoder.user.max_lengths
    )
    write_tower(
        model, "item", field_sizes(encoder.item), folder / "item_tower.onnx", bag_slots=encoder.item.max_lengths
    )
    encoder.save(folder / "features.json")
    return Blueprint(model, encoder, folder)


@pytest.fixture(scope="session")
def build_release(blueprint: Blueprint) -> Callable[..., BuiltRelease]:
    """``build_release(root, seed=..., num_items=..., ...)`` publishes a release; other seeds, other scores."""

    def build(
        root: Path,
        *,
        seed: int = 0,
        num_items: int = 300,
        odd_ids: bool = False,
        row_dtype: RowDtype = "float16",
        item_rows: RowKind = "projected",
        ladder: bool = True,
    ) -> BuiltRelease:
        random = np.random.default_rng(seed)
        release = release_id(CREATED + timedelta(hours=seed), f"{seed:08x}")
        manifest = Manifest(
            model=MODEL,
            release=release,
            tag=release_tag(release).hex(),
            created=CREATED + timedelta(hours=seed),
            shape=Shape(num_user_heads=4, num_item_heads=4, width=32, attention_width=32),
            tau=blueprint.model.similarity.tau.item(),
            row_dtype=row_dtype,
            item_rows=item_rows,
            num_users=NUM_USERS,
            num_items=num_items + (len(ODD_IDS) if odd_ids else 0),
            training_run_id="run",
            data_id="data",
            files={},
            fallback_user=True,
        )
        user_ids = [f"user-{number}" for number in range(NUM_USERS)]
        item_ids = [str(number) for number in range(num_items)] + (list(ODD_IDS) if odd_ids else [])
        folder = Registry(root).staging_dir(MODEL, release)
        folder.mkdir(parents=True)
        for name in ("user_tower.onnx", "item_tower.onnx", "features.json"):
            shutil.copy(blueprint.folder / name, folder / name)
        for name in (*SCORERS.values(), *LEVEL_GRAPHS.values()):
            shutil.copy(blueprint.folder / export_name(name, row_dtype), folder / name)
        _write_rows(folder, manifest, blueprint, user_ids=user_ids, item_ids=item_ids, random=random)
        built = BuiltRelease(release, folder, user_ids, item_ids, blueprint, manifest)
        _write_golden(built, random)
        levels = _measure_ladder(built) if ladder else ()
        write_manifest(folder, manifest.model_copy(update={"files": hash_files(folder), "ladder": levels}))
        final = Registry(root).publish(folder)
        return BuiltRelease(release, final, user_ids, item_ids, blueprint, read_manifest(final))

    return build


def _write_rows(
    folder: Path,
    manifest: Manifest,
    blueprint: Blueprint,
    *,
    user_ids: list[str],
    item_ids: list[str],
    random: np.random.Generator,
) -> None:
    users = {
        "country": random.choice(["de", "fr", "us"], len(user_ids)).tolist(),
        "age": random.uniform(10, 50, len(user_ids)),
        "tags": [random.choice(["a", "b", "c", "d"], random.integers(0, 4)).tolist() for _ in user_ids],
    }
    items = {
        "shelf": random.integers(0, 97, len(item_ids)),
        "price": random.uniform(0, 60, len(item_ids)),
        "genres": [random.choice(["x", "y", "z"], random.integers(0, 3)).tolist() for _ in item_ids],
    }
    model, encoder = blueprint.model, blueprint.encoder
    with torch.no_grad():
        user_rows = model.encode_users(side_features(encoder.user.encode(users, len(user_ids))))
        item_rows = model.encode_items(side_features(encoder.item.encode(items, len(item_ids))))
    for side, ids, rows in (("user", user_ids, user_rows), ("item", item_ids, item_rows)):
        arrays = {name: array.numpy() for name, array in zip(ARRAYS, rows, strict=True)}
        layout = manifest.layout("user" if side == "user" else "item")
        write_table(folder / f"{side}s", ids, lambda at, a=arrays: {n: v[at] for n, v in a.items()}, layout)
    vectors = pooled_vectors(item_rows[0].numpy())
    # The index numbers the rows of the table, which stands in the order of the ids.
    rows, _ = LocalTable(folder / "items", manifest.layout("item")).find(item_ids)
    build_index(folder / "items.faiss", vectors[np.argsort(rows)])
    fallback = {name: array.numpy().mean(axis=0, keepdims=True) for name, array in zip(ARRAYS, user_rows, strict=True)}
    write_fallback_user(folder, manifest.layout("user"), fallback)


def _write_golden(built: BuiltRelease, random: np.random.Generator) -> None:
    users = random.choice(built.user_ids, 64)
    items = random.choice(built.item_ids, 64)
    scores = {
        name: np.concatenate(
            [built.scores(user, [item], in_redis=in_redis) for user, item in zip(users, items, strict=True)]
        )
        for name, in_redis in (("scores", False), ("embedding_scores", True))
    }
    np.savez(built.folder / "golden.npz", user_ids=users, item_ids=items, **scores)


def _measure_ladder(built: BuiltRelease) -> tuple[LadderLevel, ...]:
    """Of all users and the first items, those with the five best scores being relevant."""
    scorer, rows = LevelScorer(built.folder), {}
    all_ids: dict[Side, Sequence[str]] = {"user": built.user_ids, "item": built.item_ids[:100]}
    for side, ids in all_ids.items():
        layout = built.manifest.redis_layout(side)
        raw = LocalTable(built.folder / f"{side}s", built.manifest.layout(side)).fetch(list(ids)).raw
        rows[side] = layout.values(np.ascontiguousarray(raw[:, : layout.row_size]))
    lists = []
    for user in rows["user"]:
        one = scorer.score(user[None], rows["item"], np.zeros(len(rows["item"]), dtype=np.float32))
        one.labels[np.argsort(-one.full)[:5]] = 1
        lists.append(one)
    return build_ladder(lists, k=20, shares=(0.5, 0.25, 0.1))


@dataclass
class Server:
    """One ``ranktower serve`` in its own process."""

    process: subprocess.Popen[bytes]
    log: Path
    client: httpx.Client = field(default_factory=lambda: httpx.Client(timeout=30))
    url: str = ""

    def lines(self) -> list[dict[str, Any]]:
        """The log so far; every line must be JSON."""
        return [json.loads(line) for line in self.log.read_text(encoding="utf-8").splitlines() if line]

    def wait_until(self, condition: Callable[[], bool], what: str, timeout_s: float = 30.0) -> None:
        """Poll until the condition holds; the log is in the failure's text."""
        deadline = time.monotonic() + timeout_s
        while not condition():
            if self.process.poll() is not None or time.monotonic() > deadline:
                pytest.fail(f"not {what} (exit {self.process.poll()}):\n{self.log.read_text(encoding='utf-8')}")
            time.sleep(0.02)

    def listen(self) -> None:
        """Wait for the port, then for the first answer."""
        started: list[dict[str, Any]] = []
        self.wait_until(lambda: bool(started.extend(self._listening()) or started), "listening")
        self.url = f"http://127.0.0.1:{started[0]['port']}"
        self.client = httpx.Client(base_url=self.url, timeout=30)
        self.wait_until(self._is_alive, "alive")

    def _listening(self) -> list[dict[str, Any]]:
        text = self.log.read_text(encoding="utf-8")
        # The last line may be half written.
        lines = [json.loads(line) for line in text.split("\n")[:-1] if line.startswith("{")]
        return [line for line in lines if line["message"] == "listening"]

    def _is_alive(self) -> bool:
        try:
            return self.client.get("/livez").status_code == 200
        except httpx.TransportError:
            return False

    def wait_ready(self, release: str | None = None) -> None:
        """Wait until a release (this one) is served."""

        def ready() -> bool:
            answer = self.client.get("/readyz")
            return answer.status_code == 200 and release in {None, answer.json()["release"]}

        self.wait_until(ready, f"ready with {release}")

    def wait_not_ready(self, reason: str) -> None:
        """Wait until ``/readyz`` names this reason."""
        self.wait_until(lambda: self.client.get("/readyz").json().get("error_type") == reason, reason)

    def score(self, user_id: object, candidate_ids: Sequence[object], **more: object) -> httpx.Response:
        """``POST /v1/score``."""
        return self.client.post("/v1/score", json={"user_id": user_id, "candidate_ids": candidate_ids, **more})

    def metric(self, name: str, **labels: str) -> float:
        """The sum of a metric's samples that carry these labels; 0 where there is none."""
        total = 0.0
        for line in self.client.get("/metrics").text.splitlines():
            if line.startswith((f"{name}{{", f"{name} ")) and all(f'{k}="{v}"' in line for k, v in labels.items()):
                total += float(line.rsplit(" ", 1)[1])
        return total

    def stop(self) -> int:
        """SIGTERM; the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(timeout=20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            raise
        finally:
            self.client.close()


@pytest.fixture(scope="session")
def start_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Server]]:
    """``start_server(root, STORE__USERS="redis")`` starts a server on a free port; all end with the session."""
    servers: list[Server] = []

    def start(root: Path, *options: str, **settings: str) -> Server:
        log = tmp_path_factory.mktemp("server") / "log.jsonl"
        environment = {key: value for key, value in os.environ.items() if not key.startswith("RANKTOWER_")}
        environment |= {f"RANKTOWER_{key}": value for key, value in settings.items()}
        environment.setdefault("RANKTOWER_RELEASE__POLL_MS", "50")
        command = [str(Path(sys.executable).with_name("ranktower")), "serve"]
        command += ["--registry", str(root), "--model", MODEL, "--port", "0", *options]
        with log.open("wb") as file:
            process = subprocess.Popen(command, env=environment, stderr=file, stdout=file)
        servers.append(Server(process, log))
        servers[-1].listen()
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def release(build_release: Callable[..., BuiltRelease], tmp_path_factory: pytest.TempPathFactory) -> BuiltRelease:
    """One promoted release with ids of all sorts; tests leave it as it is."""
    built = build_release(tmp_path_factory.mktemp("registry"), odd_ids=True)
    built.promote()
    return built


@pytest.fixture(scope="session")
def server(release: BuiltRelease, start_server: Callable[..., Server]) -> Server:
    """One server with local stores for the whole session; tests leave it as it is."""
    started = start_server(release.folder.parent.parent)
    started.wait_ready(release.release)
    return started
