"""The sections of docs/performance.md about the graph and ONNX Runtime alone."""

from __future__ import annotations

from typing import Any

from page_parts import note, table

_FEWEST_SHOWN = 0.01


def scoring_stage(result: Any) -> str:
    """The stage against the graph alone."""
    rows = [[name, f"{of['median_us']:.0f}", f"{of['p99_us']:.0f}"] for name, of in result["times"].items()]
    ratios = [
        [name, f"{of['to the graph before']:.2f}", f"{of['to the graph alone']:.2f}"]
        for name, of in result["ratios"].items()
    ]
    text = (
        f"One thread, in turns. A stage takes {result['num_candidates']:,} other rows of a table of"
        f" {result['num_rows']:,} each time, checks their tags and scores them; the graphs alone have their rows in the"
        ' caches. "Before" is torch\'s export over five float32 arrays in the order of the rows.'
    )
    head = ["stage with", "to the graph before", "to its own graph alone"]
    blocks = [text, table(["", "median µs", "p99 µs"], rows), table(head, ratios), note(result)]
    return "\n\n".join(blocks)


def graph(result: Any) -> str:
    """Every variant that was tried."""
    rows = [
        [name, f"{of['median_us']:.0f}", f"{of['p99_us']:.0f}", f"{of['max_difference']:.1e}"]
        for name, of in result["variants"].items()
    ]
    text = (
        f"{result['num_candidates']:,} candidates, one thread, in turns, inputs in the caches. Differences are to torch"
        " in float32 on the same stored rows, on the scale of the sum of cosines. Kept is what a release holds."
    )
    head = ["graph", "median µs", "p99 µs", "largest difference to torch"]
    picture = "![Variants of the graph](images/scorer_variants.svg)"
    return "\n\n".join([text, picture, table(head, rows), note(result)])


def operators(result: Any) -> str:
    """ONNX Runtime's own profile."""
    blocks = [
        f"ONNX Runtime's profile of {result['num_candidates']:,} candidates, medians; operators with less than"
        f" {_FEWEST_SHOWN:.0%} are one line. The profiler adds some microseconds to each operator."
    ]
    for kind, nodes in result["operators"].items():
        rows, others = [], [0.0, 0.0]
        for node in nodes:
            if node["share"] >= _FEWEST_SHOWN:
                shape = " ".join(str(one) for one in node["output"])
                measured = [f"{node['median_us']:.0f}", f"{node['share']:.1%}"]
                # ONNX Runtime puts the name of the fusion that made a node behind a stroke.
                gives = node["node"].partition("/")[0]
                rows.append([node["operator"], f"`{gives}`", shape, *measured])
            else:
                others = [others[0] + node["median_us"], others[1] + node["share"]]
        rows.append(["others", "", "", f"{others[0]:.0f}", f"{others[1]:.1%}"])
        head = ["operator", "gives", "shape", "µs", "share"]
        blocks.append(f"{kind.capitalize()} rows, float16:\n\n{table(head, rows)}")
    return "\n\n".join([*blocks, note(result)])


def operator_costs(result: Any) -> str:
    """Single operators at the graph's shapes."""
    empty = result["median_us"]["run"]["empty"]
    rows = [
        [group, name, f"{microseconds:.0f}"]
        for group, of in result["median_us"].items()
        for name, microseconds in of.items()
        if group != "run"
    ]
    text = f"Each is a graph of its own at N = {result['num_candidates']:,}; an empty one takes {empty:.0f} µs."
    return "\n\n".join([text, table(["job", "written as", "median µs"], rows), note(result)])


def session_options(result: Any) -> str:
    """Options of a session, and the choice."""
    times = result["times"]
    names = list(times["1000"]) + [name for name in times["10000"] if name not in times["1000"]]
    rows = [
        [
            name,
            *(f"{of[name][key]:.0f}" if name in of else "" for of in times.values() for key in ("median_us", "p99_us")),
        ]
        for name in names
    ]
    head = ["", *(f"{key}, {int(size):,}" for size in times for key in ("median µs", "p99 µs"))]
    return "\n\n".join([_choice(times), table(head, rows), note(result)])


def _choice(times: dict[str, Any]) -> str:
    small, large = times["1000"], times["10000"]
    served = next(of["median_us"] for name, of in small.items() if name.startswith("as served"))
    block = large["one block"]["median_us"] / large["blocks of 1024"]["median_us"]
    bound = small["outputs bound to a kept array"]["median_us"] / served
    text = (
        "The service opens its sessions as in the first row and scores blocks of 1,024, because what lies between two"
        f" operators then stays in the caches: at 10,000 candidates one block takes {block:.2f} times as long. With the"
        f" output bound to a kept array a call takes {bound:.2f} times as long as without."
    )
    if "2 threads, spinning" not in small:
        return text
    fastest = min(small["2 threads, spinning"]["median_us"], small["2 threads, no spinning"]["median_us"])
    faster = small["1 thread, both cores"]["median_us"] / fastest
    return (
        f"{text} A second thread on a second core makes a call {faster:.2f} times as fast at 1,000 candidates; a second"
        " worker leaves no core waiting between two operators, so a worker has one thread."
    )
