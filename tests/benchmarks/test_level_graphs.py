"""What is timed is what its name says."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from graph_edits import edited
from level_graphs import WITHOUT_LAYER_NORM, explain_cost, measure
from scorer_inputs import make_inputs, open_graph, varied_model

from model_export.level_graphs import build_level


def test_the_variant_is_the_similarity_of_the_stored_embeddings() -> None:
    model = varied_model()
    inputs = make_inputs(model, 37, kind="embedding", dtype="float16")
    graph = edited(build_level(model, "maxsim", dtype="float16"), WITHOUT_LAYER_NORM)
    (scores,) = open_graph(graph.SerializeToString()).run(["scores"], inputs.rows)
    user, items = (torch.from_numpy(side["embedding"]) for side in (inputs.users, inputs.items))
    with torch.no_grad():
        np.testing.assert_allclose(scores, model.similarity(user, items).numpy(), atol=1e-4)


def test_five_sessions_with_the_outputs_for_explain_and_five_without() -> None:
    found = explain_cost(9, repeats=2)
    assert len(found["with_us"]) == len(found["without_us"]) == 5
    assert found["with_to_without"] == pytest.approx(
        np.median(found["with_us"]) / np.median(found["without_us"]), abs=1e-4
    )
    assert found["largest_to_smallest_of_one_graph"] >= 1


def test_every_level_and_step_is_timed() -> None:
    names = {"scorer.onnx", "embedding_scorer.onnx", "maxsim.onnx", "maxsim without LayerNorm", "pooled.onnx"}
    assert set(measure(50, repeats=1)) == names | {"calibration", "mix"}
