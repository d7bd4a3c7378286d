"""Who is compared: the peers, and our service over three stores. Each is a name and a way to run it."""

from __future__ import annotations

import contextlib
import shutil
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from reference_release import MODEL, build_reference_release, serving
from servers import PEERS, Peer, environment, running, say

from ranktower.embedding_store.codec import SIDES
from ranktower.embedding_store.local import LocalTable
from ranktower.embedding_store.redis import RedisWriter
from ranktower.embedding_store.redis_client import RedisOptions
from ranktower.registry import Registry
from ranktower.release import TABLES, Manifest

# The timeout is far above the default: under a closed loop a request waits for those before it, and Redis shares its
# core with the generator.
_REDIS = {
    "RANKTOWER_STORE__USERS": "redis",
    "RANKTOWER_STORE__ITEMS": "redis",
    "RANKTOWER_STORE__TIMEOUT_MS": "2000",
}


@dataclass(frozen=True)
class Contender:
    """A server to measure; ``run()`` is a context that yields its address while it is up."""

    name: str
    run: Callable[[], AbstractContextManager[str]]


@dataclass(frozen=True)
class Place:
    """Where things run and lie.

    Attributes:
        root: folder for the releases, removed by the caller.
        data: folder of ``prepare.write_job``.
        server_core: for the server that is measured.
        num_rows: users and items of a release.
    """

    root: Path
    data: Path
    server_core: int
    num_rows: int


def peers(names: list[str], place: Place, body: bytes) -> list[Contender]:
    """The named peers, each in its own environment, which is installed first."""
    chosen = [peer for peer in PEERS if peer.name in names]

    def start(peer: Peer, bin_dir: Path) -> AbstractContextManager[str]:
        return running(peer, bin_dir, place.data, core=place.server_core, body=body)

    return [Contender(peer.name, partial(start, peer, environment(peer))) for peer in chosen]


@contextlib.contextmanager
def ours(names: list[str], place: Place, float32_root: Path) -> Iterator[list[Contender]]:
    """Our service over the stores named; a redis-server runs beside the generator as long as the context is open."""

    def start(root: Path, env: dict[str, str]) -> AbstractContextManager[str]:
        return serving(root, env, cores={place.server_core})

    found = []
    with contextlib.ExitStack() as stack:
        if "ours_float32" in names:
            found.append(Contender("ours_float32", partial(start, float32_root, {})))
        if {"ours_float16", "ours_redis"} & set(names):
            say("building the float16 release")
            root = place.root / "float16"
            manifest = build_reference_release(root, num_users=place.num_rows, num_items=place.num_rows)
            if "ours_float16" in names:
                found.append(Contender("ours_float16", partial(start, root, {})))
            if "ours_redis" in names:
                url = stack.enter_context(_redis(place.root))
                _fill(root, manifest, url)
                found.append(
                    Contender("ours_redis", partial(start, root, {**_REDIS, "RANKTOWER_STORE__REDIS_URL": url}))
                )
        yield found


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[str]:
    binary = shutil.which("redis-server")
    if binary is None:
        raise SystemExit("ours_redis needs a redis-server on the PATH; it is in the Debian package redis-server")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    command = [binary, "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    # A session of its own: Ctrl-C must not end it before the service that reads from it.
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, start_new_session=True)
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            if process.poll() is not None:
                raise SystemExit(f"redis-server ended at once with status {process.returncode}; is port {port} taken?")
            time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()


def _fill(root: Path, manifest: Manifest, url: str) -> None:
    say("filling Redis")
    folder = Registry(root).release_dir(MODEL, manifest.release)
    with RedisWriter(RedisOptions(url, timeout_s=60), manifest) as writer:
        for side in SIDES:
            writer.write_table(side, LocalTable(folder / TABLES[side], manifest.layout(side)))
        writer.finish()
