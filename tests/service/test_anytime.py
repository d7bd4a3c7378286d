"""What is scored in how much time: exported graphs, stored rows, set costs, and a clock that goes by them."""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from ranktower.embedding_store.codec import Rows
from ranktower.embedding_store.local import LocalTable
from service.anytime import STEP, Anytime, Job, Reached
from service.candidates import CandidateRows
from service.costs import CostLine, Costs
from service.scorer import BLOCK, Scorer

USER = "user-3"


class SetLine(CostLine):
    """So many seconds a candidate, by which work moves the clock."""

    def __init__(self, bench: Bench, each_s: float) -> None:
        super().__init__(0.0, each_s)
        self._bench = bench
        self.learned: list[int] = []

    def learn(self, num_candidates: int, seconds: float) -> None:
        assert seconds >= 0.0
        self.learned.append(num_candidates)
        self._bench.now += self.seconds(num_candidates)

    def _height(self) -> float:
        return 1.0

    def change(self, each_s: float) -> None:
        self._each_s = each_s


class Bench:
    """A release's scoring with the costs of a test: by default a second each candidate in full, a tenth by MaxSim."""

    def __init__(self, built: Any) -> None:
        self.now = 1000.0
        self.manifest = built.manifest
        self.scorer = Scorer(built.folder, built.manifest, ["projected", "embedding"])
        self.full, self.maxsim, self.pooled = (SetLine(self, cost) for cost in (1.0, 0.1, 0.01))
        lines: dict[Any, CostLine] = {("full", kind): self.full for kind in ("projected", "embedding")}
        lines |= {"maxsim": self.maxsim, "pooled": self.pooled}
        self.anytime = Anytime(self.scorer, built.manifest.ladder, Costs(lines))
        self.table = LocalTable(built.folder / "items", built.manifest.layout("item"))
        self.user = LocalTable(built.folder / "users", built.manifest.layout("user")).fetch([USER]).raw
        self.breaths = 0
        self.on_breath: Callable[[], None] = lambda: None

    async def breathe(self) -> None:
        self.breaths += 1
        self.on_breath()

    def run(self, ids: Any, seconds: float, *, parts: list[Any] | None = None) -> tuple[Any, Reached | None]:
        """Scores by candidate and what was reached, in so many seconds."""
        rows = CandidateRows(parts or [self.table.locate(ids)], len(ids))
        job = Job(self.user, rows, self.now + seconds, self.breathe)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("service.anytime.time", SimpleNamespace(perf_counter=lambda: self.now))
            scores, reached = asyncio.run(self.anytime.score(job))
        return rows.to_candidates(scores), reached

    def level(self, level: Any, ids: Any) -> NDArray[np.float32]:
        """Calibrated scores of a lower level, all at once."""
        calibration = next(one.calibration for one in self.manifest.ladder if one.level == level)
        return calibration.apply(self.scorer.score_level(level, self.user, self.table.locate(ids).embeddings()))

    def in_full(self, ids: Any) -> NDArray[np.float32]:
        """Full scores, all at once."""
        return self.scorer.score(self.user, self.table.layout, self.table.fetch(ids).raw)


@pytest.fixture(scope="module")
def built(build_release: Callable[..., Any], tmp_path_factory: Any) -> Any:
    return build_release(tmp_path_factory.mktemp("registry"), seed=70)


@pytest.mark.parametrize("seconds", [math.inf, 310.0])
def test_with_enough_time_everything_is_scored_in_full(built: Any, seconds: float) -> None:
    bench = Bench(built)
    scores, reached = bench.run(built.item_ids, seconds)
    assert reached is None
    np.testing.assert_array_equal(scores, bench.in_full(built.item_ids))
    assert bench.full.learned == [300]
    assert bench.maxsim.learned == []


