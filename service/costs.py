"""What scoring costs here and now: measured at warm-up, corrected by every request."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from ranktower.embedding_store.codec import RowKind

Work = tuple[Literal["full"], RowKind] | Literal["maxsim", "pooled", "answer", "fetch"]
"""A level's scoring with the reading of its rows (full scoring by the kind of the rows), writing the answer, or waiting
for another machine to send the rows."""

_RATE = 0.1
# One request that the system interrupted must not look like a slower machine.
_LARGEST_SURPRISE = 3.0


class CostLine:
    """Seconds of one kind of work for n candidates: ``(fixed_s + per_candidate_s * n)``, times what serving showed.

    The shape of the line is the warm-up's. Serving corrects its height by one factor, for a line fitted to requests of
    one usual size would say nothing of other sizes.
    """

    __slots__ = ("_factor", "_fixed_s", "_per_candidate_s", "_spread")

    def __init__(self, fixed_s: float, per_candidate_s: float) -> None:
        """The line of the warm-up."""
        self._fixed_s, self._per_candidate_s = max(fixed_s, 1e-6), max(per_candidate_s, 1e-9)
        self._factor, self._spread = 1.0, 0.2

    def seconds(self, num_candidates: int) -> float:
        """A cautious estimate: the running mean and one mean deviation."""
        return (self._fixed_s + self._per_candidate_s * num_candidates) * (self._factor + self._spread)

    def affordable(self, seconds: float) -> int:
        """How many candidates can be done in so many seconds; 0 or less where not even one can."""
        return int((seconds / (self._factor + self._spread) - self._fixed_s) / self._per_candidate_s)

    def learn(self, num_candidates: int, seconds: float) -> None:
        """Take in what the work took."""
        found = seconds / (self._fixed_s + self._per_candidate_s * num_candidates)
        surprise = min(found, _LARGEST_SURPRISE * self._factor) - self._factor
        self._factor += _RATE * surprise
        self._spread += _RATE * (abs(surprise) - self._spread)


class Costs:
    """The cost lines of one release."""

    def __init__(self, lines: Mapping[Work, CostLine]) -> None:
        """``lines`` holds "answer", full scoring of each kind of rows there is, both lower levels or neither, and "fetch"
        where rows come from another machine."""
        self._lines = dict(lines)
        self._answer, self._fetch = self._lines["answer"], self._lines.get("fetch")
        full = [line for work, line in self._lines.items() if isinstance(work, tuple)]
        self.full_line = max(full, key=lambda line: line.seconds(1000))
        """Of full scoring; of several kinds of rows the dearest, for which ones a request has is found out late."""
        self._least = self._lines.get("pooled", self.full_line)

    def line(self, work: Work) -> CostLine:
        """Of one kind of work; KeyError if the release has no such work."""
        return self._lines[work]

    def answer_s(self, num_candidates: int) -> float:
        """Of writing the answer."""
        return self._answer.seconds(num_candidates)

    def fetch_s(self, num_candidates: int) -> float:
        """Of waiting for the rows; 0 where they are on this machine."""
        return 0.0 if self._fetch is None else self._fetch.seconds(num_candidates)

    def full_s(self, num_candidates: int) -> float:
        """Of full scoring and the answer."""
        return self.full_line.seconds(num_candidates) + self._answer.seconds(num_candidates)

    def least_s(self, num_candidates: int) -> float:
        """Of the lowest level there is and the answer."""
        return self._least.seconds(num_candidates) + self._answer.seconds(num_candidates)
