"""What the load generator of ``benchmarks/locust`` takes of its core for one request.

Run: ``python benchmarks/locust_generator.py``; needs two cores. Locust asks a real service, on the other core, at two
rates in turns; the processor seconds that the higher one takes more, to the requests that it sends more, are those of a
request: what locust takes to start and to wait is in both. The result goes to
``benchmarks/results/locust_generator-<date>.json``.
"""

from __future__ import annotations

import argparse
import re
import resource
import statistics
import subprocess
import sys
from pathlib import Path

from reference_release import MODEL, served
from result_file import write_result
from service_run import SETUPS, add_core_options, reference, say, take_cores

_LOCUSTFILE = Path(__file__).parent / "locust" / "locustfile.py"
RATES = (50, 250)
_REQUESTS = re.compile(r"^([\d,]+) requests, ", re.MULTILINE)


def main() -> None:
    """Measure, print and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=200_000, help="users and items stored")
    parser.add_argument("--seconds", type=int, default=8, help="of each run")
    parser.add_argument("--rounds", type=int, default=3)
    add_core_options(parser)
    options = parser.parse_args()
    cores = take_cores(options)
    release = reference(SETUPS["local"], num_users=options.rows, num_items=options.rows)
    rounds = []
    with served(release.root, {}, cores={cores.server}) as service:
        for number in range(options.rounds):
            say(f"round {number + 1} of {options.rounds}")
            runs = [run(service.address, release.root, rate=rate, seconds=options.seconds) for rate in RATES]
            rounds.append(cpu_ms_per_request(*runs))
    settings = {"num_rows": options.rows, "seconds": options.seconds, "rates_per_s": RATES}
    figures = {"cpu_ms": round(statistics.median(rounds), 3), "rounds_cpu_ms": [round(one, 3) for one in rounds]}
    write_result("locust_generator", settings | figures, "locust", "gevent")


def run(address: str, registry: Path, *, rate: int, seconds: int) -> tuple[int, float]:
    """Requests of one run of locust's usual mix, and the processor seconds of its process."""
    command = [sys.executable, "-m", "locust", "-f", str(_LOCUSTFILE), "--host", address, "--registry", str(registry)]
    command += ["--model", MODEL, "--headless", "--only-summary", "--max-failures", "1"]
    command += ["-u", str(rate), "-r", str(rate), "-t", f"{seconds}s"]
    before_s = _children_cpu_s()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, check=False)
    cpu_s = _children_cpu_s() - before_s
    sent = _REQUESTS.search(done.stdout)
    if done.returncode or sent is None:
        raise SystemExit(f"locust ended with status {done.returncode}: {done.stdout}")
    return int(sent[1].replace(",", "")), cpu_s


def _children_cpu_s() -> float:
    """Of those that have ended, which the service has not."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def cpu_ms_per_request(low: tuple[int, float], high: tuple[int, float]) -> float:
    """From requests and processor seconds of two runs."""
    return (high[1] - low[1]) / (high[0] - low[0]) * 1e3


if __name__ == "__main__":
    main()
