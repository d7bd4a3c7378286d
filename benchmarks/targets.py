"""The figures that serving was to reach, and what the newest results say of each."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from page_parts import command_of
from sizing import further_worker_mb

Results = Mapping[str, Any]
"""Newest result files by the name of their benchmark; one that is missing is absent."""


@dataclass(frozen=True)
class Target:
    """One figure.

    Attributes:
        what: in words.
        source: name of the benchmark.
        measure: the figure from the result.
        bound: to be reached; a floor where ``at_least``, else a ceiling.
        unit: written behind the numbers.
    """

    what: str
    source: str
    measure: Callable[[Any], float]
    bound: float
    unit: str
    at_least: bool = False
    peer: str = ""
    """Whose throughput it is a multiple of, where it is one of a peer's."""

    def reached(self, results: Results) -> bool | None:
        """Whether it was; None without a result."""
        result = results.get(self.source)
        if result is None:
            return None
        measured = self.measure(result)
        return measured >= self.bound if self.at_least else measured <= self.bound

    def row(self, results: Results) -> list[str]:
        """What, wanted, measured, reached."""
        sign = "≥" if self.at_least else "≤"
        wanted = f"{sign} {self.bound:g}{self.unit}"
        result = results.get(self.source)
        if result is None:
            return [self.what, wanted, f"no result yet: `{command_of(self.source)}`", ""]
        reached = "yes" if self.reached(results) else "**no**"
        return [self.what, wanted, f"{self.measure(result):.2f}{self.unit}", reached]


def _times_peer(words: str, name: str, bound: float) -> Target:
    def ratio(result: Any) -> float:
        return max(float(of.get(name, 0.0)) for key, of in result["ratios"].items() if key != "ours_redis")

    return Target(f"throughput to {words}", "peers", ratio, bound, "×", at_least=True, peer=name)


def _neither(result: Any) -> float:
    return float(result["stages"]["local"]["1000"]["neither_us"]) / 1e3


def _half_load(result: Any) -> float:
    found = result["stores"]["local"]["even"]["0.5"]
    return float(found["p99_ms"] / found["p50_ms"])


def best_rate(by_connections: Mapping[str, Any]) -> float:
    """The highest throughput over the numbers of connections."""
    return max(float(found["requests_per_s"]) for found in by_connections.values())


def _redis_share(result: Any) -> float:
    return best_rate(result["stores"]["Redis"]) / best_rate(result["stores"]["local, embedding rows"])


def _growth(result: Any) -> float:
    largest = max(result["items"], key=int)
    return float(result["items"][largest]["ratio"])


def _start(result: Any) -> float:
    largest = max(result["items"], key=int)
    return max(float(state["median"]) for state in result["items"][largest]["start_to_ready_s"].values())


def _fetch(result: Any) -> float:
    return float(result["ratio_to_mget"]["median_us"])


_STAGE = "scoring stage, gather included, to the decoupled graph alone on cached rows"

TARGETS = (
    _times_peer("plain FastAPI", "plain_fastapi", 3),
    _times_peer("BentoML", "bentoml", 4),
    _times_peer("LitServe", "litserve", 4),
    _times_peer("Ray Serve", "rayserve", 9),
    Target(_STAGE, "scoring_stage", lambda r: float(r["ratios"]["float16 rows"]["to the graph before"]), 1.5, "×"),
    Target("all that is neither fetch nor score", "request_stages", _neither, 0.4, " ms"),
    Target("p99 to p50 at half of the saturation rate", "latency_by_load", _half_load, 3, "×"),
    Target("Redis to local embedding rows, throughput", "throughput", _redis_share, 0.5, "×", at_least=True),
    Target("fetch from Redis to a bare MGET", "redis_fetch", _fetch, 1.5, "×"),
    Target("throughput of the largest catalogue to 10^4 items", "catalogue_growth", _growth, 0.7, "×", at_least=True),
    Target("private memory of a further worker, largest catalogue", "start_and_memory", further_worker_mb, 150, " MB"),
    Target("start to ready, largest catalogue", "start_and_memory", _start, 3, " s"),
)
