"""docs/performance.md: every number of it from the newest result files."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from page_parts import missing, note, table
from performance_graph import graph, operator_costs, operators, scoring_stage, session_options
from performance_plots import parts_us
from performance_sizing import sizing
from targets import TARGETS, Results, Target, best_rate

sys.path.append(str(Path(__file__).parent / "peers"))
from report import markdown as peers_markdown

Section = Callable[[Any], str]

_INTRODUCTION = """# Performance

Written by `python benchmarks/figures.py` from the newest files in `benchmarks/results`; do not
edit it. Where nothing else is said, a request has 1,000 candidates, 200,000 users and items are stored as float16
rows, Hu = Hi = 4 and D = A = 32, the service has one core, and the load generator the other. `make bench` measures all
but the peers, `make bench-peers` those. Times depend on the machine; ratios, taken in one run, do less.
"""


def page(results: Results) -> str:
    """The whole page. A benchmark without a result is named with the command that makes it."""
    sections = [_INTRODUCTION.strip(), targets(results)]
    for title, name, write in SECTIONS:
        result = results.get(name)
        text = missing(name) if result is None else write(result)
        sections.append(f"## {title}\n\n{text}")
    sections.append(sizing(results))
    return "\n\n".join(sections) + "\n"


def targets(results: Results) -> str:
    """What was to be reached, and what was."""
    rows = [target.row(results) for target in TARGETS]
    text = "## What was to be reached\n\n" + table(["figure", "wanted", "measured", "reached"], rows)
    missed = [target for target in TARGETS if target.source == "peers" and target.reached(results) is False]
    if missed and "request_stages" in results:
        text += "\n\n" + obstacles(missed, results["peers"], results["request_stages"])
    return text


def obstacles(missed: Sequence[Target], peers_result: Any, stages_result: Any) -> str:
    """What stands between the throughput and a multiple of a peer's that was not reached."""
    spent = stages_result["stages"]["local"]["1000"]
    parts = parts_us(spent)
    around = spent["cpu_us"] - parts["score"] - parts["fetch"]
    leaves = []
    for target in missed:
        peer = peers_result["throughput"][target.peer]["requests_per_s"]
        leaves.append(f"{1e6 / (target.bound * peer):,.0f} µs ({target.what.removeprefix('throughput to ')})")
    return (
        f"What stands in the way: a request takes {spent['cpu_us']:,.0f} µs of the core, of which reading and scoring"
        f" rows takes {parts['score']:,.0f}, finding ids {parts['fetch']:,.0f} and everything else {around:,.0f}. The"
        f" multiples not reached would leave it {', '.join(leaves)}."
    )


def peers(result: Any) -> str:
    """The comparison with other servers."""
    text = (
        "The same rows, requests and scores on other servers, each in an environment of its own, started in turns. They"
        " run the paper's graph, with the user expanded, in ONNX Runtime; scores are compared with torch's before"
        " anything is timed."
    )
    picture = "![Throughput and latency of the peers](images/peers.svg)"
    return "\n\n".join([text, picture, peers_markdown(result), note(result)])


def stages(result: Any) -> str:
    """Where the time of a request goes."""
    blocks = [
        "One connection. Stages are the service's own histograms; framework is the processor time of its process that"
        " no stage counts: the HTTP protocol, the sockets and the event loop. Fetch is the lookup of ids: the scorer"
        " reads the rows where they are. From Redis it is a time of waiting, with its work in the last column but one,"
        " and the framework is the local store's.",
        "![Parts of a request](images/request_stages.svg)",
    ]
    for store, by_size in result["stages"].items():
        rows = []
        for size, found in by_size.items():
            parts = parts_us(found)
            own = found.get("fetch_cpu_us", found["fetch_us"])
            cells = [f"{us:.0f}" for us in (*parts.values(), own, found["cpu_us"])]
            rows.append([f"{int(size):,}", *cells])
        head = ["candidates", *parts, "fetch, processor", "processor, all"]
        blocks.append(f"{store}, microseconds a request:\n\n{table(head, rows)}")
    neither = result["stages"]["local"]["1000"]["neither_us"]
    blocks.append(f"Neither fetch nor score, local store, 1,000 candidates: {neither:.0f} µs.")
    return "\n\n".join([*blocks, note(result)])


