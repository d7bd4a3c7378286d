"""The variants that were not kept compute the same scores, from graphs that ONNX Runtime runs."""

from __future__ import annotations

import numpy as np
import pytest
import torch_graphs
from graph_edits import (
    SOFTMAX,
    SPLIT_BEFORE_TURNING,
    TRANSPOSED_BATCH,
    WIDENED_BEFORE_TURNING,
    Edit,
    edited,
    normalised_vectors,
)
from scorer_inputs import ScorerInputs, make_inputs, open_graph, varied_model

from model_export.scorer_graph import build_scorer
from ranktower.models import RankTower

EDITS = {
    "split": SPLIT_BEFORE_TURNING,
    "batch": TRANSPOSED_BATCH,
    "widened": WIDENED_BEFORE_TURNING,
    "softmax": SOFTMAX,
}


@pytest.fixture(scope="module")
def model() -> RankTower:
    return varied_model()


@pytest.fixture(scope="module")
def inputs(model: RankTower) -> ScorerInputs:
    return make_inputs(model, 37, kind="projected", dtype="float16")


@pytest.mark.parametrize("name", EDITS)
def test_an_edited_graph_gives_torchs_scores(name: str, model: RankTower, inputs: ScorerInputs) -> None:
    kept = build_scorer(model, kind="projected", dtype="float16")
    changed = edited(kept, EDITS[name])
    assert [node.op_type for node in changed.graph.node] != [node.op_type for node in kept.graph.node]
    (scores,) = open_graph(changed.SerializeToString()).run(["scores"], inputs.rows)
    np.testing.assert_allclose(scores, inputs.expected, atol=1e-4)


def test_lengths_and_products_of_the_normalised_vectors_are_the_same(model: RankTower, inputs: ScorerInputs) -> None:
    kept = build_scorer(model, kind="projected", dtype="float16")
    changed = edited(kept, normalised_vectors(kept, model))
    assert "BatchNormalization" in {node.op_type for node in changed.graph.node}
    (scores,) = open_graph(changed.SerializeToString()).run(["scores"], inputs.rows)
    np.testing.assert_allclose(scores, inputs.expected, atol=1e-4)


def test_a_node_that_is_not_there_is_named(model: RankTower) -> None:
    kept = build_scorer(model, kind="projected", dtype="float16")
    with pytest.raises(ValueError, match="removed: the graph gives no nothing_like_it"):
        edited(kept, Edit(["nothing_like_it"], ""))
    with pytest.raises(ValueError, match="nothing gives the inputs of"):
        edited(kept, Edit(["i_turned"], ""))


def test_torchs_own_graphs_give_torchs_scores(model: RankTower, inputs: ScorerInputs) -> None:
    feeds = {
        "five arrays": (torch_graphs.row_major(model), inputs.arrays),
        "rows": (
            torch_graphs.row_major_from_rows(model, "float16"),
            {f"user_{name}": array for name, array in inputs.users.items()} | {"item_rows": inputs.item_rows},
        ),
    }
    for content, feed in feeds.values():
        (scores,) = open_graph(content).run(["scores"], feed)
        np.testing.assert_allclose(scores, inputs.expected, atol=1e-4)


def test_the_papers_graph_projects_the_stored_embeddings_itself(model: RankTower) -> None:
    single = make_inputs(model, 11, kind="embedding", dtype="float32")
    (scores,) = open_graph(torch_graphs.broadcast_user(model)).run(["scores"], single.embeddings)
    np.testing.assert_allclose(scores, single.expected, atol=1e-4)
