"""What a score is made of: the sub-spaces that met, how well, and what each brought."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranktower.ladder import LadderLevel
from ranktower.release import LEVEL_GRAPHS, LevelGraph
from service.answering import Pairs
from service.parsing import Id
from service.scorer import EXPLANATION, Scorer, UserRow


def explain(
    scorer: Scorer, pairs: Pairs, candidate_ids: Sequence[Id], ladder: Sequence[LadderLevel] | None = None
) -> list[dict[str, Any] | None]:
    """The answer's ``explanations`` in the order of the candidates; None for one without a score.

    Args:
        ladder: of the release, where each explanation is to have the ``levels`` too; without levels, those are null.

    Raises:
        NotExplainableError: the release's graph gives only scores.
    """
    explanations: list[dict[str, Any] | None] = [None] * len(candidate_ids)
    if not len(pairs.rows):
        return explanations
    for part, rows, _ in pairs.rows.split(slice(0, len(pairs.rows))):
        found = scorer.explain(pairs.user, part.layout, part.whole(rows))
        of_each = zip(*(np.moveaxis(found[name], -1, 0) for name in EXPLANATION), strict=True)
        levels = None if ladder is None else _level_scores(scorer, pairs.user, part.embeddings(rows), ladder)
        for place, (index, arrays) in enumerate(zip(np.flatnonzero(part.present).tolist(), of_each, strict=True)):
            score, user_attention, item_attention, cosines, contributions = arrays
            if np.isfinite(score):
                explanations[index] = {
                    "id": candidate_ids[index],
                    "score": score,
                    "matches": _matches(cosines, contributions),
                    "user_attention": np.ascontiguousarray(user_attention),
                    "item_attention": np.ascontiguousarray(item_attention),
                    **({} if levels is None else {"levels": levels[place]}),
                }
    return explanations


def _level_scores(
    scorer: Scorer, user: UserRow, items: NDArray[np.uint8], ladder: Sequence[LadderLevel]
) -> Sequence[Mapping[LevelGraph, np.float32] | None]:
    """Of each row ``[N, row_size]`` of kind ``embedding`` the calibrated scores by level; None without a ladder."""
    if not ladder:
        return [None] * len(items)
    calibrations = {level.level: level.calibration for level in ladder if level.calibration is not None}
    by_level = {level: calibrations[level].apply(scorer.score_level(level, user, items)) for level in LEVEL_GRAPHS}
    return [dict(zip(by_level, scores, strict=True)) for scores in zip(*by_level.values(), strict=True)]


def _matches(cosines: NDArray[np.float32], contributions: NDArray[np.float32]) -> list[dict[str, Any]]:
    """Of each user sub-space: the item sub-space with the best of its ``cosines [Hu, Hi]``, and its part of the score,
    ``contributions [Hu]``."""
    return [
        {"item_subspace": best, "cosine": cosines[user, best], "contribution": contributions[user]}
        for user, best in enumerate(cosines.argmax(axis=1).tolist())
    ]
