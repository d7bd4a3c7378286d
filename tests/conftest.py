"""What tests of several packages share: real redis-servers on free loopback ports, and a small release's parts."""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import faiss
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from offline.train import run_training
from ranktower.data.dataset import PreparedDataset
from ranktower.data.prepare import PrepareOptions, prepare
from ranktower.data.simulator import SimulatorOptions, simulate
from ranktower.embedding_store.codec import RowLayout
from ranktower.registry import Registry
from ranktower.release import Manifest, release_tag, write_manifest
from ranktower.training.config import TrainConfig
from ranktower.training.run import RunFolder
from ranktower.verification import hash_files

START_TIMEOUT_S = 30.0


_PORTS = itertools.count(12_000 + 500 * int(os.environ.get("PYTEST_XDIST_WORKER", "gw0").removeprefix("gw")))


def take_port() -> int:
    """A TCP port of the loopback interface that nobody listens on, and that no other test gets.

    Every test process has 500 of its own, below the range that the system takes for outgoing connections, so that a
    server that is started late, or again, finds its port free.
    """
    for port in _PORTS:
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise AssertionError("the count has no end")


@pytest.fixture
def free_port() -> int:
    """A port of ``take_port()``."""
    return take_port()


@dataclass
class RedisServer:
    """One redis-server; it can be stopped and started again on the same port, empty."""

    folder: Path
    options: tuple[str, ...] = ()
    port: int = field(default_factory=take_port)
    bus_port: int = field(default_factory=take_port)
    process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def start(self) -> RedisServer:
        """Start the process and wait until it listens."""
        arguments = ["--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(self.folder)]
        arguments += ["--save", "", "--appendonly", "no", "--daemonize", "no", *self.options]
        if "--cluster-enabled" in self.options:
            # The default is 10,000 above the port, where the system may have given it to an outgoing connection.
            arguments += ["--cluster-port", str(self.bus_port)]
        with (self.folder / f"redis-{self.port}.log").open("ab") as log:
            self.process = subprocess.Popen(["redis-server", *arguments], stdout=log, stderr=log)
        deadline = time.monotonic() + START_TIMEOUT_S
        while time.monotonic() < deadline:
            if self.process.poll() is not None:
                raise RuntimeError(f"redis-server ended: {(self.folder / f'redis-{self.port}.log').read_text()}")
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), timeout=0.2):
                return self
            time.sleep(0.02)
        raise RuntimeError(f"redis-server does not listen on port {self.port}")

    def stop(self) -> None:
        """End the process at once; nothing it held survives."""
        if self.process is not None:
            self.process.kill()
            self.process.wait()
            self.process = None

    def command(self, *arguments: str) -> str:
        """Run one command with redis-cli and return what it prints."""
        command = ["redis-cli", "-p", str(self.port), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True, timeout=30).stdout.strip()


@dataclass
class RedisCluster:
    """Six nodes on loopback: three masters, each with a replica."""

    servers: list[RedisServer]

    @property
    def url(self) -> str:
        return self.servers[0].url

    def create(self) -> RedisCluster:
        """Join the running servers into a cluster and wait until every node knows all slots are served."""
        addresses = [f"127.0.0.1:{server.port}" for server in self.servers]
        command = ["redis-cli", "--cluster", "create", *addresses, "--cluster-replicas", "1", "--cluster-yes"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        deadline = time.monotonic() + START_TIMEOUT_S
        while not all("cluster_state:ok" in server.command("cluster", "info") for server in self.servers):
            if time.monotonic() > deadline:
                raise RuntimeError("the cluster does not come up")
            time.sleep(0.1)
        return self

    def masters(self) -> list[RedisServer]:
        """The nodes that are masters just now."""
        return [server for server in self.servers if server.command("role").startswith("master")]


@pytest.fixture(scope="session")
def start_redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., RedisServer]]:
    """``start_redis("--requirepass", "secret")`` starts another redis-server; all end with the session."""
    if shutil.which("redis-server") is None:
        pytest.fail("redis-server is not installed; these tests need the real one")
    servers: list[RedisServer] = []

    def start(*options: str) -> RedisServer:
        servers.append(RedisServer(tmp_path_factory.mktemp("redis"), options))
        return servers[-1].start()

    yield start
    for server in servers:
        server.stop()


