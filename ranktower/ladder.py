"""The degradation ladder: what a request can get when there is no time to score all of its candidates in full.

Levels, best first: ``full``; ``full_best``, in which a share of the candidates, the best by ``maxsim``, is scored in
full and the others keep their calibrated ``maxsim`` score; ``maxsim``; ``pooled``. Scores of the last two are mapped to
the scale of full scoring by a ``Calibration``, so that the scores of one answer are on one scale whatever their level.
``docs/adr/0026`` tells what was measured.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

LADDER_FILE = "ladder.json"
"""Of an export."""

# How far the end segments go on: further than any score lies, and near enough to keep 9 digits behind the point.
_REACH = 2.0**20

LevelName = Literal["full", "full_best", "maxsim", "pooled"]


class Calibration(BaseModel):
    """A strictly increasing, piecewise linear map through the points (``inputs``, ``outputs``)."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    inputs: tuple[float, ...] = Field(min_length=2)
    outputs: tuple[float, ...] = Field(min_length=2)

    @model_validator(mode="after")
    def _increases(self) -> Calibration:
        if len(self.inputs) != len(self.outputs):
            raise ValueError(f"inputs and outputs: must be of one length, got {len(self.inputs)}, {len(self.outputs)}")
        for key, values in (("inputs", self.inputs), ("outputs", self.outputs)):
            for before, after in pairwise(values):
                if not before < after:
                    raise ValueError(f"{key}: must increase strictly, got {after!r} behind {before!r}")
        return self

    @cached_property
    def _points(self) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
        x, y = np.array(self.inputs), np.array(self.outputs)
        slopes = np.diff(y) / np.diff(x)
        return (
            np.concatenate([[x[0] - _REACH], x, [x[-1] + _REACH]]),
            np.concatenate([[y[0] - _REACH * slopes[0]], y, [y[-1] + _REACH * slopes[-1]]]),
        )

    def apply(self, scores: NDArray[np.float32]) -> NDArray[np.float32]:
        """Mapped scores, of the same shape; before the first and behind the last point the end segments go on.

        NaN stays NaN. Two different scores stay different but for the rounding to float32.
        """
        mapped: NDArray[np.float32] = np.interp(scores, *self._points).astype(np.float32)
        return mapped


class LadderLevel(BaseModel):
    """One level and what it was worth on users that the calibration was not fitted on."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    level: LevelName
    share: float = Field(ge=0, le=1)
    """Part of the candidates that is scored in full."""
    ndcg: float = Field(ge=0, le=1)
    recall: float = Field(ge=0, le=1)
    """``ndcg`` and ``recall`` at k are against the labels."""
    ndcg_to_full: float = Field(ge=0, le=1)
    """NDCG at k where the first k of full scoring are the relevant items, each of gain 1."""
    recall_to_full: float = Field(ge=0, le=1)
    """Part of the first k of full scoring that stands among the level's first k."""
    k: int = Field(ge=1)
    num_users: int = Field(ge=1)
    num_candidates: int = Field(ge=1)
    """A user, on average."""
    calibration: Calibration | None = None
    """To the scale of full scoring; of ``maxsim`` and ``pooled`` alone."""

    @model_validator(mode="after")
    def _fits_its_name(self) -> LadderLevel:
        possible = {"full": self.share == 1, "full_best": 0 < self.share < 1}.get(self.level, self.share == 0)
        if not possible:
            raise ValueError(f"share: {self.share!r} is not possible at level {self.level!r}")
        if (self.calibration is None) != self.level.startswith("full"):
            raise ValueError(f"calibration: level {self.level!r} has {'none' if self.calibration is None else 'one'}")
        return self


class Ladder(BaseModel):
    """``ladder.json`` of an export: what ``ranktower calibrate`` measured, and of what."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    of: dict[str, Any]
    """The run, the data and the options that the levels are a function of."""
    levels: tuple[LadderLevel, ...]

    @field_validator("levels")
    @classmethod
    def _in_order(cls, levels: tuple[LadderLevel, ...]) -> tuple[LadderLevel, ...]:
        check_ladder(levels)
        return levels


def check_ladder(levels: Sequence[LadderLevel]) -> None:
    """ValueError unless there are no levels, or full, full_best with falling shares, maxsim and pooled."""
    names = [level.level for level in levels]
    if names and names != ["full", *["full_best"] * (len(names) - 3), "maxsim", "pooled"]:
        raise ValueError(f"levels must be full, any number of full_best, maxsim, pooled, got {', '.join(names)}")
    shares = [level.share for level in levels[:-1]]
    if any(before <= after for before, after in pairwise(shares)):
        raise ValueError(f"shares must fall from level to level, got {', '.join(map(str, shares))}")


def mix(full: NDArray[np.float32], calibrated: NDArray[np.float32], chosen: NDArray[np.intp]) -> NDArray[np.float32]:
    """Scores ``[n]`` of an answer of which a part is scored in full: full scores at ``chosen``, calibrated elsewhere.

    A calibration knows users on average. So the mean of what full scoring and it differ by at ``chosen``, which is of
    this very user, is added to the calibrated scores; else one part would outrank the other by accident of scale.

    Args:
        full: scores ``[n]``; only those at ``chosen`` are read.
        calibrated: mapped scores of the lower level ``[n]``.
        chosen: places ``[m]`` of what is scored in full, at least one.
    """
    known = full[chosen]
    differences = known - calibrated[chosen]
    differences = differences[np.isfinite(differences)]  # a candidate with a broken row has no score at any level
    mixed = calibrated + (differences.mean() if len(differences) else np.float32(0.0))
    mixed[chosen] = known
    return mixed
