"""The page says what the result files say; the committed one is that of the committed results."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from offline.experiment.page import page, write_page
from offline.experiment.plan import DataIdentity, planned_runs, tuning_key
from offline.experiment.protocol import PROTOCOL, Protocol
from offline.experiment.results import ResultFolder, read_json, unpack, write_json

DOCS = Path(__file__).parents[3] / "docs" / "experiments"


def _section(text: str, heading: str) -> list[list[str]]:
    """The cells of the first table below a heading."""
    lines = text[text.index(f"### {heading}\n") :].splitlines()[1:]
    start = next(place for place, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start:]:
        if not line.startswith("|"):
            break
        rows.append([cell.strip() for cell in line.strip("|").split("|")])
    return rows


def test_the_committed_page_is_that_of_the_committed_results(tmp_path: Path) -> None:
    text = page(Protocol.load(PROTOCOL), DOCS / "results", plots_to=tmp_path)
    assert (DOCS / "index.md").read_text(encoding="utf-8") == text
    committed, drawn = ({path.name: path.read_bytes() for path in of.glob("*.svg")} for of in (DOCS, tmp_path))
    assert committed.keys() == drawn.keys()
    assert [name for name, content in drawn.items() if committed[name] != content] == []


def test_what_was_not_run_is_a_dash(protocol: Protocol, folder: ResultFolder, tmp_path: Path) -> None:
    (tmp_path / f"{folder.path.name}-calibration.svg").write_text("of results that are gone", encoding="utf-8")
    text = page(protocol, folder.path.parent, plots_to=tmp_path)
    assert _section(text, "Table 1: models, full corpus")[2] == ["Two-Tower", "–", "0.5000", "–", "0.3000", "–"]
    assert _section(text, "Training and serving")[2] == ["Two-Tower", *["–"] * 6]
    assert _section(text, "Consistency with the teacher")[2] == ["Two-Tower", "–", "–", "–"]
    assert _section(text, "Tuning")[2] == ["Two-Tower", "–", "–", "–", "–", "–"]
    assert list(tmp_path.glob("*.svg")) == []


def test_means_deviations_and_margins_are_of_the_results(
    protocol: Protocol, folder: ResultFolder, write_result: Callable[..., Path], tmp_path: Path
) -> None:
    figures: dict[str, list[float]] = {"two_tower": [], "ranktower": []}
    users = {name: np.zeros(40) for name in figures}
    for run in planned_runs(protocol, protocol.tables["1"], {}, seeds=2):
        path = write_result(run, ndcg=0.2 if run.name == "two_tower" else 0.3 + 0.01 * run.config.seed)
        figures[run.name].append(read_json(path)["metrics"]["full_corpus"]["ndcg"])
        users[run.name] += unpack(read_json(path)["per_user"]["ndcg"]) / 2
    text = page(protocol, folder.path.parent, plots_to=tmp_path)
    rows = _section(text, "Table 1: models, full corpus")
    for row, name in zip(rows[2:], figures, strict=True):
        first, second = figures[name]
        assert row[3] == f"{(first + second) / 2:.4f} ± {abs(first - second) / np.sqrt(2):.4f}"
        assert row[5] == "2"
    impressions = text.index("### Table 1: models, impressions")
    _, ndcg, recall = [line for line in text[impressions:].splitlines() if line.startswith("| Two-Tower |")][:3]
    cells = [cell.strip() for cell in ndcg.strip("|").split("|")]
    mean = float((users["ranktower"] - users["two_tower"]).mean())
    assert cells[1] == f"{mean:+.4f}"
    assert cells[4] == f"{100 * mean / users['two_tower'].mean():+.1f} %"
    assert cells[5] == "+10.0 %"
    assert "| +20.0 % |" in recall


def test_each_pool_has_its_own_cut(protocol: Protocol, folder: ResultFolder, tmp_path: Path) -> None:
    text = page(protocol, folder.path.parent, plots_to=tmp_path)
    for pool, k in (("full corpus", 20), ("impressions", 5)):
        assert _section(text, f"Table 1: models, {pool}")[0][1::2] == [f"Recall@{k}", f"NDCG@{k}", "seeds"]
    assert "Recall / NDCG 0.1000 / 0.0500 at 20 (full corpus), 0.1000 / 0.0500 at 5 (impressions)" in text


def test_whether_patience_or_the_cap_ended_a_training_is_shown(
    protocol: Protocol, folder: ResultFolder, write_result: Callable[..., Path], tmp_path: Path
) -> None:
    for run in planned_runs(protocol, protocol.tables["1"], {}, seeds=2):
        write_result(run, ndcg=0.3)
    rows = _section(page(protocol, folder.path.parent, plots_to=tmp_path), "Training and serving")
    assert rows[2][3] == "1.2 / 2.0 of 2"


def test_a_search_is_shown_with_what_it_found(
    protocol: Protocol, folder: ResultFolder, identity: DataIdentity, tmp_path: Path
) -> None:
    trials = [
        {"value": None, "pruned": True},
        {"value": 0.2, "pruned": False},
        {"value": 0.3, "pruned": True},
    ]
    content = {"key": tuning_key(protocol, "two_tower", identity), "best": {"model.width": 32}, "trials": trials}
    write_json(folder.tuning("two_tower"), content)
    write_json(folder.tuning("ranktower"), content)
    rows = _section(page(protocol, folder.path.parent, plots_to=tmp_path), "Tuning")
    assert rows[2] == ["Two-Tower", "3", "2", "–", "0.2000", "`model.width` 32"]
    assert rows[3] == ["RankTower", *["–"] * 5]


def test_the_costs_of_a_shape_stand_beside_its_row(
    protocol: Protocol, folder: ResultFolder, write_result: Callable[..., Path], tmp_path: Path
) -> None:
    runs = planned_runs(protocol, protocol.tables["1"], {}, seeds=1)
    for run in runs:
        write_result(run, ndcg=0.3)
    models = [
        {"model": run.config.model.model_dump(mode="json"), "us": 100.0 * (1 + place), "ratio": 1.0 + place}
        for place, run in enumerate(runs)
    ]
    about = {"date": "2026-01-02", "command": "c", "machine": {"cpu": "a CPU", "num_cores": 2}, "versions": {}}
    write_json(folder.cost, about | {"models": models, "options": protocol.cost.model_dump(mode="json")})
    text = page(protocol, folder.path.parent, plots_to=tmp_path)
    rows = _section(text, "Training and serving")
    assert rows[2][-2:] == ["100", "1.00"]
    assert rows[3][-2:] == ["200", "2.00"]
    assert {path.name for path in tmp_path.glob("*.svg")} == {"tiny-quality-by-cost.svg", "tiny-calibration.svg"}


def test_pages_and_plots_of_equal_results_are_equal(
    protocol: Protocol, folder: ResultFolder, write_result: Callable[..., Path], tmp_path: Path
) -> None:
    for run in planned_runs(protocol, protocol.extras["learning_curve"], {}, seeds=1):
        write_result(run, ndcg=0.3)
    root = folder.path.parent
    written = write_page(protocol, root)
    first = {path.name: path.read_bytes() for path in written.parent.iterdir() if path.is_file()}
    assert set(first) == {"index.md", "tiny-learning-curve.svg"}
    write_page(protocol, root)
    assert {path.name: path.read_bytes() for path in written.parent.iterdir() if path.is_file()} == first


def test_without_results_the_page_says_so(protocol: Protocol, tmp_path: Path) -> None:
    assert "Nothing has been run yet." in page(protocol, tmp_path / "none", plots_to=tmp_path)


def test_a_learning_curve_names_its_shares(protocol: Protocol, folder: ResultFolder, tmp_path: Path) -> None:
    head, *_ = _section(page(protocol, folder.path.parent, plots_to=tmp_path), "Amount of data")
    assert head[1:] == ["50 % of the users", "100 % of the users"]
