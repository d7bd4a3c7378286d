"""Scoring as well as the time allows: the ladder, chosen before the work starts and revised while it runs."""

from __future__ import annotations

import math
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ranktower.ladder import LadderLevel, mix
from ranktower.release import LevelGraph
from service.candidates import CandidateRows, Chosen
from service.costs import Costs
from service.scorer import BLOCK, Scorer, UserRow

# Candidates scored in full between two looks at the clock, where time is short. Fewer would cost more than they save:
# a run of the graph takes some 60 us before its first candidate.
STEP = 512
# Fewer are not worth a run.
_SMALLEST_STEP = 32
# Candidates with a full and a lower score that tell a user's own level where the work was cut short.
_SAMPLE = 128
# With so much more time than full scoring should take, it is done in whole blocks. With less, the clock is looked at
# more often, and a list that takes many steps goes best first: in the order of the request it would stop at an
# arbitrary place. A short one does not, because the order costs MaxSim for all.
_AMPLE = 2.0

Scores = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Reached:
    """How far scoring came."""

    level: LadderLevel
    share: float
    """Part of the candidates scored in full."""
    was_cut_short: bool
    """Whether less was done than planned, because the work took longer than it should have."""


@dataclass(frozen=True, slots=True)
class Job:
    """One user and the rows to score, ``until`` a time of ``time.perf_counter``."""

    user: UserRow
    rows: CandidateRows
    until: float
    breathe: Callable[[], Awaitable[None]]
    """Called between blocks of long work; what it raises ends the work."""

    @property
    def time_left(self) -> float:
        """Seconds."""
        return self.until - time.perf_counter()


class Anytime:
    """The scoring of one release."""

    def __init__(self, scorer: Scorer, ladder: Sequence[LadderLevel], costs: Costs) -> None:
        """``ladder`` of the manifest; without levels everything is scored in full, whatever time there is."""
        self._scorer = scorer
        self._costs = costs
        self._full_best = [level for level in ladder if level.level == "full_best"]
        self._lower = {level.level: level for level in ladder if level.calibration is not None}

    async def score(self, job: Job) -> tuple[Scores, Reached | None]:
        """Scores ``[k]`` of the job's rows on the scale of full scoring, and None if all were scored in full."""
        num_rows = len(job.rows)
        if not num_rows:
            return np.empty(0, dtype=np.float32), None
        if not self._lower or job.until == math.inf:
            return await self._score_in_order(job)
        time_left, full_s = job.time_left, self._full_s(job.rows, slice(0, num_rows))
        if full_s * _AMPLE <= time_left:
            return await self._score_in_order(job)
        if full_s <= time_left and num_rows <= BLOCK:
            return await self._score_in_order(job, STEP)
        if self._costs.line("maxsim").seconds(num_rows) <= time_left:
            return await self._score_best_first(job)
        return await self._lower_scores("pooled", job, slice(0, num_rows)), self._lower_reached("pooled")

    async def _score_in_order(self, job: Job, size: int = BLOCK) -> tuple[Scores, Reached | None]:
        """Everything in full, block by block; if that takes longer than it should, the rest at a lower level."""
        num_rows = len(job.rows)
        if num_rows <= size:
            return self._full_scores(job, slice(0, num_rows)), None
        scores = np.empty(num_rows, dtype=np.float32)
        for start in range(0, num_rows, size):
            rest = slice(start, num_rows)
            if start and self._lower and self._full_s(job.rows, rest) > job.time_left:
                return await self._finish_lower(job, scores, start)
            block = slice(start, min(start + size, num_rows))
            scores[block] = self._full_scores(job, block)
            if num_rows > BLOCK:
                await job.breathe()
        return scores, None

    async def _finish_lower(self, job: Job, scores: Scores, start: int) -> tuple[Scores, Reached]:
        """Scores of which the first ``start`` are in full, with the rest at a lower level."""
        num_left = len(scores) - start
        quick = self._costs.line("maxsim").seconds(num_left) <= job.time_left
        level: LevelGraph = "maxsim" if quick else "pooled"
        # Of some of those in full too, for what the user's own level is.
        part = scores[start - _SAMPLE :]
        rough = await self._lower_scores(level, job, slice(start - _SAMPLE, len(scores)))
        part[:] = mix(part, rough, np.arange(_SAMPLE))
        return scores, Reached(self._lower[level], start / len(scores), was_cut_short=True)

    async def _score_best_first(self, job: Job) -> tuple[Scores, Reached | None]:
        """Everything by MaxSim; then the best of them in full, as many as there is time for."""
        num_rows = len(job.rows)
        rough = await self._lower_scores("maxsim", job, slice(0, num_rows))
        order = np.argsort(-rough, kind="stable")
        full = np.full(num_rows, np.nan, dtype=np.float32)
        planned, done = min(self._affordable(job), num_rows), 0
        while done < num_rows:
            step = min(STEP, num_rows - done, self._affordable(job))
            if step < min(_SMALLEST_STEP, num_rows - done):
                break
            chosen = order[done : done + step]
            full[chosen] = self._full_scores(job, chosen)
            done += step
            if num_rows > BLOCK:
                await job.breathe()
        if done == num_rows:
            return full, None
        scores = mix(full, rough, order[:done]) if done else rough
        return scores, self._best_reached(done / num_rows, was_cut_short=done <= planned - STEP)

    def _affordable(self, job: Job) -> int:
        return self._costs.full_line.affordable(job.time_left)

    async def _lower_scores(self, level: LevelGraph, job: Job, chosen: slice) -> Scores:
        """Calibrated scores of a level."""
        line, calibration = self._costs.line(level), self._lower[level].calibration
        scores = np.empty(chosen.stop - chosen.start, dtype=np.float32)
        for start in range(0, len(scores), BLOCK):
            began = time.perf_counter()
            block = scores[start : start + BLOCK]
            first = chosen.start + start
            for part, rows, places in job.rows.split(slice(first, first + len(block))):
                block[places] = self._scorer.score_level(level, job.user, part.embeddings(rows))
            line.learn(len(block), time.perf_counter() - began)
            if len(scores) > BLOCK:
                await job.breathe()
        return scores if calibration is None else calibration.apply(scores)

    def _full_scores(self, job: Job, chosen: Chosen) -> Scores:
        began = time.perf_counter()
        scores: Scores | None = None
        for part, rows, places in job.rows.split(chosen):
            found = self._scorer.score_stored(job.user, part, rows)
            now = time.perf_counter()
            self._costs.line(("full", part.layout.kind)).learn(len(found), now - began)
            began = now
            if isinstance(places, slice):
                return found
            if scores is None:
                num_chosen = chosen.stop - chosen.start if isinstance(chosen, slice) else len(chosen)
                scores = np.empty(num_chosen, dtype=np.float32)
            scores[places] = found
        return np.empty(0, dtype=np.float32) if scores is None else scores

    def _full_s(self, rows: CandidateRows, chosen: slice) -> float:
        counts = rows.count_by_kind(chosen)
        return sum(self._costs.line(("full", kind)).seconds(count) for kind, count in counts.items())

    def _best_reached(self, share: float, *, was_cut_short: bool) -> Reached:
        """The level that was measured for this share or the next smaller one."""
        level = next((level for level in self._full_best if level.share <= share), self._lower["maxsim"])
        return Reached(level, share, was_cut_short)

    def _lower_reached(self, level: LevelGraph) -> Reached:
        return Reached(self._lower[level], 0.0, was_cut_short=False)
