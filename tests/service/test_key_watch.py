"""Keys of a file on running servers of two workers: rotated, limited, expired, and a file that breaks."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

from service.api_keys import new_key
from service.keys_command import main

BODY = {"user_id": "user-1", "candidate_ids": [1, 2, 3]}


class KeysFile:
    """A keys file, and what its clients know."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.entries: list[dict[str, Any]] = []

    def add(self, name: str, **more: Any) -> str:
        key, key_id = new_key()
        sha256 = hashlib.sha256(key.encode()).hexdigest()
        self.entries.append({"name": name, "id": key_id, "sha256": sha256} | more)
        self.path.write_text(yaml.safe_dump({"keys": self.entries}))
        return key


@pytest.fixture
def keys(tmp_path: Path) -> KeysFile:
    return KeysFile(tmp_path / "keys.yaml")


@pytest.fixture
def start(release: Any, start_server: Callable[..., Any], keys: KeysFile) -> Callable[..., Any]:
    def start() -> Any:
        settings = {"AUTH__KEYS_FILE": str(keys.path), "AUTH__REQUIRED": "true", "LOG__LEVEL": "debug"}
        server = start_server(release.folder.parent.parent, "--workers", "2", **settings)
        server.wait_ready()
        wait_for(server, "release served", times=2)
        return server

    return start


def wait_for(server: Any, message: str, *, times: int, **fields: object) -> None:
    """Wait for so many lines of the log with these fields: of both workers, where there are two."""

    def count() -> int:
        text = server.log.read_text().rsplit("\n", 1)[0]  # the last line may be half written
        lines = [yaml.safe_load(line) for line in text.splitlines()]
        return sum(line["message"] == message and fields.items() <= line.items() for line in lines)

    server.wait_until(lambda: count() >= times, f"{times} times {message!r} with {fields}")


def ask(server: Any, key: str) -> httpx.Response:
    """On a connection of its own: the kernel gives each to either worker."""
    return httpx.post(f"{server.url}/v1/score", json=BODY, headers={"x-api-key": key}, timeout=30)


def test_keys_are_rotated_under_load_and_no_request_fails(
    start: Callable[[], Any], keys: KeysFile, capsys: pytest.CaptureFixture[str]
) -> None:
    file = ["--file", str(keys.path)]

    def create(name: str) -> str:
        main(["create", *file, "--name", name])
        return capsys.readouterr().out.strip()

    key = [create("old")]
    server = start()
    statuses: Counter[int] = Counter()
    done = threading.Event()

    def load() -> None:
        while not done.is_set():
            statuses[ask(server, key[0]).status_code] += 1

    with ThreadPoolExecutor(2) as threads:
        loading = [threads.submit(load) for _ in range(2)]
        try:
            old, new = key[0], create("new")
            wait_for(server, "keys file read", times=2, keys=2)
            key[0] = new
            used = "ranktower_auth_requests_total"
            server.wait_until(lambda: server.metric(used, key="new") > 20, "asked with the new key")
            main(["revoke", *file, "--name", "old"])
            # One key, as at the start: that was read twice then.
            wait_for(server, "keys file read", times=4, keys=1)
            count = server.metric(used, key="new")
            server.wait_until(lambda: server.metric(used, key="new") > count + 20, "asked again")
        finally:
            done.set()
        for one in loading:
            one.result()
    assert statuses.keys() == {200}
    assert {ask(server, old).status_code for _ in range(10)} == {403}
    for secret in (old, new):
        assert secret not in server.log.read_text()
        assert secret.rsplit("_", 1)[1] not in keys.path.read_text()
    assert server.stop() == 0


def test_a_limit_is_exact_over_the_workers(start: Callable[[], Any], keys: KeysFile) -> None:
    slow = keys.add("slow", rate_per_s=0.001, burst=20)
    free = keys.add("free")
    server = start()
    with ThreadPoolExecutor(6) as threads:
        answers = list(threads.map(lambda _: ask(server, slow), range(60)))
    assert Counter(answer.status_code for answer in answers) == {200: 20, 429: 40}
    refused = next(answer for answer in answers if answer.status_code == 429)
    assert refused.json()["error_type"] == "rate_limited"
    assert 900 <= int(refused.headers["retry-after"]) <= 1000
    assert ask(server, free).status_code == 200
    assert server.metric("ranktower_rate_limited_total", key="slow") == 40
    assert server.metric("ranktower_auth_requests_total", key="slow") == 60
    assert server.metric("ranktower_shed_total") == 0
    assert server.metric("ranktower_request_duration_seconds_count", outcome="rate_limited") == 40
    # Another entry in the file does not give the burst back.
    keys.add("another")
    wait_for(server, "keys file read", times=2, keys=3)
    assert {ask(server, slow).status_code for _ in range(6)} == {429}
    assert server.stop() == 0


