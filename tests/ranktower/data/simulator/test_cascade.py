"""The cascade: its log obeys the rules, its statistics those of a recommender, and a seed fixes every byte."""

from __future__ import annotations

import dataclasses
import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import polars as pl
import pytest

from ranktower.data.simulator import Simulation, SimulatorOptions, simulate
from ranktower.data.simulator.cascade import _Recall
from ranktower.data.simulator.world import make_world
from ranktower.data.tables import STAGES, read_tables, validate_tables, write_tables

OPTIONS = SimulatorOptions(num_users=1500, num_items=3000, seed=3)


@pytest.fixture(scope="module")
def simulation() -> Simulation:
    return simulate(OPTIONS)


def rows_with_truth(simulation: Simulation) -> pl.DataFrame:
    """The interactions with true affinity and position."""
    tables = simulation.tables
    user_rows = tables.interactions["user_id"].to_numpy() - tables.users["user_id"][0]
    item_rows = tables.interactions["item_id"].to_numpy() - tables.items["item_id"][0]
    return tables.interactions.with_columns(
        affinity=pl.Series(simulation.true_affinity(user_rows, item_rows)),
        position=pl.Series(simulation.positions),
    )


@pytest.fixture(scope="module")
def rows(simulation: Simulation) -> pl.DataFrame:
    return rows_with_truth(simulation)


def test_tables_are_canonical_and_survive_the_disk(simulation: Simulation, tmp_path: Path) -> None:
    validate_tables(simulation.tables, tmp_path)
    write_tables(tmp_path / "tables", simulation.tables)
    again = read_tables(tmp_path / "tables")
    assert again.spec == simulation.tables.spec
    assert again.users.equals(simulation.tables.users)
    assert again.items.equals(simulation.tables.items)
    assert again.interactions.rows() == simulation.tables.interactions.rows()


def test_three_stages_and_a_pair_in_one_only(rows: pl.DataFrame) -> None:
    assert set(rows["stage"].unique()) == {"impression", "ranking_candidate", "preranking_candidate"}
    assert not rows.select("user_id", "item_id").is_duplicated().any()


def test_every_user_has_requests_and_their_mean_is_the_option(rows: pl.DataFrame) -> None:
    requests = rows.filter(pl.col("position") == 0).group_by("user_id").len()
    assert requests.height == OPTIONS.num_users
    # 1 + Poisson(9): mean 10, standard error 3 / sqrt(1500) = 0.08.
    mean = requests["len"].mean()
    assert isinstance(mean, float)
    assert abs(mean - OPTIONS.requests_per_user) < 0.4


def test_no_request_passes_on_more_than_its_stages_hold(rows: pl.DataFrame) -> None:
    # Impressions carry the request's time plus a second for each place on the page.
    started = rows.with_columns(
        request=pl.col("timestamp") - pl.when(pl.col("position") > 0).then(pl.col("position")).otherwise(0) * 1000
    )
    counts = started.group_by("user_id", "request").agg(
        *((pl.col("stage") == stage).sum().alias(stage) for stage in STAGES[:3]), num=pl.len()
    )
    assert counts["impression"].max() == OPTIONS.num_impressions
    assert counts["ranking_candidate"].max() == OPTIONS.num_ranked - OPTIONS.num_impressions
    assert counts["preranking_candidate"].max() == OPTIONS.num_recalled - OPTIONS.num_ranked
    assert counts["impression"].min() == counts.filter(pl.col("impression") < 8)["num"].min()


def test_times_lie_in_two_weeks(rows: pl.DataFrame) -> None:
    first, last = rows["timestamp"].to_numpy().min(), rows["timestamp"].to_numpy().max()
    start = 1_704_067_200_000
    assert start <= first < start + 86_400_000
    assert start + 13 * 86_400_000 < last < start + 14 * 86_400_000 + 8_000


def test_feedback_and_teacher_on_impressions_only(rows: pl.DataFrame) -> None:
    candidates = rows.filter(pl.col("stage") != "impression")
    assert candidates.select(pl.col("click", "conversion").sum()).row(0) == (0, 0)
    assert candidates["teacher_scores"].null_count() == candidates.height
    assert (candidates["position"] == -1).all()
    shown = rows.filter(pl.col("stage") == "impression")
    assert shown["teacher_scores"].is_between(0, 1).all()
    assert shown["teacher_scores"].null_count() == 0
    assert shown["position"].is_between(0, OPTIONS.num_impressions - 1).all()