def throughput(result: Any) -> str:
    """Closed loop by store."""
    rows = [
        [name, *(f"{of[number]['requests_per_s']:.0f}" for number in of), f"{of['1']['p50_ms']:.2f}", _spent(of)]
        for name, of in result["stores"].items()
    ]
    head = ["rows from", *_connections(result["stores"]["local"]), "p50 ms, 1 connection"]
    text = "Closed loop, requests a second. The last column is the service's processor time at the most connections."
    return "\n\n".join([text, table([*head, "processor ms a request"], rows), note(result)])


def workers(result: Any) -> str:
    """One worker against two."""
    of = result["workers"]
    one, two = best_rate(of["1"]), best_rate(of["2"])
    spent = {number: max(found.values(), key=lambda run: run["requests_per_s"]) for number, found in of.items()}
    generator = spent["2"]["generator_cpu_us"] * spent["2"]["requests_per_s"] / 1e6
    server = spent["2"]["server_cpu_us"] * spent["2"]["requests_per_s"] / 1e6
    rows = [[number, *(f"{run['requests_per_s']:.0f}" for run in found.values())] for number, found in of.items()]
    cost = spent["2"]["server_cpu_us"] / spent["1"]["server_cpu_us"]
    text = (
        f"Two workers on both cores answer {two / one:.2f} times what one worker on one core does. The generator runs"
        " on"
        f" the same two cores and takes {generator:.2f} of them, which leaves {2 - generator:.2f} to the workers; they"
        f" used {server:.2f}, and a request took {cost:.2f} times the processor time that it takes a single worker. The"
        " two share memory and caches with each other, and one of them its core with the generator. A connection stays"
        " with the worker that accepted it, so few connections may leave one with less to do, and a single one uses one"
        " worker only."
    )
    return "\n\n".join([text, table(["workers", *_connections(of["1"])], rows), note(result)])


def latency(result: Any) -> str:
    """Open loop by load."""
    blocks = [
        "Open loop: a request is sent when it is due, whatever the service does, and its latency counts from then."
        " Loads"
        " are shares of the rate that a closed loop of 16 connections reached.",
        "![Latency against offered load](images/latency_by_load.svg)",
    ]
    for name, of in result["stores"].items():
        for way, words in (("even", "at even distances"), ("random", "at random times (Poisson)")):
            if way not in of:
                continue
            rows = [
                [f"{float(share):.0%}", *(f"{run[key]:.0f}" for key in ("offered_per_s", "achieved_per_s"))]
                + [f"{run[key]:.2f}" for key in ("p50_ms", "p99_ms", "p999_ms")]
                for share, run in of[way].items()
            ]
            head = ["load", "offered/s", "answered/s", "p50 ms", "p99 ms", "p99.9 ms"]
            saturated = of["saturation"]["requests_per_s"]
            blocks.append(f"{name}, saturated at {saturated:.0f} requests/s, requests {words}:\n\n{table(head, rows)}")
    return "\n\n".join([*blocks, note(result)])


def redis(result: Any) -> str:
    """The Redis path, and the choice of rows."""
    fetch, rows_of, server = result["fetch"], result["rows"], result["of_redis"]
    ratio = result["ratio_to_mget"]
    reads = {kind: fetch[_our_mget(kind)]["median_us"] for kind in rows_of}
    sums = {kind: reads[kind] + of["decode_us"] + of["score_us"] for kind, of in rows_of.items()}
    kinds = [
        [
            kind,
            f"{result['row_bytes'][kind]:,}",
            f"{result['redis_bytes_a_row'][kind]:,.0f}",
            f"{server[kind]['bytes_sent']:,}",
            f"{server[kind]['cpu_us']:.0f}",
            *(f"{us:.0f}" for us in (reads[kind], of["decode_us"], of["score_us"], sums[kind])),
        ]
        for kind, of in rows_of.items()
    ]
    head = ["item rows", "bytes a row", "Redis memory a row", "bytes sent a fetch", "Redis µs", "MGET µs"]
    first = (
        "One round trip reads the user and the 1,000 candidates: one MGET, written and read by us over a connection of"
        f" redis-py's pool, hiredis parsing. It takes {ratio['median_us']:.2f} times a bare MGET of the same keys by"
        f" redis-py, in processor time {ratio['cpu_us']:.2f} times; looking the keys up, decoding and checking the rows"
        " is part of ours."
    )
    second = (
        "Which rows to store in Redis is decided by the sum of reading, decoding and scoring them, here of 1,000"
        f" candidates: {min(sums, key=lambda kind: sums[kind])} take less. Rows with projections spare the graph four"
        " linear maps and are five times as long on the way."
    )
    cluster = "A cluster of three masters on one core, where the keys spread over all slots:"
    blocks = [first, _times(fetch), second, table([*head, "decode µs", "score µs", "sum µs"], kinds)]
    return "\n\n".join([*blocks, cluster, _times(result["cluster"]), note(result)])


