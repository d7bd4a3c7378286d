"""From canonical tables to the prepared data set: merge, filter, split, fit on the training split, encode."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import polars as pl

from ranktower.data.dataset import (
    TEST,
    TRAIN,
    UNUSED,
    VALIDATION,
    Interactions,
    PreparedDataset,
    Side,
    with_content_id,
)
from ranktower.data.encoder import FeatureEncoder
from ranktower.data.feature_spec import FeatureSpec
from ranktower.data.fit import fit_side, table_columns, training_history
from ranktower.data.split import active_users, merge_pairs, split_impressions
from ranktower.data.tables import INTERACTIONS_FILE, STAGES, Tables, canonical_ids
from ranktower.errors import ConfigError, DataError


@dataclass(frozen=True)
class PrepareOptions:
    """Thresholds of the activity filter (distinct impressions and positives a user must have) and of the split.

    The paper's filter is 100 impressions and 20 positives; the default suits logs of a few weeks.

    Raises:
        ConfigError: a value lies outside its range.
    """

    min_impressions: int = 30
    min_positives: int = 5
    train_fraction: float = 0.7
    validation_fraction: float = 0.1
    seed: int = 0

    def __post_init__(self) -> None:
        for name in ("min_impressions", "min_positives", "seed"):
            if getattr(self, name) < 0:
                raise ConfigError(f"{name}: must not be negative, got {getattr(self, name)}")
        if not 0 < self.train_fraction <= 1:
            raise ConfigError(f"train_fraction: must lie in (0, 1], got {self.train_fraction}")
        if not 0 <= self.validation_fraction <= 1 - self.train_fraction + 1e-9:
            raise ConfigError(
                f"validation_fraction: must lie in [0, 1 - train_fraction], got {self.validation_fraction}"
            )


@dataclass(frozen=True, eq=False)
class SortedTables:
    """Users and items sorted by canonical id (now strings), so that row numbers depend on no file's row order."""

    users: pl.DataFrame
    items: pl.DataFrame
    spec: FeatureSpec


def prepare(
    tables: Tables, options: PrepareOptions | None = None, *, source: dict[str, Any] | None = None
) -> PreparedDataset:
    """Prepare canonical tables that `ranktower.data.tables.validate_tables` accepts.

    Args:
        tables: the tables; the order of their rows is immaterial.
        options: defaults to ``PrepareOptions()``.
        source: recorded in ``info`` as it is.

    Raises:
        DataError: an interaction of an unknown user or item, or no user passes the activity filter.
    """
    options = options or PrepareOptions()
    in_order = sort_tables(tables)
    interactions = split_interactions(in_order, tables.interactions, options)
    if not np.any(interactions.split == TRAIN):
        needs = f"{options.min_impressions} impressions and {options.min_positives} positives"
        raise DataError(f"no user has at least {needs}; lower the activity filter", file=INTERACTIONS_FILE)
    return build_dataset(in_order, interactions, info={"options": asdict(options), "source": source or {}})


def sort_tables(tables: Tables) -> SortedTables:
    """Sort users and items by canonical id."""
    users, items = (
        frame.with_columns(canonical_ids(frame[name])).sort(name)
        for frame, name in ((tables.users, "user_id"), (tables.items, "item_id"))
    )
    return SortedTables(users=users, items=items, spec=tables.spec)


def split_interactions(tables: SortedTables, rows: pl.DataFrame, options: PrepareOptions) -> Interactions:
    """Merge the logged rows to distinct pairs, filter users by activity and split their impressions."""
    pairs = merge_pairs(_row_numbers(tables, rows), tables.spec.feedback)
    user_row, feedback = pairs["user_row"].to_numpy(), pairs["feedback"].to_numpy()
    stage = pairs["stage"].to_numpy()
    impression = stage == 0
    active = active_users(
        user_row[impression],
        feedback[impression] > 0,
        num_users=tables.users.height,
        min_impressions=options.min_impressions,
        min_positives=options.min_positives,
    )
    used = active[user_row]
    split = np.full(pairs.height, UNUSED, dtype=np.uint8)
    split[used & impression] = split_impressions(
        user_row[used & impression],
        train_fraction=options.train_fraction,
        validation_fraction=options.validation_fraction,
        seed=options.seed,
    )
    # Logged candidates were never shown, so they belong to no evaluation; logged random items are drawn afresh.
    split[used & ~impression & (stage != STAGES.index("random"))] = TRAIN
    timestamp, item_row = pairs["timestamp"].to_numpy(), pairs["item_row"].to_numpy()
    order = np.lexsort((item_row, timestamp, user_row))
    return Interactions(
        user_row=user_row[order],
        item_row=item_row[order],
        stage=stage[order],
        split=split[order],
        feedback=feedback[order],
        teacher_scores=pairs["teacher_scores"].fill_null(float("nan")).to_numpy()[order],
        timestamp=timestamp[order],
    )


