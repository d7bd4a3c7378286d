"""Locust itself, as a process, against a real service; locust patches the interpreter, so none of it is imported."""

from __future__ import annotations

import csv
import os
import re
import shlex
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import httpx
import pytest
from redis_run import free_port
from reference_release import MODEL, build_reference_release, serving

ROOT = Path(__file__).parents[3]
LOCUSTFILE = ROOT / "benchmarks" / "locust" / "locustfile.py"
# Small enough for a machine that has other things to do.
LOAD = ("--users", "20", "--spawn-rate", "20", "--run-time", "4s")
CANDIDATES = ("--candidates", "30", "--max-candidates", "60", "--budgets-ms", "none=1")
KEY = "a-key-of-sixteen-characters"


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("registry")
    build_reference_release(root, num_users=300, num_items=500, string_ids=True)
    return root


@pytest.fixture(scope="module")
def address(registry: Path) -> Iterator[str]:
    with serving(registry, {}) as address:
        yield address


def locust(*options: str, env: Mapping[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--headless", "--only-summary", *options]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("RANKTOWER_")}
    return subprocess.run(
        command, env=environment | dict(env or {}), capture_output=True, text=True, check=False, timeout=120
    )


def run(
    address: str, registry: Path, *options: str, env: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    ids = ["--host", address, "--registry", str(registry), "--model", MODEL]
    return locust(*ids, *LOAD, *CANDIDATES, *options, env=env)


def rows(record: Path) -> list[dict[str, str]]:
    with record.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_kind_of_request_gets_its_right_answer(address: str, registry: Path, tmp_path: Path) -> None:
    record = tmp_path / "record.csv"
    mix = "score=4,rank=2,retrieve=2,explain=1,bad=4"
    done = run(address, registry, "--mix", mix, "--record", str(record), "--max-failures", "0", "--max-p99-ms", "60000")
    assert done.returncode == 0, done.stdout + done.stderr
    seen = rows(record)
    assert re.match(rf"{len(seen)} requests, .*failed 0.00%", done.stdout)
    assert {(row["kind"], row["status"]) for row in seen} == {
        ("score", "200"), ("rank", "200"), ("retrieve", "200"), ("explain", "200"), ("bad", "413"), ("bad", "422"),
    }  # fmt: skip
    assert {row["outcome"] for row in seen} == {"ok"}
    assert {row["kind"] for row in seen if row["waited_for"] == "0"} == {"bad"}


def test_a_broken_threshold_is_exit_status_1(address: str, registry: Path) -> None:
    done = run(address, registry, "--max-p99-ms", "0.001")
    assert done.returncode == 1
    assert "above --max-p99-ms 0.001" in done.stdout


def test_a_bad_request_that_is_answered_as_a_good_one_is_a_failure(address: str, registry: Path) -> None:
    done = run(address, registry, "--mix", "bad=1", "--too-many", "5")
    assert done.returncode == 1
    assert "× 200, not 413" in done.stdout
    assert "above --max-failures 0.01" in done.stdout


def test_nobody_listening_is_all_failures(registry: Path) -> None:
    done = run("http://127.0.0.1:9", registry)
    assert done.returncode == 1
    assert "failed 100.00%" in done.stdout
    assert "× ConnectionRefusedError" in done.stdout


def test_the_key_comes_from_the_environment(registry: Path) -> None:
    with serving(registry, {"RANKTOWER_AUTH__API_KEY": KEY}) as address:
        done = run(address, registry, env={"RANKTOWER_AUTH__API_KEY": KEY})
        assert done.returncode == 0, done.stdout + done.stderr
        done = run(address, registry)
    assert done.returncode == 1
    assert "× 401 unauthorized" in done.stdout


def test_requests_come_when_they_are_due_and_latencies_count_from_then(registry: Path, tmp_path: Path) -> None:
    """The server answers nobody until 40 requests have come. 15 users that waited for their answers would never send
    them; and of those who came first, each has waited from when its request was due until the server went on."""
    record = tmp_path / "record.csv"
    with StallingServer(40) as server:
        load = ["--users", "15", "--run-time", "6s", "--mix", "score=1"]
        done = run(server.address, registry, *load, "--record", str(record))
    assert done.returncode == 0, done.stdout + done.stderr
    seen = sorted(rows(record), key=lambda row: float(row["due_s"]))
    assert len(seen) >= 40
    for row in seen[:40]:
        answered_s = float(row["due_s"]) + float(row["latency_ms"]) / 1e3
        assert answered_s >= server.went_on_s - 0.01  # of the clocks
        assert float(row["latency_ms"]) >= float(row["lag_ms"])
    assert float(seen[0]["latency_ms"]) > float(seen[39]["latency_ms"])


def test_a_shape_ends_by_itself(address: str, registry: Path, tmp_path: Path) -> None:
    done = run(address, registry, "--shape", "steps", "--record", str(tmp_path / "record.csv"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Shape test updating to 4 users" in done.stderr
    assert "Shape test stopping" in done.stderr
    assert rows(tmp_path / "record.csv")


def test_several_processes_add_up(address: str, registry: Path) -> None:
    port = str(free_port())
    done = run(address, registry, "--processes", "2", "--master-bind-port", port, "--master-port", port)
    assert done.returncode == 0, done.stdout + done.stderr
    assert re.search(r"^[1-9]\d* requests, .*failed 0.00%", done.stdout, re.MULTILINE)


def test_a_run_is_started_on_the_page_and_ended_by_sigterm(address: str, registry: Path, tmp_path: Path) -> None:
    """The page has no host until somebody types one; the verdict is said at the end all the same."""
    port = free_port()
    command = [sys.executable, "-m", "locust", "-f", str(LOCUSTFILE), "--registry", str(registry), "--model", MODEL]
    command += [*CANDIDATES, "--web-port", str(port), "--web-host", "127.0.0.1"]
    with (tmp_path / "out").open("wb") as out, subprocess.Popen(command, stdout=out) as process:
        try:
            page = httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=httpx.HTTPTransport(retries=8))
            form = {"user_count": "20", "spawn_rate": "20", "host": address}
            assert page.post("/swarm", data=form).json()["success"]
            deadline = time.monotonic() + 60
            while not page.get("/stats/requests").json()["total_rps"]:
                assert time.monotonic() < deadline
                time.sleep(0.1)
            names = {row["name"] for row in page.get("/stats/requests").json()["stats"]}
            page.close()
        finally:
            process.terminate()
            process.wait(30)
    assert process.returncode == 0
    assert names & {"score", "rank", "retrieve"}
    assert "failed 0.00%" in (tmp_path / "out").read_text()


def test_the_pages_command_runs(address: str, registry: Path) -> None:
    """As it stands, but for the address, the registry, the size of the run and thresholds for a busy machine."""
    page = (ROOT / "docs" / "load-testing.md").read_text(encoding="utf-8")
    (typed,) = re.findall(r"```sh\nlocust -f benchmarks/locust/locustfile.py (.*?)\n```", page)
    changes = ["--host", address, "--registry", str(registry), "--model", MODEL, "--run-time", "4s", "--users", "5"]
    done = locust(*shlex.split(typed), *changes, "--max-p99-ms", "60000", "--max-shed", "1")
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--mix", "scores=1"], "--mix scores=1: 'scores' is none of score, rank, retrieve, explain, bad"),
        (["--model", "other"], "no promoted release of model 'other'"),
        (["--max-shed", "2"], "--max-shed 2: must be a share, 0 to 1"),
        (["--host", ""], "--host: needed, as http://host:port"),
        (["--shape", "soak", "--run-time", "0"], "--shape soak: needs --run-time"),
        (["--processes", "2", "--record", "r.csv"], "--record r.csv: goes with one process only"),
    ],
)
def test_a_wrong_option_is_exit_status_2(registry: Path, options: list[str], told: str) -> None:
    done = run("http://127.0.0.1:9", registry, *options)
    assert done.returncode == 2
    assert told in done.stderr


class StallingServer(socketserver.ThreadingTCPServer):
    """Answers nobody until so many requests have come, and from then on everybody at once."""

    daemon_threads = True
    request_queue_size = 256

    def __init__(self, num_waited_for: int) -> None:
        super().__init__(("127.0.0.1", 0), _Connection)
        self.address = f"http://127.0.0.1:{self.server_address[1]}"
        self.went_on_s = 0.0
        self._missing = num_waited_for
        self._lock = threading.Lock()
        self._goes_on = threading.Event()

    def __enter__(self) -> StallingServer:
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.server_close()

    def stall(self) -> None:
        """One request has come."""
        with self._lock:
            self._missing -= 1
            if self._missing == 0:
                self.went_on_s = time.time()
                self._goes_on.set()
        self._goes_on.wait(60)


class _Connection(socketserver.StreamRequestHandler):
    server: StallingServer

    def handle(self) -> None:
        while self.rfile.readline():
            length = 0
            while (line := self.rfile.readline().strip().lower()) != b"":
                if line.startswith(b"content-length:"):
                    length = int(line.partition(b":")[2])
            self.rfile.read(length)
            self.server.stall()
            self.wfile.write(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
