"""At the weights that the script gives, every loss pulls as hard as what it replaces."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import loss_scales
import numpy as np
import pytest
from result_file import latest_result

from offline.experiment.protocol import PROTOCOL, Protocol
from ranktower.data.dataset import PreparedDataset
from ranktower.training.run import load_run


def test_losses_at_their_weights_have_gradients_of_one_length(simulated: PreparedDataset, trained_run: Path) -> None:
    run = load_run(trained_run)
    lists = loss_scales.scored_lists(run, simulated, np.load(run.folder.candidates))
    found = loss_scales.weights(lists, run.config.loss)
    nothing = replace(run.config.loss, distillation_weight=0.0, fine_weight=0.0, coarse_weight=1.0)
    ranking = found["ranking"]
    changed = {
        "sorting": replace(nothing, fine_weight=ranking["sorting"]["weight"], coarse_weight=0.0),
        "ranknet": replace(nothing, coarse="ranknet", coarse_weight=ranking["ranknet"]["weight"]),
        "approx_ndcg": replace(nothing, coarse="approx_ndcg", coarse_weight=ranking["approx_ndcg"]["weight"]),
    }
    for options in changed.values():
        assert loss_scales.mean_norm(lists, options) == pytest.approx(found["hybrid"]["ranking_norm"], rel=1e-4)
    assert ranking["ranknet"]["weight"] < ranking["am_rankmax"]["weight"] < ranking["approx_ndcg"]["weight"]
    assert set(found["distillation"]) == {"softmax", "weighted_logloss", "pairwise_logloss"}
    weight = found["distillation"]["softmax"]["weight"]
    assert weight == pytest.approx(run.config.loss.distillation_weight, rel=1e-4)


def test_the_protocol_has_the_weights_of_the_newest_result() -> None:
    result, tables = latest_result("loss_scales"), Protocol.load(PROTOCOL).tables
    ranking = {row.name: row.change["loss"] for row in tables["3"].rows[1:]}
    weights = {name: change["fine_weight"] + change["coarse_weight"] for name, change in ranking.items()}
    assert weights == {name: pytest.approx(found["weight"], rel=0.01) for name, found in result["ranking"].items()}
    taught = [row.change["loss"] for row in tables["4"].rows[1:] if "distillation" in row.change["loss"]]
    assert {change["distillation"] for change in taught} == result["distillation"].keys() - {"softmax"}
    for change in taught:
        found = result["distillation"][change["distillation"]]["weight"]
        assert change["distillation_weight"] == pytest.approx(found, rel=0.01)
