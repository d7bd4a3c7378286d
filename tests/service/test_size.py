"""``ranktower size``: the arithmetic from small round costs, and a measurement of a real release."""

from __future__ import annotations

import json
import re
from importlib.resources import files
from typing import Any

import pytest

from ranktower.errors import ConfigError
from service.size import main

COSTS = {
    "machine": "a machine",
    "date": "2026-01-01",
    "local": {"fixed_us": 200.0, "per_candidate_us": 0.8},
    "strings": {"fixed_us": 300.0, "per_candidate_us": 0.8},
    "embedding_rows": {"fixed_us": 200.0, "per_candidate_us": 1.8},
    "redis": {"fixed_us": 500.0, "per_candidate_us": 2.5},
    "around": {"fixed_us": 100.0, "per_candidate_us": 0.1},
    "redis_fetch": {"fixed_us": 150.0, "per_candidate_us": 0.5},
    "user_from_redis_us": 200.0,
    "redis_server": {"fixed_us": 50.0, "per_candidate_us": 1.0},
    "worker_private_mb": 100.0,
    "redis_overhead_bytes": 136.0,
}


@pytest.fixture
def costs(monkeypatch: pytest.MonkeyPatch, tmp_path: Any) -> None:
    (tmp_path / "reference_costs.json").write_text(json.dumps(COSTS))
    monkeypatch.setattr("service.size.files", lambda package: tmp_path)


def lines(capsys: pytest.CaptureFixture[str], *options: str) -> dict[str, str]:
    assert main(["--requests", "1000", *options]) == 0
    printed = capsys.readouterr().out.splitlines()
    return {"asked": printed[0]} | {line[:15].strip(): line[16:] for line in printed[1:]}


@pytest.mark.usefixtures("costs")
def test_items_local_and_users_in_redis(capsys: pytest.CaptureFixture[str]) -> None:
    found = lines(capsys, "--items", "1000000", "--users", "2000000", "--cores", "2")
    # 200 + 1,000 x 0.8 us, and 200 for the user; at half of a core that is 2.4 cores: three, two nodes of 2.
    assert found["a request"] == "1.20 ms of one core (reference shape on a machine, 2026-01-01)"
    assert found["service"] == "3 cores at 50% utilisation: 2 nodes of 2"
    # A projected float16 row is 8 + 2 x 4 x (32 + 4 x 32) = 1,288 bytes, the id 8 and its slots 32.
    assert found["memory a node"] == "1.33 GB of mapped tables (page cache, shared) + 200 MB private"
    # A user in Redis: 8 + 2 x 4 x 32 = 264 bytes, and 136 besides.
    assert found["redis"] == "800 MB a release (twice that while one is replaced)"
    # A redis-server is busy 50 us a request, 1,000 times a second.
    assert found["redis servers"] == "1 at 50% utilisation"
    assert found["redis network"] == "264 kB/s, 264 B a request"


@pytest.mark.usefixtures("costs")
def test_everything_in_redis(capsys: pytest.CaptureFixture[str]) -> None:
    found = lines(capsys, "--items-in", "redis", "--items", "1000000", "--users", "1000000", "--utilisation", "1")
    assert found["a request"].startswith("3.00 ms")
    assert found["service"] == "3 cores at 100% utilisation: 1 nodes of 8"
    assert found["memory a node"].startswith("0 B of mapped tables")
    assert found["redis servers"] == "2 at 100% utilisation"  # 50 + 1,000 us, 1,000 times a second
    assert found["redis network"] == "264 MB/s, 264 kB a request"


@pytest.mark.usefixtures("costs")
@pytest.mark.parametrize(
    ("options", "expected"),
    [
        (["--users-in", "local"], "1.00 ms"),
        (["--users-in", "local", "--string-ids"], "1.10 ms"),
        (["--item-rows", "embedding"], "2.20 ms"),
    ],
)
def test_other_rows_and_ids(options: list[str], expected: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert lines(capsys, *options)["a request"].startswith(expected)


@pytest.mark.usefixtures("costs")
def test_string_ids_take_more_memory(capsys: pytest.CaptureFixture[str]) -> None:
    # 10,000 items of 1,288 bytes, 32 for their slots, and 8 or 24 for the id.
    assert lines(capsys, "--items", "10000")["memory a node"].startswith("13.3 MB of mapped tables")
    assert lines(capsys, "--items", "10000", "--string-ids")["memory a node"].startswith("13.4 MB of mapped tables")


@pytest.mark.usefixtures("costs")
@pytest.mark.parametrize("items_in", ["local", "redis"])
def test_a_release_is_measured_here(release: Any, items_in: str, capsys: pytest.CaptureFixture[str]) -> None:
    registry = str(release.folder.parent.parent)
    found = lines(capsys, "--registry", registry, "--model", "demo", "--candidates", "50", "--items-in", items_in)
    assert found["a request"].endswith(f"(release {release.release} on this machine)")
    # 20 users in Redis, 264 bytes and 136 besides; 309 items where they are asked for.
    assert found["redis"].startswith("8 kB" if items_in == "local" else "132 kB")
    milliseconds = float(re.match(r"[\d.]+", found["a request"])[0])  # type: ignore[index]
    assert milliseconds > 0.1  # what lies around the scoring is 0.1 ms at least


@pytest.mark.parametrize(
    ("option", "value", "text"),
    [
        ("--requests", "0", "must be a number above 0, got '0'"),
        ("--requests", "nan", "must be a number above 0, got 'nan'"),
        ("--candidates", "0", "must be an integer above 0, got '0'"),
        ("--candidates", "1.5", "must be an integer above 0, got '1.5'"),
        ("--requests", "many", "must be a number above 0, got 'many'"),
        ("--utilisation", "1.1", "must be a number above 0 and at most 1, got '1.1'"),
    ],
)
def test_a_wrong_option_is_named(option: str, value: str, text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(["--requests", "1", option, value])
    assert caught.value.code == 2
    error = capsys.readouterr().err
    assert f"argument {option}: {text}" in error


def test_a_registry_without_a_release(tmp_path: Any) -> None:
    with pytest.raises(ConfigError, match="no release of model 'ranktower' has been promoted"):
        main(["--requests", "1", "--registry", str(tmp_path)])


def test_the_reference_costs_have_every_key_the_calculator_reads() -> None:
    found = json.loads((files("service") / "reference_costs.json").read_text(encoding="utf-8"))
    assert {key: type(value) for key, value in found.items()} == {key: type(value) for key, value in COSTS.items()}
    for name, value in COSTS.items():
        if isinstance(value, dict):
            assert found[name].keys() == value.keys()
