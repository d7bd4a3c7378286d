"""Who is compared: the peers, and our service over three stores. Each is a name and a way to run it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from redis_run import fill_redis, redis_server
from reference_release import build_reference_release, serving
from servers import PEERS, Peer, environment, running, say
from service_run import SETUPS, open_reference

from service.settings import EngineChoice

FLOAT16 = {"ours_float16", "ours_native", "ours_redis"}
"""Those of ours that score rows of float16."""


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

    def start(root: Path, env: dict[str, str], engine: EngineChoice = "onnx") -> AbstractContextManager[str]:
        return serving(root, {**env, "RANKTOWER_SCORER__ENGINE": engine}, cores={place.server_core})

    found = []
    with contextlib.ExitStack() as stack:
        if "ours_float32" in names:
            found.append(Contender("ours_float32", partial(start, float32_root, {})))
        if FLOAT16 & set(names):
            say("building the float16 release")
            root = place.root / "float16"
            build_reference_release(root, num_users=place.num_rows, num_items=place.num_rows)
            if "ours_float16" in names:
                found.append(Contender("ours_float16", partial(start, root, {})))
            if "ours_native" in names:
                found.append(Contender("ours_native", partial(start, root, {}, "native")))
            if "ours_redis" in names:
                url = stack.enter_context(redis_server()).url
                fill_redis(open_reference(root), url)
                found.append(Contender("ours_redis", partial(start, root, SETUPS["Redis"].env(url))))
        yield found
