"""What work costs here and now: measured at warm-up, corrected by every request."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Literal

from ranktower.embedding_store.codec import RowKind

OtherWork = Literal["find", "tower", "retrieve", "fetch", "answer", "ranking"]
"""Finding the rows of ids; computing rows from features; the retrieval index; waiting for another machine to send rows;
writing the answer with scores, and with ranked items."""
Work = tuple[Literal["full"], RowKind] | Literal["maxsim", "pooled"] | OtherWork
"""A level's scoring, with the reading of its rows (full scoring by the kind of the rows), or other work."""

_RATE = 0.1
# One request that the system interrupted must not look like a slower machine.
_LARGEST_SURPRISE = 3.0
# Of what was last seen, so much counts after a second in which the work was not done. Else a level that was once too
# slow to be chosen would never be tried again.
_KEPT_AFTER_1_S = 0.5
# Requests over which the usual height is a mean.
_USUAL = 200


class CostLine:
    """Seconds of one kind of work for n things: ``(fixed_s + each_s * n)``, times what serving showed.

    The shape of the line is the warm-up's. Serving corrects its height by one factor, for a line fitted to requests of
    one usual size would say nothing of other sizes.
    """

    __slots__ = ("_each_s", "_factor", "_fixed_s", "_learned_at", "_num_learned", "_spread", "_usual")

    def __init__(self, fixed_s: float, each_s: float) -> None:
        """The line of the warm-up."""
        self._fixed_s, self._each_s = max(fixed_s, 1e-6), max(each_s, 1e-9)
        self._factor, self._spread = 1.0, 0.2
        self._usual, self._num_learned, self._learned_at = 1.2, 0, time.perf_counter()

    def seconds(self, num: int) -> float:
        """A cautious estimate: the running mean and one mean deviation, nearer to the usual the older they are."""
        return (self._fixed_s + self._each_s * num) * self._height()

    def affordable(self, seconds: float) -> int:
        """How many things can be done in so many seconds; 0 or less where not even one can."""
        return int((seconds / self._height() - self._fixed_s) / self._each_s)

    @contextmanager
    def timed(self, num: int) -> Iterator[None]:
        """Learn what the block takes; nothing where it fails."""
        began = time.perf_counter()
        yield
        self.learn(num, time.perf_counter() - began)

    def _height(self) -> float:
        kept: float = _KEPT_AFTER_1_S ** (time.perf_counter() - self._learned_at)
        return self._usual + (self._factor + self._spread - self._usual) * kept

    def learn(self, num: int, seconds: float) -> None:
        """Take in what the work took."""
        found = seconds / (self._fixed_s + self._each_s * num)
        surprise = min(found, _LARGEST_SURPRISE * self._factor) - self._factor
        self._factor += _RATE * surprise
        self._spread += _RATE * (abs(surprise) - self._spread)
        self._num_learned = min(self._num_learned + 1, _USUAL)
        self._usual += (self._factor + self._spread - self._usual) / self._num_learned
        self._learned_at = time.perf_counter()


class Costs:
    """The cost lines of one release."""

    def __init__(self, lines: Mapping[Work, CostLine]) -> None:
        """``lines`` holds full scoring of each kind of rows there is, both lower levels or neither, and other work."""
        self._lines = dict(lines)
        full = [line for work, line in self._lines.items() if isinstance(work, tuple)]
        self.full_line = max(full, key=lambda line: line.seconds(1000))
        """Of full scoring; of several kinds of rows the dearest, for which ones a request has is found out late."""
        self.least_line = self._lines.get("pooled", self.full_line)
        """Of the lowest level there is."""

    def line(self, work: Work) -> CostLine:
        """Of one kind of work; KeyError if the release has no such work."""
        return self._lines[work]

    def sum_s(self, works: Mapping[OtherWork, int]) -> float:
        """Seconds of some other work, each with the number of its things."""
        return sum(self._lines[work].seconds(num) for work, num in works.items())
