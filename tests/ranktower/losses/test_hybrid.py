from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from ranktower.errors import ConfigError
from ranktower.losses import (
    HybridOptions,
    approx_ndcg_loss,
    hybrid_loss,
    hybrid_parts,
    pairwise_logloss,
    rankmax_loss,
    ranknet_loss,
    softmax_loss,
    weighted_logloss,
)
from ranktower.losses import hybrid as hybrid_module

IMPRESSION, RANKING, PRERANKING, RANDOM = 0, 1, 2, 3


@pytest.fixture
def batch() -> dict[str, Tensor]:
    """Float64 lists of 12: the second has no teacher, the third is random, the fourth empty; NaN where masked."""
    generator = torch.Generator().manual_seed(1)
    stage = torch.randint(0, 4, (5, 12), generator=generator).to(torch.uint8)
    stage[2] = RANDOM
    labels = torch.where(stage == IMPRESSION, torch.randint(1, 4, (5, 12), generator=generator).double(), 0.0)
    p = torch.rand(5, 12, generator=generator, dtype=torch.float64)
    has_teacher = (stage == IMPRESSION) & (torch.rand(5, 12, generator=generator) < 0.8)
    has_teacher[1] = False
    mask = torch.rand(5, 12, generator=generator) < 0.8
    mask[3] = False
    nan = float("nan")
    return {
        "scores": torch.randn(5, 12, generator=generator, dtype=torch.float64).masked_fill(~mask, nan),
        "labels": labels.masked_fill(~mask, nan),
        "mask": mask,
        "teacher_scores": torch.where(has_teacher & mask, p, nan),
        "stage": stage.masked_fill(~mask, 255),
    }


def distillation(z: Sequence[float], p: Sequence[float]) -> float:
    normaliser = math.log(sum(math.exp(score) for score in z))
    return sum(weight * (normaliser - score) for score, weight in zip(z, p, strict=True))


def sorting(z: Sequence[float], y: Sequence[float]) -> float:
    total = 0.0
    for best_z, best_y in zip(sorted(z, reverse=True), sorted(y, reverse=True), strict=True):
        z_weights, y_weights = [math.exp(-((best_z - s) ** 2)) for s in z], [math.exp(-((best_y - s) ** 2)) for s in y]
        total -= sum(
            b / sum(y_weights) * math.log(a / sum(z_weights)) for a, b in zip(z_weights, y_weights, strict=True)
        )
    return total


def margin_ranking(z: Sequence[float], y: Sequence[float], alpha: float = 2.0) -> float:
    total = 0.0
    for z_j, y_j in zip(z, y, strict=True):
        below = [(z_i, y_i) for z_i, y_i in zip(z, y, strict=True) if y_i < y_j]
        total += math.log1p(sum(max(z_i - z_j + 1 + alpha * (y_i == 0), 0) for z_i, y_i in below)) if y_j > 0 else 0.0
    return total


def expected_parts(batch: dict[str, Tensor]) -> tuple[float, float, float]:
    parts: tuple[list[float], list[float], list[float]] = ([], [], [])
    rows = zip(*(batch[name].tolist() for name in ("scores", "labels", "mask", "teacher_scores", "stage")), strict=True)
    for row in rows:
        items = [item for item in zip(*row, strict=True) if item[2]]
        taught = [(z, p) for z, _, _, p, stage in items if stage == IMPRESSION and not math.isnan(p)]
        shown = [(z, y) for z, y, _, _, stage in items if stage in (IMPRESSION, RANKING, PRERANKING)]
        everything = [(z, y) for z, y, _, _, _ in items]
        if taught:
            parts[0].append(distillation(*zip(*taught, strict=True)))
        if shown:
            parts[1].append(sorting(*zip(*shown, strict=True)))
        if any(y > 0 for _, y in everything):
            parts[2].append(margin_ranking(*zip(*everything, strict=True)))
    return tuple(sum(part) / len(part) for part in parts)


def test_every_part_is_its_own_loss_on_its_own_stages(batch: dict[str, Tensor]) -> None:
    parts = hybrid_parts(**batch)
    found = (parts.distillation.item(), parts.fine.item(), parts.coarse.item())
    assert found == pytest.approx(expected_parts(batch), rel=1e-12)
    assert parts.total.item() == pytest.approx(sum(found), rel=1e-12)


