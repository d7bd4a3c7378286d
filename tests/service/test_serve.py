"""``ranktower serve`` as a process: its command line, several workers, and how it stops."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from ranktower.errors import ConfigError
from ranktower.release import FileEntry, write_manifest
from service.serve import main


@pytest.fixture(autouse=True)
def no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for key in [key for key in os.environ if key.startswith("RANKTOWER_")]:
        monkeypatch.delenv(key)


def run(*arguments: str, environment: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    command = [str(Path(sys.executable).with_name("ranktower")), "serve", *arguments]
    environment = os.environ | (environment or {})
    return subprocess.run(command, env=environment, check=False, capture_output=True, text=True, timeout=60)


def test_a_wrong_configuration_is_one_line_and_exit_status_2(tmp_path: Path) -> None:
    done = run("--registry", str(tmp_path), "--model", "m", "--port", "70000")
    assert done.returncode == 2
    assert done.stderr == ("ranktower serve: http.port: Input should be less than or equal to 65535, got 70000\n")


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_failed_start_has_exit_status_3_and_no_text_of_the_exception(tmp_path: Path, workers: str) -> None:
    # Of the tracing library, which finds it when a worker starts.
    variables = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9", "OTEL_SPAN_EVENT_COUNT_LIMIT": "-1"}
    options = ("--registry", str(tmp_path), "--model", "m", "--port", "0", "--workers", workers)
    done = run(*options, environment=variables)
    assert done.returncode == 3
    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert "stopped" not in {line["message"] for line in lines}
    failed = [line for line in lines if "exception" in line]
    assert {line["message"] for line in failed} == {"the service cannot start"}
    assert failed[0]["level"] == "error"
    assert "OTEL_SPAN_EVENT_COUNT_LIMIT" not in done.stderr


def test_the_parent_of_several_workers_imports_nothing_that_serves() -> None:
    """What only the workers use would double the time until they are ready, and lie in memory once more."""
    code = """
import sys
import service.serve
loaded = set(sys.modules) & {"numpy", "onnxruntime", "faiss", "redis", "fastapi", "prometheus_client"}
assert not loaded, loaded
"""
    subprocess.run([sys.executable, "-c", code], check=True)


def test_help_names_every_option() -> None:
    done = run("--help")
    assert done.returncode == 0
    for option in ("--registry", "--model", "--host", "--port", "--workers", "--config"):
        assert option in done.stdout


def test_a_port_that_is_taken_names_the_port(tmp_path: Path) -> None:
    with socket.socket() as other:
        other.bind(("127.0.0.1", 0))
        other.listen()
        port = other.getsockname()[1]
        with pytest.raises(ConfigError, match=f"http.port={port}: cannot listen: Address already in use"):
            main(["--registry", str(tmp_path), "--model", "m", "--port", str(port)])


def test_a_host_that_does_not_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANKTOWER_AUTH__REQUIRED", "false")
    with pytest.raises(ConfigError, match=r"http.host='203.0.113.1', http.port=0: cannot listen: "):
        main(["--registry", str(tmp_path), "--model", "m", "--host", "203.0.113.1", "--port", "0"])


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_under_way_is_finished_and_the_exit_status_is_0(
    release: Any, start_server: Callable[..., Any], number: signal.Signals
) -> None:
    server = start_server(release.folder.parent.parent)
    server.wait_ready()
    port = int(server.url.rsplit(":", 1)[1])
    content = b'{"user_id": "user-1", "candidate_ids": [1, 2]}'
    with socket.create_connection(("127.0.0.1", port), timeout=20) as connection:
        connection.sendall(b"POST /v1/score HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(content))
        connection.sendall(content[:10])
        time.sleep(0.1)
        server.process.send_signal(number)
        server.wait_until(lambda: not can_connect(port), "closed to new connections")
        connection.sendall(content[10:])
        answer = b""
        while part := connection.recv(65536):
            answer += part
        assert answer.startswith(b"HTTP/1.1 200 OK")
        assert b'"user":"PRESENT"' in answer
        assert b"connection: close" in answer
    assert server.process.wait(timeout=20) == 0
    assert server.lines()[-1]["message"] == "stopped"


@pytest.mark.parametrize("delay_s", [0.0, 0.05, 0.3])
def test_a_signal_right_after_the_start_stops_it_too(release: Any, tmp_path: Path, delay_s: float) -> None:
    command = [str(Path(sys.executable).with_name("ranktower")), "serve", "--model", "demo", "--port", "0"]
    command += ["--registry", str(release.folder.parent.parent)]
    with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
        assert process.stderr is not None
        assert any(b'"listening"' in line for line in process.stderr)
        time.sleep(delay_s)
        process.send_signal(signal.SIGTERM)
        assert process.wait(timeout=20) == 0


def test_a_signal_inside_a_destructor_is_not_lost(tmp_path: Path) -> None:
    # Python ignores what is raised there; a server that was starting then stayed.
    program = f"""
import os, signal, tempfile
from functools import partial
from service import serve

