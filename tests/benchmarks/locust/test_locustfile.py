"""Locust itself, as a process, against a real service; locust patches the interpreter, so none of it is imported."""

from __future__ import annotations

import csv
import re
import shlex
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from redis_run import free_port
from reference_release import MODEL, serving

ROOT = Path(__file__).parents[3]
KEY = "a-key-of-sixteen-characters"


def rows(record: Path) -> list[dict[str, str]]:
    with record.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def test_every_kind_of_request_gets_its_right_answer(address: str, locust: Any, tmp_path: Path) -> None:
    record = tmp_path / "record.csv"
    mix = "score=4,rank=2,retrieve=2,explain=1,bad=4"
    done = locust(address, "--mix", mix, "--record", str(record), "--max-failures", "0", "--max-p99-ms", "60000")
    assert done.returncode == 0, done.stdout + done.stderr
    seen = rows(record)
    assert re.match(rf"{len(seen)} requests, .*failed 0.00%", done.stdout)
    assert {(row["kind"], row["status"]) for row in seen} == {
        ("score", "200"), ("rank", "200"), ("retrieve", "200"), ("explain", "200"), ("bad", "413"), ("bad", "422"),
    }  # fmt: skip
    assert {row["outcome"] for row in seen} == {"ok"}
    assert {row["kind"] for row in seen if row["waited_for"] == "0"} == {"bad"}


def test_a_broken_threshold_is_exit_status_1(address: str, locust: Any) -> None:
    done = locust(address, "--max-p99-ms", "0.001")
    assert done.returncode == 1
    assert "above --max-p99-ms 0.001" in done.stdout


def test_a_bad_request_that_is_answered_as_a_good_one_is_a_failure(address: str, locust: Any) -> None:
    done = locust(address, "--mix", "bad=1", "--too-many", "5")
    assert done.returncode == 1
    assert "× 200, not 413" in done.stdout
    assert "above --max-failures 0.01" in done.stdout


def test_nobody_listening_is_all_failures(locust: Any) -> None:
    done = locust("http://127.0.0.1:9")
    assert done.returncode == 1
    assert "failed 100.00%" in done.stdout
    assert "× ConnectionRefusedError" in done.stdout


def test_the_key_comes_from_the_environment(registry: Path, locust: Any) -> None:
    with serving(registry, {"RANKTOWER_AUTH__API_KEY": KEY}) as address:
        done = locust(address, env={"RANKTOWER_AUTH__API_KEY": KEY})
        assert done.returncode == 0, done.stdout + done.stderr
        done = locust(address)
    assert done.returncode == 1
    assert "× 401 unauthorized" in done.stdout


def test_a_shape_ends_by_itself(address: str, locust: Any, tmp_path: Path) -> None:
    done = locust(address, "--shape", "steps", "--record", str(tmp_path / "record.csv"))
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Shape test updating to 4 users" in done.stderr
    assert "Shape test stopping" in done.stderr
    assert rows(tmp_path / "record.csv")


@pytest.mark.parametrize("num_workers", [0, 2])
def test_a_run_is_started_on_the_page_and_ended_by_sigterm(
    address: str, locust: Any, num_workers: int, tmp_path: Path
) -> None:
    """The page has no host until somebody types one; the verdict is said at the end all the same."""
    port, master_port = free_port(), str(free_port())
    command = locust.command("--web-port", str(port), "--web-host", "127.0.0.1")
    if num_workers:
        command += ["--processes", str(num_workers), "--master-bind-port", master_port, "--master-port", master_port]
    with (tmp_path / "out").open("wb") as out, subprocess.Popen(command, stdout=out) as process:
        try:
            page = httpx.Client(base_url=f"http://127.0.0.1:{port}", transport=httpx.HTTPTransport(retries=8))
            deadline = time.monotonic() + 60
            while num_workers != len(page.get("/stats/requests").json().get("workers", [])):
                assert time.monotonic() < deadline
                time.sleep(0.1)
            form = {"user_count": "20", "spawn_rate": "20", "host": address}
            assert page.post("/swarm", data=form).json()["success"]
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
    assert re.search(r"^[1-9]\d* requests, .*failed 0.00%", (tmp_path / "out").read_text(), re.MULTILINE)


def test_the_pages_command_runs(address: str, registry: Path) -> None:
    """As it stands, but for the address, the registry, the size of the run and thresholds for a busy machine."""
    page = (ROOT / "docs" / "load-testing.md").read_text(encoding="utf-8")
    (typed,) = re.findall(r"```sh\n(locust -f benchmarks/locust/locustfile.py .*?)\n```", page)
    changes = ["--host", address, "--registry", str(registry), "--model", MODEL, "--run-time", "4s", "--users", "5"]
    changes += ["--max-p99-ms", "60000", "--max-shed", "1"]
    command = [sys.executable, "-m", *shlex.split(typed), *changes]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--mix", "scores=1"], "--mix scores=1: 'scores' is none of score, rank, retrieve, explain, bad"),
        (["--model", "other"], "no promoted release of model 'other'"),
        (["--max-shed", "2"], "--max-shed 2: must be a share, 0 to 1"),
        (["--host", ""], "--host: needed, as http://host:port"),
        (["--host", "127.0.0.1:8000"], "--host 127.0.0.1:8000: must be http://host:port, or https"),
        (["--shape", "soak", "--run-time", "0"], "--shape soak: needs --run-time"),
        (["--processes", "2", "--record", "r.csv"], "--record r.csv: goes with one process only"),
    ],
)
def test_a_wrong_option_is_exit_status_2(locust: Any, options: list[str], told: str) -> None:
    done = locust("http://127.0.0.1:9", *options)
    assert done.returncode == 2
    assert told in done.stderr
