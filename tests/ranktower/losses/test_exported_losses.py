from __future__ import annotations

import inspect

import pytest

from ranktower import losses

PUBLIC = {
    "HybridOptions",
    "HybridParts",
    "ListLoss",
    "am_rankmax_loss",
    "approx_ndcg_loss",
    "contrastive_loss",
    "distillation_loss",
    "hybrid_loss",
    "hybrid_parts",
    "neural_sort_loss",
    "pairwise_logloss",
    "rankmax_loss",
    "ranknet_loss",
    "relaxed_recall_loss",
    "softmax_loss",
    "softsort_loss",
    "weighted_logloss",
}


def test_the_exported_list_is_complete_sorted_and_nothing_else() -> None:
    assert set(losses.__all__) == PUBLIC
    assert list(losses.__all__) == sorted(losses.__all__)
    visible = {name for name, value in vars(losses).items() if not name.startswith("_") and not inspect.ismodule(value)}
    assert visible == PUBLIC


@pytest.mark.parametrize("name", sorted(name for name in PUBLIC if name.endswith(("_loss", "logloss"))))
def test_every_loss_has_the_signature_of_the_protocol(name: str) -> None:
    parameters = list(inspect.signature(getattr(losses, name)).parameters.values())
    assert parameters[0].name == "scores"
    assert parameters[1].name in {"labels", "teacher_scores"}
    assert parameters[2].name == "mask"
    assert all(parameter.kind is parameter.KEYWORD_ONLY for parameter in parameters[2:])
    required = {parameter.name for parameter in parameters if parameter.default is parameter.empty}
    beyond = {"stage", "teacher_scores"} if name == "hybrid_loss" else set()
    assert required == {parameters[0].name, parameters[1].name, "mask"} | beyond
    assert len(parameters) <= 6
