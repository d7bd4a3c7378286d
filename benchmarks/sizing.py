"""What a request costs, as a straight line over its candidates, fitted to ``request_stages.py``: the constants of
``ranktower size``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ranktower.embedding_store.codec import RowLayout

# The calculator's names for the setups of the benchmarks.
NAMES = {
    "local": "local",
    "strings": "local, string ids",
    "embedding_rows": "local, embedding rows",
    "redis": "Redis",
}


def fit_line(cost_us: Mapping[int, float]) -> dict[str, float]:
    """``fixed_us`` and ``per_candidate_us`` of a line through costs by number of candidates.

    Errors count in proportion to the cost, so that the small requests weigh as much as the large ones. Neither
    constant is below 0.
    """
    sizes, costs = np.array(list(cost_us), dtype=np.float64), np.array(list(cost_us.values()), dtype=np.float64)
    columns = np.stack([1.0 / costs, sizes / costs], axis=1)
    fixed, slope = np.linalg.lstsq(columns, np.ones(len(costs)), rcond=None)[0]
    if fixed < 0:
        fixed, slope = 0.0, (columns[:, 1].sum() / (columns[:, 1] ** 2).sum())
    if slope < 0:
        fixed, slope = columns[:, 0].sum() / (columns[:, 0] ** 2).sum(), 0.0
    return {"fixed_us": round(float(fixed), 1), "per_candidate_us": round(float(slope), 4)}


def reference_costs(
    stages: Mapping[str, Any],
    *,
    memory: Mapping[str, Any] | None = None,
    redis: Mapping[str, Any] | None = None,
    throughput: Mapping[str, Any] | None = None,
) -> dict[str, Any]:
    """The content of ``service/reference_costs.json``; null where a benchmark has no result.

    Args:
        stages: result of ``request_stages.py``.
        memory: result of ``start_and_memory.py``.
        redis: result of ``redis_fetch.py``.
        throughput: result of ``throughput.py``.
    """
    machine = stages["machine"]
    costs: dict[str, Any] = {"machine": f"{machine['num_cores']} cores of {machine['cpu']}", "date": stages["date"]}
    for key, name in NAMES.items():
        costs[key] = fit_line(_by_size(stages, name, "cpu_us"))
    # What lies around fetching and scoring, and what a worker itself does to get rows from Redis: processor time, which
    # the stage's own duration is not.
    around = _by_size(stages, NAMES["local"], "neither_us")
    whole, score = (_by_size(stages, NAMES["redis"], key) for key in ("cpu_us", "score_us"))
    costs["around"] = fit_line(around)
    costs["redis_fetch"] = fit_line({size: max(1.0, whole[size] - score[size] - around[size]) for size in whole})
    costs["user_from_redis_us"] = None if throughput is None else user_from_redis_us(throughput)
    costs["redis_server"] = fit_line(_by_size(stages, NAMES["redis"], "redis_server_us"))
    costs["redis_overhead_bytes"] = None if redis is None else redis_overhead_bytes(redis)
    costs["worker_private_mb"] = None if memory is None else further_worker_mb(memory)
    return costs


def user_from_redis_us(throughput: Mapping[str, Any]) -> float:
    """Processor time that a request takes more where its user comes from Redis, at the best rate of either."""
    spent = [_at_best_rate(throughput["stores"][name]) for name in ("users in Redis", "local")]
    return max(0.0, round(spent[0] - spent[1], 1))


def _at_best_rate(by_connections: Mapping[str, Any]) -> float:
    return float(max(by_connections.values(), key=lambda found: found["requests_per_s"])["server_cpu_us"])


def all_costs(results: Mapping[str, Any]) -> dict[str, Any]:
    """``reference_costs`` of the newest results by the name of their benchmark; ``request_stages`` must be there."""
    return reference_costs(
        results["request_stages"],
        memory=results.get("start_and_memory"),
        redis=results.get("redis_fetch"),
        throughput=results.get("throughput"),
    )


def redis_overhead_bytes(redis: Mapping[str, Any]) -> float:
    """What a row takes in Redis besides its own bytes: its key, the dictionary's entry, headers and rounding."""
    row_size = RowLayout(4, 32, 32, "float16", bytes(8), "embedding").row_size
    return float(round(redis["redis_bytes_a_row"]["raw multi-embeddings"] - row_size))


def further_worker_mb(memory: Mapping[str, Any]) -> float:
    """Private memory of a worker beside others, the most that any had, with the largest catalogue measured."""
    largest = memory["items"][str(max(map(int, memory["items"])))]
    beside_others = (of for workers, of in largest["memory"].items() if int(workers) > 1)
    return float(max(max(of["private_of_workers_mb"]) for of in beside_others))


def _by_size(stages: Mapping[str, Any], name: str, key: str) -> dict[int, float]:
    return {int(size): found[key] for size, found in stages["stages"][name].items()}
