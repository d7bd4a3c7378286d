"""What holds for every pre-ranker that a configuration can name."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from offline.train import run_training
from ranktower.blocks import FieldSizes, SideFeatures
from ranktower.data.dataset import PreparedDataset
from ranktower.losses import HybridOptions, hybrid_loss
from ranktower.models import EncodedLists, ModelConfig, PreRanker, build_model
from ranktower.models.choice import _MODELS
from ranktower.models.pre_ranker import Rows
from ranktower.training.checkpoint import load_tensors, save_tensors
from ranktower.training.config import POOLS, TrainConfig
from ranktower.training.evaluation import EvaluationOptions, ModelScorer, evaluate
from ranktower.training.run import RunFolder, load_run, read_metrics

# From the union itself, so that no model can be forgotten.
CONFIGS: dict[str, Any] = {
    config.name: config for config in (get_args(member)[0]() for member in get_args(get_args(ModelConfig)[0]))
}
# Of a model that has its own.
NO_RANKING_LOSS = HybridOptions(fine_weight=0.0, coarse_weight=0.0)
every_model = pytest.mark.parametrize("name", CONFIGS)

Build = Callable[[Any], PreRanker]
MakeLists = Callable[[PreRanker], EncodedLists]


@pytest.fixture
def build(user_sizes: FieldSizes, item_sizes: FieldSizes) -> Build:
    """A model in float64, away from its initial weights, of which some are 0 and would hide a mistake."""

    def make(config: Any) -> PreRanker:
        torch.manual_seed(7)
        model = build_model(config, user_sizes, item_sizes).double().eval()
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.add_(0.1 * torch.randn_like(parameter))
        return model

    return make


@pytest.fixture
def make_lists(encode: Callable[..., EncodedLists]) -> MakeLists:
    """Six lists of up to seven of nine items, the second list full, the third empty."""

    def make(model: PreRanker) -> EncodedLists:
        generator = torch.Generator().manual_seed(3)
        lengths = torch.tensor([5, 7, 0, 4, 6, 1])
        mask = torch.arange(7) < lengths.unsqueeze(1)
        labels = torch.randint(4, (6, 7), generator=generator).double()
        places = torch.where(mask, torch.randint(9, (6, 7), generator=generator), 0)
        return encode(model, places, labels, mask, stage=torch.randint(4, (6, 7), generator=generator))

    return make


def whole_loss(model: PreRanker, lists: EncodedLists, *, fill: float | None = None) -> Tensor:
    """The loss that a step of training takes, with the scores of masked places set to ``fill``.

    With a distillation that asks for probabilities: what moves all scores of a list alike has no part in the others.
    """
    scores = model.score_pairs(lists.users, lists.item_lists())
    if fill is not None:
        scores = scores.masked_fill(~lists.mask, fill)
    options = HybridOptions(distillation="weighted_logloss")
    hybrid = hybrid_loss(
        scores, lists.labels, mask=lists.mask, teacher_scores=lists.labels / 4, stage=lists.stage, options=options
    )
    return hybrid + model.auxiliary_loss(lists, scores)


def gradients(model: PreRanker, loss: Tensor) -> dict[str, Tensor]:
    model.zero_grad(set_to_none=True)
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def one_by_one(rows: Rows, place: int) -> Rows:
    return tuple(array[place : place + 1] for array in rows)


def test_the_union_and_the_table_of_models_agree() -> None:
    members = [get_args(member) for member in get_args(get_args(ModelConfig)[0])]
    assert [config.model_fields["name"].default for config, _ in members] == [tag.tag for _, tag in members]
    assert {config for config, _ in members} == set(_MODELS)
    assert [config.__name__ for config in _MODELS] == [f"{model.__name__}Config" for model in _MODELS.values()]


@every_model
def test_a_side_gives_rows_and_pairs_give_logits(name: str, build: Build, make_lists: MakeLists) -> None:
    model = build(CONFIGS[name])
    lists = make_lists(model)
    assert {len(array) for array in lists.users} == {6}
    assert {len(array) for array in lists.items} == {11}
    scores = model.score_pairs(lists.users, lists.item_lists())
    assert scores.shape == (6, 7)
    assert scores.dtype == torch.float64
    assert model.auxiliary_loss(lists, scores).shape == ()


@every_model
def test_gradients_reach_every_parameter(name: str, build: Build, make_lists: MakeLists) -> None:
    model = build(CONFIGS[name])
    reached = {key for key, value in gradients(model, whole_loss(model, make_lists(model))).items() if value.any()}
    assert {key for key, _ in model.named_parameters()} - reached == set()


@every_model
def test_the_same_seed_gives_the_same_scores(name: str, build: Build, make_lists: MakeLists) -> None:
    first, second = build(CONFIGS[name]), build(CONFIGS[name])
    assert torch.equal(whole_loss(first, make_lists(first)), whole_loss(second, make_lists(second)))


@every_model
def test_a_saved_model_loads_to_the_same_scores(
    name: str, build: Build, make_lists: MakeLists, user_sizes: FieldSizes, item_sizes: FieldSizes, tmp_path: Path
) -> None:
    model = build(CONFIGS[name])
    save_tensors(tmp_path / "model.safetensors", dict(model.state_dict()), {})
    loaded = build_model(CONFIGS[name], user_sizes, item_sizes).double().eval()
    loaded.load_state_dict(load_tensors(tmp_path / "model.safetensors")[0])
    assert torch.equal(whole_loss(loaded, make_lists(loaded)), whole_loss(model, make_lists(model)))


@every_model
def test_a_list_scores_like_its_items_one_by_one(
    name: str, build: Build, user_features: SideFeatures, item_features: SideFeatures
) -> None:
    model = build(CONFIGS[name])
    users, items = model.encode_users(user_features), model.encode_items(item_features)
    together = model.score_pairs(users, tuple(array.expand(6, *array.shape) for array in items))
    for b in range(6):
        for j in range(11):
            alone = model.score_pairs(one_by_one(users, b), tuple(a.unsqueeze(0) for a in one_by_one(items, j)))
            torch.testing.assert_close(alone[0, 0], together[b, j], rtol=1e-9, atol=1e-9)


def other_items_in_the_padding(lists: EncodedLists) -> EncodedLists:
    """Items 9 and 10 stand in no list; now all of the padding is made of them, as if they were in the batch for it."""
    places = torch.where(lists.mask, lists.places, 9 + torch.arange(7) % 2)
    return replace(lists, places=places, stage=torch.where(lists.mask, lists.stage, 3 - lists.stage))


def longer_padding(lists: EncodedLists) -> EncodedLists:
    wider = {
        key: nn.functional.pad(getattr(lists, key), (0, 3), value=value)
        for key, value in (("places", 4), ("labels", 0), ("stage", 2), ("mask", False))
    }
    return replace(lists, **wider)


@every_model
@pytest.mark.parametrize("change", [other_items_in_the_padding, longer_padding])
def test_padding_has_no_influence(
    name: str, change: Callable[[EncodedLists], EncodedLists], build: Build, make_lists: MakeLists
) -> None:
    model = build(CONFIGS[name])
    loss, changed = whole_loss(model, make_lists(model)), whole_loss(model, change(make_lists(model)))
    torch.testing.assert_close(changed, loss, rtol=1e-9, atol=0)
    torch.testing.assert_close(gradients(model, changed), gradients(model, loss), rtol=1e-7, atol=1e-10)


@every_model
@pytest.mark.parametrize("fill", [float("nan"), float("inf"), -1e30])
def test_scores_of_padding_have_no_influence(name: str, fill: float, build: Build, make_lists: MakeLists) -> None:
    model = build(CONFIGS[name])
    loss, filled = whole_loss(model, make_lists(model)), whole_loss(model, make_lists(model), fill=fill)
    assert torch.equal(filled, loss)
    torch.testing.assert_close(gradients(model, filled), gradients(model, loss), rtol=1e-9, atol=1e-12)


@every_model
def test_rows_of_nan_in_the_padding_leave_the_loss_as_it_is(name: str, build: Build, make_lists: MakeLists) -> None:
    model = build(CONFIGS[name])
    lists = make_lists(model)
    unreadable = torch.arange(11) >= 9
    items = tuple(array.detach().clone() for array in lists.items)
    for array in items:
        array[unreadable] = torch.nan
    torch.testing.assert_close(
        whole_loss(model, other_items_in_the_padding(replace(lists, items=items))),
        whole_loss(model, lists),
        rtol=1e-9,
        atol=0,
    )


@every_model
@pytest.mark.parametrize("value", [0.0, 1e4])
def test_loss_and_gradients_are_finite_at_extremes(
    name: str, value: float, build: Build, make_lists: MakeLists
) -> None:
    """In float32, in which models are trained, with every embedding at one size and of random signs."""
    model = build(CONFIGS[name]).float()
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Embedding):
                module.weight.copy_(value * torch.randn_like(module.weight).sign())
    lists = make_lists(model)
    loss = whole_loss(model, lists)
    if value:
        of_one_list = model.score_pairs(lists.users, lists.item_lists())[1]
        assert len(of_one_list.unique()) == len(lists.places[1].unique()) > 1
    assert loss.isfinite()
    assert {key for key, gradient in gradients(model, loss).items() if not gradient.isfinite().all()} == set()


@pytest.mark.parametrize("name", [name for name, config in CONFIGS.items() if "dropout" in type(config).model_fields])
def test_dropout_is_drawn_in_training_alone(name: str, build: Build, make_lists: MakeLists) -> None:
    plain, model = build(CONFIGS[name]), build(CONFIGS[name].model_copy(update={"dropout": 0.5}))

    def drawn(seed: int) -> Tensor:
        torch.manual_seed(seed)
        return whole_loss(model, make_lists(model))

    # By their order: a layer of dropout shifts the numbers in the names of those behind it.
    model.load_state_dict(dict(zip(model.state_dict(), plain.state_dict().values(), strict=True)))
    assert torch.equal(drawn(1), whole_loss(plain, make_lists(plain)))
    model.train()
    assert torch.equal(drawn(1), drawn(1))
    assert not torch.equal(drawn(1), drawn(2))


@every_model
def test_a_configuration_comes_back_from_its_file(name: str, tmp_path: Path) -> None:
    config = TrainConfig(model=CONFIGS[name], loss=NO_RANKING_LOSS if name == "arf" else HybridOptions())
    config.dump(tmp_path / "config.yaml")
    loaded = TrainConfig.load(tmp_path / "config.yaml")
    assert type(loaded.model) is type(CONFIGS[name])
    assert loaded == config
    assert loaded.digest() == config.digest()


@every_model
def test_a_trained_model_is_the_one_that_was_validated(
    name: str, simulated: PreparedDataset, small_config: TrainConfig, trained_run: Path, tmp_path: Path
) -> None:
    """One epoch on real lists; read back, the model ranks as it did in training, and in both pools."""
    content = small_config.model_dump(exclude={"model", "loss"}, exclude_unset=True)
    loss = NO_RANKING_LOSS if name == "arf" else small_config.loss
    config = TrainConfig.model_validate({**content, "model": CONFIGS[name], "loss": loss, "max_epochs": 1})
    folder = RunFolder(tmp_path)
    for shared in (RunFolder(trained_run).retrieval, RunFolder(trained_run).candidates):
        shutil.copy(shared, tmp_path)
    run_training(simulated, config, folder, device=torch.device("cpu"), show_bar=False)

    score = ModelScorer.encode(load_run(tmp_path).model, simulated)
    again = evaluate(score, simulated, EvaluationOptions(split="validation", k=config.validation.k))
    assert again.ndcg == max(row["ndcg"] for row in read_metrics(folder)["validations"])
    for pool in POOLS:
        result = evaluate(score, simulated, EvaluationOptions(pool=pool, k=config.validation.k))
        assert result.num_users > 0
        assert 0 < result.ndcg < 1
