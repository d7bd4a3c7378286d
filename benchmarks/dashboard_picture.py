"""A picture of the dashboard, ``docs/images/dashboard.png``: its own queries, drawn by matplotlib and not by Grafana.

Run: ``python benchmarks/dashboard_picture.py``. Needs prometheus. A service with two workers, a canary and a shadow
gets requests with budgets of 20 and 50 ms and with none for some minutes: at half of ``--rate``, at all of it, at twice
as many, and at half again; near the end the canary is promoted. Everything shares the cores of this process, so the
picture shows what the panels look like and no figures to compare.

With ``--prometheus http://localhost:9090`` nothing is started: it draws what a Prometheus has seen, that of the compose
stack for instance.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import random
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from threading import Timer
from typing import Any
from urllib.parse import urlsplit

import httpx
import load
import orjson
from dashboard_plots import Answered, draw_dashboard
from reference_release import MODEL, build_reference_release, served
from service_run import BUILD, ROOT, say

from offline.bench.offer import Phase, offer
from offline.bench.requests import random_requests
from ranktower.pointer import Variation
from ranktower.registry import Registry

DASHBOARD = ROOT / "deploy" / "grafana" / "dashboards" / "ranktower.json"
PICTURE = ROOT / "docs" / "images" / "dashboard.png"
_RULES = ROOT / "deploy" / "prometheus" / "alerts.yml"
_LOADS = (0.5, 1.0, 2.0, 0.5)
_SCRAPE_S = 2
_POINTS = 240
_CONNECTIONS = 64


def main() -> None:
    """Run the service, or not, and draw."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--prometheus", help="address of one that runs; else a service is started and watched")
    parser.add_argument("--minutes", type=float, default=4.0, help="of load, or to look back")
    parser.add_argument("--rate", type=float, default=400.0, help="requests a second at full load")
    parser.add_argument("--rows", type=int, default=20_000, help="users and items stored")
    options = parser.parse_args()
    if options.prometheus is not None:
        _draw(options.prometheus, options.minutes)
        return
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        _run(Path(folder), options)


def _run(folder: Path, options: argparse.Namespace) -> None:
    root = folder / "registry"
    for number in range(3):
        say(f"building release {number + 1}")
        build_reference_release(root, num_users=options.rows, num_items=options.rows)
        time.sleep(1)  # a release's id begins with its second
    current, canary, newest = Registry(root).releases(MODEL)
    registry = Registry(root)
    registry.promote(MODEL, current)
    registry.vary(MODEL, "canary", Variation(release=canary, share=0.1))
    registry.vary(MODEL, "shadow", Variation(release=newest, share=0.5))
    seconds = options.minutes * 60
    env = {"RANKTOWER_HTTP__WORKERS": "2"}
    with served(root, env) as service, _prometheus(folder, service.address) as address:
        say(f"{seconds:.0f} s of load")
        promotion = Timer(0.8 * seconds, registry.promote, (MODEL, canary))
        promotion.start()
        phases = [Phase(share * options.rate, seconds / len(_LOADS), seed) for seed, share in enumerate(_LOADS)]
        bodies = _bodies(registry.release_dir(MODEL, current))
        offer(load.endpoint(service.address), bodies, phases, connections=_CONNECTIONS)
        promotion.join()
        _draw(address, options.minutes)


def _bodies(release_dir: Path) -> Sequence[bytes]:
    """With two budgets and without one; some for a stranger, with candidates that nobody knows."""
    bodies: list[bytes] = []
    for budget_ms in (20.0, 50.0, None):
        bodies += random_requests(release_dir, num_candidates=1000, budget_ms=budget_ms, num_bodies=100).bodies
    for number in range(0, len(bodies), 20):
        body = orjson.loads(bodies[number])
        body |= {"user_id": "stranger", "candidate_ids": [*body["candidate_ids"][:500], "unknown"]}
        bodies[number] = orjson.dumps(body)
    return random.Random(0).sample(bodies, len(bodies))


@contextlib.contextmanager
def _prometheus(folder: Path, service: str) -> Iterator[str]:
    """The address of a Prometheus with the rules of this repository that scrapes the service."""
    shutil.copy(_RULES, folder / "alerts.yml")
    target = {"job_name": "ranktower", "static_configs": [{"targets": [urlsplit(service).netloc]}]}
    times = {"scrape_interval": f"{_SCRAPE_S}s", "evaluation_interval": f"{_SCRAPE_S}s"}
    # JSON is YAML.
    config = {"global": times, "rule_files": ["alerts.yml"], "scrape_configs": [target]}
    (folder / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    command = ["prometheus", f"--config.file={folder}/prometheus.yml", f"--storage.tsdb.path={folder}/data"]
    with (folder / "prometheus.log").open("wb") as log:
        process = subprocess.Popen([*command, f"--web.listen-address={address}"], stdout=log, stderr=log)
    try:
        yield f"http://{address}"
    finally:
        process.terminate()
        process.wait(timeout=30)


def _draw(prometheus: str, minutes: float) -> None:
    """All panels over the last minutes."""
    dashboard = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    end = time.time()
    window = {"start": end - minutes * 60, "end": end, "step": max(minutes * 60 / _POINTS, 1.0)}
    with httpx.Client(base_url=prometheus, timeout=60) as client:
        model = _query(client, "ranktower_release_info", {"time": end})[0]["metric"]["model"]
        values = {"$instance": ".+", "$job": "ranktower", "$model": model, "$__rate_interval": "15s"}
        values |= {"$namespace": ".*", "$service": ".*"}
        answered: list[Answered] = []
        for panel in dashboard["panels"]:
            found = []
            for target in panel.get("targets", []):
                expr = target["expr"]
                for name, value in values.items():
                    expr = expr.replace(name, value)
                found.append(_query(client, expr, {"time": end} if target["instant"] else window))
            answered.append(Answered(panel, found))
    PICTURE.parent.mkdir(exist_ok=True)
    aside = PICTURE.with_name(f".{PICTURE.name}")
    draw_dashboard(answered, aside)
    os.replace(aside, PICTURE)
    say(f"wrote {PICTURE.relative_to(ROOT)}")


def _query(client: httpx.Client, expr: str, when: dict[str, float]) -> list[dict[str, Any]]:
    path = "/api/v1/query" if "time" in when else "/api/v1/query_range"
    answer = client.post(path, data={"query": expr, **{key: str(value) for key, value in when.items()}}).json()
    if answer["status"] != "success":
        raise SystemExit(f"{expr}: {answer['error']}")
    result: list[dict[str, Any]] = answer["data"]["result"]
    return result


if __name__ == "__main__":
    main()
