"""What a benchmark reads of a service: its stages in the real text of /metrics, and its processor time."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import service_run
from reference_release import build_reference_release
from service_run import SETUPS, Release, Setup, parse_stages, process_cpu_s, running, stage_microseconds

from offline.bench.requests import random_requests
from service.metrics import Metrics


@pytest.fixture(scope="module")
def release(tmp_path_factory: pytest.TempPathFactory) -> Release:
    root = tmp_path_factory.mktemp("release")
    return Release(root, build_reference_release(root, num_users=300, num_items=500, string_ids=True))


def test_a_service_is_measured_while_it_runs(release: Release) -> None:
    bodies = random_requests(release.folder, num_candidates=40, num_bodies=3).bodies
    with running(release, SETUPS["local"], os.sched_getaffinity(0)) as service:
        before = service.stages()
        for body in bodies:
            answer = service_run.httpx.post(f"{service.address}/v1/score", content=body).json()
            assert answer["user"] == "PRESENT"
            assert answer["missing"] == []
        after = service.stages()
        assert after["score"][1] - before.get("score", (0.0, 0))[1] == 3
        assert set(stage_microseconds(before, after)) == {"queue", "parse", "fetch", "score", "serialize"}
        assert service.cpu_s() > 0.1


def test_stages_are_read_from_the_text_of_the_metrics() -> None:
    metrics = Metrics()
    metrics.observe_stage("score", 0.002)
    before = parse_stages(metrics.render().decode())
    metrics.observe_stage("score", 0.004)
    metrics.observe_stage("score", 0.008)
    metrics.observe_stage("fetch", 0.001)
    after = parse_stages(metrics.render().decode())
    assert before["score"] == (pytest.approx(0.002), 1)
    means = stage_microseconds(before, after)
    assert means == {"score": pytest.approx(6000.0), "fetch": pytest.approx(1000.0)}


def test_processor_time_counts_work_and_not_waiting() -> None:
    code = "import sys\nwhile sys.stdin.readline():\n    sum(range(10**7))\n    print(flush=True)"
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None

        def work() -> None:
            process.stdin.write("\n")
            process.stdin.flush()
            process.stdout.readline()

        work()
        waited = process_cpu_s(process.pid)
        time.sleep(0.2)
        idle = process_cpu_s(process.pid) - waited
        work()
        worked = process_cpu_s(process.pid) - waited
        process.stdin.close()
    assert idle < 0.02
    assert worked > 0.03


def test_a_release_is_made_once_and_anew_when_the_code_changes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(service_run, "BUILD", tmp_path)
    first = service_run.reference(Setup(), num_users=20, num_items=30)
    assert service_run.reference(Setup(), num_users=20, num_items=30) == first
    monkeypatch.setattr(service_run, "_sources_hash", lambda: "other")
    second = service_run.reference(Setup(), num_users=20, num_items=30)
    assert second.root.parent.name == "other"
    assert [path.name for path in tmp_path.iterdir()] == ["other"]


def test_a_setup_in_redis_needs_its_address() -> None:
    setup = SETUPS["users in Redis"]
    with pytest.raises(ValueError, match="redis_url: needed"):
        setup.env(None)
    env = setup.env("redis://127.0.0.1:1/0")
    assert env["RANKTOWER_STORE__USERS"] == "redis"
    assert "RANKTOWER_STORE__ITEMS" not in env
