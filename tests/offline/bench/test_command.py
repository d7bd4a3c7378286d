"""The command against real services: ``ranktower serve`` over small releases, one with an API key."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from offline.bench.command import main
from ranktower.errors import ConfigError
from ranktower.registry import Registry

sys.path.append(str(Path(__file__).parents[3] / "benchmarks"))
from reference_release import MODEL, Served, build_reference_release, served

KEY = "a-key-for-the-tests-of-bench"
# Far above what a small request takes, so that a machine with other work holds it too.
EASY = ["--candidates", "50", "--budget", "2000", "--seconds", "0.4", "--quiet"]


@pytest.fixture(scope="module")
def registry(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("registry")
    build_reference_release(root, num_users=30, num_items=100)
    return root


@pytest.fixture(scope="module")
def service(registry: Path) -> Iterator[Served]:
    with served(registry, {"RANKTOWER_AUTH__API_KEY": KEY}) as running:
        yield running


@pytest.fixture
def command(service: Served, registry: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    monkeypatch.setenv("RANKTOWER_AUTH__API_KEY", KEY)
    return ["--url", service.address, "--registry", str(registry), "--out", str(tmp_path / "out")]


def report(folder: Path) -> dict[str, Any]:
    (path,) = folder.glob("bench-*.json")
    assert path.with_suffix(".png").read_bytes().startswith(b"\x89PNG\r\n")
    assert len(list(folder.iterdir())) == 2
    content: dict[str, Any] = json.loads(path.read_text())
    return content


def test_given_rates_are_measured_and_written(
    command: list[str], registry: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, *EASY, "--rates", "20", "50", "--priority", "low"]) == 0
    line = "50 candidates inside 2000 ms at p99 up to 50 requests/s; degraded 0%; shed 0%"
    assert capsys.readouterr().out == f"{line}\n"
    found = report(tmp_path / "out")
    assert (found["verdict"], found["is_complete"], found["arrivals"]) == (line, True, "poisson")
    assert (found["model"], found["release"]) == (MODEL, Registry(registry).releases(MODEL)[0])
    assert [(one["rate_per_s"], one["requests"], one["inside"]) for one in found["points"]] == [
        (20, 8, 8),
        (50, 20, 20),
    ]
    assert KEY not in json.dumps(found)


def test_the_command_of_the_page(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    """As it stands, but for the addresses, and for a small release and a busy machine."""
    page = (Path(__file__).parents[3] / "docs/benchmarking.md").read_text(encoding="utf-8")
    (typed,) = re.findall(r"```sh\nranktower bench (.*)\n```", page)
    assert main([*shlex.split(typed), *command, *EASY, "--rates", "20"]) == 0
    assert "50 candidates inside 2000 ms at p99 up to 20 requests/s" in capsys.readouterr().out


def test_a_budget_that_no_answer_can_hold_says_what_came_instead(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*command, "--candidates", "50", "--budget", "0.001", "--seconds", "1", "--quiet", "--even"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("50 candidates inside 0.001 ms at p99: not even at 5 requests/s: ")
    assert "100%" in out
    points = report(tmp_path / "out")["points"]
    assert [(one["rate_per_s"], one["is_quick"], one["holds"]) for one in points] == [
        (5, True, False),
        (5, False, False),
    ]


def test_bodies_of_a_file_are_sent(service: Served, command: list[str], tmp_path: Path) -> None:
    path = tmp_path / "bodies.jsonl"
    path.write_text('{"user_id": 1, "candidate_ids": [1, 2, 3]}\n')
    options = ["--requests", str(path), "--budget", "2000", "--seconds", "0.2", "--rates", "20", "--quiet"]
    assert main([*command[:2], *command[4:], *options]) == 0
    assert report(tmp_path / "out")["num_candidates"] == 3


def num_scored(service: Served) -> int:
    text = httpx.get(f"{service.address}/metrics").text
    return sum(map(int, re.findall(r"^ranktower_candidates_count (\d+)", text, flags=re.MULTILINE)))


def test_ctrl_c_writes_what_there_is(service: Served, command: list[str], tmp_path: Path) -> None:
    code = "import sys; from offline.bench.command import main; main(sys.argv[1:])"
    options = ["--candidates", "50", "--budget", "2000", "--seconds", "0.3", "--rates", "20", *["30"] * 200]
    process = subprocess.Popen(
        [sys.executable, "-c", code, *command, *options], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    # Behind the request that is asked first, the 20 of the warm-up and the 6 of the first rate, well into the second.
    wanted = num_scored(service) + 1 + 20 + 6 + 9
    while num_scored(service) < wanted:
        assert process.poll() is None
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGINT)
    out, error = process.communicate(timeout=30)
    assert "KeyboardInterrupt" in error
    assert "up to" in out
    found = report(tmp_path / "out")
    assert not found["is_complete"]
    assert 1 <= len(found["points"]) < 200


@pytest.mark.parametrize("key", [None, "not-the-key-of-the-service"])
def test_a_key_that_is_missing_or_wrong_is_named(
    key: str | None, command: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("RANKTOWER_AUTH__API_KEY")
    if key:
        monkeypatch.setenv("RANKTOWER_AUTH__API_KEY", key)
    with pytest.raises(ConfigError, match=r"40[13], RANKTOWER_AUTH__API_KEY in the environment must be its API key"):
        main([*command, *EASY])


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--budget", "0"], "--budget 0: must be above 0"),
        (["--budget", "20000"], "--budget 20000: must be above 0 and at most 10000 ms"),
        (["--budget", "nan"], "--budget nan: must be above 0"),
        (["--budget", "10", "--candidates", "0"], "--candidates 0: must be at least 1"),
        (["--budget", "10", "--candidates", "101"], "--candidates 101: .* has 30 users and 100 items"),
        (["--budget", "10", "--max-degraded", "5"], "--max-degraded 5: must be a share, 0 to 1"),
        (["--budget", "10", "--seconds", "0"], "--seconds 0: must be above 0"),
        (["--budget", "10", "--rates", "5", "-1"], "--rates -1: must be above 0"),
        (["--budget", "10", "--model", "other"], "--model other: http://.* serves the model reference"),
        (
            ["--budget", "10", "--registry", "/nowhere"],
            "--registry /nowhere: no /nowhere/reference/.*, which .* serves",
        ),
        (["--budget", "10", "--url", "ftp://x"], "--url ftp://x: expected http://host:port"),
        (["--budget", "10", "--url", "http://x:port"], "--url http://x:port: "),
        (["--budget", "10", "--url", "http://127.0.0.1:1"], "--url http://127.0.0.1:1: .*refused"),
    ],
)
def test_a_wrong_option_is_named(options: list[str], told: str, command: list[str]) -> None:
    with pytest.raises(ConfigError, match=told):
        main([*command, *options])


def test_the_number_of_candidates_is_that_of_the_file(command: list[str], tmp_path: Path) -> None:
    options = ["--requests", str(tmp_path / "none"), "--budget", "10", "--candidates", "3"]
    with pytest.raises(ConfigError, match="--candidates 3: goes with --registry, not with --requests"):
        main([*command[:2], *options])


def test_a_body_that_the_service_refuses_ends_before_the_measurement(command: list[str], tmp_path: Path) -> None:
    path = tmp_path / "bodies.jsonl"
    path.write_text('{"user_id": 1, "candidate_ids": [1.5]}\n')
    with pytest.raises(ConfigError, match=r"POST /v1/score was answered 422: .*candidate_ids"):
        main([*command[:2], "--requests", str(path), "--budget", "10", "--out", str(tmp_path / "out")])
    assert not (tmp_path / "out").exists()


def test_another_server_is_told_apart(tmp_path: Path) -> None:
    code = """
import http.server
class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("content-length", "2"); self.end_headers(); self.wfile.write(b"[]")
server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
print(server.server_port, flush=True)
server.serve_forever()
"""
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as server:
        assert server.stdout is not None
        port = int(server.stdout.readline())
        with pytest.raises(ConfigError, match=r"/v1/release: not a release of ranktower: '\[\]'"):
            main(["--url", f"http://127.0.0.1:{port}", "--registry", str(tmp_path), "--budget", "10"])
        server.kill()