@pytest.fixture(scope="session")
def redis_server(start_redis: Callable[..., RedisServer]) -> RedisServer:
    """One redis-server for the whole session: leave it running, and use keys of your own."""
    return start_redis()


@pytest.fixture
def restartable_redis(start_redis: Callable[..., RedisServer]) -> Iterator[RedisServer]:
    """A redis-server for one test, which may ``stop()`` and ``start()`` it."""
    server = start_redis()
    yield server
    server.stop()


@pytest.fixture(scope="session")
def redis_cluster(start_redis: Callable[..., RedisServer]) -> RedisCluster:
    """One six-node cluster for the whole session, started by the first test that asks for it."""
    servers = [start_redis("--cluster-enabled", "yes", "--cluster-node-timeout", "3000") for _ in range(6)]
    return RedisCluster(servers).create()


@pytest.fixture(scope="session")
def make_manifest() -> Callable[..., Manifest]:
    """``make_manifest(tau=0.5, files={...})``: a valid manifest of a small model, with any key changed."""

    def make(**changes: Any) -> Manifest:
        release = changes.get("release", "20261123T100000Z-0123abcd")
        keys: dict[str, Any] = {
            "model": "demo",
            "release": release,
            "tag": release_tag(release).hex(),
            "created": datetime(2026, 11, 23, 10, tzinfo=UTC),
            "shape": {"num_user_heads": 2, "num_item_heads": 3, "width": 4, "attention_width": 5},
            "tau": 0.25,
            "num_users": 0,
            "num_items": 0,
            "training_run_id": "run-1",
            "data_id": "data-1",
            "files": {},
        }
        return Manifest.model_validate(keys | changes)

    return make


@pytest.fixture(scope="session")
def publish_small(make_manifest: Callable[..., Manifest]) -> Callable[..., Manifest]:
    """``publish_small(root, release, model="demo")``: a published release with one file of 4 bytes, for what only looks
    at pointers and folders."""

    def publish(root: Path, release: str, *, model: str = "demo") -> Manifest:
        registry = Registry(root)
        folder = registry.staging_dir(model, release)
        (folder / "items").mkdir(parents=True)
        (folder / "items" / "rows.bin").write_bytes(b"rows")
        manifest = make_manifest(model=model, release=release, files=hash_files(folder))
        write_manifest(folder, manifest)
        registry.publish(folder)
        return manifest

    return publish


@pytest.fixture(scope="session")
def random_arrays() -> Callable[..., dict[str, NDArray[np.float32]]]:
    """``random_arrays(layout, num_rows, seed=0)``: the five arrays of some rows, exactly representable in float16."""

    def make(layout: RowLayout, num_rows: int, seed: int = 0) -> dict[str, NDArray[np.float32]]:
        rng = np.random.default_rng(seed)
        widths = dict.fromkeys(("query", "key", "value", "gate"), layout.attention_width)
        shapes = {
            array: (num_rows, layout.heads, width) for array, width in {"embedding": layout.width, **widths}.items()
        }
        return {
            array: rng.standard_normal(shape).astype(np.float16).astype(np.float32) for array, shape in shapes.items()
        }

    return make


@pytest.fixture(scope="session")
def paper() -> ModuleType:
    """The model written from the paper's formulas (tests are no package, so it is loaded by path)."""
    path = Path(__file__).parent / "ranktower" / "models" / "paper_forward.py"
    spec = importlib.util.spec_from_file_location("paper_forward", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="session")