def test_each_step_loses_most(rows: pl.DataFrame) -> None:
    shown = rows.filter(pl.col("stage") == "impression")
    clicks, conversions = shown["click"].sum(), shown["conversion"].sum()
    assert 0.1 * shown.height < clicks < 0.5 * shown.height
    assert 0.1 * clicks < conversions < 0.8 * clicks
    assert shown.filter((pl.col("conversion") == 1) & (pl.col("click") == 0)).is_empty()


def test_later_stages_hold_better_items(rows: pl.DataFrame) -> None:
    mean = {stage: rows.filter(pl.col("stage") == stage)["affinity"].to_numpy().mean() for stage in STAGES[:3]}
    assert mean["impression"] > mean["ranking_candidate"] + 0.5
    assert mean["ranking_candidate"] > mean["preranking_candidate"] + 0.3


def test_recall_finds_better_than_random(rows: pl.DataFrame, simulation: Simulation) -> None:
    rng = np.random.default_rng(0)
    random = simulation.true_affinity(rng.integers(1500, size=20_000), rng.integers(3000, size=20_000))
    assert rows["affinity"].to_numpy().mean() > float(random.mean()) + 0.3


def test_position_bias_lowers_clicks_at_equal_affinity(rows: pl.DataFrame) -> None:
    # In one narrow band of affinity the place on the page alone decides: (1 + p)^-0.7.
    band = rows.filter((pl.col("position") >= 0) & pl.col("affinity").is_between(2.3, 2.7))
    rate = {
        position: band.filter(pl.col("position").is_in(places))["click"].to_numpy().mean()
        for position, places in (("first", [0]), ("middle", [3]), ("last", [7]))
    }
    assert rate["middle"] / rate["first"] == pytest.approx(4**-0.7, abs=0.08)
    assert rate["last"] / rate["first"] == pytest.approx(8**-0.7, abs=0.08)


def test_no_bias_gives_equal_clicks_at_equal_affinity() -> None:
    rows = rows_with_truth(simulate(dataclasses.replace(OPTIONS, position_bias=0)))
    band = rows.filter((pl.col("position") >= 0) & pl.col("affinity").is_between(2.3, 2.7))
    first = band.filter(pl.col("position") <= 1)["click"].to_numpy().mean()
    last = band.filter(pl.col("position") >= 6)["click"].to_numpy().mean()
    assert first == pytest.approx(last, abs=0.05)


def test_clicks_follow_the_stated_chance(rows: pl.DataFrame) -> None:
    top = rows.filter(pl.col("position") == 0)
    expected = 1 / (1 + np.exp(-(1.2 * top["affinity"].to_numpy().astype(np.float64) - 2.5)))
    assert top["click"].to_numpy().mean() == pytest.approx(expected.mean(), abs=0.01)
    by_chance = np.digitize(expected, [0.5, 0.7, 0.9])
    for group in range(4):
        there = by_chance == group
        assert top["click"].to_numpy()[there].mean() == pytest.approx(expected[there].mean(), abs=0.03)


def test_the_teacher_knows_the_truth_but_for_its_noise(rows: pl.DataFrame) -> None:
    shown = rows.filter(pl.col("stage") == "impression")
    scores = shown["teacher_scores"].to_numpy().astype(np.float64)
    noise = np.log(scores / (1 - scores)) - (1.2 * shown["affinity"].to_numpy() - 2.5)
    # Ranking shows what the teacher overrates, so the noise that is seen is a little above 0.
    assert 0 < noise.mean() < 0.2
    assert noise.std() == pytest.approx(OPTIONS.teacher_noise, abs=0.02)


def test_a_teacher_without_noise_is_exact() -> None:
    rows = rows_with_truth(simulate(dataclasses.replace(OPTIONS, num_users=100, teacher_noise=0)))
    shown = rows.filter(pl.col("stage") == "impression")
    expected = 1 / (1 + np.exp(-(1.2 * shown["affinity"].to_numpy().astype(np.float64) - 2.5)))
    assert np.allclose(shown["teacher_scores"].to_numpy(), expected, atol=1e-5)


def test_popularity_is_skewed(rows: pl.DataFrame) -> None:
    def share_of_top_percent(log: pl.DataFrame) -> float:
        counts = np.sort(log.group_by("item_id").len()["len"].to_numpy())[::-1]
        return float(counts[:30].sum() / counts.sum())

    flat = simulate(dataclasses.replace(OPTIONS, popularity_exponent=0)).tables.interactions
    assert share_of_top_percent(rows) > 0.06
    assert share_of_top_percent(rows) > 2 * share_of_top_percent(flat)


