"""From a query to scores: fetch both sides, choose the user's arrays, score. Shared by every endpoint that scores."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ranktower.embedding_store.protocol import Rows, StoreUnavailableError
from service.anytime import Job, Reached
from service.candidates import CandidateRows
from service.cold_start import GivenFeatures
from service.context import RequestContext
from service.errors import DeadlineExceededError, MalformedError, StoreDownError
from service.loaded import LoadedRelease
from service.metrics import Metrics
from service.parsing import Id, Query
from service.scorer import UserRow
from service.stores import Fetched
from service.tickets import Ticket

UserState = Literal["PRESENT", "COMPUTED", "FALLBACK"]
Ages = NDArray[np.float64]
"""Seconds since each candidate's row was computed ``[N]``, NaN where there is none."""
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Pairs:
    """A user's row and those of the candidates, stored or computed from features."""

    user: UserRow
    state: UserState
    rows: CandidateRows
    computed: NDArray[np.intp]
    """Indexes of the candidates whose rows were computed, ascending."""


@dataclass(frozen=True, slots=True)
class Scored:
    """What a request's candidates got."""

    user: UserState
    candidate_ids: Sequence[Id]
    scores: NDArray[np.float32]
    """[N], in the order of the candidates; NaN where there is no score, every other value is finite."""
    missing: NDArray[np.int64]
    """Indexes of the candidates without a score, ascending."""
    degraded: Mapping[str, str | float] | None
    """The answer's field of this name: null where everything was scored in full."""
    computed: NDArray[np.intp] | None
    """``Pairs.computed``; None where the query has no ``item_features``."""
    ages_s: Ages | None
    """None unless the query asks for them."""