def test_the_total_is_the_weighted_sum_and_the_parts_are_not_weighted(batch: dict[str, Tensor]) -> None:
    options = HybridOptions(distillation_weight=0.5, fine_weight=2.0, coarse_weight=3.0)
    parts = hybrid_parts(**batch, options=options)
    first, second, third = expected_parts(batch)
    assert parts.coarse.item() == pytest.approx(third, rel=1e-12)
    assert parts.total.item() == pytest.approx(0.5 * first + 2 * second + 3 * third, rel=1e-12)
    assert hybrid_loss(**batch, options=options) == parts.total


def test_gradient_agrees_with_finite_differences(batch: dict[str, Tensor]) -> None:
    scores = batch.pop("scores").nan_to_num(0.0).requires_grad_()
    assert torch.autograd.gradcheck(lambda z: hybrid_loss(z, **batch), (scores,))


def test_gradient_is_finite_and_zero_in_masked_places(batch: dict[str, Tensor]) -> None:
    scores = batch.pop("scores").requires_grad_()
    hybrid_loss(scores, **batch).backward()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()
    assert not scores.grad[~batch["mask"]].any()
    assert scores.grad[batch["mask"]].any()


def test_random_items_are_outside_the_fine_part_and_candidates_inside(batch: dict[str, Tensor]) -> None:
    for stage, moved in ((RANDOM, "coarse"), (RANKING, "both"), (PRERANKING, "both")):
        changed = dict(batch, scores=batch["scores"] + 0.7 * (batch["stage"] == stage))
        before, after = hybrid_parts(**batch), hybrid_parts(**changed)
        assert before.distillation == after.distillation
        assert (before.fine != after.fine) == (moved == "both")
        assert before.coarse != after.coarse


def test_a_teacher_score_off_the_impressions_is_not_used(batch: dict[str, Tensor]) -> None:
    everywhere = torch.where(batch["stage"] != IMPRESSION, 0.9, batch["teacher_scores"])
    assert hybrid_loss(**dict(batch, teacher_scores=everywhere)) == hybrid_loss(**batch)


def test_no_teacher_at_all_leaves_the_other_parts(batch: dict[str, Tensor]) -> None:
    parts = hybrid_parts(**dict(batch, teacher_scores=torch.full((5, 12), float("nan"))))
    assert parts.distillation == 0
    assert parts.total == parts.fine + parts.coarse


@pytest.mark.parametrize("left_out", ["distillation", "fine", "coarse"])
def test_a_weight_of_zero_leaves_its_part_out(batch: dict[str, Tensor], left_out: str) -> None:
    options = dataclasses.replace(HybridOptions(), **{f"{left_out}_weight": 0.0})
    parts, whole = hybrid_parts(**batch, options=options), hybrid_parts(**batch)
    assert getattr(parts, left_out) == 0
    assert parts.total.item() == pytest.approx((whole.total - getattr(whole, left_out)).item())


@pytest.mark.parametrize(
    ("name", "loss"),
    [
        ("softmax", softmax_loss),
        ("rankmax", rankmax_loss),
        ("approx_ndcg", approx_ndcg_loss),
        ("ranknet", ranknet_loss),
    ],
)
def test_alternatives_of_table_3(batch: dict[str, Tensor], name: str, loss: object) -> None:
    parts = hybrid_parts(**batch, options=HybridOptions(coarse=name, fine_weight=0.0))
    assert parts.coarse == loss(batch["scores"], batch["labels"], mask=batch["mask"])


def test_alternatives_of_table_4(batch: dict[str, Tensor]) -> None:
    teacher, taught = batch["teacher_scores"], ~batch["teacher_scores"].isnan()
    pairwise = hybrid_parts(**batch, options=HybridOptions(distillation="pairwise_logloss"))
    assert pairwise.distillation == pairwise_logloss(batch["scores"], teacher, mask=taught)
    weighted = hybrid_parts(**batch, options=HybridOptions(distillation="weighted_logloss", positive_weight=2.0))
    assert weighted.distillation == weighted_logloss(batch["scores"], teacher, mask=taught, positive_weight=2.0)


