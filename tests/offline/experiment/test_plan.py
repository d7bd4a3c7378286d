"""A run's key holds all that its result depends on, and nothing else."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from offline.experiment.plan import DataIdentity, PlannedRun, planned_runs
from offline.experiment.protocol import Protocol, TestOptions


def _first(protocol: Protocol, table: str = "1", **tuned: Any) -> PlannedRun:
    return planned_runs(protocol, protocol.tables[table], {"ranktower": tuned}, seeds=1)[-1]


def test_a_row_of_two_tables_is_one_run(protocol: Protocol, identity: DataIdentity) -> None:
    one = _first(protocol)
    other = planned_runs(protocol, protocol.tables["2"], {}, seeds=1)[0]
    assert one.title != other.title
    assert one.key(identity) == other.key(identity)


def test_what_a_result_depends_on_changes_the_key(protocol: Protocol, identity: DataIdentity) -> None:
    run = _first(protocol)
    config = run.config
    others = [
        replace(run, config=config.model_copy(update={"seed": 1})),
        replace(run, config=config.model_copy(update={"learning_rate": 0.006})),
        replace(run, test=TestOptions(k=21)),
        replace(run, train_users=0.5),
        replace(run, test_users=0.5),
        replace(run, revision=1),
        replace(run, test=run.test.model_copy(update={"impressions_k": 6})),
        planned_runs(protocol, protocol.tables["1"], {}, seeds=1)[0],
        _first(protocol, **{"loss.alpha": 3.0}),
    ]
    keys = [one.key(identity) for one in (run, *others)]
    keys += [run.key(DataIdentity("e" * 64, identity.teacher_key)), run.key(DataIdentity(identity.data_id, None))]
    assert len(set(keys)) == len(keys)


def test_a_model_of_another_revision_is_run_anew_and_no_other(content: dict[str, Any], identity: DataIdentity) -> None:
    def keys() -> list[str]:
        protocol = Protocol.parse(content, where="")
        return [run.key(identity) for run in planned_runs(protocol, protocol.tables["1"], {}, seeds=1)]

    before = keys()
    content["models"]["ranktower"]["revision"] = 1
    assert keys()[0] == before[0]
    assert keys()[1] != before[1]


def test_two_models_with_defaults_alone_differ(content: dict[str, Any], identity: DataIdentity) -> None:
    """A key leaves defaults out, and the model's name is one."""
    for model in content["models"].values():
        model["base"] = {"model": {"name": model["base"]["model"].get("name", "ranktower")}}
    runs = planned_runs(Protocol.parse(content, where=""), Protocol.parse(content, where="").tables["1"], {}, seeds=1)
    assert len({run.key(identity) for run in runs}) == 2


def test_all_rows_of_a_seed_come_before_the_next(protocol: Protocol) -> None:
    runs = planned_runs(protocol, protocol.tables["1"], {}, seeds=2)
    told = [(run.name, run.config.seed) for run in runs]
    assert told == [("two_tower", 0), ("ranktower", 0), ("two_tower", 1), ("ranktower", 1)]


def test_a_learning_curve_is_tested_on_the_users_of_its_smallest_share(protocol: Protocol) -> None:
    runs = planned_runs(protocol, protocol.extras["learning_curve"], {}, seeds=2)
    told = [(run.name, run.train_users, run.test_users) for run in runs]
    assert told == [("ranktower-users0.5", 0.5, 0.5), ("ranktower", 1.0, 0.5)]