class Answering:
    """Scores the candidates of one request with one release, which the caller holds meanwhile."""

    def __init__(
        self, query: Query, release: LoadedRelease, ticket: Ticket, context: RequestContext, metrics: Metrics
    ) -> None:
        """``ticket`` bounds the waiting and the scoring."""
        self._query = query
        self._release = release
        self._ticket = ticket
        self._deadline = ticket.demand.deadline
        self._context = context
        self._metrics = metrics

    async def score(self, candidate_ids: Sequence[Id]) -> Scored:
        """Score the given candidates; it is the request's turn when this returns.

        Raises:
            MalformedError: the query's features are not what the release's encoder takes, or give an embedding that is
                too large for a row.
            StoreDownError: a store that the request needs does not answer.
            DeadlineExceededError: the time was up before the scoring.
            ClientGoneError: nobody waits for the answer any more.
        """
        fetched, ages_s = await self._fetch(candidate_ids)
        return await self._score(candidate_ids, fetched, ages_s)

    async def retrieve_and_score(self, num_candidates: int) -> Scored:
        """Score the candidates nearest to the user in the retrieval index. Raises as ``score``; also MalformedError
        if the release has no index."""
        retrieval, store = self._release.retrieval, self._release.store
        if retrieval is None:
            raise MalformedError("candidate_ids: required, because this release has no retrieval index")
        if store.waits:
            await self._await_fetch()
        user = await self._fetch_user()
        await self._take_turn()
        with self._context.stage("fetch", self._metrics):
            row, _ = self._user(user)
            with self._release.costs.line("retrieve").timed(num_candidates):
                candidate_ids = retrieval.candidate_ids(row, num_candidates)
            if store.waits:
                self._ticket.pause()
            items = await self._ask(store.fetch_items, candidate_ids)
            ages_s = await self._fetch_ages(candidate_ids)
        if store.waits:
            with self._context.stage("queue"):
                await self._ticket.turn()
        return await self._score(candidate_ids, Fetched(user, items), ages_s)

    async def pairs(self, candidate_ids: Sequence[Id]) -> Pairs:
        """The user and the given candidates, not scored; it is the request's turn then. Raises as ``score``."""
        fetched, _ = await self._fetch(candidate_ids)
        return self._pairs(candidate_ids, fetched)

    @cached_property
    def _given(self) -> GivenFeatures:
        """The query's features; encoding them is work, so it waits for the turn."""
        return GivenFeatures(self._release.towers, self._query.user_features, self._query.item_features)

    async def _await_fetch(self) -> None:
        with self._context.stage("queue"):
            await self._ticket.fetch()

    async def _take_turn(self) -> None:
        with self._context.stage("queue"):
            await self._ticket.turn()
        self._metrics.observe_stage("queue", self._context.seconds_by_stage()["queue"])

    def _time_for_fetching_s(self) -> float:
        """Seconds until there would be no time to score; DeadlineExceededError if there are none."""
        time_left_s = self._deadline.remaining_s()
        if time_left_s <= 0:
            raise DeadlineExceededError
        # A store that answers later than this answers for nothing. But a guess must not take the time of a request
        # that is short of it anyway.
        return max(time_left_s - self._ticket.least_s, time_left_s / 2)

    async def _fetch(self, candidate_ids: Sequence[Id]) -> tuple[Fetched, Ages | None]:
        """The stored rows of both sides, and it is the request's turn."""
        store = self._release.store
        if store.waits:
            await self._await_fetch()
            with self._context.stage("fetch", self._metrics):
                with self._release.costs.line("fetch").timed(len(candidate_ids)):
                    fetched = await self._fetch_both(candidate_ids)
                ages_s = await self._fetch_ages(candidate_ids)
            await self._take_turn()
            return fetched, ages_s
        await self._take_turn()
        with self._context.stage("fetch", self._metrics):
            with self._release.costs.line("find").timed(len(candidate_ids)):
                fetched = store.find(self._query.user_id, candidate_ids)
            return fetched, await self._fetch_ages(candidate_ids)

    async def _fetch_both(self, candidate_ids: Sequence[Id]) -> Fetched:
        """In as few round trips as the stores allow."""
        store = self._release.store
        if store.one_trip:
            return await self._ask(store.fetch_both, self._query.user_id, candidate_ids)
        return Fetched(*await asyncio.gather(self._fetch_user(), self._ask(store.fetch_items, candidate_ids)))

    async def _fetch_ages(self, candidate_ids: Sequence[Id]) -> Ages | None:
        if not self._query.freshness:
            return None
        return np.round(await self._ask(self._release.store.ages_s, candidate_ids), 3)

    async def _ask(self, fetch: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """What a store answers within its own timeout and the request's budget."""
        time_left_s = self._time_for_fetching_s()
        store = self._release.store
        try:
            return await fetch(*arguments, timeout_s=min(time_left_s, store.timeout_s))
        except StoreUnavailableError as error:
            self._metrics.store_errors.labels(error.kind).inc()
            # The loop's timers may go off a moment early, so the clock alone does not say which bound it was.
            budget_ran_out = error.kind == "timeout" and time_left_s < store.timeout_s
            if budget_ran_out or self._deadline.passed():
                raise DeadlineExceededError from error
            raise StoreDownError("the embedding store does not answer") from error

    async def _fetch_user(self) -> Rows:
        """The user's row; none where the store failed and the request's own features can stand in for it."""
        try:
            return await self._ask(self._release.store.fetch_users, [self._query.user_id])
        except (StoreDownError, DeadlineExceededError):
            # The time kept back for scoring may be left.
            if self._query.user_features is None or self._deadline.passed():
                raise
            return self._release.manifest.layout("user").no_rows(1)

    def _user(self, stored: Rows) -> tuple[UserRow, UserState]:
        given = self._given  # first of all: wrong features are refused whether they are needed or not
        if stored.present[0]:
            return stored.raw, "PRESENT"
        computed = given.user_row
        return (self._release.fallback_user, "FALLBACK") if computed is None else (computed, "COMPUTED")

    def _pairs(self, candidate_ids: Sequence[Id], fetched: Fetched) -> Pairs:
        computed, given_items = None, self._query.item_features
        if given_items:
            with self._release.costs.line("tower").timed(len(given_items)):
                computed = self._given.item_rows(candidate_ids, fetched.items)
        user, state = self._user(fetched.user)
        self._context.user = state
        if self._deadline.passed():
            raise DeadlineExceededError
        parts = fetched.items if computed is None else (*fetched.items, computed)
        indexes = np.flatnonzero(computed.present) if computed is not None else np.empty(0, dtype=np.intp)
        pairs = Pairs(user, state, CandidateRows(parts, len(candidate_ids)), indexes)
        self._count(pairs, fetched)
        return pairs

    async def _score(self, candidate_ids: Sequence[Id], fetched: Fetched, ages_s: Ages | None) -> Scored:
        with self._context.stage("score", self._metrics):
            pairs = self._pairs(candidate_ids, fetched)
            job = Job(pairs.user, pairs.rows, self._ticket.until, self._ticket.breathe)
            found, reached = await self._release.anytime.score(job)
            scores = pairs.rows.to_candidates(found)
            missing = (~np.isfinite(scores)).nonzero()[0]  # in half of the time that np.flatnonzero takes
            if len(missing):
                scores[missing] = np.nan
        self._context.num_missing = len(missing)
        num_nonfinite = len(pairs.rows) + len(missing) - len(candidate_ids)
        if num_nonfinite:
            self._metrics.nonfinite.inc(num_nonfinite)
        if ages_s is not None:
            ages_s[pairs.computed] = 0.0
        computed = None if self._query.item_features is None else pairs.computed
        return Scored(pairs.state, candidate_ids, scores, missing, self._degraded(reached), computed, ages_s)

    def _degraded(self, reached: Reached | None) -> dict[str, str | float] | None:
        if reached is None:
            self._context.level = "full"
            return None
        level, reason = reached.level, "overrun" if reached.was_cut_short else self._ticket.pressure
        self._metrics.degraded.labels(level.level, reason).inc()
        self._context.level, self._context.degraded_reason = level.level, reason
        return {
            "level": level.level,
            "reason": reason,
            "share": round(reached.share, 4),
            "expected_ndcg": level.ndcg_to_full,
            "expected_recall": level.recall_to_full,
        }

    def _count(self, pairs: Pairs, fetched: Fetched) -> None:
        metrics, num_candidates, num_computed = self._metrics, pairs.rows.num_candidates, len(pairs.computed)
        metrics.candidates.observe(num_candidates)
        num_absent = num_candidates - len(pairs.rows) + num_computed
        if pairs.state != "PRESENT":
            metrics.missing.labels("user").inc()
        if num_absent:
            metrics.missing.labels("item").inc(num_absent)
        if pairs.state == "COMPUTED":
            metrics.computed.labels("user").inc()
        if num_computed:
            metrics.computed.labels("item").inc(num_computed)
        num_rejected = pairs.rows.num_rejected + fetched.user.num_rejected
        if num_rejected:
            metrics.store_errors.labels("rejected_row").inc(num_rejected)