serve._on_stop_signals(partial(serve._stop_at_once, tempfile.TemporaryDirectory(dir={str(tmp_path)!r})))

class Dying:
    def __del__(self):
        os.kill(os.getpid(), signal.SIGTERM)

Dying()
print("lost")
"""
    command = [sys.executable, "-c", program]
    stopped = subprocess.run(command, check=False, capture_output=True, text=True, timeout=60)
    assert (stopped.returncode, stopped.stdout, stopped.stderr) == (0, "", "")
    assert not list(tmp_path.iterdir())


def can_connect(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=1).close()
    except OSError:
        return False
    return True


def children(pid: int) -> list[int]:
    """The worker processes: Python's resource tracker is a child as well, but no worker."""
    found = []
    for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
        if b"resource_tracker" not in Path(f"/proc/{child}/cmdline").read_bytes():
            found.append(child)
    return found


@pytest.mark.parametrize(("verify", "workers"), [("background", "1"), ("background", "2"), ("before_serving", "1")])
def test_a_large_release_being_verified_does_not_delay_the_stop(
    build_release: Callable[..., Any], start_server: Callable[..., Any], tmp_path: Path, verify: str, workers: str
) -> None:
    first, large = build_release(tmp_path, seed=1), build_release(tmp_path, seed=2)
    first.promote()
    large.promote()
    # A hole: it takes no space on the disk, and many seconds to hash.
    size_bytes = 16 << 30
    with (large.folder / "large.bin").open("wb") as file:
        file.truncate(size_bytes)
    entry = FileEntry(sha256="0" * 64, size_bytes=size_bytes)
    files = {"large.bin": entry} | large.manifest.files
    write_manifest(large.folder, large.manifest.model_copy(update={"files": files}))
    server = start_server(tmp_path, "--workers", workers, RELEASE__VERIFY=verify)
    if verify == "background":
        server.wait_ready(large.release)
    time.sleep(0.5)
    if verify == "before_serving":
        assert server.client.get("/readyz").json()["error_type"] == "loading"
    start = time.monotonic()
    assert server.stop() == 0
    assert time.monotonic() - start < 4


def test_two_workers_share_the_port_and_merge_their_metrics(release: Any, start_server: Callable[..., Any]) -> None:
    server = start_server(release.folder.parent.parent, "--workers", "2")
    server.wait_ready()
    loaded = [line for line in server.lines() if line["message"] == "release loaded"]
    server.wait_until(
        lambda: sum(line["message"] == "release served" for line in server.lines()) == 2, "served by both workers"
    )
    assert loaded

    def ask(times: int) -> None:
        # Every request on a connection of its own: the kernel gives each to either worker.
        for _ in range(times):
            body = {"user_id": "user-1", "candidate_ids": [1, 2, 3]}
            assert httpx.post(f"{server.url}/v1/score", json=body).status_code == 200

    threads = [threading.Thread(target=ask, args=(10,)) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    count = "ranktower_request_duration_seconds_count"
    assert {httpx.get(f"{server.url}/metrics").text.count("ranktower_candidates_count 40.0") for _ in range(6)} == {1}
    assert server.metric(count, endpoint="score", outcome="ok") == 40
    assert server.metric("ranktower_candidates_sum") == 120
    assert server.metric("ranktower_release_info", release=release.release) == 1
    assert server.metric("ranktower_release_age_seconds") > 0

    workers = children(server.process.pid)
    assert len(workers) == 2
    os.kill(workers[0], signal.SIGKILL)
    server.wait_until(
        lambda: len(children(server.process.pid)) == 2 and workers[0] not in children(server.process.pid), "whole again"
    )
    server.wait_until(
        lambda: sum(line["message"] == "release served" for line in server.lines()) == 3, "served by the new worker"
    )
    ask(5)
    assert server.metric(count, endpoint="score", outcome="ok") == 45
    assert server.stop() == 0
    assert server.lines()[-1]["message"] == "stopped"


def test_serving_leaves_nothing_in_the_home_directory(
    release: Any, start_server: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """ONNX Runtime would leave an id of the machine there, and report."""
    monkeypatch.delenv("ORT_DISABLE_TELEMETRY", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    server = start_server(release.folder.parent.parent)
    server.wait_ready()
    assert server.score(release.user_ids[0], release.item_ids[:3]).status_code == 200
    assert server.stop() == 0
    assert list(tmp_path.iterdir()) == []


def test_every_log_line_is_json_and_holds_no_id(release: Any, start_server: Callable[..., Any]) -> None:
    server = start_server(release.folder.parent.parent, LOG__LEVEL="debug")
    server.wait_ready()
    server.score("user-secret-1", ["item-secret-2", None])
    server.score("user-secret-1", ["item-secret-2"], user_features={"country": "secret-3"})
    server.client.get("/v1/score?user=user-secret-1")
    assert server.stop() == 0
    lines = server.lines()
    assert all({"time", "level", "logger", "message"} <= line.keys() for line in lines)
    assert [line["message"] for line in lines if line["logger"] == "service.serve"] == ["listening", "stopped"]
    assert "secret" not in server.log.read_text()