def test_an_expired_key_is_refused_and_a_prolonged_one_is_not(start: Callable[[], Any], keys: KeysFile) -> None:
    over, valid = keys.add("over", expires="2026-01-31"), keys.add("valid", expires="2999-01-31")
    server = start()
    answer = ask(server, over)
    assert (answer.status_code, answer.json()["error"]) == (403, "the API key has expired")
    assert ask(server, valid).status_code == 200
    assert server.metric("ranktower_auth_failures_total", reason="expired") == 1
    keys.entries[0]["expires"] = "2999-01-31"
    keys.add("another")
    wait_for(server, "keys file read", times=2, keys=3)
    assert {ask(server, over).status_code for _ in range(6)} == {200}
    assert server.stop() == 0


def test_a_file_that_breaks_or_goes_leaves_the_keys_and_one_without_keys_does_not(
    start: Callable[[], Any], keys: KeysFile
) -> None:
    key = keys.add("mobile")
    good = keys.path.read_text()
    server = start()
    refused = "ranktower_auth_keys_refused_total"
    assert server.metric(refused) == 0

    def break_it(content: str | None, detail: str) -> None:
        keys.path.unlink() if content is None else keys.path.write_text(content)
        said = "keys file refused; the keys before it stay"
        wait_for(server, said, times=2, detail=f"{keys.path}{detail}")
        before = server.metric(refused)
        server.wait_until(lambda: server.metric(refused) > before + 4, "refused again and again")
        assert sum(line.get("detail") == f"{keys.path}{detail}" for line in server.lines()) == 2  # once a worker
        assert {ask(server, key).status_code for _ in range(6)} == {200}

    break_it(
        good.replace("sha256: ", f"sha256: {key}"), ": keys.0.sha256: String should match pattern '^[0-9a-f]{64}$'"
    )
    break_it(f"keys:\n- name: [{key}\n", ", line 3: neither YAML nor JSON: expected ',' or ']', but got '<stream end>'")
    break_it(f"{good}  expires: 2027-02-30\n", ", line 5: neither YAML nor JSON: a value that does not exist")
    late = ": keys.0.expires: must be a date or a time, such as 2027-01-31 or 2027-01-31T12:00:00Z"
    break_it(f"{good}  expires: 9999-12-31T23:59:59-01:00\n", late)
    break_it("[" * 5000, ": neither YAML nor JSON in UTF-8")
    break_it(None, ": cannot be read: No such file or directory")
    keys.path.write_text("keys: []")
    wait_for(server, "keys file read", times=2, keys=0)
    assert {ask(server, key).status_code for _ in range(6)} == {403}
    keys.path.write_text(good)
    wait_for(server, "keys file read", times=4, keys=1)
    assert {ask(server, key).status_code for _ in range(6)} == {200}
    assert key not in server.log.read_text()
    assert server.stop() == 0


def test_a_worker_that_is_replaced_while_the_file_is_broken_starts_and_lets_nobody_in(
    start: Callable[[], Any], keys: KeysFile
) -> None:
    key = keys.add("mobile")
    good = keys.path.read_text()
    server = start()
    keys.path.write_text(f"{good}  expires: 2027-02-30\n")
    wait_for(server, "keys file refused; the keys before it stay", times=2)
    pid = server.process.pid
    workers = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    os.kill(int(workers[-1]), signal.SIGKILL)
    wait_for(server, "release served", times=3)
    server.wait_until(lambda: {ask(server, key).status_code for _ in range(20)} == {200, 403}, "answered by both")
    keys.path.write_text(good)
    server.wait_until(lambda: {ask(server, key).status_code for _ in range(20)} == {200}, "mended")
    assert server.stop() == 0
