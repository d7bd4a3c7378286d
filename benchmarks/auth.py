"""What a request pays for its API key, for the limit of that key, and for the headers of its answer.

Run: ``python benchmarks/auth.py``. Each part is timed around an application that only answers, in this service's own
code, for a service of one process and for one of several workers, whose metrics and limits are in shared files. What
the application itself takes is subtracted. The result goes to ``benchmarks/results/auth-<date>.json``.
"""

from __future__ import annotations

import argparse
import asyncio
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import yaml
from prometheus_client import CollectorRegistry
from result_file import write_result
from starlette.types import ASGIApp, Message, Scope
from timing import in_turns

from service.api_keys import Keyring, new_key, read_keys
from service.auth import ApiKeyMiddleware
from service.context import RequestContext
from service.metrics import MULTIPROC_ENV
from service.security_headers import SecurityHeaders
from service.settings import SHARED_FOLDER_ENV, Settings

NUM_KEYS = 100
# So short that a turn is seldom interrupted; so long that the clock counts for little.
_AT_ONCE = 20
_TURNS = 2000
_START: Message = {
    "type": "http.response.start",
    "status": 200,
    "headers": [(b"content-type", b"application/json"), (b"x-request-id", b"0" * 32)],
}
_BODY: Message = {"type": "http.response.body", "body": b"{}"}
# A process of its own: whether metrics are in files is decided when their library is imported.
_MEASURE = "import json, auth; print(json.dumps(auth.measured()))"


def main() -> None:
    """Measure, print and write one result."""
    argparse.ArgumentParser(description=__doc__).parse_args()
    with tempfile.TemporaryDirectory() as folder:
        of_workers = {MULTIPROC_ENV: folder, SHARED_FOLDER_ENV: folder}
        figures = {"one process": _in_a_process({}), "one of several workers": _in_a_process(of_workers)}
    write_result("auth", {"num_keys": NUM_KEYS, "us": figures}, "prometheus-client", "starlette")


def _in_a_process(env: dict[str, str]) -> dict[str, float]:
    paths = os.pathsep.join(str(folder) for folder in (Path(__file__).parent, Path(__file__).parents[1]))
    command = [sys.executable, "-c", _MEASURE]
    told = subprocess.run(command, env={**os.environ, "PYTHONPATH": paths, **env}, stdout=subprocess.PIPE, check=True)
    found: dict[str, float] = json.loads(told.stdout)
    return found


def measured() -> dict[str, float]:
    """Median microseconds of each part."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "keys.yaml"
        free, limited = _write_keys(path)
        release = {"registry": folder, "model": "none"}
        settings = Settings.model_validate({"release": release, "auth": {"keys_file": path}})
        times: dict[str, float] = {}

        async def app(scope: Scope, _: Any, send: Any) -> None:
            if scope["type"] == "lifespan":  # the keys have been read
                times.update(_timed(_calls(keyed, app, Keyring(read_keys(path)), free, limited)))
                return
            await send(_START)
            await send(_BODY)

        keyed = ApiKeyMiddleware(app, settings, CollectorRegistry())
        asyncio.run(keyed({"type": "lifespan"}, _nothing, _nothing))
    bare, free_us = times["answer"], times["answer, key"]
    parts = {
        "hash": times["hash"],
        "find": times["find"],
        "key": free_us - bare,
        "limit": times["answer, limited key"] - free_us,
        "headers": times["answer, headers"] - bare,
    }
    return {name: round(us, 2) for name, us in parts.items()}


def _calls(keyed: ASGIApp, app: ASGIApp, ring: Keyring, free: str, limited: str) -> dict[str, Callable[[], Any]]:
    """What is timed, by name."""
    key, headed = free.encode(), SecurityHeaders(app)
    with_key, with_limit = _scope(free), _scope(limited)
    return {
        "hash": lambda: hashlib.sha256(key).digest(),
        "find": lambda: ring.find(key),
        "answer": lambda: _run(app(with_key, _nothing, _nothing)),
        "answer, key": lambda: _run(keyed(with_key, _nothing, _nothing)),
        "answer, limited key": lambda: _run(keyed(with_limit, _nothing, _nothing)),
        "answer, headers": lambda: _run(headed(with_key, _nothing, _nothing)),
    }


def _timed(calls: dict[str, Callable[[], Any]]) -> dict[str, float]:
    """Median microseconds of one call of each."""

    def many(call: Callable[[], Any]) -> Callable[[int], None]:
        def run(_: int) -> None:
            for _ in range(_AT_ONCE):
                call()

        return run

    found = in_turns({name: many(call) for name, call in calls.items()}, _TURNS)
    return {name: of["median_us"] / _AT_ONCE for name, of in found.items()}


def _write_keys(path: Path) -> tuple[str, str]:
    """A file of keys; one of them without a limit, and one with a limit that is never reached."""
    entries: list[dict[str, Any]] = []
    keys = [new_key() for _ in range(NUM_KEYS)]
    for number, (key, key_id) in enumerate(keys):
        entry = {"name": f"client-{number}", "id": key_id, "sha256": hashlib.sha256(key.encode()).hexdigest()}
        entries.append(entry | ({"rate_per_s": 1e6, "burst": 1_000_000} if number == 1 else {}))
    path.write_text(yaml.safe_dump({"keys": entries}), encoding="utf-8")
    return keys[0][0], keys[1][0]


def _scope(key: str) -> Scope:
    context = RequestContext({b"x-api-key": key.encode()}, {})
    return {"type": "http", "path": "/v1/score", "state": {"context": context}}


def _run(answering: Coroutine[Any, Any, None]) -> None:
    """To its end: nothing that it waits for has to be waited for."""
    try:
        answering.send(None)
    except StopIteration:
        return
    raise RuntimeError("the application waits for something")


async def _nothing(*_: Any) -> Any:
    """Takes what is sent, and has nothing to give."""


if __name__ == "__main__":
    main()