def test_recall_prefers_the_users_categories() -> None:
    world = make_world(OPTIONS, np.random.default_rng(1))
    users = np.repeat(np.arange(40, 60), 200)
    drawn = _Recall(world).draw(users, 24, np.random.default_rng(2))
    assert drawn.shape == (4000, 24)
    assert drawn.min() >= 0
    assert drawn.max() < OPTIONS.num_items
    # Half of the draws are by popularity; the others fall on the favourite category far more often than 1 in 24.
    favourite = world.taste[users].argmax(axis=1)
    assert (world.category[drawn] == favourite[:, None]).mean() > 0.2


def test_recall_draws_in_proportion_to_popularity() -> None:
    options = SimulatorOptions(num_users=1, num_items=30, num_categories=1)
    world = make_world(options, np.random.default_rng(1))
    drawn = _Recall(world).draw(np.zeros(5000, dtype=np.int64), 20, np.random.default_rng(2))
    shares = np.bincount(drawn.reshape(-1), minlength=30) / drawn.size
    # One category: its draws and those over everything follow the same weights. 4 standard errors of 100,000 draws.
    assert np.abs(shares - world.popularity).max() < 4 * np.sqrt(0.25 / 100_000)


def test_positions_are_those_of_the_rows(simulation: Simulation) -> None:
    assert len(simulation.positions) == simulation.tables.interactions.height
    assert simulation.positions.dtype == np.int16


def test_smallest_world() -> None:
    options = SimulatorOptions(
        num_users=1, num_items=1, requests_per_user=1, num_recalled=1, num_ranked=1, num_impressions=1,
        num_categories=1, num_tags=1, latent_size=1,
    )  # fmt: skip
    tables = simulate(options).tables
    validate_tables(tables, Path("smallest"))
    assert tables.interactions.select("user_id", "item_id", "stage").rows() == [(1, 1_000_001, "impression")]


def test_a_user_who_has_seen_everything_gets_no_more() -> None:
    options = SimulatorOptions(num_users=20, num_items=24, requests_per_user=50)
    counts = simulate(options).tables.interactions.group_by("user_id").len()
    assert counts.height == 20
    assert counts["len"].max() == 24


def test_more_categories_than_items() -> None:
    options = SimulatorOptions(num_users=50, num_items=24, num_categories=200)
    validate_tables(simulate(options).tables, Path("sparse"))


def written(folder: Path, options: SimulatorOptions) -> dict[str, str]:
    write_tables(folder, simulate(options).tables)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}


def test_same_seed_same_bytes_and_another_seed_others(tmp_path: Path) -> None:
    options = dataclasses.replace(OPTIONS, num_users=300)
    first = written(tmp_path / "a", options)
    assert written(tmp_path / "b", options) == first
    other = written(tmp_path / "c", dataclasses.replace(options, seed=4))
    assert {name for name in first if first[name] != other[name]} == {
        "users.parquet",
        "items.parquet",
        "interactions.parquet",
    }


def test_same_bytes_in_another_process_with_other_threads(tmp_path: Path) -> None:
    options = dataclasses.replace(OPTIONS, num_users=300)
    code = (
        "import sys; from pathlib import Path\n"
        "from ranktower.data.simulator import SimulatorOptions, simulate\n"
        "from ranktower.data.tables import write_tables\n"
        f"write_tables(Path(sys.argv[1]), simulate({options!r}).tables)\n"
    )
    environment = os.environ | {"POLARS_MAX_THREADS": "1", "OMP_NUM_THREADS": "1", "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", code, str(tmp_path / "b")], check=True, env=environment, timeout=120)
    other = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in (tmp_path / "b").iterdir()}
    assert written(tmp_path / "a", options) == other


def test_many_chunks_give_one_consistent_log() -> None:
    # 2,000 requests of 500 items are a million rows: several chunks of at most 500,000.
    options = SimulatorOptions(
        num_users=400, num_items=20_000, requests_per_user=5, num_recalled=500, num_ranked=50, seed=2
    )
    tables = simulate(options).tables
    validate_tables(tables, Path("chunks"))
    assert tables.interactions["user_id"].is_sorted()
    assert tables.interactions["user_id"].n_unique() == 400
    assert not tables.interactions.select("user_id", "item_id").is_duplicated().any()


def test_a_million_interactions_in_ten_seconds(tmp_path: Path) -> None:
    started = time.perf_counter()
    tables = simulate(SimulatorOptions(num_users=6000, num_items=20_000)).tables
    write_tables(tmp_path / "tables", tables)
    assert tables.interactions.height > 1_000_000
    assert time.perf_counter() - started < 10
