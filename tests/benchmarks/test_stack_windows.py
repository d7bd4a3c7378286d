"""What is made of a record: rates, percentiles and counts by windows, from lines that are written out here."""

from __future__ import annotations

from pathlib import Path

from stack_windows import Seen, between, figures, last_failure_s, read_record, windows

HEAD = "due_s,kind,status,outcome,error,inside,waited_for,latency_ms,lag_ms\n"
RECORD = (
    HEAD
    + """1001.000,score,503,failed,503 store_unavailable,0,0,3.000,0.100
1000.000,score,200,ok,,1,1,4.000,0.100
1000.500,rank,429,shed,,0,0,1.000,0.200
1002.500,bad,422,ok,,,0,2.000,0.100
1003.000,score,200,degraded,,0,1,30.000,0.100
1003.500,score,0,failed,ConnectionResetError,0,1,9.000,0.100
1003.900,score,504,out_of_time,,0,0,50.000,0.100
"""
)


def record(tmp_path: Path) -> list[Seen]:
    path = tmp_path / "record.csv"
    path.write_text(RECORD, encoding="utf-8")
    return read_record(path)


def test_a_record_is_read_in_the_order_of_due_times(tmp_path: Path) -> None:
    seen = record(tmp_path)
    assert seen[0] == Seen(1000.0, 200, "ok", "", True, True, 4.0, 0.1)
    assert [one.due_s for one in seen] == [1000.0, 1000.5, 1001.0, 1002.5, 1003.0, 1003.5, 1003.9]
    assert seen[3].is_inside is None
    assert [one.due_s for one in between(seen, 1000.5, 1002.5)] == [1000.5, 1001.0]


def test_figures_count_each_outcome_once(tmp_path: Path) -> None:
    assert figures(record(tmp_path), seconds=2.0) == {
        "requests": 7,
        "offered_per_s": 3.5,
        "p50_ms": 9.0,  # of 4, 9 and 30
        "p99_ms": 29.58,  # 9 + 0.98 * (30 - 9)
        "max_ms": 30.0,
        "inside_share": 0.1667,  # one of the six with a budget
        "degraded": 1,
        "status_429": 1,
        "status_503": 1,
        "status_504": 1,
        "failed": 2,
        "errors": {"503 store_unavailable": 1, "ConnectionResetError": 1},
        "lag_p99_ms": 0.19,  # 0.1 + 0.94 * (0.2 - 0.1)
    }


def test_of_no_requests_there_are_no_latencies() -> None:
    nothing = figures([], seconds=2.0)
    assert (nothing["requests"], nothing["p99_ms"], nothing["inside_share"]) == (0, None, None)


def test_windows_are_whole(tmp_path: Path) -> None:
    found = windows(record(tmp_path), window_s=1.0)
    assert [(of["start_s"], of["requests"]) for of in found] == [(0.0, 2), (1.0, 1), (2.0, 1)]


def test_the_last_failure_counts_from_what_was_done(tmp_path: Path) -> None:
    seen = record(tmp_path)
    assert last_failure_s(seen, 1000.5, 1003.0) == 0.5
    assert last_failure_s(seen, 1000.5, 1010.0) == 3.0
    assert last_failure_s(seen, 1003.6, 1010.0) is None
