"""Nothing of validation or test reaches a feature, a bin edge, a vocabulary, a history or a training list.

Two proofs. First, whatever is done to the rows of validation and test (labels, scores, times, items, rows taken out or
added), every byte that training sees stays the same; changes of training rows do show, so the comparison is not blind.
Second, a planted item, user and values that only validation, test or inactive users hold are nowhere to be found.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import polars as pl
import pytest

from ranktower.data.dataset import TEST, TRAIN, VALIDATION, Interactions, PreparedDataset
from ranktower.data.prepare import PrepareOptions, SortedTables, build_dataset, prepare, sort_tables, split_interactions
from ranktower.data.sampling import FullStageSampler, SamplingOptions
from ranktower.data.tables import Tables

OPTIONS = PrepareOptions(min_impressions=10, min_positives=0)
SAMPLING = SamplingOptions(max_impressions=12, num_candidates=4, num_random=10, seed=5)
CANARY_PRICE = 1e9

Change = Callable[[Interactions, np.random.Generator, int], Interactions]


def seen_by_training(dataset: PreparedDataset) -> dict[str, bytes]:
    """Every byte that training reads: the encoder, all codes and histories, the lists of two epochs."""
    seen = {"features.json": dataset.encoder.to_text().encode()}
    for name, side in (("users", dataset.users), ("items", dataset.items)):
        seen[f"{name}.codes"] = side.features.codes.tobytes()
        for bag in side.features.bags:
            seen[f"{name}.{bag}"] = side.features.bags[bag].tobytes() + side.features.lengths[bag].tobytes()
    width = 8
    candidates = np.random.default_rng(2).integers(0, len(dataset.items), (len(dataset.users), width), dtype=np.int32)
    sampler = FullStageSampler(dataset, SAMPLING, candidates)
    for epoch in range(2):
        for number, batch in enumerate(sampler.epoch(epoch, 8)):
            arrays = (batch.user_rows, batch.item_rows, batch.labels, batch.teacher_scores, batch.stage, batch.mask)
            seen[f"epoch {epoch} batch {number}"] = b"".join(array.tobytes() for array in arrays)
    return seen


@pytest.fixture(name="tables")
def tables_fixture(draw_tables: Callable[..., Tables]) -> Tables:
    return draw_tables()


@pytest.fixture(name="in_order")
def in_order_fixture(tables: Tables) -> SortedTables:
    return sort_tables(tables)


@pytest.fixture(name="interactions")
def interactions_fixture(tables: Tables, in_order: SortedTables) -> Interactions:
    return split_interactions(in_order, tables.interactions, OPTIONS)


def flip_labels(rows: Interactions, generator: np.random.Generator, num_items: int) -> Interactions:
    return replace(rows, feedback=np.where(rows.feedback > 0, 0, 3).astype(np.float32))


def other_scores(rows: Interactions, generator: np.random.Generator, num_items: int) -> Interactions:
    return replace(rows, teacher_scores=generator.random(len(rows)).astype(np.float32))


def other_times(rows: Interactions, generator: np.random.Generator, num_items: int) -> Interactions:
    return replace(rows, timestamp=generator.integers(-(10**12), 10**12, len(rows)))


def other_items(rows: Interactions, generator: np.random.Generator, num_items: int) -> Interactions:
    return replace(rows, item_row=generator.integers(0, num_items, len(rows)).astype(np.int32))


def permuted_items(rows: Interactions, generator: np.random.Generator, num_items: int) -> Interactions:
    return replace(rows, item_row=generator.permutation(rows.item_row))


def other_users(rows: Interactions, generator: np.random.Generator, num_items: int) -> Interactions:
    return replace(rows, user_row=generator.permutation(rows.user_row))


def swapped_splits(rows: Interactions, generator: np.random.Generator, num_items: int) -> Interactions:
    return replace(rows, split=np.where(rows.split == TEST, VALIDATION, TEST).astype(np.uint8))


def none_left(rows: Interactions, generator: np.random.Generator, num_items: int) -> Interactions:
    return rows.take(slice(0, 0))


def ten_times_as_many(rows: Interactions, generator: np.random.Generator, num_items: int) -> Interactions:
    return other_items(rows.take(np.tile(np.arange(len(rows)), 10)), generator, num_items)


def all_positive_and_newest(rows: Interactions, generator: np.random.Generator, num_items: int) -> Interactions:
    return replace(rows, feedback=np.full(len(rows), 9, np.float32), timestamp=rows.timestamp + 10**9)


CHANGES: list[Change] = [
    flip_labels,
    other_scores,
    other_times,
    other_items,
    permuted_items,
    other_users,
    swapped_splits,
    none_left,
    ten_times_as_many,
    all_positive_and_newest,
]


def apply(change: Change, interactions: Interactions, chosen: np.ndarray, num_items: int) -> Interactions:  # type: ignore[type-arg]
    """The interactions with a change of the chosen rows, in the order of a prepared data set."""
    changed = change(interactions.take(chosen), np.random.default_rng(7), num_items)
    kept = interactions.take(~chosen)
    names = ("user_row", "item_row", "stage", "split", "feedback", "teacher_scores", "timestamp")
    joined = Interactions(**{name: np.concatenate([getattr(kept, name), getattr(changed, name)]) for name in names})
    return joined.take(np.lexsort((joined.item_row, joined.timestamp, joined.user_row)))


@pytest.mark.parametrize("change", CHANGES)
@pytest.mark.parametrize("splits", [[VALIDATION], [TEST], [VALIDATION, TEST]])
def test_no_change_of_validation_or_test_shows(
    in_order: SortedTables, interactions: Interactions, change: Change, splits: list[int]
) -> None:
    original = seen_by_training(build_dataset(in_order, interactions, info={}))
    chosen = np.isin(interactions.split, splits)
    assert chosen.sum() >= 60
    changed = apply(change, interactions, chosen, in_order.items.height)
    assert seen_by_training(build_dataset(in_order, changed, info={})) == original


@pytest.mark.parametrize("change", [change for change in CHANGES if change is not swapped_splits])
def test_the_same_change_of_training_does_show(
    in_order: SortedTables, interactions: Interactions, change: Change
) -> None:
    original = seen_by_training(build_dataset(in_order, interactions, info={}))
    chosen = (interactions.split == TRAIN) & (np.arange(len(interactions)) % 2 == 0)
    changed = apply(change, interactions, chosen, in_order.items.height)
    assert seen_by_training(build_dataset(in_order, changed, info={})) != original


def test_nor_does_it_from_the_raw_tables_on(tables: Tables) -> None:
    """The whole of ``prepare``: other labels, scores and times in the rows that it puts into validation and test."""
    dataset = prepare(tables, OPTIONS)
    held_out = np.isin(dataset.interactions.split, [VALIDATION, TEST])
    rows = dataset.interactions.take(held_out)
    pairs = pl.DataFrame(
        {
            "user_id": dataset.users.ids[rows.user_row].astype(int),
            "item_id": dataset.items.ids[rows.item_row].astype(int),
            "held_out": True,
        }
    )
    marked = tables.interactions.join(pairs, on=["user_id", "item_id"], how="left")
    changed = marked.select(
        "user_id",
        "item_id",
        "stage",
        timestamp=pl.when("held_out").then(10**12 - pl.col("timestamp")).otherwise("timestamp"),
        click=pl.when("held_out").then(1 - pl.col("click")).otherwise("click"),
        buy=pl.when("held_out").then(~pl.col("buy")).otherwise("buy"),
        teacher_scores=pl.when("held_out").then(1 - pl.col("teacher_scores")).otherwise("teacher_scores"),
    )
    assert not changed.select(tables.interactions.columns).equals(tables.interactions)
    again = prepare(replace(tables, interactions=changed), OPTIONS)
    assert again.interactions.split.tolist() != []
    assert seen_by_training(again) == seen_by_training(dataset)
    assert again.data_id != dataset.data_id


def plant(tables: Tables) -> Tables:
    """A canary item, shown to one user only and bought; and a canary user who is shown too little to be active."""
    item = pl.DataFrame({"item_id": [999], "price": [CANARY_PRICE], "tags": [[777]]})
    user = pl.DataFrame({"user_id": [9999], "country": ["canaria"], "age": [CANARY_PRICE]})
    shown = tables.interactions.head(2).with_columns(
        user_id=pl.Series([tables.users["user_id"][0], 9999]), item_id=pl.Series([999, 1]),
        timestamp=pl.lit(10**9, dtype=pl.Int64), click=pl.lit(1, dtype=pl.Int8), buy=pl.lit(True),
    )  # fmt: skip
    return replace(
        tables,
        users=pl.concat([tables.users, user]),
        items=pl.concat([tables.items, item]),
        interactions=pl.concat([tables.interactions, shown]),
    )


def seed_that_puts_the_canary_into(split: int, tables: Tables) -> PreparedDataset:
    for seed in range(200):
        dataset = prepare(tables, replace(OPTIONS, seed=seed))
        rows = dataset.interactions
        if rows.split[rows.item_row == dataset.items.ids.tolist().index("999")].tolist() == [split]:
            return dataset
    raise RuntimeError("no seed in 200 puts the canary there")


@pytest.mark.parametrize("split", [VALIDATION, TEST])
def test_a_canary_is_in_no_vocabulary_edge_history_or_list(tables: Tables, split: int) -> None:
    dataset = seed_that_puts_the_canary_into(split, plant(tables))
    fields = {field.name: field for side in (dataset.encoder.user, dataset.encoder.item) for field in side.fields}
    for name, canary in (
        ("item_id", "999"),
        ("history", "999"),
        ("exposures", "999"),
        ("tags", "777"),
        ("country", "canaria"),
    ):
        assert canary not in fields[name].vocabulary
        assert len(fields[name].vocabulary) > 1
    for name in ("price", "age"):
        assert len(fields[name].edges) > 1
        assert max(fields[name].edges) < CANARY_PRICE
    canary = dataset.items.ids.tolist().index("999")
    owner = dataset.interactions.user_row[dataset.interactions.item_row == canary][0]
    assert dataset.items.features.codes[canary, 0] == 0
    sampler = FullStageSampler(dataset, SAMPLING)
    drawn_for_owner = 0
    for epoch in range(60):
        for batch in sampler.epoch(epoch, 8):
            found = (batch.item_rows == canary) & batch.mask
            # It may be drawn as a random item, for its own user too (leaving it out there would give it away).
            assert (batch.stage[found] == 3).all()
            assert not batch.labels[found].any()
            drawn_for_owner += int(found[batch.user_rows == owner].sum())
    assert drawn_for_owner > 0


def test_the_same_canary_in_training_is_found(tables: Tables) -> None:
    dataset = seed_that_puts_the_canary_into(TRAIN, plant(tables))
    fields = {field.name: field for side in (dataset.encoder.user, dataset.encoder.item) for field in side.fields}
    assert "999" in fields["item_id"].vocabulary
    assert "999" in fields["history"].vocabulary
    assert "999" in fields["exposures"].vocabulary
    assert "777" in fields["tags"].vocabulary
    assert "canaria" not in fields["country"].vocabulary


def test_no_pair_lies_in_two_splits(tables: Tables) -> None:
    """Repeats of a pair, at other times and with other feedback, stay with it."""
    again = tables.interactions.with_columns(pl.col("timestamp") + 5000, click=1 - pl.col("click"))
    dataset = prepare(replace(tables, interactions=pl.concat([tables.interactions, again])), OPTIONS)
    rows = dataset.interactions
    keys = rows.user_row.astype(np.int64) * len(dataset.items) + rows.item_row
    assert len(np.unique(keys)) == len(keys) == tables.interactions.height