def test_with_just_enough_time_the_clock_is_looked_at_more_often_and_work_that_is_late_is_cut_short(built: Any) -> None:
    bench = Bench(built)
    ids = (built.item_ids * 4)[:BLOCK]
    scores, reached = bench.run(ids, 1.1 * BLOCK)
    assert reached is None
    assert bench.full.learned == [STEP, STEP]
    np.testing.assert_allclose(scores, np.tile(bench.in_full(built.item_ids), 4)[:BLOCK], atol=1e-5)
    bench.full.learn = lambda num, seconds: bench.full.change(100.0)  # type: ignore[method-assign]
    scores, reached = bench.run(ids, 1.1 * BLOCK)
    assert reached is not None
    assert (reached.level.level, reached.share, reached.was_cut_short) == ("maxsim", 0.5, True)


def test_with_less_the_best_by_maxsim_are_scored_in_full_and_the_others_keep_its_order(built: Any) -> None:
    bench = Bench(built)
    scores, reached = bench.run(built.item_ids, 30 + 160)
    rough, full = bench.level("maxsim", built.item_ids), bench.in_full(built.item_ids)
    assert reached is not None
    assert (reached.level.level, reached.level.share, reached.was_cut_short) == ("full_best", 0.5, False)
    num_full = round(reached.share * 300)
    assert 158 <= num_full <= 160
    best = np.argsort(-rough, kind="stable")[:num_full]
    np.testing.assert_allclose(scores[best], full[best], atol=1e-5)
    others = np.setdiff1d(np.arange(300), best)
    # On the user's own level: what full scoring and the calibration differ by, where both are known.
    np.testing.assert_allclose(scores[others], rough[others] + (full[best] - rough[best]).mean(), atol=1e-4)


def test_the_level_named_is_the_one_measured_for_no_more_than_was_done(built: Any) -> None:
    bench = Bench(built)
    for num_full, expected in ((40, 0.1), (100, 0.25), (260, 0.5)):
        _, reached = bench.run(built.item_ids, 30.5 + num_full)
        assert reached is not None
        assert reached.level.share == expected
        assert reached.share == num_full / 300


def test_with_time_for_few_nothing_is_scored_in_full(built: Any) -> None:
    bench = Bench(built)
    scores, reached = bench.run(built.item_ids, 30 + 10)
    assert reached is not None
    assert (reached.level.level, reached.share) == ("maxsim", 0.0)
    np.testing.assert_array_equal(scores, bench.level("maxsim", built.item_ids))
    assert bench.full.learned == []


@pytest.mark.parametrize("seconds", [20.0, 0.0, -100.0])
def test_with_hardly_any_time_there_is_the_pooled_product(built: Any, seconds: float) -> None:
    bench = Bench(built)
    scores, reached = bench.run(built.item_ids, seconds)
    assert reached is not None
    assert reached.level.level == "pooled"
    np.testing.assert_array_equal(scores, bench.level("pooled", built.item_ids))


def test_without_a_ladder_everything_is_scored_in_full_whatever_the_time(
    build_release: Callable[..., Any], tmp_path: Any
) -> None:
    built = build_release(tmp_path, seed=71, ladder=False)
    bench = Bench(built)
    scores, reached = bench.run(built.item_ids, -100.0)
    assert reached is None
    np.testing.assert_array_equal(scores, bench.in_full(built.item_ids))


def test_long_lists_are_scored_in_blocks_between_which_the_loop_breathes(built: Any) -> None:
    bench = Bench(built)
    ids = (built.item_ids * 10)[: 2 * BLOCK + 5]
    scores, reached = bench.run(ids, math.inf)
    assert reached is None
    assert bench.full.learned == [BLOCK, BLOCK, 5]
    assert bench.breaths == 3
    np.testing.assert_allclose(scores, np.tile(bench.in_full(built.item_ids), 10)[: len(ids)], atol=1e-5)


