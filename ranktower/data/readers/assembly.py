"""The last step of every reader: checked, complete and sorted canonical tables."""

from __future__ import annotations

import logging
from pathlib import Path

import polars as pl

from ranktower.data.feature_spec import FeatureSpec
from ranktower.data.tables import STAGES, Tables
from ranktower.errors import DataError

_logger = logging.getLogger(__name__)


def check_unique(frame: pl.DataFrame, column: str, file: Path) -> pl.DataFrame:
    """The frame as it is; DataError naming file, column, row and value of the first id that an earlier row has."""
    repeated = frame[column].is_first_distinct().not_().arg_true()
    if len(repeated):
        row = int(repeated[0])
        raise DataError(f"duplicate id {frame[column][row]!r}", file=file, column=column, row=row)
    return frame


def assemble(users: pl.DataFrame, items: pl.DataFrame, interactions: pl.DataFrame, spec: FeatureSpec) -> Tables:
    """Canonical tables from a data set's own.

    Official downloads log users and items that their feature files lack (Alimama has no profile for 7 % of its
    users); such a one gets a row whose features are all missing, and their number is logged.

    Args:
        users: ``user_id`` and feature columns.
        items: ``item_id`` and feature columns.
        interactions: ``user_id``, ``item_id``, ``timestamp`` (ms) and feedback columns; impressions only.
        spec: what the columns mean.
    """
    feedback = list(spec.feedback)
    columns = ["user_id", "item_id", "timestamp", "stage", *feedback]
    # Every column sorts, so that equal files give equal tables however polars' threads ran.
    rows = interactions.sort("user_id", "timestamp", "item_id", *feedback)
    return Tables(
        users=_complete(users, interactions, "user_id"),
        items=_complete(items, interactions, "item_id"),
        interactions=rows.with_columns(stage=pl.lit(STAGES[0], dtype=pl.Enum(STAGES))).select(columns),
        spec=spec,
    )


def _complete(side: pl.DataFrame, interactions: pl.DataFrame, column: str) -> pl.DataFrame:
    logged = interactions.select(pl.col(column).unique())
    unknown = logged.join(side, on=column, how="anti").sort(column)
    if unknown.height:
        _logger.info("%d values of %s are in the log only; their features are missing", unknown.height, column)
    return pl.concat([side, unknown], how="diagonal")
