"""Result files are found by what a run depends on, and only while that is so."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from offline.experiment.plan import DataIdentity, planned_runs, tuning_key
from offline.experiment.protocol import Protocol
from offline.experiment.results import ResultFolder, Results, circumstances, pack, read_json, unpack, write_json
from ranktower import __version__
from ranktower.errors import ConfigError


def test_packed_values_come_back_to_a_rounding() -> None:
    values = np.concatenate([np.random.default_rng(0).random(1000), [0.0, 1.0]])
    assert np.abs(unpack(pack(values)) - values).max() <= 0.5 / 65_535 + 1e-12
    assert unpack(pack(values))[-2:].tolist() == [0.0, 1.0]


def test_a_run_is_found_under_any_name(
    protocol: Protocol, folder: ResultFolder, write_result: Callable[..., Path]
) -> None:
    *_, run = planned_runs(protocol, protocol.tables["1"], {}, seeds=1)
    path = write_result(run, ndcg=0.3)
    path.rename(path.with_name("renamed-seed0-00000000.json"))
    other = planned_runs(protocol, protocol.tables["2"], {}, seeds=1)
    results = Results(folder)
    found = results.find(other[0])
    assert found is not None
    assert found["name"] == "ranktower"
    assert results.find(other[1]) is None


def test_another_default_makes_a_result_stale_and_a_new_option_does_not(
    protocol: Protocol, folder: ResultFolder, write_result: Callable[..., Path]
) -> None:
    run, _ = planned_runs(protocol, protocol.tables["1"], {}, seeds=1)
    config = run.config.model_dump(mode="json")
    del config["history_dropout"]  # as if the result were older than the option
    write_result(run, ndcg=0.3, config=config)
    assert Results(folder).find(run) is not None
    write_result(run, ndcg=0.3, config=config | {"warm_start": not config["warm_start"]})
    assert Results(folder).find(run) is None
    write_result(run, ndcg=0.3, test=run.test.model_dump(mode="json") | {"seed": 1})
    assert Results(folder).find(run) is None


def test_other_data_have_other_results(
    protocol: Protocol, folder: ResultFolder, write_result: Callable[..., Path]
) -> None:
    run, _ = planned_runs(protocol, protocol.tables["1"], {}, seeds=1)
    write_result(run, ndcg=0.3)
    write_json(folder.dataset, read_json(folder.dataset) | {"data_id": "e" * 64})
    assert Results(folder).find(run) is None


def test_tuned_values_are_of_this_protocol_these_data_and_this_teacher(
    protocol: Protocol, folder: ResultFolder, identity: DataIdentity, capsys: pytest.CaptureFixture[str]
) -> None:
    results = Results(folder)
    assert results.tuned(protocol) == {}
    other = DataIdentity(identity.data_id, "another teacher")
    for model, of in (("ranktower", identity), ("two_tower", other)):
        key = tuning_key(protocol, model, of)
        write_json(folder.tuning(model), {"key": key, "model": model, "best": {"loss.alpha": 3.0}})
    for _ in range(2):
        assert results.tuned(protocol) == {"ranktower": {"loss.alpha": 3.0}}
    assert capsys.readouterr().err.count("tuned-two_tower.json: of another protocol, other data or another") == 1
    shorter = protocol.model_copy(update={"tuning": protocol.tuning.model_copy(update={"num_trials": 2})})
    assert results.tuned(shorter) == {}


def test_a_result_names_version_and_commit(monkeypatch: pytest.MonkeyPatch) -> None:
    found = circumstances("command")
    assert found["versions"]["ranktower"] == __version__
    assert found["commit"] is None or re.fullmatch("[0-9a-f]{40}", found["commit"])
    monkeypatch.setenv("PATH", "")
    assert circumstances("command")["commit"] is None


def test_a_damaged_result_is_named(folder: ResultFolder) -> None:
    path = folder.path / "x-seed0-00000000.json"
    path.write_text("{")
    with pytest.raises(ConfigError, match=r"x-seed0-00000000\.json: is no JSON"):
        Results(folder)
    write_json(path, {"key": "k"})
    assert [one.name for one in folder.path.glob(".*")] == []
