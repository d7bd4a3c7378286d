"""A redis-server for a benchmark, and a release's rows in it."""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass

import redis
from service_run import Release, say

from offline.redis_target import copy_to_redis
from ranktower.embedding_store.redis_client import RedisOptions

_START_TIMEOUT_S = 30.0
_NUM_MASTERS = 3


@dataclass(frozen=True)
class RunningRedis:
    """A redis-server that answers."""

    url: str
    pid: int

    def info(self, name: str) -> int:
        """One number of ``INFO``, such as ``used_memory``."""
        with redis.Redis.from_url(self.url) as client:
            return int(client.info()[name])


@contextlib.contextmanager
def redis_server(*options: str, core: int | None = None) -> Iterator[RunningRedis]:
    """An empty redis-server on ``core``, else on this process's, stopped at the end."""
    binary = shutil.which("redis-server")
    if binary is None:
        raise SystemExit("needs a redis-server on the PATH; it is in the Debian package redis-server")
    with tempfile.TemporaryDirectory() as folder:
        port = free_port()
        command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", folder, *options]
        # A session of its own: Ctrl-C must not end it before the service that reads from it.
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
        if core is not None:
            os.sched_setaffinity(process.pid, {core})
        try:
            _await_port(process, port)
            yield RunningRedis(f"redis://127.0.0.1:{port}/0", process.pid)
        finally:
            process.terminate()
            process.wait()


@contextlib.contextmanager
def redis_cluster(*, core: int) -> Iterator[str]:
    """Three masters that serve all slots together, all on ``core``; yields the URL of one."""
    with contextlib.ExitStack() as stack:
        nodes = [stack.enter_context(redis_server(*_cluster_node(), core=core)) for _ in range(_NUM_MASTERS)]
        addresses = [node.url.removeprefix("redis://").removesuffix("/0") for node in nodes]
        command = ["redis-cli", "--cluster", "create", *addresses, "--cluster-replicas", "0", "--cluster-yes"]
        subprocess.run(command, check=True, capture_output=True, timeout=60)
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not all(_serves_all_slots(node) for node in nodes):
            if time.monotonic() > deadline:
                raise SystemExit("the Redis cluster does not come up")
            time.sleep(0.1)
        yield nodes[0].url


def _cluster_node() -> list[str]:
    # The second port is by default 10,000 above the first, where an outgoing connection may have it.
    return ["--cluster-enabled", "yes", "--cluster-port", str(free_port())]


def _serves_all_slots(node: RunningRedis) -> bool:
    with redis.Redis.from_url(node.url) as client:
        told: dict[str, str] = client.cluster("info")  # type: ignore[no-untyped-call]
        return told["cluster_state"] == "ok"


def fill_redis(release: Release, url: str, *, cluster: bool = False) -> None:
    """Write both tables of a release, as ``ranktower precompute --store redis`` does."""
    say("filling Redis")
    copy_to_redis(release.folder, release.manifest, RedisOptions(url, cluster=cluster, timeout_s=60))


def _await_port(process: subprocess.Popen[bytes], port: int) -> None:
    deadline = time.monotonic() + _START_TIMEOUT_S
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise SystemExit(f"redis-server ended at once with status {process.returncode}; is port {port} taken?")
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=0.2):
            return
        time.sleep(0.02)
    raise SystemExit(f"redis-server does not listen on port {port}")


def free_port() -> int:
    """A free port below those that the system takes for outgoing connections, so that it stays free."""
    for _ in range(100):
        port = 12_000 + secrets.randbelow(20_000)
        with socket.socket() as probe, contextlib.suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise SystemExit("no free port between 12000 and 32000")
