"""The protocol that is shipped makes configurations throughout, and a wrong one says where it is wrong."""

from __future__ import annotations

from typing import Any, get_args

import pytest

from offline.experiment.plan import planned_runs
from offline.experiment.protocol import PROTOCOL, DatasetEntry, Protocol, merged, nested
from offline.experiment.tuning import base_values
from ranktower.errors import ConfigError
from ranktower.models import ModelConfig

SHIPPED = Protocol.load(PROTOCOL)


def test_every_pre_ranker_is_a_row_of_table_1() -> None:
    union = get_args(get_args(ModelConfig)[0])
    names = {get_args(member)[0].model_fields["name"].default for member in union}
    assert {row.model for row in SHIPPED.tables["1"].rows} == names


@pytest.mark.parametrize("name", [*SHIPPED.tables, *SHIPPED.extras])
def test_every_row_makes_a_configuration(name: str) -> None:
    table = (SHIPPED.tables | SHIPPED.extras)[name]
    runs = planned_runs(SHIPPED, table, {}, seeds=2)
    assert len(runs) == len(table.rows) * len(table.train_users) * min(2, table.seeds or 2)
    assert len({(run.name, run.config.seed) for run in runs}) == len(runs)


@pytest.mark.parametrize("model", SHIPPED.models)
def test_a_search_holds_the_base_and_every_choice_is_a_configuration(model: str) -> None:
    base = base_values(SHIPPED, model)
    for name, space in SHIPPED.models[model].search.items():
        space.encoded(base[name], name=name)
        for value in space.choices or (space.low, space.high):
            SHIPPED.config(model, tuned={name: value}, change={}, seed=0)


def test_the_ablations_of_the_paper_are_what_they_say() -> None:
    rows = {row.name: row for table in SHIPPED.tables.values() for row in table.rows}
    config = {name: SHIPPED.config(row.model, tuned={}, change=row.change, seed=0) for name, row in rows.items()}
    sampling = config["impressions-only"].sampling
    assert (sampling.num_random, sampling.num_candidates) == (0, 0)
    for name in ("rankmax", "softmax", "approx_ndcg", "ranknet", "am_rankmax"):
        loss = config[name].loss
        assert (loss.coarse, loss.fine_weight, loss.distillation_weight > 0) == (name, 0, True)
    assert (config["sorting"].loss.coarse_weight, config["sorting"].loss.fine_weight > 0) == (0, True)
    assert config["distil-none"].loss.distillation_weight == 0
    assert config["distil-pairwise"].loss.distillation == "pairwise_logloss"


def test_the_seed_is_the_samplers_too(protocol: Protocol) -> None:
    config = protocol.config("ranktower", tuned={}, change={}, seed=7)
    assert (config.seed, config.sampling.seed, config.sampling.num_random) == (7, 7, 10)


def test_a_change_wins_over_tuned_values_and_these_over_the_base(protocol: Protocol) -> None:
    tuned = {"loss.alpha": 3.0, "model.hidden": [64]}
    config = protocol.config("ranktower", tuned=tuned, change={"loss": {"alpha": 4.0}}, seed=0)
    assert (config.loss.alpha, config.model.hidden, config.learning_rate) == (4.0, (64,), 0.005)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"tables": {"1": {"reference": "none"}}}, "reference 'none' is none of the rows: two_tower, ranktower"),
        ({"cost": {"reference": "lr"}}, "model 'lr' is none of two_tower, ranktower"),
        ({"extras": {"learning_curve": {"train_users": [0.0]}}}, r"train_users must lie in \(0, 1\], got \[0.0\]"),
        ({"seeds": 0}, "tiny: seeds: .* got 0"),
        ({"surprise": 1}, "tiny: surprise: .* got 1"),
    ],
)
def test_a_wrong_protocol_is_refused(content: dict[str, Any], change: dict[str, Any], told: str) -> None:
    with pytest.raises(ConfigError, match=told):
        Protocol.parse(merged(content, change), where="tiny")


def test_a_row_that_makes_no_configuration_names_model_and_key(protocol: Protocol) -> None:
    with pytest.raises(ConfigError, match=r"protocol, model ranktower: learning_rate: .* got -1"):
        protocol.config("ranktower", tuned={"learning_rate": -1}, change={}, seed=0)


def test_merging_leaves_both_as_they_are() -> None:
    base, change = {"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 9}, "d": {"e": 4}}
    assert merged(base, change) == {"a": {"b": 9, "c": 2}, "d": {"e": 4}}
    assert base == {"a": {"b": 1, "c": 2}, "d": 3}
    assert nested("a.b.c", 1) == {"a": {"b": {"c": 1}}}


def test_a_data_set_adds_to_the_base() -> None:
    entry = DatasetEntry(base={"retrieval": {"epochs": 7}, "embedding_widths": {"item_id": 24}})
    on = SHIPPED.model_copy(update={"datasets": {"own": entry}}).on("own")
    config = on.config("two_tower", tuned={}, change={}, seed=0)
    assert config.retrieval.epochs == 7
    assert config.embedding_widths == {"item_id": 24}
    before = SHIPPED.config("two_tower", tuned={}, change={}, seed=0)
    assert config.retrieval.model == before.retrieval.model
    assert SHIPPED.on("unknown").base == SHIPPED.base
