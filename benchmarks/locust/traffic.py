"""What is asked: scores, rankings, explanations, and a few requests that only a 4xx answers rightly."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from population import Population

from ranktower.embedding_store.codec import Side
from ranktower.errors import ConfigError

KINDS = ("score", "rank", "retrieve", "explain", "bad")
_EXPLAINED = 3
_TOP_K = 100
# The width of the log-normal distribution: one request in six has more than 1.8 times the median.
_SIGMA = 0.6
_BAD = ("no JSON", "a type", "too many")


@dataclass(frozen=True)
class Request:
    """One request and its right answer; ``budget_ms`` is None for a bad one and for one without a budget."""

    kind: str
    path: str
    body: bytes
    expected: int = 200
    budget_ms: float | None = None


@dataclass(frozen=True)
class Habits:
    """How users ask.

    Attributes:
        mix: weight of each of ``KINDS``.
        budgets: weight of each budget in ms; None asks without one.
        median_candidates, max_candidates: of a log-normal distribution, cut at 1 and the latter.
        unknown_users, unknown_items: shares of ids that no release has.
        too_many: candidates of a request that has too many.
    """

    mix: Mapping[str, float]
    budgets: Mapping[float | None, float]
    median_candidates: int = 500
    max_candidates: int = 2000
    unknown_users: float = 0.02
    unknown_items: float = 0.01
    too_many: int = 10_001

    def __post_init__(self) -> None:
        """ConfigError for a value that no traffic can be made of."""
        for name, share in (("--unknown-users", self.unknown_users), ("--unknown-items", self.unknown_items)):
            if not 0 <= share <= 1:
                raise ConfigError(f"{name} {share:g}: must be a share, 0 to 1")
        if not 1 <= self.median_candidates <= self.max_candidates:
            wrong = f"--candidates {self.median_candidates}, --max-candidates {self.max_candidates}"
            raise ConfigError(f"{wrong}: must be at least 1, and the second not below the first")


def parse_mix(text: str) -> dict[str, float]:
    """``score=84,bad=2`` as weights of ``KINDS``; ConfigError names what is wrong."""
    weights = _parse_weights("--mix", text)
    for kind in weights:
        if kind not in KINDS:
            raise ConfigError(f"--mix {text}: {kind!r} is none of {', '.join(KINDS)}")
    return weights


def parse_budgets(text: str) -> dict[float | None, float]:
    """``10=1,none=2`` as weights of budgets in ms; ConfigError names what is wrong."""
    budgets: dict[float | None, float] = {}
    for name, weight in _parse_weights("--budgets-ms", text).items():
        budget_ms = None if name == "none" else _number("--budgets-ms", text, name)
        if budget_ms is not None and budget_ms <= 0:
            raise ConfigError(f"--budgets-ms {text}: {name} must be above 0")
        budgets[budget_ms] = weight
    return budgets


class Traffic:
    """Draws one request after the other."""

    def __init__(self, populations: Mapping[Side, Population], habits: Habits, *, seed: int | None = None) -> None:
        """Without a ``seed`` every process draws others."""
        self._users, self._items = populations["user"], populations["item"]
        self._habits = habits
        self._random = np.random.default_rng(seed)
        self._kinds, self._kind_shares = list(habits.mix), _shares(habits.mix.values())
        self._budgets, self._budget_shares = list(habits.budgets), _shares(habits.budgets.values())

    def next_gap_s(self, rate_per_s: float) -> float:
        """Until the next arrival of a Poisson process."""
        return float(self._random.exponential(1 / rate_per_s))

    def draw(self) -> Request:
        """One request."""
        kind = self._kinds[self._random.choice(len(self._kinds), p=self._kind_shares)]
        if kind == "bad":
            return self._bad()
        budget_ms = self._budgets[self._random.choice(len(self._budgets), p=self._budget_shares)]
        body: dict[str, Any] = {"user_id": self._user()}
        if budget_ms is not None:
            body["budget_ms"] = budget_ms
        if kind == "retrieve":
            body |= {"num_candidates": min(self._num_candidates(), len(self._items)), "top_k": _TOP_K}
        else:
            body["candidate_ids"] = self._candidates(_EXPLAINED if kind == "explain" else self._num_candidates())
        if kind == "rank":
            body["top_k"] = _TOP_K
        path = {"score": "/v1/score", "explain": "/v1/explain"}.get(kind, "/v1/rank")
        return Request(kind, path, json.dumps(body).encode(), budget_ms=budget_ms)

    def _bad(self) -> Request:
        body: dict[str, Any] = {"user_id": self._user(), "candidate_ids": self._candidates(_EXPLAINED)}
        wrong = _BAD[self._random.integers(len(_BAD))]
        expected = 422
        if wrong == "too many":
            body["candidate_ids"] = [0] * self._habits.too_many
            expected = 413
        elif wrong == "a type":
            body["user_id"] = 1.5
        text = json.dumps(body).encode()
        return Request("bad", "/v1/score", text[:-1] if wrong == "no JSON" else text, expected)

    def _user(self) -> str | int:
        if self._random.random() < self._habits.unknown_users:
            return self._unknown()
        return self._users.draw(self._random)

    def _candidates(self, count: int) -> list[str | int]:
        ids = self._items.draw_distinct(self._random, count)
        for place in np.flatnonzero(self._random.random(len(ids)) < self._habits.unknown_items).tolist():
            ids[place] = self._unknown()
        return ids

    def _unknown(self) -> str:
        return f"unknown-{self._random.integers(1 << 40)}"

    def _num_candidates(self) -> int:
        drawn = self._random.lognormal(math.log(self._habits.median_candidates), _SIGMA)
        return int(min(max(round(drawn), 1), self._habits.max_candidates))


def _parse_weights(option: str, text: str) -> dict[str, float]:
    weights: dict[str, float] = {}
    for part in text.split(","):
        name, equals, number = part.strip().partition("=")
        weight = _number(option, text, number)
        if not name or not equals or weight < 0 or name in weights:
            raise ConfigError(f"{option} {text}: expected name=weight,..., each name once, got {part.strip()!r}")
        weights[name] = weight
    if not sum(weights.values()) > 0:
        raise ConfigError(f"{option} {text}: all weights are 0")
    return weights


def _number(option: str, text: str, number: str) -> float:
    try:
        value = float(number)
    except ValueError:
        raise ConfigError(f"{option} {text}: {number!r} is no number") from None
    if not math.isfinite(value):
        raise ConfigError(f"{option} {text}: {number!r} is not finite")
    return value


def _shares(weights: Any) -> list[float]:
    values = list(weights)
    return [weight / sum(values) for weight in values]
