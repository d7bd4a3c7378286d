"""The options that RankTower's locustfile adds to locust's own."""

from __future__ import annotations

from argparse import Namespace

from configargparse import ArgumentParser
from shapes import SHAPES
from thresholds import Thresholds
from traffic import KINDS, Habits, parse_budgets, parse_mix


def add_options(parser: ArgumentParser) -> None:
    """Add them in a group of their own. They are fixed at start: the web page does not show them."""
    # Options of a group are not on the page.
    add = parser.add_argument_group("RankTower").add_argument
    add(
        "--registry",
        env_var="RANKTOWER_RELEASE__REGISTRY",
        required=True,
        help="folder of the releases",
    )
    add(
        "--model",
        env_var="RANKTOWER_RELEASE__MODEL",
        required=True,
        help="users and items are those of its release",
    )
    add("--shape", choices=SHAPES, default="constant", help="how the rate changes over --run-time (constant)")
    add("--mix", default="score=84,rank=5,retrieve=8,explain=1,bad=2", help=f"weights of {', '.join(KINDS)}")
    add("--budgets-ms", default="10=1,20=3,50=4,none=2", help="weights of the budgets; none asks without one")
    add("--candidates", type=int, default=500, help="median of a request (500)")
    add("--max-candidates", type=int, default=2000, help="most of a request (2000)")
    add("--zipf", type=float, default=1.0, help="exponent of the popularity of users and items (1.0)")
    add("--unknown-users", type=float, default=0.02, help="share of requests of a user without a row (0.02)")
    add("--unknown-items", type=float, default=0.01, help="share of candidates without a row (0.01)")
    add("--too-many", type=int, default=10_001, help="candidates of a bad request: limits.max_candidates + 1 (10001)")
    add("--max-p99-ms", type=float, help="exit status 1 above this p99")
    add("--max-failures", type=float, default=0.01, help="exit status 1 above this share of wrong answers (0.01)")
    add("--max-degraded", type=float, help="exit status 1 above this share of degraded answers")
    add("--max-shed", type=float, help="exit status 1 above this share of 429")
    add("--max-out-of-time", type=float, help="exit status 1 above this share of 504")
    add("--record", metavar="FILE.csv", help="write one line a request there; with one process only")


def habits(options: Namespace) -> Habits:
    """How users ask; ConfigError for a value that cannot be."""
    return Habits(
        mix=parse_mix(options.mix),
        budgets=parse_budgets(options.budgets_ms),
        median_candidates=options.candidates,
        max_candidates=options.max_candidates,
        unknown_users=options.unknown_users,
        unknown_items=options.unknown_items,
        too_many=options.too_many,
    )


def thresholds(options: Namespace) -> Thresholds:
    """What sets the exit status; ConfigError for a value that cannot be."""
    return Thresholds(
        p99_ms=options.max_p99_ms,
        failures=options.max_failures,
        degraded=options.max_degraded,
        shed=options.max_shed,
        out_of_time=options.max_out_of_time,
    )
