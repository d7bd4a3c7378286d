"""The line through the costs of requests, and the constants made of it."""

from __future__ import annotations

import pytest
from sizing import NAMES, fit_line, further_worker_mb, reference_costs


def test_costs_on_a_line_give_the_line() -> None:
    costs = {size: 250.0 + 1.5 * size for size in (10, 100, 1000, 10_000)}
    assert fit_line(costs) == {"fixed_us": pytest.approx(250.0), "per_candidate_us": pytest.approx(1.5)}


def test_a_tenth_more_weighs_the_same_wherever_it_is() -> None:
    """Of two costs far from a line through the others, the errors in proportion decide: both ends are met within it."""
    costs = {10: 110.0, 100: 200.0, 1000: 1100.0, 10_000: 12_000.0}
    line = fit_line(costs)
    for size, cost in costs.items():
        assert line["fixed_us"] + line["per_candidate_us"] * size == pytest.approx(cost, rel=0.2)


def test_no_constant_is_below_zero() -> None:
    """The line that would go below 0 is drawn through the origin, or level."""
    rising = fit_line({10: 10.0, 1000: 2000.0})
    assert rising["fixed_us"] == 0.0
    # Minimises (s / 1 - 1)^2 + (s / 2 - 1)^2, which is at s = (1 + 1/2) / (1 + 1/4).
    assert rising["per_candidate_us"] == pytest.approx(1.2)
    falling = fit_line({10: 200.0, 1000: 100.0})
    # Minimises (a / 200 - 1)^2 + (a / 100 - 1)^2.
    assert falling == {"fixed_us": pytest.approx(120.0), "per_candidate_us": 0.0}


def test_the_constants_have_a_line_for_each_store() -> None:
    sizes = {
        str(size): {
            "cpu_us": 100.0 + size,
            "score_us": 30.0 + 0.6 * size,
            "neither_us": 40.0 + 0.1 * size,
            "redis_server_us": 10.0 + 0.5 * size,
        }
        for size in (10, 1000)
    }
    stages = {
        "machine": {"cpu": "a processor", "num_cores": 2},
        "date": "2026-01-01",
        "stages": dict.fromkeys(NAMES.values(), sizes),
    }
    costs = reference_costs(stages)
    line = {"fixed_us": pytest.approx(100.0), "per_candidate_us": pytest.approx(1.0)}
    server = {"fixed_us": pytest.approx(10.0), "per_candidate_us": pytest.approx(0.5)}
    assert costs == {
        "machine": "2 cores of a processor",
        "date": "2026-01-01",
        **dict.fromkeys(NAMES, line),
        "around": {"fixed_us": pytest.approx(40.0), "per_candidate_us": pytest.approx(0.1)},
        # What is left of 100 + n without 30 + 0.6 n and 40 + 0.1 n.
        "redis_fetch": {"fixed_us": pytest.approx(30.0), "per_candidate_us": pytest.approx(0.3)},
        "user_from_redis_us": None,
        "redis_server": server,
        "redis_overhead_bytes": None,
        "worker_private_mb": None,
    }
    alone = {"private_of_workers_mb": [9000]}  # its tables too, which no other process maps
    beside = {"2": {"private_of_workers_mb": [80, 90]}, "3": {"private_of_workers_mb": [70, 60, 85]}}
    memory = {
        "items": {"10": {"memory": {"2": {"private_of_workers_mb": [500]}}}, "200": {"memory": {"1": alone} | beside}}
    }
    assert further_worker_mb(memory) == 90
    assert reference_costs(stages, memory=memory)["worker_private_mb"] == 90
    redis = {"redis_bytes_a_row": {"raw multi-embeddings": 400.0}}
    assert (
        reference_costs(stages, redis=redis)["redis_overhead_bytes"] == 136
    )  # of 400 bytes, 8 + 2 x 4 x 32 are the row
    rates = {
        "1": {"requests_per_s": 400.0, "server_cpu_us": 2000.0},
        "4": {"requests_per_s": 500.0, "server_cpu_us": 1800.0},
    }
    from_redis = {"1": {"requests_per_s": 450.0, "server_cpu_us": 2100.0}}
    throughput = {"stores": {"local": rates, "users in Redis": from_redis}}
    assert reference_costs(stages, throughput=throughput)["user_from_redis_us"] == 300
