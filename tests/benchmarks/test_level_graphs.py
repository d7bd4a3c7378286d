"""The maximum similarity without LayerNorm, which was measured beside the kept one, is what its name says."""

from __future__ import annotations

import numpy as np
import torch
from graph_edits import edited
from level_graphs import WITHOUT_LAYER_NORM
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
