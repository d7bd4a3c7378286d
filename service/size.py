"""``ranktower size``: from traffic and catalogue to cores, memory and Redis bandwidth.

The costs come from ``reference_costs.json``, fitted to a measurement of the reference shape on the machine it names
(docs/performance.md), or, with ``--registry``, from the rows and the graph of a release, scored on this machine.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np

from ranktower.embedding_store.codec import TAG_SIZE, RowKind, RowLayout
from ranktower.embedding_store.local import LocalTable, read_fallback_user
from ranktower.embedding_store.slots import SLOTS_PER_ROW, WORD_BYTES
from ranktower.errors import ConfigError, ReleaseError
from ranktower.registry import Registry
from ranktower.release import TABLES, Manifest, Shape, read_manifest
from service.scorer import Scorer

REFERENCE = Shape(num_user_heads=4, num_item_heads=4, width=32, attention_width=32)
DEFAULT_USERS, DEFAULT_ITEMS = 10_000_000, 1_000_000
_ID_BYTES = 12  # of an id in a request, its comma left out
_SCORE_BYTES = 10  # of a score in an answer, its comma included
_STRING_KEY_BYTES = 24  # of a string id in a table; an integer takes 8
_REPEATS = 200


@dataclass(frozen=True)
class Plan:
    """What is asked for.

    Attributes:
        requests_per_s: at the busiest time.
        candidates: of a request.
        users, items: rows stored.
        users_in, items_in: ``local`` or ``redis``.
        string_ids: whether the ids are no integers.
        utilisation: share of a core that is planned to be busy; the rest is what keeps the tail short.
        cores: of one node, one worker each.
    """

    requests_per_s: float
    candidates: int
    users: int
    items: int
    users_in: str
    items_in: str
    string_ids: bool
    utilisation: float
    cores: int


@dataclass(frozen=True)
class Costs:
    """Of one request on one core, and where that was measured."""

    fixed_us: float
    per_candidate_us: float
    source: str


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(argv)
    reference = json.loads((files("service") / "reference_costs.json").read_text(encoding="utf-8"))
    manifest = _manifest(options.registry, options.model) if options.registry else None
    plan = Plan(
        requests_per_s=options.requests,
        candidates=options.candidates,
        users=options.users or (manifest.num_users if manifest else DEFAULT_USERS),
        items=options.items or (manifest.num_items if manifest else DEFAULT_ITEMS),
        users_in=options.users_in,
        items_in=options.items_in,
        string_ids=options.string_ids,
        utilisation=options.utilisation,
        cores=options.cores,
    )
    shape, dtype = (manifest.shape, manifest.row_dtype) if manifest else (REFERENCE, "float16")
    item_rows: RowKind = manifest.item_rows if manifest else options.item_rows
    if manifest is not None:
        folder = Registry(options.registry).release_dir(options.model, manifest.release)
        costs = measure(folder, manifest, plan, reference)
    else:
        costs = reference_costs(reference, plan, item_rows)
    tag = b"\0" * TAG_SIZE
    sizes = (shape.width, shape.attention_width, dtype, tag)
    users = RowLayout(shape.num_user_heads, *sizes, kind="embedding")
    items = RowLayout(shape.num_item_heads, *sizes, kind=item_rows)
    sys.stdout.write(report(plan, costs, users, items, reference))
    return 0


def reference_costs(reference: dict[str, Any], plan: Plan, item_rows: RowKind) -> Costs:
    """The measured costs of the reference shape for such a plan."""
    if plan.items_in == "redis":
        name = "redis"
    elif item_rows == "embedding":
        name = "embedding_rows"
    else:
        name = "strings" if plan.string_ids else "local"
    fitted = reference[name]
    source = f"reference shape on {reference['machine']}, {reference['date']}"
    return Costs(fitted["fixed_us"] + _user_us(reference, plan), fitted["per_candidate_us"], source)


def _user_us(reference: dict[str, Any], plan: Plan) -> float:
    """What a user in Redis costs a request that asks Redis for nothing else."""
    return float(reference["user_from_redis_us"]) if (plan.users_in, plan.items_in) == ("redis", "local") else 0.0


def measure(folder: Path, manifest: Manifest, plan: Plan, reference: dict[str, Any]) -> Costs:
    """Fetch and score this release's own rows on this machine.

    What a request costs besides (HTTP and JSON, and the way to Redis where the plan has items there) is taken from the
    reference measurement.
    """
    table = LocalTable(folder / TABLES["item"], manifest.layout("item"))
    user = read_fallback_user(folder, manifest)
    if user is None or not len(table):
        raise ReleaseError(f"{folder}: holds no items or no fallback user to measure with")
    in_redis = plan.items_in == "redis"
    layout = manifest.redis_layout("item") if in_redis else manifest.layout("item")
    scorer = Scorer(folder, manifest, [layout.kind])
    random = np.random.default_rng(0)
    times = []
    for _ in range(_REPEATS):
        ids: list[Any] = table.ids_at(random.integers(0, len(table), plan.candidates))
        started = time.perf_counter()
        found = table.locate(ids)
        if in_redis:
            raw = found.embeddings()
            started = time.perf_counter()
            scorer.score(user, layout, raw)
        else:
            scorer.score_stored(user, found)
        times.append((time.perf_counter() - started) * 1e6)
    others = [reference["around"], *([reference["redis_fetch"]] if in_redis else [])]
    return Costs(
        sum(other["fixed_us"] for other in others) + _user_us(reference, plan),
        float(np.median(times)) / plan.candidates + sum(other["per_candidate_us"] for other in others),
        f"release {manifest.release} on this machine",
    )


def report(plan: Plan, costs: Costs, users: RowLayout, items: RowLayout, reference: dict[str, Any]) -> str:
    """The answer as text."""
    request_us = costs.fixed_us + costs.per_candidate_us * plan.candidates
    busy_cores = plan.requests_per_s * request_us / 1e6
    cores = math.ceil(busy_cores / plan.utilisation)
    nodes = math.ceil(cores / plan.cores)
    index_bytes = WORD_BYTES * SLOTS_PER_ROW + (_STRING_KEY_BYTES if plan.string_ids else WORD_BYTES)
    mapped = plan.items * (items.row_size + index_bytes) if plan.items_in == "local" else 0
    mapped += plan.users * (users.row_size + index_bytes) if plan.users_in == "local" else 0
    private = plan.cores * reference["worker_private_mb"] * 1e6
    redis_item = items.row_size if items.kind == "embedding" else _embedding_size(items)
    overhead = reference["redis_overhead_bytes"]
    stored = plan.users * (users.row_size + overhead) if plan.users_in == "redis" else 0
    stored += plan.items * (redis_item + overhead) if plan.items_in == "redis" else 0
    from_redis = users.row_size if plan.users_in == "redis" else 0
    from_redis += plan.candidates * redis_item if plan.items_in == "redis" else 0
    lines = [
        f"{plan.requests_per_s:,.0f} requests/s of {plan.candidates:,} candidates; users {plan.users_in}, items "
        f"{plan.items_in}",
        f"a request       {request_us / 1e3:.2f} ms of one core ({costs.source})",
        f"service         {cores:,} cores at {plan.utilisation:.0%} utilisation: {nodes:,} nodes of {plan.cores}",
        f"memory a node   {_bytes(mapped)} of mapped tables (page cache, shared) + {_bytes(private)} private",
        f"network         {_bytes(plan.requests_per_s * plan.candidates * (_ID_BYTES + 1))}/s in, "
        f"{_bytes(plan.requests_per_s * plan.candidates * _SCORE_BYTES)}/s out",
    ]
    if stored:
        server = reference["redis_server"]
        keys = plan.candidates if plan.items_in == "redis" else 0
        busy = plan.requests_per_s * (server["fixed_us"] + server["per_candidate_us"] * keys) / 1e6
        lines.append(f"redis           {_bytes(stored)} a release (twice that while one is replaced)")
        lines.append(f"redis servers   {math.ceil(busy / plan.utilisation):,} at {plan.utilisation:.0%} utilisation")
        lines.append(f"redis network   {_bytes(plan.requests_per_s * from_redis)}/s, {_bytes(from_redis)} a request")
    return "\n".join(lines) + "\n"


def _embedding_size(layout: RowLayout) -> int:
    size: int = layout.slices()["embedding"].stop
    return size


def _bytes(size: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:,.3g} TB"


def _manifest(registry: Path, model: str) -> Manifest:
    pointer = Registry(registry).current(model)
    if pointer is None:
        raise ConfigError(f"--registry {registry}: no release of model {model!r} has been promoted")
    return read_manifest(Registry(registry).release_dir(model, pointer.release))


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ranktower size", description=__doc__)
    parser.add_argument("--requests", type=_positive, required=True, help="requests a second at the busiest time")
    parser.add_argument("--candidates", type=_count, default=1000, help="of a request (default 1000)")
    parser.add_argument("--items", type=_count, help="in the catalogue (default: the registry's, or 1,000,000)")
    parser.add_argument("--users", type=_count, help="stored (default: the registry's, or 10,000,000)")
    parser.add_argument("--items-in", choices=("local", "redis"), default="local")
    parser.add_argument("--users-in", choices=("local", "redis"), default="redis")
    parser.add_argument("--item-rows", choices=("projected", "embedding"), default="projected", help="of local items")
    parser.add_argument("--string-ids", action="store_true", help="ids are no integers")
    parser.add_argument("--utilisation", type=_share, default=0.5, help="of a core, planned (default 0.5)")
    parser.add_argument("--cores", type=_count, default=8, help="of a node, one worker each (default 8)")
    parser.add_argument("--registry", type=Path, help="measure the current release of this registry on this machine")
    parser.add_argument("--model", default="ranktower", help="its name in the registry")
    return parser


def _positive(text: str) -> float:
    return _checked(text, float, lambda value: math.isfinite(value) and value > 0, "a number above 0")


def _count(text: str) -> int:
    return int(_checked(text, int, lambda value: value >= 1, "an integer above 0"))


def _share(text: str) -> float:
    return _checked(text, float, lambda value: 0 < value <= 1, "a number above 0 and at most 1")


def _checked(text: str, read: Callable[[str], float], is_good: Callable[[float], bool], wanted: str) -> float:
    try:
        value = read(text)
    except ValueError:
        value = math.nan
    if not is_good(value):
        raise argparse.ArgumentTypeError(f"must be {wanted}, got {text!r}")
    return value