@pytest.mark.parametrize(("maxsim_s", "level"), [(0.1, "maxsim"), (9.0, "pooled")])
def test_work_that_takes_longer_than_it_should_is_finished_at_a_lower_level(
    built: Any, maxsim_s: float, level: str
) -> None:
    bench = Bench(built)
    ids = (built.item_ids * 10)[: 2 * BLOCK + 5]
    # After the first block full scoring turns out to be dear.
    bench.on_breath = lambda: bench.full.change(100.0)
    bench.maxsim.change(maxsim_s)
    scores, reached = bench.run(ids, 2.1 * len(ids))
    assert reached is not None
    assert (reached.level.level, reached.was_cut_short) == (level, True)
    assert reached.share == BLOCK / len(ids)
    full = np.tile(bench.in_full(built.item_ids), 10)[: len(ids)]
    rough = np.tile(bench.level(reached.level.level, built.item_ids), 10)[: len(ids)]
    np.testing.assert_allclose(scores[:BLOCK], full[:BLOCK], atol=1e-5)
    shift = (full - rough)[BLOCK - 128 : BLOCK].mean()
    np.testing.assert_allclose(scores[BLOCK:], rough[BLOCK:] + shift, atol=1e-4)


def test_a_long_list_with_just_enough_time_goes_best_first_and_can_be_full_all_the_same(built: Any) -> None:
    bench = Bench(built)
    ids = (built.item_ids * 10)[: BLOCK + 100]
    scores, reached = bench.run(ids, 1.2 * len(ids))
    assert reached is None
    assert max(bench.full.learned) == STEP
    np.testing.assert_allclose(scores, np.tile(bench.in_full(built.item_ids), 10)[: len(ids)], atol=1e-5)


def test_rows_of_two_stores_are_on_one_scale(built: Any) -> None:
    bench = Bench(built)
    in_redis = built.manifest.redis_layout("item")
    is_near = np.arange(300) % 3 != 0
    near = bench.table.locate([one if near else "nowhere" for one, near in zip(built.item_ids, is_near, strict=True)])
    far = bench.table.fetch([one for one, near in zip(built.item_ids, is_near, strict=True) if not near])
    parts = [near, Rows(in_redis, far.raw[:, : in_redis.row_size].copy(), ~is_near)]
    whole, reached = bench.run(built.item_ids, 310.0, parts=parts)
    assert reached is None
    np.testing.assert_allclose(whole, bench.in_full(built.item_ids), atol=5e-3)  # projections in float16 or not
    mixed, reached = bench.run(built.item_ids, 30 + 160, parts=parts)
    assert reached is not None
    assert reached.level.level == "full_best"
    same, _ = bench.run(built.item_ids, 30 + 160)
    np.testing.assert_allclose(mixed, same, atol=0.02)
    rough, _ = bench.run(built.item_ids, 30.5, parts=parts)
    np.testing.assert_array_equal(rough, bench.level("maxsim", built.item_ids))


def test_no_candidates_and_none_that_are_stored(built: Any) -> None:
    bench = Bench(built)
    for ids in ([], ["nowhere", "nobody"]):
        scores, reached = bench.run(ids, 10.0)
        assert reached is None
        assert np.isnan(scores).all()
        assert len(scores) == len(ids)


def test_a_broken_row_has_no_score_and_costs_the_others_nothing(built: Any) -> None:
    bench = Bench(built)
    raw = bench.table.fetch(built.item_ids).raw.copy()
    raw[7, 8:] = np.frombuffer(np.float16(np.nan).tobytes(), dtype=np.uint8).repeat(1)[None].repeat(640, 0).ravel()
    rows = Rows(bench.table.layout, raw, np.ones(300, dtype=np.bool_))
    for seconds in (310.0, 30 + 160, 30.0, 0.0):
        broken, _ = bench.run(built.item_ids, seconds, parts=[rows])
        sound, _ = bench.run(built.item_ids, seconds)
        assert np.isnan(broken[7])
        np.testing.assert_allclose(np.delete(broken, 7), np.delete(sound, 7), atol=0.02)
