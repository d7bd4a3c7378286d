"""``make test-compose``: the images are built, the stack is brought up from nothing, and then things happen to it."""

from __future__ import annotations

import json
import subprocess
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

PAGE = Path(__file__).parents[2] / "docs" / "compose.md"
pytestmark = pytest.mark.timeout(1800)  # the first one waits for images and training


def run_in(container: str, *command: str) -> tuple[int, str]:
    done = subprocess.run(["docker", "exec", container, *command], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def test_it_scores_at_the_proxy(stack: Any) -> None:
    deadline = time.monotonic() + 60
    while httpx.get(f"{stack.proxy}/readyz").status_code != 200 and time.monotonic() < deadline:
        time.sleep(0.2)
    answer = stack.score(**{"x-request-id": "my-own"})
    assert answer.status_code == 200, answer.text
    assert answer.json()["user"] == "PRESENT"
    assert answer.json()["missing"] == [3]
    assert answer.headers["x-request-id"] == answer.json()["request_id"] == "my-own"


def test_the_page_scores(stack: Any, tmp_path: Path) -> None:
    score, rank = map(json.loads, stack.type_in(PAGE, "test_the_page_scores", tmp_path))
    assert len(score["scores"]) == 3
    assert [item["rank"] for item in rank["items"]] == [1, 2, 3, 4, 5]


def test_the_page_shows_the_passwords(stack: Any, tmp_path: Path) -> None:
    (password,) = stack.type_in(PAGE, "test_the_page_shows_the_passwords", tmp_path)
    assert len(password.strip()) == 48


@pytest.mark.parametrize("service", ["redis", "service", "proxy", "prometheus"])
def test_a_container_is_healthy_not_root_and_read_only(stack: Any, service: str) -> None:
    for container in stack.containers(service):
        stack.wait_until_healthy(container)
        assert stack.inspect(container)["HostConfig"]["ReadonlyRootfs"] is True
        status, told = run_in(container, "id", "-u")
        assert (status, told.strip() == "0") == (0, False)
        status, told = run_in(container, "touch", "/etc/hostname.new")
        assert status != 0
        assert "Read-only file system" in told or "Permission denied" in told


def test_the_service_has_neither_torch_nor_pip_nor_a_writable_registry(stack: Any) -> None:
    (first, _) = stack.containers("service")
    for module in ("torch", "polars", "onnx", "pip"):
        status, told = run_in(first, "python", "-c", f"import {module}")
        assert status != 0, module
        assert f"No module named '{module}'" in told
    assert run_in(first, "id", "-u") == (0, "10001\n")
    assert "Read-only file system" in run_in(first, "touch", "/registry/x")[1]
    # The process that the engine signals is the service itself.
    assert "ranktower" in run_in(first, "cat", "/proc/1/cmdline")[1]


def test_the_service_has_no_tools_of_root(stack: Any) -> None:
    (first, _) = stack.containers("service")
    for tool in ("apt-get", "dpkg", "perl", "bash", "su", "mount", "uvicorn", "fastapi", "activate"):
        assert run_in(first, "sh", "-c", f"command -v {tool}") == (127, ""), tool
    assert run_in(first, "sh", "-c", "find / -xdev -type f -perm /6000 2>/dev/null")[1] == ""


def test_the_service_image_is_small(stack: Any) -> None:
    """Above its base: the official python:3.11-slim has some 130 MB, so that both stay below 400 MB."""
    sizes = [stack.inspect(image)["Size"] for image in ("ranktower-service", "python:3.11-slim")]
    assert sizes[0] - sizes[1] < 270e6


def test_redis_wants_its_password_and_no_one_sees_it(stack: Any) -> None:
    (redis,) = stack.containers("redis")
    assert "NOAUTH" in run_in(redis, "redis-cli", "ping")[1]
    _, password = run_in(redis, "cat", "/run/secrets/redis/password")
    assert len(password.strip()) == 48
    known = stack.inspect(redis)
    assert not known["HostConfig"]["PortBindings"]
    assert password.strip() not in str(known)
    assert password.strip() not in stack.compose("logs", "--no-color")


def test_prometheus_sees_both_replicas(stack: Any) -> None:
    query = {"query": 'sum(up{job="ranktower"})'}
    deadline, told = time.monotonic() + 60, ""
    while time.monotonic() < deadline:
        told = httpx.get(f"{stack.prometheus}/api/v1/query", params=query).text
        if '"2"' in told:
            break
        time.sleep(1)
    assert '"2"' in told
    rules = httpx.get(f"{stack.prometheus}/api/v1/rules").json()["data"]["groups"]
    assert rules


def test_errors_of_the_proxy_have_the_services_form(stack: Any) -> None:
    answer = httpx.post(f"{stack.proxy}/v1/score", content=b"x" * (5 << 20), headers={"x-request-id": "too-large"})
    assert answer.status_code == 413
    assert answer.json().keys() == {"error", "error_type", "request_id"}
    assert (answer.json()["error_type"], answer.json()["request_id"]) == ("body_too_large", "too-large")
    assert httpx.get(f"{stack.proxy}/nowhere").json()["error_type"] == "not_found"


def test_run_again_the_job_reuses_everything(stack: Any) -> None:
    told = stack.compose("run", "--rm", "--no-deps", "-T", "offline")
    assert "reused" in told
    assert "has been promoted before" in told


def test_a_killed_replica_costs_what_it_was_sending_and_comes_back(stack: Any) -> None:
    victim, other = stack.containers("service")
    with stack.load() as outcomes:
        subprocess.run(["docker", "kill", victim], check=True, capture_output=True)
        outcomes.wait_for(200)
        subprocess.run(["docker", "start", victim], check=True, capture_output=True)
        stack.wait_until_healthy(victim)
        outcomes.wait_for(50)
    # An answer that has begun cannot be asked for again: at most one for each of the four clients.
    broken = outcomes.seen.pop("RemoteProtocolError", 0)
    assert broken <= 4
    assert outcomes.seen.keys() == {"200 PRESENT"}
    # The proxy knows its new address.
    subprocess.run(["docker", "stop", other], check=True, capture_output=True)
    assert stack.score().status_code == 200
    subprocess.run(["docker", "start", other], check=True, capture_output=True)
    stack.wait_until_healthy(other)


def test_sigterm_under_load_fails_no_request(stack: Any) -> None:
    victim, _ = stack.containers("service")
    with stack.load() as outcomes:
        subprocess.run(["docker", "stop", victim], check=True, capture_output=True)
        outcomes.wait_for(50)
    assert outcomes.seen.keys() == {"200 PRESENT"}
    state = stack.inspect(victim)["State"]
    assert (state["ExitCode"], state["OOMKilled"]) == (0, False)
    subprocess.run(["docker", "start", victim], check=True, capture_output=True)
    stack.wait_until_healthy(victim)


def test_a_redis_restart_is_an_honest_error_and_loses_nothing(stack: Any) -> None:
    with stack.load() as outcomes:
        stack.compose("restart", "redis")
        outcomes.wait_for(50)
    assert outcomes.seen.keys() <= {"200 PRESENT", "503 store_unavailable"}


def test_the_page_turns_keys_on(stack: Any, tmp_path: Path) -> None:
    stack.type_in(PAGE, "test_the_page_turns_keys_on", tmp_path)
    for container in stack.containers("service"):
        stack.wait_until_healthy(container)
    key = (tmp_path / "mobile.key").read_text().strip()
    for _ in range(4):
        assert stack.score().status_code == 401
        assert stack.score(**{"x-api-key": key}).status_code == 200


def test_a_cluster_of_six_serves_the_same_scores(stack: Any) -> None:
    stack.compose("up", "--detach", "--no-deps", "--wait", "service")
    before = stack.score().json()["scores"]
    stack.start(env_file="docker/cluster.env")
    (node,) = stack.containers("redis-cluster-1")
    _, told = run_in(node, "sh", "-c", "REDISCLI_AUTH=$(cat /run/secrets/redis/password) redis-cli cluster info")
    assert "cluster_state:ok" in told
    assert "cluster_known_nodes:6" in told
    (container, _) = stack.containers("service")
    assert "RANKTOWER_STORE__REDIS_CLUSTER=true" in stack.inspect(container)["Config"]["Env"]
    answer = stack.score().json()
    assert (answer["user"], answer["scores"]) == ("PRESENT", before)


def test_the_page_removes_everything(stack: Any, tmp_path: Path) -> None:
    stack.type_in(PAGE, "test_the_page_removes_everything", tmp_path)
    for kind in ("volume", "network", "container"):
        options = ["--all"] if kind == "container" else []
        mine = ["--filter", "label=com.docker.compose.project=ranktower-test"]
        told = subprocess.run(["docker", kind, "ls", "--quiet", *options, *mine], check=True, capture_output=True)
        assert told.stdout == b"", kind