def _connections(by_number: dict[str, Any]) -> list[str]:
    return [f"{number} connection{'' if number == '1' else 's'}" for number in by_number]


def _our_mget(kind: str) -> str:
    return "our MGET of the same keys" if kind == "raw multi-embeddings" else f"our MGET, {kind}"


def _times(calls: dict[str, Any]) -> str:
    rows = [[name, *(f"{of[key]:.0f}" for key in ("median_us", "p99_us", "cpu_us"))] for name, of in calls.items()]
    return table(["call", "median µs", "p99 µs", "processor µs"], rows)


def _spent(by_connections: dict[str, Any]) -> str:
    return f"{by_connections[max(by_connections, key=int)]['server_cpu_us'] / 1e3:.2f}"


def catalogue(result: Any) -> str:
    """Growth with the number of items."""
    rows = [
        [f"{int(size):,}", f"{of['requests_per_s']:.0f}", f"{of['ratio']:.2f}"]
        + [f"{of[f'{stage}_us']:.0f}" for stage in ("parse", "fetch", "score", "serialize")]
        for size, of in result["items"].items()
    ]
    head = ["items", "requests/s", "to the smallest", "parse µs", "fetch µs", "score µs", "serialize µs"]
    text = (
        "Simulated rows. The tables were read once from end to end and requests sent until the rate no longer rose:"
        " this"
        " is a catalogue in memory, not a cold start. Score grows too where the rows come from memory and not"
        " from the caches."
    )
    picture = "![Throughput against items](images/catalogue_growth.svg)"
    return "\n\n".join([text, picture, table(head, rows), note(result)])


def start(result: Any) -> str:
    """Time until ready, and memory."""
    rows = []
    for size, of in result["items"].items():
        times = [f"{of['start_to_ready_s'][state]['median']:.2f}" for state in ("evicted", "cached")]
        further = ", ".join(f"{mb:.0f}" for mb in of["pss_of_each_further_worker_mb"])
        before = f"{of['start_to_ready_before_serving_s']:.2f}"
        rows.append([f"{int(size):,}", f"{of['release_mb']:,}", *times, before, further])
    head = ["items", "release MB", "start s, files evicted", "start s, cached", "start s, all hashed first"]
    text = (
        "From the creation of the process to the first 200 of `/readyz`; and what each further worker adds to memory."
    )
    return "\n\n".join([text, table([*head, "further workers, MB each"], rows), note(result)])


def lookup(result: Any) -> str:
    """Ids to rows."""
    blocks = ["Median microseconds to find the rows of 1,000 ids, by the size of the table."]
    for kind in ("integer ids", "string ids"):
        sizes = result[kind]
        ways = list(next(iter(sizes.values()))["ids to rows, 1000 ids"])
        rows = [[way, *(f"{of['ids to rows, 1000 ids'][way]:.0f}" for of in sizes.values())] for way in ways]
        blocks.append(table([kind, *(f"{int(size):,} rows" for size in sizes)], rows))
    return "\n\n".join([*blocks, note(result)])


SECTIONS: tuple[tuple[str, str, Section], ...] = (
    ("Against other servers", "peers", peers),
    ("Where the time of a request goes", "request_stages", stages),
    ("Throughput by store", "throughput", throughput),
    ("Latency against load", "latency_by_load", latency),
    ("Two workers", "throughput", workers),
    ("The scoring stage", "scoring_stage", scoring_stage),
    ("The graph", "scorer_variants", graph),
    ("The graph, operator by operator", "scorer_profile", operators),
    ("Single operators", "operator_costs", operator_costs),
    ("ONNX Runtime's options", "session_options", session_options),
    ("Redis", "redis_fetch", redis),
    ("Growth with the catalogue", "catalogue_growth", catalogue),
    ("Start and memory", "start_and_memory", start),
    ("Finding ids", "id_lookup", lookup),
)
"""Title, benchmark, text."""
