"""The same job on the servers a user would pick, and on ours: throughput and latency, in one run.

Run: ``make bench-peers`` or ``python benchmarks/peers/run.py``. Needs wrk (Debian package wrk), a redis-server for
``ours_redis``, a package index for the peers' environments (kept in build/peers), and two cores: one for the server,
one for the generator. Before anything is timed, every server's scores are compared with torch's.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

import numpy as np
import torch
from contenders import Contender, Place, ours, peers
from measure import Bench, agreement, generator_proof, latency, throughput
from prepare import make_requests, torch_scores, write_job
from reference_release import build_reference_release
from report import LABELS, OURS, markdown, plot
from result_file import write_result
from servers import BUILD, ECHO, PEERS, running, say

IMAGE = Path(__file__).parents[2] / "docs" / "images" / "peers.svg"
_NUM_REQUESTS = 200
_NUM_COMPARED = 20
# Of the slowest peer's saturation. Ray Serve takes part where this is less than its own saturation.
_COMMON_SHARE = 0.7
_OWN_SHARE = 0.5


def main() -> None:
    """Measure, print a table, write the result and the plot."""
    options = _options()
    if shutil.which("wrk") is None:
        raise SystemExit("needs wrk on the PATH; it is in the Debian package wrk: apt-get install wrk")
    # SIGTERM unwinds like Ctrl-C, so that every server is stopped.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    torch.set_num_threads(1)
    BUILD.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=BUILD) as folder:
        place = Place(Path(folder), Path(folder) / "data", options.server_core, options.rows)
        try:
            figures = _measure(options, place)
        except RuntimeError as error:
            raise SystemExit(str(error)) from error
    write_result("peers", figures, "numpy", "onnxruntime", "fastapi", "uvicorn")
    sys.stdout.write(f"\n{markdown(figures)}\n")
    IMAGE.parent.mkdir(exist_ok=True)
    plot(figures, IMAGE)


def _options() -> argparse.Namespace:
    cores = sorted(os.sched_getaffinity(0))
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=10, help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", nargs="+", choices=sorted(LABELS), default=sorted(LABELS), metavar="NAME")
    parser.add_argument("--rows", type=int, default=200_000, help="users and items stored")
    parser.add_argument("--candidates", type=int, default=1000)
    parser.add_argument("--server-core", type=int, default=cores[0])
    parser.add_argument("--generator-core", type=int, default=cores[-1])
    options = parser.parse_args()
    if options.server_core == options.generator_core:
        parser.error(f"the server and the generator need a core each, got {options.server_core} for both")
    os.sched_setaffinity(0, {options.generator_core})
    return options


def _measure(options: argparse.Namespace, place: Place) -> dict[str, Any]:
    say("building the float32 release and the peers' arrays")
    float32_root = place.root / "float32"
    place.data.mkdir()
    manifest = build_reference_release(
        float32_root, num_users=place.num_rows, num_items=place.num_rows, dtype="float32"
    )
    write_job(float32_root, manifest, place.data)
    requests = make_requests(place.data, num_requests=_NUM_REQUESTS, num_candidates=options.candidates)
    compared = requests[:_NUM_COMPARED]
    expected = torch_scores(place.data, compared)
    bench = Bench(requests, options.seconds, options.generator_core)
    body = requests[0].body
    here = Path(sys.executable).parent
    echo = Contender("echo", partial(running, ECHO, here, place.data, core=place.server_core, body=body))
    with contextlib.ExitStack() as stack:
        contenders = peers(options.only, place, body)
        contenders += stack.enter_context(ours(options.only, place, float32_root))
        agreed = {contender.name: agreement(contender, compared, expected) for contender in contenders}
        proof = generator_proof(echo, bench)
        reached = throughput(contenders, bench, options.rounds)
        rates = _open_rates({name: found["requests_per_s"] for name, found in reached.items()})
        timed = latency(contenders, bench, options.rounds, rates)
    return {
        "num_rows": options.rows,
        "num_candidates": options.candidates,
        "seconds": options.seconds,
        "rounds": options.rounds,
        "server_core": options.server_core,
        "generator_core": options.generator_core,
        # Above 2 with two cores means that something else ran too, and that the latencies are its latencies.
        "load_average": [round(load, 2) for load in os.getloadavg()],
        "peer_versions": {peer.name: _version(peer.name) for peer in PEERS if peer.name in options.only},
        "agreement": agreed,
        "generator": proof,
        "throughput": reached,
        "ratios": _ratios(reached),
        "latency": timed,
    }


def _open_rates(saturation: dict[str, float]) -> dict[str, dict[str, float]]:
    """Each at half of its own saturation, and all at one rate that the slowest peer (Ray Serve apart) holds."""
    half = {name: _OWN_SHARE * rate for name, rate in saturation.items()}
    paced = [rate for name, rate in saturation.items() if name not in OURS and name != "rayserve"]
    common = _COMMON_SHARE * min(paced or saturation.values())
    return {"half": half, "common": {name: common for name, rate in saturation.items() if common < 0.9 * rate}}


def _ratios(reached: dict[str, dict[str, Any]]) -> dict[str, dict[str, float]]:
    """Our throughput over each peer's."""
    rates = {name: found["requests_per_s"] for name, found in reached.items()}
    theirs = {name: rate for name, rate in rates.items() if name not in OURS}
    return {
        name: {peer: float(np.round(rates[name] / rate, 2)) for peer, rate in theirs.items()}
        for name in OURS
        if name in rates
    }


def _version(name: str) -> str:
    """The pinned version of the package that gives the peer its name."""
    package = {"plain_fastapi": "fastapi", "rayserve": "ray"}.get(name, name)
    lines = (Path(__file__).parent / f"requirements-{name}.txt").read_text().splitlines()
    return next(line for line in lines if line.startswith(f"{package}=="))


if __name__ == "__main__":
    main()
