"""What docs/native.md shows of the native scorer: its times and its roofline."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from page_parts import missing, note, place, table
from performance_plots import figure_file

_PLACES = ("in cache", "random")


def native_times(result: dict[str, Any] | None) -> str:
    """Times by kind of rows, place and engine, and the work of a candidate against the machine's peaks."""
    if result is None:
        return missing("native_scorer")
    engines = list(next(iter(result["stages"].values()))["times"]["random"])
    head = ["rows", "where", *(f"{name}, µs" for name in engines), "ONNX Runtime / native"]
    rows = []
    for name, stage in result["stages"].items():
        for where in _PLACES:
            times = stage["times"][where]
            medians = [f"{times[engine]['median_us']:.0f}" for engine in engines]
            rows.append([name, where, *medians, f"{stage['onnx_to_fastest'][where]:.1f}×"])
    peaks = result["machine_peaks"]
    work = [
        [
            name,
            f"{stage['of_a_candidate']['multiply_adds']:,}",
            f"{stage['of_a_candidate']['bytes']:,}",
            *(f"{_share(stage, where, result, peaks):.0%}" for where in _PLACES),
        ]
        for name, stage in result["stages"].items()
    ]
    head_of_work = ["rows", "multiply-adds a candidate", "bytes", *(f"of the peak, {where}" for where in _PLACES)]
    return "\n\n".join(
        [
            f"{result['num_candidates']:,} candidates on one core; ONNX Runtime with the gather of the rows.",
            table(head, rows),
            f"One core does {peaks['multiply_adds_per_ns']:.0f} multiply-adds a nanosecond (a matrix product by torch)"
            f" and copies {peaks['copied_bytes_per_ns']:.0f} bytes a nanosecond. What the native scorer reaches:",
            table(head_of_work, work),
            "![Roofline of the native scorer](images/native_scorer.svg)",
            note(result),
        ]
    )


def native_quality(result: dict[str, Any] | None) -> str:
    """What the scorer over stored rows does to the ranking of real data."""
    if result is None:
        return missing("native_quality")
    exact, native = result["torch_float32"], result["native_stored_rows"]
    return (
        f"On the demo's data ({exact['num_users']:,} users of the test split, full corpus) NDCG@{exact['k']} is"
        f" {exact['ndcg']:.5f} by torch in float32 and {native['ndcg']:.5f} by the native scorer over {result['rows']}"
        f" rows ({place(result)})."
    )


def _rate(stage: dict[str, Any], where: str, result: dict[str, Any]) -> float:
    """Multiply-adds a nanosecond on the fastest path."""
    taken_us = stage["times"][where][stage["fastest_path"]]["median_us"]
    rate: float = stage["of_a_candidate"]["multiply_adds"] * result["num_candidates"] / taken_us / 1e3
    return rate


def _share(stage: dict[str, Any], where: str, result: dict[str, Any], peaks: dict[str, float]) -> float:
    return _rate(stage, where, result) / peaks["multiply_adds_per_ns"]


def draw_roofline(result: dict[str, Any], path: Path) -> None:
    """Multiply-adds a nanosecond over multiply-adds a byte, under what memory and processor allow."""
    peak, bandwidth = (result["machine_peaks"][name] for name in ("multiply_adds_per_ns", "copied_bytes_per_ns"))
    with figure_file(path, width=8, height=4) as figure:
        axes = figure.subplots()
        at = [0.5, peak / bandwidth, 300.0]
        axes.plot(at, [at[0] * bandwidth, peak, peak], color="#555555", linewidth=1.2)
        colours = {"in cache": "#1f6fb4", "random": "#e6550d", "onnx": "#9a9a9a"}
        for name, stage in result["stages"].items():
            work = stage["of_a_candidate"]
            intensity = work["multiply_adds"] / work["bytes"]
            for where in _PLACES:
                axes.plot(intensity, _rate(stage, where, result), "o", color=colours[where])
            onnx_us = stage["times"]["random"]["onnx"]["median_us"]
            onnx = work["multiply_adds"] * result["num_candidates"] / onnx_us / 1e3
            axes.plot(intensity, onnx, "x", color=colours["onnx"])
            axes.annotate(name, (intensity, onnx), textcoords="offset points", xytext=(0, -14), ha="center", fontsize=8)
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.set_ylim(2, peak * 1.5)
        axes.set_xlabel("multiply-adds a byte of the stored row")
        axes.set_ylabel("multiply-adds a nanosecond")
        for label, colour, marker in (
            ("native, rows in cache", colours["in cache"], "o"),
            ("native, random rows", colours["random"], "o"),
            ("ONNX Runtime, random rows", colours["onnx"], "x"),
        ):
            axes.plot([], [], marker, color=colour, label=label)
        axes.legend(frameon=False, loc="lower right")