def _row_numbers(tables: SortedTables, rows: pl.DataFrame) -> pl.DataFrame:
    """The logged rows with numbers in place of ids and stages, and with a teacher column (null where there is none)."""
    stages = {stage: code for code, stage in enumerate(STAGES)}
    columns = [
        rows["timestamp"].cast(pl.Int64),
        rows["stage"].cast(pl.String).replace_strict(stages, return_dtype=pl.UInt8),
        *(rows[name] for name in tables.spec.feedback),
    ]
    for name, known in (("user_id", tables.users), ("item_id", tables.items)):
        side = name.removesuffix("_id")
        numbers = pl.DataFrame({name: known[name], "row": np.arange(known.height, dtype=np.int32)})
        joined = pl.DataFrame({name: canonical_ids(rows[name])}).join(
            numbers, on=name, how="left", maintain_order="left"
        )
        unknown = joined["row"].is_null().arg_true()
        if len(unknown):
            row = int(unknown[0])
            problem = f"interaction of an unknown {side} {rows[name][row]!r}"
            raise DataError(problem, file=INTERACTIONS_FILE, column=name, row=row)
        columns.append(joined["row"].alias(f"{side}_row"))
    teacher = rows["teacher_scores"] if "teacher_scores" in rows.columns else pl.Series([None] * rows.height)
    return pl.DataFrame([*columns, teacher.cast(pl.Float32).alias("teacher_scores")])


def build_dataset(tables: SortedTables, interactions: Interactions, *, info: dict[str, Any]) -> PreparedDataset:
    """Fit the encoder on the training split of ``interactions`` and encode every user and item.

    Nothing of the other splits is read: features, bin edges, vocabularies and histories depend on the two tables and
    the rows with split TRAIN alone.
    """
    spec = tables.spec
    shown = (interactions.split == TRAIN) & (interactions.stage == 0)
    ids = {"user": _ids(tables.users["user_id"]), "item": _ids(tables.items["item_id"])}
    columns = table_columns(tables.users, spec.user_features)
    columns |= {
        feature.name: training_history(interactions, ids["item"], tables.users.height, of=feature.of)
        for feature in spec.user_features
        if feature.kind == "history"
    }
    num_impressions = np.bincount(interactions.user_row[shown], minlength=tables.users.height)
    user = fit_side(columns, spec.user_features, num_impressions)
    users = Side(ids=ids["user"], features=user.encode(columns, tables.users.height))
    columns = table_columns(tables.items, spec.item_features)
    num_impressions = np.bincount(interactions.item_row[shown], minlength=tables.items.height)
    item = fit_side(columns, spec.item_features, num_impressions)
    items = Side(ids=ids["item"], features=item.encode(columns, tables.items.height))
    dataset = PreparedDataset(
        users=users,
        items=items,
        interactions=interactions,
        encoder=FeatureEncoder(user=user, item=item),
        spec=spec,
        info={**info, "counts": _counts(users, items, interactions)},
    )
    return with_content_id(dataset)


def _ids(column: pl.Series) -> np.ndarray[Any, np.dtype[np.object_]]:
    ids = np.empty(len(column), dtype=object)
    ids[:] = column.to_list()
    return ids


def _counts(users: Side, items: Side, interactions: Interactions) -> dict[str, int]:
    impression = interactions.stage == 0
    splits = {"train": TRAIN, "validation": VALIDATION, "test": TEST, "unused": UNUSED}
    counts = {name: int(np.sum(impression & (interactions.split == code))) for name, code in splits.items()}
    active = np.unique(interactions.user_row[impression & (interactions.split != UNUSED)])
    return {
        "users": len(users),
        "active_users": len(active),
        "items": len(items),
        "interactions": len(interactions),
        "logged_candidates": int(np.sum(~impression & (interactions.split == TRAIN))),
        **counts,
    }
