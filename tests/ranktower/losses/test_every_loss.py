"""What holds for every loss: padding, NaN in masked places, extremes, degenerate lists, gradients."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import pytest
import torch
from torch import Tensor

from ranktower.losses import (
    ListLoss,
    am_rankmax_loss,
    approx_ndcg_loss,
    contrastive_loss,
    distillation_loss,
    hybrid_loss,
    neural_sort_loss,
    pairwise_logloss,
    rankmax_loss,
    ranknet_loss,
    relaxed_recall_loss,
    softmax_loss,
    softsort_loss,
    weighted_logloss,
)


def hybrid_on_fixed_stages(scores: Tensor, labels: Tensor, *, mask: Tensor) -> Tensor:
    """The columns are impressions, ranking and pre-ranking candidates and random items in turn; p is label / 4."""
    stage = (torch.arange(scores.shape[1]) % 4).expand(scores.shape)
    return hybrid_loss(scores, labels, mask=mask, teacher_scores=labels / 4, stage=stage)


def weighted_on_probabilities(scores: Tensor, labels: Tensor, *, mask: Tensor) -> Tensor:
    """p = label / 4: the loss is defined, and at least 0, for p in [0, 1]."""
    return weighted_logloss(scores, labels / 4, mask=mask, positive_weight=3.0)


LOSSES: dict[str, ListLoss] = {
    "distillation": distillation_loss,
    "distillation, normalized": partial(distillation_loss, normalize=True),
    "softsort": softsort_loss,
    "softsort, other distance and taus": partial(softsort_loss, power=1.5, label_tau=0.5, score_tau=3.0),
    "rankmax": rankmax_loss,
    "am_rankmax": am_rankmax_loss,
    "am_rankmax, label distance": partial(am_rankmax_loss, alpha=3.0, beta=0.5, power=2.0),
    "softmax": softmax_loss,
    "approx_ndcg": approx_ndcg_loss,
    "approx_ndcg, exponential": partial(approx_ndcg_loss, temperature=1.0, gain="exponential"),
    "ranknet": ranknet_loss,
    "weighted_logloss": weighted_on_probabilities,
    "pairwise_logloss": pairwise_logloss,
    "contrastive": contrastive_loss,
    "neural_sort": neural_sort_loss,
    "neural_sort, other temperature": partial(neural_sort_loss, temperature=0.3),
    "relaxed_recall": relaxed_recall_loss,
    "relaxed_recall, short": partial(relaxed_recall_loss, num_kept=3, num_relevant=2, temperature=0.3),
    "hybrid": hybrid_on_fixed_stages,
}
every_loss = pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES.keys())

# With a single item: losses that are certain of it (one item is the whole softmax, there is no one to be ranked above).
ZERO_ON_ONE_ITEM = set(LOSSES) - {"weighted_logloss"}


def value_and_gradient(loss: ListLoss, scores: Tensor, labels: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    leaf = scores.detach().clone().requires_grad_()
    value = loss(leaf, labels, mask=mask)
    assert value.shape == ()
    value.backward()
    assert leaf.grad is not None
    return value.detach(), leaf.grad


@every_loss
@pytest.mark.parametrize("seed", range(3))
def test_gradient_agrees_with_finite_differences(loss: ListLoss, seed: int, make_lists: Callable[..., tuple]) -> None:
    scores, labels, mask = make_lists(seed)
    # torch.autograd.gradcheck differences with a step of 1e-6; no two scores may be that close to a kink.
    assert torch.autograd.gradcheck(lambda z: loss(z, labels, mask=mask), (scores.requires_grad_(),))


@every_loss
def test_longer_padding_changes_nothing(loss: ListLoss, make_lists: Callable[..., tuple]) -> None:
    scores, labels, mask = make_lists(11)
    value, gradient = value_and_gradient(loss, scores, labels, mask)
    padded = [torch.cat([x, torch.full((6, 4), fill).to(x)], dim=1) for x, fill in ((scores, 9.0), (labels, 3.0))]
    padded_mask = torch.cat([mask, torch.zeros(6, 4, dtype=torch.bool)], dim=1)
    padded_value, padded_gradient = value_and_gradient(loss, *padded, padded_mask)
    torch.testing.assert_close(padded_value, value, rtol=1e-12, atol=0)
    torch.testing.assert_close(padded_gradient[:, :9], gradient, rtol=1e-12, atol=1e-15)
    assert torch.equal(padded_gradient[:, 9:], torch.zeros(6, 4, dtype=torch.float64))


@every_loss
@pytest.mark.parametrize("garbage", [float("nan"), float("inf"), float("-inf"), 1e30])
def test_what_stands_in_masked_places_changes_nothing(
    loss: ListLoss, garbage: float, make_lists: Callable[..., tuple]
) -> None:
    scores, labels, mask = make_lists(5)
    value, gradient = value_and_gradient(loss, scores, labels, mask)
    dirty_scores, dirty_labels = scores.masked_fill(~mask, garbage), labels.masked_fill(~mask, garbage)
    dirty_value, dirty_gradient = value_and_gradient(loss, dirty_scores, dirty_labels, mask)
    assert torch.equal(dirty_value, value)
    assert torch.equal(dirty_gradient, gradient)
    assert not dirty_gradient[~mask].any()


@every_loss
def test_a_nan_score_of_a_real_item_is_not_hidden(loss: ListLoss) -> None:
    scores = torch.tensor([[0.5, float("nan"), 1.0, 2.0, 0.0]])
    labels = torch.tensor([[2.0, 1.0, 0.0, 0.0, 3.0]])
    assert loss(scores, labels, mask=torch.ones(1, 5, dtype=torch.bool)).isnan()


@every_loss
@pytest.mark.parametrize("scale", [1e2, 1e4])
def test_extreme_scores_stay_finite_in_float32(loss: ListLoss, scale: float, make_lists: Callable[..., tuple]) -> None:
    scores, labels, mask = make_lists(7)
    signs = scores.sign()
    best_first = torch.where(labels > 0, 1.0, -1.0)
    for extreme in (signs, best_first, -best_first, torch.ones_like(scores), scores / scores.abs().max()):
        value, gradient = value_and_gradient(loss, (scale * extreme).float(), labels.float(), mask)
        assert value.dtype == torch.float32
        assert value.isfinite()
        assert value >= -1e-6
        assert gradient.isfinite().all()


@every_loss
def test_float32_agrees_with_float64(loss: ListLoss, make_lists: Callable[..., tuple]) -> None:
    scores, labels, mask = make_lists(13)
    value, gradient = value_and_gradient(loss, scores, labels, mask)
    value32, gradient32 = value_and_gradient(loss, scores.float(), labels.float(), mask)
    torch.testing.assert_close(value32.double(), value, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient32.double(), gradient, rtol=1e-4, atol=1e-5)


@every_loss
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_computed_in_float32(
    loss: ListLoss, dtype: torch.dtype, make_lists: Callable[..., tuple]
) -> None:
    scores, labels, mask = make_lists(17)
    half = (100 * scores).to(dtype)  # squared distances beyond float16's 65504
    value, gradient = value_and_gradient(loss, half, labels, mask)
    torch.testing.assert_close(value, loss(half.float(), labels.float(), mask=mask))
    assert gradient.dtype == dtype


@every_loss
@pytest.mark.parametrize("level", [0.0, 2.0])
def test_all_equal_labels_and_all_equal_scores(loss: ListLoss, level: float) -> None:
    scores, labels = torch.full((2, 7), 0.3), torch.full((2, 7), level)
    value, gradient = value_and_gradient(loss, scores, labels, torch.ones(2, 7, dtype=torch.bool))
    assert value.isfinite()
    assert gradient.isfinite().all()


@pytest.mark.parametrize(
    "name",
    [
        "rankmax",
        "am_rankmax",
        "softmax",
        "approx_ndcg",
        "ranknet",
        "pairwise_logloss",
        "contrastive",
        "relaxed_recall",
    ],
)
def test_no_positive_gives_zero_that_can_be_differentiated(name: str) -> None:
    value, gradient = value_and_gradient(
        LOSSES[name], torch.randn(3, 4), torch.zeros(3, 4), torch.ones(3, 4, dtype=torch.bool)
    )
    assert value == 0
    assert not gradient.any()


@pytest.mark.parametrize("name", sorted(ZERO_ON_ONE_ITEM))
@pytest.mark.parametrize("label", [0.0, 1.0])
def test_one_item_alone_cannot_be_ranked_wrongly(name: str, label: float) -> None:
    scores, labels = torch.tensor([[float("nan"), -3.0]]), torch.tensor([[5.0, label]])
    value, gradient = value_and_gradient(LOSSES[name], scores, labels, torch.tensor([[False, True]]))
    assert value == pytest.approx(0, abs=1e-6)
    torch.testing.assert_close(gradient, torch.zeros(1, 2), rtol=0, atol=1e-6)


@every_loss
@pytest.mark.parametrize("shape", [(3, 4), (3, 0), (0, 4), (0, 0)])
def test_nothing_but_padding_gives_zero_that_can_be_differentiated(loss: ListLoss, shape: tuple[int, int]) -> None:
    scores, labels = torch.full(shape, float("nan")), torch.full(shape, float("nan"))
    value, gradient = value_and_gradient(loss, scores, labels, torch.zeros(shape, dtype=torch.bool))
    assert value == 0
    assert gradient.shape == shape
    assert not gradient.any()


@every_loss
def test_no_nan_is_made_on_the_way_back(loss: ListLoss, make_lists: Callable[..., tuple]) -> None:
    scores, labels, mask = make_lists(5)  # the fourth list is all masked
    with torch.autograd.set_detect_anomaly(True):
        value_and_gradient(loss, scores.masked_fill(~mask, float("nan")), labels, mask)


@every_loss
def test_lists_that_do_not_count_are_not_in_the_mean(loss: ListLoss, make_lists: Callable[..., tuple]) -> None:
    scores, labels, mask = make_lists(19)
    alone = loss(scores[:1], labels[:1], mask=mask[:1])
    with_empty = loss(scores[[3, 0, 3]], labels[[3, 0, 3]], mask=mask[[3, 0, 3]])
    torch.testing.assert_close(with_empty, alone, rtol=1e-12, atol=0)
    twice = loss(scores[[0, 0]], labels[[0, 0]], mask=mask[[0, 0]])
    torch.testing.assert_close(twice, alone, rtol=1e-12, atol=0)


@every_loss
def test_order_of_items_and_of_lists_does_not_matter(loss: ListLoss, make_lists: Callable[..., tuple]) -> None:
    scores, labels, mask = make_lists(23)
    value, gradient = value_and_gradient(loss, scores, labels, mask)
    rows = torch.tensor([5, 0, 2, 4, 1, 3])
    columns = torch.tensor([4, 5, 6, 7, 0, 1, 2, 3, 8])  # keeps every column in its stage
    shuffled = [x[rows][:, columns] for x in (scores, labels, mask)]
    shuffled_value, shuffled_gradient = value_and_gradient(loss, *shuffled)
    torch.testing.assert_close(shuffled_value, value, rtol=1e-12, atol=0)
    torch.testing.assert_close(shuffled_gradient, gradient[rows][:, columns], rtol=1e-10, atol=1e-14)


@every_loss
def test_labels_get_no_gradient_and_inputs_are_not_changed(loss: ListLoss, make_lists: Callable[..., tuple]) -> None:
    scores, labels, mask = make_lists(29)
    before = scores.clone(), labels.clone(), mask.clone()
    labels.requires_grad_()
    loss(scores.requires_grad_(), labels, mask=mask).backward()
    assert labels.grad is None
    assert all(torch.equal(now, then) for now, then in zip((scores, labels, mask), before, strict=True))


@every_loss
def test_integer_labels_are_taken(loss: ListLoss, make_lists: Callable[..., tuple]) -> None:
    scores, labels, mask = make_lists(31)
    torch.testing.assert_close(loss(scores, labels.long(), mask=mask), loss(scores, labels, mask=mask))


@every_loss
def test_wrong_shapes_and_masks_are_refused(loss: ListLoss) -> None:
    scores, mask = torch.zeros(2, 4), torch.ones(2, 4, dtype=torch.bool)
    with pytest.raises(ValueError, match=r"one shape \[B, L\]: scores \[2, 4\], labels \[2, 1\], mask \[2, 4\]"):
        loss(scores, torch.zeros(2, 1), mask=mask)
    with pytest.raises(ValueError, match=r"one shape \[B, L\]: scores \[2, 4\], labels \[2, 4\], mask \[4\]"):
        loss(scores, scores, mask=mask[0])
    with pytest.raises(ValueError, match=r"mask must be boolean, True = a real item: its dtype is torch\.float32"):
        loss(scores, scores, mask=mask.float())
