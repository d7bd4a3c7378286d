"""``ranktower demo``: the whole chain on real data, ended by a running service that has answered one request.

Every step is the command that a user would type, run as its own process. A second demo reuses what is there.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx

from offline.pipeline import (
    CONFIG,
    DATA_DIR,
    Target,
    Training,
    imported_tables,
    make_release,
    run_step,
    say,
    simulated_tables,
)
from ranktower.data.readers.catalogue import find_dataset
from ranktower.embedding_store.local import LocalTable
from ranktower.errors import DataError, RankTowerError
from ranktower.registry import Registry
from ranktower.release import TABLES, read_manifest

MODEL = "demo"
NEIGHBOUR = Path("../shared/data")
DOWNLOAD = "movielens-1m"
READY_WITHIN_S = 60.0


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="ranktower demo", description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/demo"), help="folder for everything the demo makes")
    parser.add_argument("--config", type=Path, default=CONFIG, help="training configuration")
    parser.add_argument("--max-users", type=int, default=1000, help="test users to evaluate")
    options = parser.parse_args(argv)
    started = time.monotonic()
    tables = _make_tables(options.work)
    registry = tables.parent / "registry"
    make_release(tables, tables.parent, Target(registry, MODEL), Training(options.config, options.max_users))
    with _serving(registry) as address:
        _show_request(registry, address)
        say(f"\nThe demo took {time.monotonic() - started:.0f} s.")
        if os.environ.get("DEMO_ONCE") == "1":
            return 0
        say(f"Serving on {address} (its API: {address}/docs); Ctrl-C stops it.")
        with contextlib.suppress(KeyboardInterrupt):
            signal.pause()
    return 0


def _make_tables(work: Path) -> Path:
    """Canonical tables from the best source there is, said in one line with the reason; returns their folder."""
    named = os.environ.get(DATA_DIR)
    place = Path(named) if named else NEIGHBOUR
    if named or _has_dataset(place):
        why = "RANKTOWER_DATA_DIR names it" if named else "found there; RANKTOWER_DATA_DIR is not set"
        name, source = find_dataset(place)
        say(f"Data: {name} from {source} ({why})")
        return imported_tables(name, source, work / name / "tables")
    download = work / DOWNLOAD / "download"
    try:
        run_step("download", "data", "download", DOWNLOAD, "--out", str(download))
    except RankTowerError:
        say("Data: the cascade simulator (RANKTOWER_DATA_DIR is not set, and the original download cannot be reached)")
        return simulated_tables(work / "simulator" / "tables")
    say(f"Data: {DOWNLOAD}, the original download (RANKTOWER_DATA_DIR is not set)")
    name, source = find_dataset(download)
    return imported_tables(name, source, work / name / "tables")


@contextlib.contextmanager
def _serving(registry: Path) -> Iterator[str]:
    """A service on port 8000, or on a free one where that is taken; yields its address once it is ready."""
    port = _free_port(8000)
    if port != 8000:
        say(f"\nPort 8000 is taken; serving on {port} instead.")
    options = ("--registry", str(registry), "--model", MODEL, "--host", "127.0.0.1", "--port", str(port))
    log = registry.parent / "service.log"
    with log.open("wb") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "ranktower.cli", "serve", *options], stdout=file, stderr=subprocess.STDOUT
        )
    try:
        address = f"http://127.0.0.1:{port}"
        _wait_until_ready(server, address, log)
        yield address
    finally:
        server.terminate()
        server.wait(timeout=30)


def _wait_until_ready(server: subprocess.Popen[bytes], address: str, log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline and server.poll() is None:
        with contextlib.suppress(httpx.TransportError):
            if httpx.get(f"{address}/readyz").status_code == 200:
                return
        time.sleep(0.1)
    raise RankTowerError(f"the service did not become ready within {READY_WITHIN_S:.0f} s; its log is {log}")


def _show_request(root: Path, address: str) -> None:
    """Score a few stored items for a stored user, and print the request as a curl line with its answer."""
    body = _example(Registry(root))
    text = json.dumps(body)
    answer = httpx.post(f"{address}/v1/score", content=text, headers={"content-type": "application/json"})
    say(f"\ncurl -s {address}/v1/score -H 'content-type: application/json' -d '{text}'\n{answer.text}")
    if answer.status_code != 200:
        raise RankTowerError(f"the service answered {answer.status_code}")


def _example(registry: Registry) -> dict[str, Any]:
    pointer = registry.current(MODEL)
    if pointer is None:
        raise RankTowerError("no release has been promoted")
    release = registry.release_dir(MODEL, pointer.release)
    manifest = read_manifest(release)
    users, items = (LocalTable(release / TABLES[side], manifest.layout(side)).ids_at for side in ("user", "item"))
    return {"user_id": users(slice(0, 1))[0], "candidate_ids": items(slice(0, 5))}


def _has_dataset(folder: Path) -> bool:
    try:
        find_dataset(folder)
    except DataError:
        return False
    return True


def _free_port(wanted: int) -> int:
    for port in (wanted, 0):
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            with contextlib.suppress(OSError):
                probe.bind(("127.0.0.1", port))
                return int(probe.getsockname()[1])
    raise RankTowerError("no free port on 127.0.0.1")
