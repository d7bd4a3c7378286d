"""The pages made of small results that are written out here."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from page_parts import command_of, note, table
from performance_page import SECTIONS, page, redis, stages, targets, workers
from performance_plots import draw_catalogue, draw_stages, parts_us
from result_file import without_folders
from targets import TARGETS, best_rate

PLACE = {
    "date": "2026-01-02",
    "command": "python benchmarks/some.py",
    "machine": {"cpu": "a processor", "num_cores": 2},
}


def stage(**others: float) -> dict[str, float]:
    """1,000 us of the processor: 100 parse, 200 fetch, 500 score, 50 serialize, 150 left."""
    times = {"parse_us": 100.0, "fetch_us": 200.0, "score_us": 500.0, "serialize_us": 50.0, "cpu_us": 1000.0}
    return times | {"framework_us": 150.0, "neither_us": 300.0, "redis_server_us": 70.0} | others


def stages_result() -> dict[str, Any]:
    sizes = ("10", "1000")
    local = {size: stage() for size in sizes}
    stores: dict[str, Any] = dict.fromkeys(("local", "local, string ids", "local, embedding rows"), local)
    return PLACE | {"stages": stores | {"Redis": {size: stage(fetch_cpu_us=120.0) for size in sizes}}}


def run(requests_per_s: float, server_cpu_us: float) -> dict[str, float]:
    return {"requests_per_s": requests_per_s, "server_cpu_us": server_cpu_us, "generator_cpu_us": 100.0, "p50_ms": 1.0}


def test_a_page_without_results_says_what_makes_them() -> None:
    text = page({})
    for title, name, _ in SECTIONS:
        assert f"## {title}\n\nNo result yet: `{command_of(name)}` makes one." in text
    assert command_of("peers") == "make bench-peers"
    assert text.count("no result yet") == len(TARGETS)


def test_the_parts_of_a_request_are_all_of_its_time() -> None:
    assert sum(parts_us(stage()).values()) == pytest.approx(1000.0)
    assert min(parts_us(stage(framework_us=-3.0)).values()) == 0


def test_the_stages_stand_in_the_order_of_a_request() -> None:
    text = stages(stages_result())
    assert "| candidates | framework | parse | fetch | score | serialize | fetch, processor |" in text
    assert "| 1,000 | 150 | 100 | 200 | 500 | 50 | 200 | 1000 |" in text
    # From Redis the fetch's own work is less than its waiting.
    assert "| 1,000 | 150 | 100 | 200 | 500 | 50 | 120 | 1000 |" in text
    assert "Neither fetch nor score, local store, 1,000 candidates: 300 µs." in text
    assert note(PLACE) in text


def test_a_target_is_reached_from_the_right_side() -> None:
    (neither,) = (target for target in TARGETS if target.source == "request_stages")
    assert neither.row({"request_stages": stages_result()})[1:] == ["≤ 0.4 ms", "0.30 ms", "yes"]
    (growth,) = (target for target in TARGETS if target.source == "catalogue_growth")
    small = {"catalogue_growth": {"items": {"100": {"ratio": 1.0}, "2000": {"ratio": 0.65}}}}
    assert growth.row(small)[1:] == ["≥ 0.7×", "0.65×", "**no**"]


def test_peers_are_compared_with_the_better_of_our_local_stores() -> None:
    (bentoml,) = (target for target in TARGETS if "BentoML" in target.what)
    ratios = {"ours_float32": {"bentoml": 3.5}, "ours_float16": {"bentoml": 4.5}, "ours_redis": {"bentoml": 9.0}}
    assert bentoml.row({"peers": {"ratios": ratios}})[2] == "4.50×"


def test_what_stands_in_the_way_of_a_multiple_that_was_not_reached() -> None:
    """Four times 200 requests a second leave 1,250 us; of 1,000 us, 500 score and 200 find ids."""
    names = ("plain_fastapi", "bentoml", "litserve", "rayserve")
    ratios = {"ours_float16": dict.fromkeys(names, 10.0) | {"bentoml": 3.5}}
    peers = {"ratios": ratios, "throughput": {name: {"requests_per_s": 200.0} for name in names}}
    text = targets({"peers": peers, "request_stages": stages_result()})
    assert "| throughput to BentoML | ≥ 4× | 3.50× | **no** |" in text
    assert "a request takes 1,000 µs of the core, of which reading and scoring rows takes 500, finding ids 200" in text
    assert "and everything else 300. The multiples not reached would leave it 1,250 µs (BentoML)." in text
    ratios["ours_float16"]["bentoml"] = 4.5
    assert "in the way" not in targets({"peers": peers, "request_stages": stages_result()})


def test_two_workers_are_explained_from_what_was_used() -> None:
    """1,500 requests of 1,000 us and of 100 us of the generator: 1.5 and 0.15 cores."""
    of = {"1": {"1": run(700, 800), "4": run(1000, 800)}, "2": {"1": run(700, 800), "4": run(1500, 1000)}}
    text = workers(PLACE | {"workers": of})
    assert "answer 1.50 times" in text
    assert "takes 0.15 of them, which leaves 1.85 to the workers; they used 1.50" in text
    assert "1.25 times the processor time" in text
    assert "| workers | 1 connection | 4 connections |" in text
    assert best_rate(of["2"]) == 1500


def test_the_rows_in_redis_are_chosen_by_the_sum() -> None:
    kinds = ("raw multi-embeddings", "rows with projections")
    times = {"p99_us": 1.0, "cpu_us": 1.0}
    reads = {"our MGET of the same keys": 400.0, "our MGET, rows with projections": 600.0}
    result = PLACE | {
        "fetch": {name: {"median_us": us, **times} for name, us in reads.items()},
        "rows": {kinds[0]: {"decode_us": 50.0, "score_us": 500.0}, kinds[1]: {"decode_us": 90.0, "score_us": 300.0}},
        "of_redis": {kind: {"bytes_sent": 1000, "cpu_us": 5.0} for kind in kinds},
        "row_bytes": dict.fromkeys(kinds, 264),
        "redis_bytes_a_row": dict.fromkeys(kinds, 400.0),
        "ratio_to_mget": {"median_us": 1.1, "cpu_us": 0.9},
        "cluster": {},
    }
    assert "raw multi-embeddings take less" in redis(result)  # 950 against 990
    result["rows"][kinds[1]]["score_us"] = 200.0
    assert "rows with projections take less" in redis(result)


def test_a_row_with_a_cell_too_few_is_refused() -> None:
    assert table(["a", "b"], [["1", "2"]]) == "| a | b |\n| --- | --- |\n| 1 | 2 |"
    with pytest.raises(ValueError, match="1 cells in"):
        table(["a", "b"], [["1"]])


def test_a_command_is_told_without_the_folders_of_its_machine() -> None:
    told = without_folders("python /home/me/benchmarks/some.py --reuse 100=/tmp/a/big --share 1/2 benchmarks/other.py")
    assert told == "python some.py --reuse 100=big --share 1/2 benchmarks/other.py"


def test_plots_are_the_same_file_each_time_and_white(tmp_path: Path) -> None:
    items = {"100": {"requests_per_s": 900.0}, "10000": {"requests_per_s": 800.0}}
    for name, draw, result in (("a", draw_stages, stages_result()), ("b", draw_catalogue, {"items": items})):
        first, second = tmp_path / "first" / f"{name}.svg", tmp_path / "second" / f"{name}.svg"
        draw(result, first)
        draw(result, second)
        assert first.read_bytes() == second.read_bytes()
        assert "fill: #ffffff" in first.read_text()