def simulated() -> PreparedDataset:
    """A small cascade of the simulator, prepared: about 120 active users, 300 items, logged candidates, a teacher."""
    options = SimulatorOptions(num_users=150, num_items=300, requests_per_user=8.0, seed=5)
    return prepare(simulate(options).tables, PrepareOptions(min_impressions=20, min_positives=3))


@pytest.fixture(scope="session")
def simulated_folder(simulated: PreparedDataset, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same as a folder of ``ranktower prepare``; not to be written to."""
    folder = tmp_path_factory.mktemp("prepared") / "data"
    simulated.save(folder)
    return folder


@pytest.fixture(scope="session")
def small_config() -> TrainConfig:
    """A model that trains in seconds."""
    return TrainConfig.model_validate(
        {
            "model": {"num_user_heads": 2, "num_item_heads": 3, "width": 16, "attention_width": 8, "hidden": [32]},
            "retrieval": {"model": {"width": 16, "hidden": [32]}, "epochs": 2, "num_retrieved": 50},
            "sampling": {"max_impressions": 20, "num_candidates": 5, "num_random": 10},
            "validation": {"every_steps": 8, "patience": 50, "k": 20},
            "learning_rate": 0.005,
            "batch_lists": 16,
            "max_epochs": 3,
            "checkpoint_every_steps": 5,
        }
    )


@pytest.fixture(scope="session")
def trained_run(
    simulated: PreparedDataset, small_config: TrainConfig, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The folder of a finished training run on ``simulated``; not to be written to."""
    folder = RunFolder(tmp_path_factory.mktemp("runs") / "run")
    run_training(simulated, small_config, folder, device=torch.device("cpu"), show_bar=False)
    return folder.path


@pytest.fixture(autouse=True)
def _the_number_of_threads_stays() -> Iterator[None]:
    """FAISS and torch share one OpenMP, and a model trained with another number of threads differs in its last bits."""
    before = faiss.omp_get_max_threads()
    yield
    faiss.omp_set_num_threads(before)


@pytest.fixture
def kill_when() -> Callable[[Sequence[str], Callable[[], bool]], None]:
    """``kill_when(command, reached)``: start a process and SIGKILL it once ``reached()``; fails if it ends before."""

    def run(command: Sequence[str], reached: Callable[[], bool]) -> None:
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 240  # of a machine that does much else
        try:
            while not reached():
                assert process.poll() is None, "the process ended before it could be killed"
                assert time.monotonic() < deadline
                time.sleep(0.002)
        finally:
            process.kill()
            process.wait()

    return run


@pytest.fixture(scope="session")
def movielens_raw(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files in the format of the original MovieLens-1M: users like films of the genre that their age prefers."""
    folder = tmp_path_factory.mktemp("ml-1m")
    generator = np.random.default_rng(0)
    genres = ["Action", "Comedy", "Drama", "Film-Noir"]
    ages, films = [1, 18, 25, 35], 160
    kinds = generator.integers(len(genres), size=films)
    (folder / "movies.dat").write_text(
        "".join(f"{f + 1}::Film {f} ({1950 + f % 50})::{genres[k]}|Crime\n" for f, k in enumerate(kinds)),
        encoding="latin-1",
    )
    users, ratings = [], []
    for user in range(1, 81):
        taste = int(generator.integers(len(ages)))
        users.append(f"{user}::{'MF'[user % 2]}::{ages[taste]}::{user % 21}::{10_000 + user}\n")
        for place, film in enumerate(generator.permutation(films)[:50]):
            likes = generator.random() < (0.85 if kinds[film] == taste else 0.15)
            ratings.append(f"{user}::{film + 1}::{5 if likes else 2}::{978_300_000 + user * 1000 + place}\n")
    (folder / "users.dat").write_text("".join(users), encoding="latin-1")
    (folder / "ratings.dat").write_text("".join(ratings), encoding="latin-1")
    return folder
