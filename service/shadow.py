"""The shadow release scores what was answered already, beside the requests, to see how it would have differed."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from ranktower.errors import RankTowerError
from service.answering import Scored
from service.candidates import CandidateRows
from service.cold_start import GivenFeatures
from service.comparison import compare
from service.errors import ServiceError
from service.loaded import LoadedRelease
from service.parsing import Query
from service.recurring import Recurring
from service.releases import Releases
from service.shadow_metrics import Outcome, ShadowMetrics

logger = logging.getLogger(__name__)

_MAX_WAITING = 8
_MAX_AGE_S = 1.0
_IDLE_POLL_S = 0.005
# Candidates scored at once: a request that comes meanwhile waits for no longer than that takes.
_BLOCK = 128


class Idleness(Protocol):
    """Whether there is anything better to do; ``service.turns.Turns`` knows."""

    @property
    def is_idle(self) -> bool:
        """Whether no request computes or waits."""
        ...


@dataclass(frozen=True, slots=True)
class _Answered:
    query: Query
    scored: Scored
    at: float
    """On the ``time.monotonic`` clock."""


class _OvertakenError(Exception):
    """There was no time for it."""


class ShadowScorer:
    """Takes a share of the answers, keeps few of them waiting, and gives up what it does not come to soon."""

    def __init__(self, releases: Releases, turns: Idleness, metrics: ShadowMetrics) -> None:
        """Does nothing before ``start``."""
        self._trial = releases.trial("shadow")
        self._releases = releases
        self._turns = turns
        self._metrics = metrics
        self._waiting: asyncio.Queue[_Answered] = asyncio.Queue(_MAX_WAITING)
        self._recurring = Recurring("scoring for the shadow", self._compare_next, every_s=0.0, retry_s=_MAX_AGE_S)

    def offer(self, release: LoadedRelease, query: Query, scored: Scored) -> None:
        """Take an answer of ``release`` perhaps: if there is a shadow, the lot falls on the answer, and there is room.

        Only what the current release scored in full is taken, so that all comparisons are with the same; and nothing
        with ``item_features``, whose rows take milliseconds to compute, in which no request could be scored.
        """
        variation = self._trial.variation
        if self._trial.release is None or variation is None or random.random() >= variation.share:
            return
        if scored.degraded is not None or query.item_features or self._releases.role_of(release) != "current":
            return
        try:
            self._waiting.put_nowait(_Answered(query, scored, time.monotonic()))
        except asyncio.QueueFull:
            self._metrics.count("dropped")

    def start(self) -> None:
        """Score what is offered, in a task of the running loop, until ``stop``."""
        self._recurring.start()

    async def stop(self) -> None:
        """Score no more."""
        await self._recurring.stop()

    async def _compare_next(self) -> None:
        answered = await self._waiting.get()
        release = self._trial.release
        if release is not None:
            with release.hold():
                self._metrics.count(await self._compare(release, answered))

    async def _compare(self, release: LoadedRelease, answered: _Answered) -> Outcome:
        try:
            comparison = compare(answered.scored.scores, await self._score(release, answered))
        except _OvertakenError:
            return "dropped"
        except (RankTowerError, ServiceError) as error:
            # Features that this release does not take, say, or a store that does not answer.
            fields = {"release": release.release, "detail": str(error)}
            logger.debug("the shadow release could not score an answer", extra={"fields": fields})
            return "failed"
        except Exception:
            # A fault of a release that is only tried must not end the trial without a word.
            logger.exception("the shadow release failed", extra={"fields": {"release": release.release}})
            return "failed"
        if comparison is not None:
            self._metrics.observe(comparison)
        return "compared"

    async def _score(self, release: LoadedRelease, answered: _Answered) -> NDArray[np.float32]:
        """Scores ``[N]``, NaN where the release has no row."""
        until = answered.at + _MAX_AGE_S
        await self._idle(until)
        store, query, ids = release.store, answered.query, answered.scored.candidate_ids
        users = await store.fetch_users([query.user_id], timeout_s=store.timeout_s)
        stored = await store.fetch_items(ids, timeout_s=store.timeout_s)
        await self._idle(until)
        given = GivenFeatures(release.towers, query.user_features)
        user = users.raw if users.present[0] else given.user_row
        if user is None:
            user = release.fallback_user
        rows = CandidateRows(stored, len(ids))
        scores = np.empty(len(rows), dtype=np.float32)
        for start in range(0, len(rows), _BLOCK):
            await self._idle(until)
            block = scores[start : start + _BLOCK]
            for part, chosen, places in rows.split(slice(start, start + len(block))):
                block[places] = release.scorer.score_stored(user, part, chosen)
        return rows.to_candidates(scores)

    async def _idle(self, until: float) -> None:
        """Return when nobody else computes or waits; _OvertakenError if that is not soon."""
        await asyncio.sleep(0)  # whoever has arrived meanwhile goes first
        while not self._turns.is_idle:
            if time.monotonic() > until:
                raise _OvertakenError
            await asyncio.sleep(_IDLE_POLL_S)
