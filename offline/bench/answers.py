"""What came back for each request of an open loop, and the figures made of it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_PERCENTILES = {"p50_ms": 50, "p90_ms": 90, "p99_ms": 99, "p999_ms": 99.9, "max_ms": 100}


@dataclass(frozen=True)
class Answers:
    """One entry a request, ``[n]`` each, in the order in which they were due.

    Attributes:
        due_s: when it was due, in seconds from the start of the run.
        lag_ms: how late the generator noticed that; NaN where it gave up before.
        latency_ms: from the due time to the end of the answer, or to the moment at which none was expected any more.
        status: of the answer, 0 without one.
        degraded: whether the answer says that it is below full scoring.
        release: that the answer names, empty without one.
    """

    due_s: NDArray[np.float64]
    lag_ms: NDArray[np.float64]
    latency_ms: NDArray[np.float64]
    status: NDArray[np.int16]
    degraded: NDArray[np.bool_]
    release: NDArray[np.bytes_]

    def save(self, path: Path) -> None:
        """Write an ``.npz`` file."""
        np.savez(path, **{field.name: getattr(self, field.name) for field in fields(self)})

    @classmethod
    def load(cls, path: Path) -> Answers:
        """Read the file of ``save``."""
        with np.load(path, allow_pickle=False) as content:
            return cls(**{field.name: content[field.name] for field in fields(cls)})

    def between(self, start_s: float, end_s: float) -> Answers:
        """The requests that were due in ``[start_s, end_s)``."""
        first, last = np.searchsorted(self.due_s, (start_s, end_s))
        return Answers(**{field.name: getattr(self, field.name)[first:last] for field in fields(self)})

    def inside(self, budget_ms: float) -> NDArray[np.bool_]:
        """Which requests were answered 200 within ``budget_ms`` of their due time, ``[n]``."""
        inside: NDArray[np.bool_] = (self.status == 200) & (self.latency_ms <= budget_ms)
        return inside


@dataclass(frozen=True)
class OpenResult:
    """What an open loop saw. Latencies count from the due time, the wait for a free connection included.

    Attributes:
        offered_per_s: requests a second that were due.
        achieved_per_s: answers a second, from the start to the last answer. Well below ``offered_per_s`` means that
            the server does not hold the rate, and the latencies only tell how long the run was.
        goodput_per_s: answers with 200 inside the budget, for each second in which requests were due.
        p50_ms, p90_ms, p99_ms, p999_ms, max_ms: latencies of the answers with 200 and of the requests without any
            answer, with the time they waited; a refusal is quick and would flatter them. NaN where there are none.
        lag_p50_ms, lag_p99_ms: how late the generator itself noticed that a request was due.
        requests: that were due.
        inside: answered 200 inside the budget; without a budget, answered 200.
        degraded: answered 200 below full scoring.
        non_200: answers with another status; ``status_429``, ``status_503`` and ``status_504`` are among them.
        failed: requests whose connection broke or that had no answer in time.
    """

    offered_per_s: float
    achieved_per_s: float
    goodput_per_s: float
    p50_ms: float
    p90_ms: float
    p99_ms: float
    p999_ms: float
    max_ms: float
    lag_p50_ms: float
    lag_p99_ms: float
    requests: int
    inside: int
    degraded: int
    non_200: int
    status_429: int
    status_503: int
    status_504: int
    failed: int

    @classmethod
    def of(cls, answers: Answers, *, seconds: float, budget_ms: float = math.inf) -> OpenResult:
        """The figures of at least one answer; ``seconds`` is the time in which the requests were due."""
        num_requests, is_answered = len(answers.status), answers.status > 0
        last_s = np.max((answers.due_s + answers.latency_ms / 1e3)[is_answered], initial=0.0)
        waits = answers.latency_ms[(answers.status == 200) | ~is_answered]
        num_inside = int(answers.inside(budget_ms).sum())
        by_status = {status: int((answers.status == status).sum()) for status in (0, 200, 429, 503, 504)}
        return cls(
            offered_per_s=num_requests / seconds,
            achieved_per_s=int(is_answered.sum()) / max(float(last_s - answers.due_s[0]), seconds),
            goodput_per_s=num_inside / seconds,
            **{name: float(np.percentile(waits, q)) if len(waits) else math.nan for name, q in _PERCENTILES.items()},
            lag_p50_ms=float(np.nanpercentile(answers.lag_ms, 50)),
            lag_p99_ms=float(np.nanpercentile(answers.lag_ms, 99)),
            requests=num_requests,
            inside=num_inside,
            degraded=int(((answers.status == 200) & answers.degraded).sum()),
            non_200=num_requests - by_status[0] - by_status[200],
            status_429=by_status[429],
            status_503=by_status[503],
            status_504=by_status[504],
            failed=by_status[0],
        )

    @property
    def errors(self) -> int:
        """Requests that did not get a good answer."""
        return self.non_200 + self.failed

    def share(self, count: int) -> float:
        """A count as a share of all requests."""
        return count / self.requests


def rounded(figures: Mapping[str, float]) -> dict[str, float | None]:
    """Figures for a JSON file: rates to one decimal, other fractions to three, None in place of NaN."""
    return {
        name: value if isinstance(value, int) else _rounded(value, 1 if name.endswith("_per_s") else 3)
        for name, value in figures.items()
    }


def _rounded(value: float, decimals: int) -> float | None:
    return None if math.isnan(value) else round(value, decimals)