@pytest.mark.parametrize(
    "changed",
    [
        {"normalize_teacher": True},
        {"softsort_power": 1.0},
        {"label_tau": 0.5},
        {"score_tau": 2.0},
        {"alpha": 4.0},
        {"beta": 0.5},
    ],
)
def test_every_option_reaches_its_loss(batch: dict[str, Tensor], changed: dict[str, float]) -> None:
    assert hybrid_loss(**batch, options=HybridOptions(**changed)) != hybrid_loss(**batch)


def test_the_margins_power_reaches_its_loss(batch: dict[str, Tensor]) -> None:
    one, two = (hybrid_loss(**batch, options=HybridOptions(beta=0.5, margin_power=power)) for power in (1.0, 2.0))
    assert one != two


@pytest.mark.parametrize("shape", [(2, 3), (2, 0), (0, 3)])
def test_nothing_but_padding_gives_zero_that_can_be_differentiated(shape: tuple[int, int]) -> None:
    nothing = torch.full(shape, float("nan"))
    scores = nothing.clone().requires_grad_()
    value = hybrid_loss(
        scores,
        nothing,
        mask=torch.zeros(shape, dtype=torch.bool),
        teacher_scores=nothing,
        stage=torch.zeros(shape, dtype=torch.uint8),
    )
    value.backward()
    assert value == 0
    assert scores.grad is not None
    assert not scores.grad.any()


def test_extremes_stay_finite_in_float32(batch: dict[str, Tensor]) -> None:
    floats = {name: x.float() if x.is_floating_point() else x for name, x in batch.items()}
    scores = (1e4 * floats.pop("scores").sign()).requires_grad_()
    value = hybrid_loss(scores, **floats)
    value.backward()
    assert value.isfinite()
    assert scores.grad is not None
    assert scores.grad.isfinite().all()


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({"fine_weight": -1.0}, r"hybrid loss fine_weight must be finite and not negative, got -1\.0"),
        ({"coarse_weight": float("nan")}, "hybrid loss coarse_weight must be finite and not negative, got nan"),
        (
            {"distillation": "mse"},
            "hybrid loss distillation must be one of softmax, weighted_logloss, pairwise_logloss, got 'mse'",
        ),
        (
            {"coarse": "hinge"},
            "hybrid loss coarse must be one of am_rankmax, rankmax, softmax, approx_ndcg, ranknet, got 'hinge'",
        ),
        ({"alpha": -1.0}, r"am_rankmax alpha must not be negative, got -1\.0"),
        ({"margin_power": 0.0}, r"am_rankmax power must be positive, got 0\.0"),
        ({"softsort_power": 0.5}, r"softsort power must be at least 1, got 0\.5"),
        ({"score_tau": 0.0}, r"softsort score_tau must be positive, got 0\.0"),
        ({"positive_weight": -2.0}, r"weighted_logloss positive_weight must be positive, got -2\.0"),
    ],
)
def test_options_that_make_no_sense_are_named(options: dict[str, object], text: str) -> None:
    with pytest.raises(ConfigError, match=f"^{text}$"):
        HybridOptions(**options)


def test_a_stage_of_the_wrong_kind_is_refused(batch: dict[str, Tensor]) -> None:
    with pytest.raises(ValueError, match=r"stage is torch\.float32 \[5, 12\], scores are \[5, 12\]"):
        hybrid_loss(**dict(batch, stage=batch["stage"].float()))
    with pytest.raises(ValueError, match=r"stage is torch\.uint8 \[12\], scores are \[5, 12\]"):
        hybrid_loss(**dict(batch, stage=batch["stage"][0]))


def test_the_stages_are_those_of_the_tables() -> None:
    tables = pytest.importorskip("ranktower.data.tables")
    stages = ("IMPRESSION", "RANKING_CANDIDATE", "PRERANKING_CANDIDATE", "RANDOM")
    assert [getattr(hybrid_module, name) for name in stages] == [tables.STAGES.index(name.lower()) for name in stages]
