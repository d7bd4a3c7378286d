"""What the answers were: each counted as one of five outcomes, and the figures of a run made of the counts."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from traffic import Request

OutcomeName = Literal["ok", "degraded", "shed", "out_of_time", "failed"]

# Read off the bytes: parsing an answer would cost more than sending its request. A quotation mark within an id has a
# backslash in front.
_DEGRADED = b'"degraded":{'
# Times are kept in buckets of 1%, so that a run of hours needs no more memory than one of seconds.
_BUCKET = math.log(1.01)
_LEAST_MS = 0.01


@dataclass(frozen=True)
class Answer:
    """What came back: ``status`` 0 with the ``error`` where nothing did."""

    status: int
    body: bytes = b""
    error: str = ""


@dataclass(frozen=True)
class Outcome:
    """What became of a request.

    Attributes:
        name: ``ok`` is the right answer, the 4xx that a bad request is to get included; ``degraded`` one below full
            scoring; ``shed`` is 429 and ``out_of_time`` 504; ``failed`` all else.
        error: of a failure, in words.
        inside: whether a 200 came within the budget; None without a budget.
        is_waited_for: whether its latency is one that a user waits; a refusal is quick and would flatter.
    """

    name: OutcomeName
    error: str
    inside: bool | None
    is_waited_for: bool


def judge(request: Request, answer: Answer, latency_ms: float) -> Outcome:
    """What an answer is to its request; ``latency_ms`` counts from the moment the request was due."""
    name, error = _name(request, answer)
    inside = None
    if request.budget_ms is not None:
        inside = answer.status == 200 and latency_ms <= request.budget_ms
    is_waited_for = answer.status == 0 or (answer.status == 200 and request.expected == 200)
    return Outcome(name, error, inside, is_waited_for)


def _name(request: Request, answer: Answer) -> tuple[OutcomeName, str]:
    if answer.status == request.expected:
        return ("degraded" if _DEGRADED in answer.body else "ok"), ""
    if answer.status == 429:
        return "shed", ""
    if answer.status == 504:
        return "out_of_time", ""
    if answer.status == 0:
        return "failed", answer.error
    error = f"{answer.status} {_error_type(answer.body)}".strip()
    return "failed", error if request.expected == 200 else f"{error}, not {request.expected}"


def _error_type(body: bytes) -> str:
    """Of the service's error body; nothing where a proxy answered."""
    try:
        content = json.loads(body)
    except ValueError:
        return ""
    return str(content.get("error_type", "")) if isinstance(content, dict) else ""


@dataclass
class Tally:
    """The counts of a run; those of several processes add up."""

    outcomes: Counter[str] = field(default_factory=Counter)
    errors: Counter[str] = field(default_factory=Counter)
    budgets: Counter[str] = field(default_factory=Counter)
    latencies: Counter[int] = field(default_factory=Counter)
    lags: Counter[int] = field(default_factory=Counter)

    def add(self, outcome: Outcome, *, latency_ms: float, lag_ms: float) -> None:
        """Count one request; ``lag_ms`` is how late the generator sent it."""
        self.outcomes[outcome.name] += 1
        if outcome.error:
            self.errors[outcome.error] += 1
        if outcome.inside is not None:
            self.budgets["inside" if outcome.inside else "outside"] += 1
        if outcome.is_waited_for:
            self.latencies[_bucket(latency_ms)] += 1
        self.lags[_bucket(lag_ms)] += 1

    def counts(self) -> dict[str, dict[Any, int]]:
        """As plain data, for another process."""
        return {counter.name: dict(getattr(self, counter.name)) for counter in fields(self)}

    def merge(self, counts: Mapping[str, Mapping[Any, int]]) -> None:
        """Add what another process has counted."""
        for name, of in counts.items():
            getattr(self, name).update(of)

    @property
    def requests(self) -> int:
        """All that were sent."""
        return self.outcomes.total()

    def share(self, outcome: OutcomeName) -> float:
        """Of one outcome in all requests; 0 without any."""
        return self.outcomes[outcome] / max(self.requests, 1)

    def inside_share(self) -> float:
        """Of the requests with a budget, those that were answered 200 inside it; NaN without any."""
        total = self.budgets.total()
        return self.budgets["inside"] / total if total else math.nan

    def latency_ms(self, percent: float) -> float:
        """A percentile, to 1%, of the latencies that users wait; NaN without any."""
        return _percentile(self.latencies, percent)

    def lag_ms(self, percent: float) -> float:
        """As ``latency_ms``, of how late the generator was."""
        return _percentile(self.lags, percent)


def _bucket(time_ms: float) -> int:
    return math.ceil(math.log(max(time_ms, _LEAST_MS)) / _BUCKET)


def _percentile(buckets: Counter[int], percent: float) -> float:
    wanted = buckets.total() * percent / 100
    seen = 0
    for bucket, count in sorted(buckets.items()):
        seen += count
        if seen >= wanted:
            return math.exp(bucket * _BUCKET)
    return math.nan
