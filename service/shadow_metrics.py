"""What the shadow release is seen by: it answers nobody."""

from __future__ import annotations

from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Histogram

from service.comparison import Comparison

Outcome = Literal["compared", "dropped", "failed"]

_SHARES = (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98, 0.99, 0.999, 1.0)
_SIZES = (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0)


class ShadowMetrics:
    """The metrics of ``ShadowScorer``, by the names of ``docs/api.md``."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register everything in the application's registry."""

        def histogram(name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
            return Histogram(f"ranktower_shadow_{name}", text, buckets=buckets, registry=registry)

        self._overlap = histogram(
            "overlap",
            "Part of the first candidates that shadow and current release share: 100, or half of a shorter list.",
            _SHARES,
        )
        self._correlation = histogram(
            "rank_correlation", "Spearman's rank correlation of shadow and current release.", (-0.5, 0.0, *_SHARES)
        )
        self._drift = histogram(
            "score_drift",
            "Mean over a request's candidates of the shadow's score less the current release's.",
            (*(-size for size in reversed(_SIZES)), 0.0, *_SIZES),
        )
        self._difference = histogram(
            "score_difference",
            "Mean over a request's candidates of the absolute difference between the two scores.",
            (0.0, *_SIZES),
        )
        answers = Counter(
            "ranktower_shadow_answers", "Answers offered to the shadow release.", ["outcome"], registry=registry
        )
        self._answers = {outcome: answers.labels(outcome) for outcome in get_args(Outcome)}

    def count(self, outcome: Outcome) -> None:
        """Count an answer that was chosen for the shadow, by what became of it."""
        self._answers[outcome].inc()

    def observe(self, comparison: Comparison) -> None:
        """Count one comparison's results."""
        if comparison.overlap is not None:
            self._overlap.observe(comparison.overlap)
        if comparison.rank_correlation is not None:
            self._correlation.observe(comparison.rank_correlation)
        self._drift.observe(comparison.mean_difference)
        self._difference.observe(comparison.mean_absolute_difference)
