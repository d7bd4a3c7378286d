"""Full-stage sampling: what a list may hold, what it must, and that the draw is uniform and repeatable."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ranktower.data.dataset import TEST, TRAIN, UNUSED, VALIDATION, Interactions, PreparedDataset, Side
from ranktower.data.encoder import EncodedFeatures, FeatureEncoder, SideEncoder
from ranktower.data.feature_spec import FeatureSpec
from ranktower.data.sampling import FullStageSampler, ListBatch, SamplingOptions
from ranktower.errors import ConfigError

IMPRESSION, RANKING, PRERANKING, RANDOM = range(4)
Row = tuple[int, int, int, int, float]
"""(user, item, stage, split, feedback)."""


def dataset_of(rows: Sequence[Row], num_users: int, num_items: int) -> PreparedDataset:
    columns = [np.array(column) for column in zip(*sorted(rows), strict=True)] if rows else [np.empty(0)] * 5
    interactions = Interactions(
        user_row=columns[0].astype(np.int32),
        item_row=columns[1].astype(np.int32),
        stage=columns[2].astype(np.uint8),
        split=columns[3].astype(np.uint8),
        feedback=columns[4].astype(np.float32),
        # A score that tells the pair it belongs to.
        teacher_scores=((columns[0] * num_items + columns[1]) / 2**20).astype(np.float32),
        timestamp=np.zeros(len(rows), dtype=np.int64),
    )

    def side(count: int) -> Side:
        nothing = EncodedFeatures(codes=np.zeros((count, 0), dtype=np.int32), bags={}, lengths={})
        return Side(ids=np.array([str(row) for row in range(count)], dtype=object), features=nothing)

    return PreparedDataset(
        users=side(num_users),
        items=side(num_items),
        interactions=interactions,
        encoder=FeatureEncoder(user=SideEncoder(()), item=SideEncoder(())),
        spec=FeatureSpec(feedback={"click": 1.0}),
        info={},
    )


Entry = tuple[int, int, float, float]
"""(item, stage, label, teacher score) of one place of a list."""


def lists_of(batches: Sequence[ListBatch]) -> dict[int, list[Entry]]:
    """The lists by user, after a check that the padding is behind them and empty."""
    lists: dict[int, list[Entry]] = {}
    for batch in batches:
        assert batch.mask.any(axis=0).all(), "a column without a single item"
        for place, user in enumerate(batch.user_rows.tolist()):
            mask = batch.mask[place]
            count = int(mask.sum())
            assert mask[:count].all()
            assert not batch.item_rows[place, count:].any()
            assert not batch.labels[place, count:].any()
            assert np.isnan(batch.teacher_scores[place, count:]).all()
            columns = (batch.item_rows, batch.stage, batch.labels, batch.teacher_scores)
            assert user not in lists
            lists[user] = list(zip(*(column[place, :count].tolist() for column in columns), strict=True))
    return lists


def epoch(sampler: FullStageSampler, number: int = 0, batch_size: int = 3) -> dict[int, list[Entry]]:
    return lists_of(list(sampler.epoch(number, batch_size)))


def items_at(entries: list[Entry], *stages: int) -> list[int]:
    return [item for item, stage, _, _ in entries if stage in stages]


@st.composite
def worlds(draw: st.DrawFn) -> tuple[PreparedDataset, list[Row], SamplingOptions, np.ndarray[Any, Any] | None]:
    num_users, num_items = draw(st.integers(1, 5)), draw(st.integers(1, 25))
    pairs = draw(st.sets(st.tuples(st.integers(0, num_users - 1), st.integers(0, num_items - 1)), max_size=60))
    rows = []
    for user, item in sorted(pairs):
        stage = draw(st.sampled_from([IMPRESSION] * 6 + [RANKING, PRERANKING]))
        split = draw(st.sampled_from([TRAIN, TRAIN, TRAIN, VALIDATION, TEST, UNUSED]))
        feedback = draw(st.sampled_from([0.0, 0.0, 1.0])) if stage == IMPRESSION else 0.0
        rows.append((user, item, stage, TRAIN if stage != IMPRESSION and split != UNUSED else split, feedback))
    options = SamplingOptions(
        max_impressions=draw(st.integers(1, 12)),
        num_candidates=draw(st.integers(0, 6)),
        num_random=draw(st.integers(0, 30)),
        seed=draw(st.integers(0, 5)),
    )
    candidates = None
    if draw(st.booleans()):
        width = draw(st.integers(0, 8))
        entries = st.lists(st.integers(-1, num_items - 1), min_size=width, max_size=width)
        candidates = np.array(draw(st.lists(entries, min_size=num_users, max_size=num_users)), dtype=np.int32)
    return dataset_of(rows, num_users, num_items), rows, options, candidates


@settings(max_examples=150, deadline=None)
@given(world=worlds(), number=st.integers(0, 3), batch_size=st.integers(1, 7))
def test_every_list_is_what_the_method_says(world: Any, number: int, batch_size: int) -> None:
    dataset, rows, options, candidates = world
    logged_anywhere = any(stage != IMPRESSION and split == TRAIN for _, _, stage, split, _ in rows)
    lists = epoch(FullStageSampler(dataset, options, candidates), number, batch_size)
    shown = {user: [row for row in rows if row[0] == user and row[2:4] == (IMPRESSION, TRAIN)] for user in range(5)}
    assert set(lists) == {user for user, impressions in shown.items() if impressions}
    for user, entries in lists.items():
        feedback = {item: value for _, item, _, _, value in shown[user]}
        seen = {item for owner, item, _, split, _ in rows if owner == user and split == TRAIN}
        items = [item for item, *_ in entries]
        assert len(set(items)) == len(items)
        impressions = items_at(entries, IMPRESSION)
        positives = {item for item, value in feedback.items() if value > 0}
        assert positives <= set(impressions) <= set(feedback)
        assert len(impressions) == max(min(len(feedback), options.max_impressions), len(positives))
        picked = items_at(entries, RANKING, PRERANKING)
        if logged_anywhere:
            possible = {item for owner, item, stage, split, _ in rows if owner == user and split == TRAIN and stage > 0}
        elif candidates is not None:
            possible = {item for item in candidates[user].tolist() if item >= 0} - seen
            assert items_at(entries, PRERANKING) == picked
        else:
            possible = set()
        assert set(picked) <= possible
        assert len(picked) == min(len(possible), options.num_candidates)
        drawn = items_at(entries, RANDOM)
        free = set(range(len(dataset.items))) - seen - set(picked)
        assert set(drawn) <= free
        assert len(drawn) == min(len(free), options.num_random)
        for item, stage, label, teacher in entries:
            assert label == (feedback[item] + 1.0 if stage == IMPRESSION else 0.0)
            known = np.float32((user * len(dataset.items) + item) / 2**20)
            logged = stage == IMPRESSION or (logged_anywhere and stage != RANDOM)
            assert teacher == known if logged else np.isnan(teacher)
        order = [0 if stage == IMPRESSION else 2 if stage == RANDOM else 1 for _, stage, _, _ in entries]
        assert order == sorted(order)


def many_users(num_users: int = 40, num_items: int = 500, shown: int = 30) -> PreparedDataset:
    generator = np.random.default_rng(1)
    rows: list[Row] = []
    for user in range(num_users):
        for item in generator.permutation(num_items)[:shown].tolist():
            rows.append((user, item, IMPRESSION, int(generator.choice([0, 0, 1, 2])), float(generator.random() < 0.3)))
    return dataset_of(rows, num_users, num_items)


def assert_same(left: list[ListBatch], right: list[ListBatch]) -> None:
    assert len(left) == len(right)
    for one, other in zip(left, right, strict=True):
        for name in ("user_rows", "item_rows", "labels", "teacher_scores", "stage", "mask"):
            np.testing.assert_array_equal(getattr(one, name), getattr(other, name))


def test_types_and_shapes() -> None:
    batches = list(FullStageSampler(many_users(), SamplingOptions()).epoch(0, 16))
    assert [len(batch.user_rows) for batch in batches] == [16, 16, 8]
    for batch in batches:
        types = [batch.user_rows, batch.item_rows, batch.labels, batch.teacher_scores, batch.stage, batch.mask]
        assert [str(array.dtype) for array in types] == ["int32", "int32", "float32", "float32", "uint8", "bool"]
        assert {array.shape for array in types[1:]} == {(len(batch.user_rows), int(batch.mask.sum(axis=1).max()))}


def test_the_same_seed_and_epoch_give_the_same_batches() -> None:
    candidates = np.random.default_rng(0).integers(0, 500, (40, 50), dtype=np.int32)
    one, two = (FullStageSampler(many_users(), SamplingOptions(seed=3), candidates) for _ in range(2))
    list(two.epoch(0, 16))  # what was drawn before does not matter
    assert_same(list(one.epoch(4, 16)), list(two.epoch(4, 16)))


def test_other_seeds_and_epochs_give_others() -> None:
    dataset = many_users()
    draws = [
        np.concatenate([batch.item_rows.ravel() for batch in FullStageSampler(dataset, options).epoch(number, 40)])
        for options, number in ((SamplingOptions(), 0), (SamplingOptions(), 1), (SamplingOptions(seed=1), 0))
    ]
    assert len({draw.tobytes() for draw in draws}) == 3
    users = [next(FullStageSampler(dataset, SamplingOptions()).epoch(number, 40)).user_rows for number in (0, 1)]
    assert users[0].tolist() != users[1].tolist()
    assert sorted(users[0].tolist()) == sorted(users[1].tolist()) == list(range(40))


def test_an_epoch_can_be_taken_up_in_the_middle() -> None:
    sampler = FullStageSampler(many_users(), SamplingOptions())
    assert_same(list(sampler.epoch(2, 7))[4:], list(sampler.epoch(2, 7, first_batch=4)))
    assert list(sampler.epoch(2, 7, first_batch=6)) == []


@pytest.mark.parametrize(("batch_size", "batches"), [(1, 40), (7, 6), (8, 5), (40, 1), (64, 1)])
def test_num_batches(batch_size: int, batches: int) -> None:
    sampler = FullStageSampler(many_users(), SamplingOptions())
    assert sampler.num_users == 40
    assert sampler.num_batches(batch_size) == batches == len(list(sampler.epoch(0, batch_size)))


def test_a_data_set_without_training_impressions_has_no_batches() -> None:
    sampler = FullStageSampler(dataset_of([(0, 0, IMPRESSION, TEST, 1.0)], 2, 3), SamplingOptions())
    assert sampler.num_batches(4) == 0
    assert list(sampler.epoch(0, 4)) == []


def test_random_items_are_uniform_over_what_is_free() -> None:
    """Both ways of drawing: 8 of 60 free among 100 items (independent draws), of 12 free among 52 (the exact way)."""
    for seen, num_items in ((range(0, 80, 2), 100), (range(40), 52)):
        rows: list[Row] = [(0, item, IMPRESSION, TRAIN, 0.0) for item in seen]
        sampler = FullStageSampler(dataset_of(rows, 1, num_items), SamplingOptions(num_random=8))
        free = sorted(set(range(num_items)) - set(seen))
        counts = Counter(item for number in range(1500) for item in items_at(epoch(sampler, number)[0], RANDOM))
        share = 8 / len(free)
        # Five standard deviations of a binomial count.
        expected = np.full(len(free), 1500 * share)
        np.testing.assert_allclose(
            [counts[item] for item in free], expected, atol=5 * (1500 * share * (1 - share)) ** 0.5
        )


def test_capped_impressions_are_a_uniform_sample_beside_the_positives() -> None:
    rows: list[Row] = [(0, item, IMPRESSION, TRAIN, float(item < 3)) for item in range(13)]
    sampler = FullStageSampler(dataset_of(rows, 1, 13), SamplingOptions(max_impressions=8, num_random=0))
    counts = Counter(item for number in range(2000) for item in items_at(epoch(sampler, number)[0], IMPRESSION))
    assert [counts[item] for item in range(3)] == [2000] * 3
    np.testing.assert_allclose([counts[item] for item in range(3, 13)], 1000, atol=5 * (2000 * 0.25) ** 0.5)


def test_candidates_are_a_fresh_sample_of_the_retrieved() -> None:
    rows: list[Row] = [(0, 0, IMPRESSION, TRAIN, 1.0)]
    candidates = np.array([[9, 8, 0, 7, 6, -1, 9]], dtype=np.int32)
    sampler = FullStageSampler(dataset_of(rows, 1, 10), SamplingOptions(num_candidates=2, num_random=0), candidates)
    counts = Counter(item for number in range(2000) for item in items_at(epoch(sampler, number)[0], PRERANKING))
    assert set(counts) == {6, 7, 8, 9}
    np.testing.assert_allclose(list(counts.values()), 1000, atol=5 * (2000 * 0.25) ** 0.5)


def test_items_of_validation_and_test_are_drawn_like_any_other() -> None:
    rows: list[Row] = [
        (0, 0, IMPRESSION, TRAIN, 1.0),
        (0, 1, IMPRESSION, VALIDATION, 1.0),
        (0, 2, IMPRESSION, TEST, 1.0),
    ]
    candidates = np.array([[2, 0]], dtype=np.int32)
    sampler = FullStageSampler(dataset_of(rows, 1, 4), SamplingOptions(), candidates)
    entries = epoch(sampler)[0]
    assert items_at(entries, PRERANKING) == [2]
    assert sorted(items_at(entries, RANDOM)) == [1, 3]
    assert [label for item, _, label, _ in entries if item in (1, 2)] == [0.0, 0.0]


@pytest.mark.parametrize(
    ("candidates", "problem"),
    [
        (np.zeros((3, 2), dtype=np.int32), "candidates: expected one row for each of 2 users, got (3, 2)"),
        (np.zeros(2, dtype=np.int32), "candidates: expected one row for each of 2 users, got (2,)"),
        (np.array([[0], [4]], dtype=np.int32), "candidates: item row 4 of 4 items"),
    ],
)
def test_candidates_that_do_not_fit(candidates: np.ndarray[Any, Any], problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        FullStageSampler(dataset_of([(0, 0, IMPRESSION, TRAIN, 1.0)], 2, 4), SamplingOptions(), candidates)
    assert str(raised.value) == problem


@pytest.mark.parametrize(
    ("options", "problem"),
    [
        ({"max_impressions": 0}, "max_impressions: must be at least 1, got 0"),
        ({"num_candidates": -1}, "num_candidates: must be at least 0, got -1"),
        ({"num_random": -1}, "num_random: must be at least 0, got -1"),
        ({"seed": -1}, "seed: must be at least 0, got -1"),
    ],
)
def test_wrong_options(options: dict[str, int], problem: str) -> None:
    with pytest.raises(ConfigError) as raised:
        SamplingOptions(**options)
    assert str(raised.value) == problem
