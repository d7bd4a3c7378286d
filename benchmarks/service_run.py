"""The service under a benchmark: which release, on which core, its requests, and what its process and /metrics tell."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import re
import shutil
import signal
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import httpx
from reference_release import MODEL, build_reference_release, served

from ranktower.embedding_store.codec import RowDtype, RowKind, Side
from ranktower.registry import Registry
from ranktower.release import Manifest, read_manifest
from service.settings import EngineChoice

ROOT = Path(__file__).parents[1]
BUILD = ROOT / "build" / "benchmarks"
_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
_STAGE = re.compile(r'ranktower_stage_duration_seconds_(sum|count)\{stage="(\w+)"\} (\S+)')


@dataclass(frozen=True)
class Setup:
    """A kind of release, and which of its sides are read from Redis."""

    dtype: RowDtype = "float16"
    item_rows: RowKind = "projected"
    string_ids: bool = False
    in_redis: tuple[Side, ...] = ()

    def env(self, redis_url: str | None) -> dict[str, str]:
        """Settings of the service. The timeout is far above the default: under a closed loop a request waits for those
        before it, and Redis shares its core with the generator."""
        if not self.in_redis:
            return {}
        if redis_url is None:
            raise ValueError(f"redis_url: needed for {self}")
        places = {f"RANKTOWER_STORE__{side.upper()}S": "redis" for side in self.in_redis}
        return places | {"RANKTOWER_STORE__REDIS_URL": redis_url, "RANKTOWER_STORE__TIMEOUT_MS": "2000"}


# By the names that the result files and the pages use.
SETUPS = {
    "local": Setup(),
    "local, float32 rows": Setup(dtype="float32"),
    "local, string ids": Setup(string_ids=True),
    "local, embedding rows": Setup(item_rows="embedding"),
    "users in Redis": Setup(in_redis=("user",)),
    "Redis": Setup(in_redis=("user", "item")),
}


@dataclass(frozen=True)
class Cores:
    """One core for the server; the other is for the generator, Redis and the benchmark itself."""

    server: int
    generator: int


def add_core_options(parser: argparse.ArgumentParser) -> None:
    """``--server-core`` and ``--generator-core``: the first and the last core that this process may use."""
    cores = sorted(os.sched_getaffinity(0))
    parser.add_argument("--server-core", type=int, default=cores[0])
    parser.add_argument("--generator-core", type=int, default=cores[-1])


def take_cores(options: argparse.Namespace) -> Cores:
    """Move this process, and so what it starts, to the generator's core; SIGTERM then unwinds like Ctrl-C, so that
    every server is stopped."""
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    os.sched_setaffinity(0, {options.generator_core})
    return Cores(options.server_core, options.generator_core)


@dataclass(frozen=True)
class Release:
    """A promoted reference release below ``root``."""

    root: Path
    manifest: Manifest

    @property
    def folder(self) -> Path:
        """Of the release's files."""
        return Registry(self.root).release_dir(MODEL, self.manifest.release)


def reference(setup: Setup, *, num_users: int = 200_000, num_items: int = 200_000) -> Release:
    """The release of a setup, from ``build/benchmarks`` where the code that makes it has not changed since."""
    ids = "strings" if setup.string_ids else "integers"
    current = BUILD / _sources_hash()
    root = current / f"{setup.dtype}-{setup.item_rows}-{ids}-{num_users}-{num_items}"
    if not root.exists():
        for other in BUILD.glob("*"):
            if other != current:
                shutil.rmtree(other)
        say(f"building {root.name}")
        unfinished = root.with_name(f"{root.name}.{os.getpid()}")
        unfinished.mkdir(parents=True)
        build_reference_release(
            unfinished,
            num_users=num_users,
            num_items=num_items,
            dtype=setup.dtype,
            item_rows=setup.item_rows,
            string_ids=setup.string_ids,
        )
        unfinished.rename(root)
    return open_reference(root)


def open_reference(root: Path) -> Release:
    """The current release below ``root``."""
    pointer = Registry(root).current(MODEL)
    if pointer is None:
        raise SystemExit(f"{root}: no promoted release of {MODEL}")
    folder = Registry(root).release_dir(MODEL, pointer.release)
    return Release(root, read_manifest(folder))


def _sources_hash() -> str:
    paths = [*(ROOT / "ranktower").rglob("*.py"), *(ROOT / "model_export").rglob("*.py")]
    paths.append(Path(__file__).with_name("reference_release.py"))
    found = hashlib.sha256()
    for path in sorted(paths):
        found.update(path.read_bytes())
    return found.hexdigest()[:16]


@dataclass(frozen=True)
class Running:
    """A service that is ready."""

    address: str
    pid: int
    release: Release

    def cpu_s(self) -> float:
        """Processor seconds of the service so far, with its workers."""
        return sum(process_cpu_s(pid) for pid in [self.pid, *_children(self.pid)])

    def stages(self) -> dict[str, tuple[float, int]]:
        """Seconds and requests of each stage so far, from /metrics."""
        return parse_stages(httpx.get(f"{self.address}/metrics").text)


@contextlib.contextmanager
def running(
    release: Release,
    setup: Setup,
    cores: set[int],
    *,
    redis_url: str | None = None,
    workers: int = 1,
    engine: EngineChoice = "auto",
) -> Iterator[Running]:
    """The service over a release; it is stopped at the end whatever happens."""
    env = {**setup.env(redis_url), "RANKTOWER_HTTP__WORKERS": str(workers), "RANKTOWER_SCORER__ENGINE": engine}
    with served(release.root, env, cores=cores) as service:
        yield Running(service.address, service.pid, release)


def parse_stages(text: str) -> dict[str, tuple[float, int]]:
    """Sum in seconds and count of each stage in the text of ``/metrics``."""
    found: dict[str, dict[str, float]] = {}
    for kind, stage, value in _STAGE.findall(text):
        found.setdefault(stage, {})[kind] = float(value)
    return {stage: (of["sum"], int(of["count"])) for stage, of in found.items()}


def stage_microseconds(
    before: Mapping[str, tuple[float, int]], after: Mapping[str, tuple[float, int]]
) -> dict[str, float]:
    """Mean microseconds of each stage between two readings; a stage without a request is left out."""
    means = {}
    for stage, (seconds, count) in after.items():
        earlier_s, earlier = before.get(stage, (0.0, 0))
        if count > earlier:
            means[stage] = (seconds - earlier_s) / (count - earlier) * 1e6
    return means


def process_cpu_s(pid: int) -> float:
    """User and system seconds of all threads of a process."""
    # The command stands in brackets and may hold spaces; utime and stime are the 14th and 15th field.
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / _CLOCK_TICKS


def _children(pid: int) -> list[int]:
    found: list[int] = []
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(OSError):
            found += map(int, (task / "children").read_text().split())
    return found


def say(text: str) -> None:
    """A line of progress."""
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()
