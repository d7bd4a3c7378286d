"""From a query to scores: fetch both sides, choose the user's arrays, score. Shared by every endpoint that scores."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

import numpy as np
from numpy.typing import NDArray

from ranktower.embedding_store.protocol import Rows, StoreUnavailableError
from ranktower.errors import ConfigError, DataError
from service.budget import Deadline
from service.errors import DeadlineExceededError, MalformedError, StoreDownError
from service.loaded import LoadedRelease
from service.metrics import Metrics
from service.scorer import UserRow

Id = str | int
UserState = Literal["PRESENT", "COMPUTED", "FALLBACK"]
Feed = Mapping[str, NDArray[np.int64]]
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Scored:
    """What a request's candidates got."""

    user: UserState
    candidate_ids: Sequence[Id]
    scores: NDArray[np.float32]
    """[N], in the order of the candidates; NaN where there is no score, every other value is finite."""
    missing: NDArray[np.int64]
    """Indexes of the candidates without a score, ascending."""


class Answering:
    """Scores the candidates of one request with one release, which the caller holds meanwhile."""

    def __init__(self, release: LoadedRelease, deadline: Deadline, metrics: Metrics) -> None:
        """``deadline`` bounds the waiting; past it nothing is scored."""
        self._release = release
        self._deadline = deadline
        self._metrics = metrics

    async def score(self, user_id: Id, candidate_ids: Sequence[Id], features: Mapping[str, Any] | None) -> Scored:
        """Score the given candidates.

        Raises:
            MalformedError: ``features`` are not what the release's encoder takes; asked whether they are needed or not.
            StoreDownError: a store that the request needs does not answer.
            DeadlineExceededError: the time was up before the scoring.
        """
        feed = self._encode(features)
        with self._metrics.stage("fetch"):
            self._refuse_late()
            user, items = await self._fetch(user_id, candidate_ids, feed)
        return self._score(user, feed, candidate_ids, items)

    async def retrieve_and_score(self, user_id: Id, num_candidates: int, features: Mapping[str, Any] | None) -> Scored:
        """Score the candidates nearest to the user in the retrieval index. Raises as ``score``; also MalformedError
        if the release has no index."""
        retrieval = self._release.retrieval
        if retrieval is None:
            raise MalformedError("candidate_ids: required, because this release has no retrieval index")
        feed = self._encode(features)
        store = self._release.store
        with self._metrics.stage("fetch"):
            self._refuse_late()
            user = await self._fetch_user(user_id, feed)
            row, _ = self._user(user, feed)
            candidate_ids = retrieval.candidate_ids(row, num_candidates)
            items = await self._ask(store.fetch_items, candidate_ids)
        return self._score(user, feed, candidate_ids, items)

    def _encode(self, features: Mapping[str, Any] | None) -> Feed | None:
        if features is None:
            return None
        try:
            return self._release.user_tower.encode(features)
        except ConfigError as error:
            raise MalformedError(f"user_features: {error}") from error

    def _refuse_late(self) -> None:
        if self._deadline.passed():
            raise DeadlineExceededError("the budget was used up before the embeddings were fetched")

    async def _fetch(self, user_id: Id, ids: Sequence[Id], feed: Feed | None) -> tuple[Rows | None, Sequence[Rows]]:
        """The user's row and the candidates' rows, in as few round trips as their stores allow."""
        store = self._release.store
        found = store.find(user_id, ids)
        if found is None and store.one_trip:
            found = await self._ask(store.fetch_both, user_id, ids)
        if found is not None:
            return found.user, found.items
        user, items = await asyncio.gather(self._fetch_user(user_id, feed), self._ask(store.fetch_items, ids))
        return user, items

    async def _ask(self, fetch: Callable[..., Awaitable[T]], *arguments: Any) -> T:
        """What a store answers within its own timeout and the request's budget."""
        time_left_s = self._deadline.remaining_s()
        if time_left_s <= 0:
            raise DeadlineExceededError("the budget was used up before the embeddings were fetched")
        store = self._release.store
        try:
            return await fetch(*arguments, timeout_s=min(time_left_s, store.timeout_s))
        except StoreUnavailableError as error:
            self._metrics.store_errors.labels(error.kind).inc()
            # The loop's timers may go off a moment early, so the clock alone does not say which bound it was.
            budget_ran_out = error.kind == "timeout" and time_left_s < store.timeout_s
            if budget_ran_out or self._deadline.passed():
                raise DeadlineExceededError("the embeddings were not fetched within the budget") from error
            raise StoreDownError("the embedding store does not answer") from error

    async def _fetch_user(self, user_id: Id, feed: Feed | None) -> Rows | None:
        """The user's row; None where the store failed and the request's own features can stand in for it."""
        try:
            return await self._ask(self._release.store.fetch_users, [user_id])
        except StoreDownError:
            if feed is None:
                raise
            return None

    def _user(self, rows: Rows | None, feed: Feed | None) -> tuple[UserRow, UserState]:
        if rows is not None and rows.present[0]:
            return rows.raw, "PRESENT"
        if feed is not None:
            try:
                return self._release.user_tower.compute(feed), "COMPUTED"
            except DataError as error:
                raise MalformedError("user_features: their embedding is too large for the release's rows") from error
        return self._release.fallback_user, "FALLBACK"

    def _score(
        self, user: Rows | None, feed: Feed | None, candidate_ids: Sequence[Id], items: Sequence[Rows]
    ) -> Scored:
        if self._deadline.passed():
            raise DeadlineExceededError("the budget was used up before the candidates were scored")
        with self._metrics.stage("score"):
            row, state = self._user(user, feed)
            scores = self._score_items(row, items, num_candidates=len(candidate_ids))
            missing = np.flatnonzero(~np.isfinite(scores))
            if len(missing):
                scores[missing] = np.nan
        self._count(state, [*items, user] if user is not None else items)
        num_stored = sum(len(rows.raw) for rows in items)
        self._count_candidates(len(candidate_ids), num_stored, num_finite=len(candidate_ids) - len(missing))
        return Scored(state, candidate_ids, scores, missing)

    def _score_items(self, user: UserRow, items: Sequence[Rows], *, num_candidates: int) -> NDArray[np.float32]:
        """Scores ``[num_candidates]``, NaN for a candidate that no store had."""
        scorer = self._release.scorer
        if len(items) == 1 and len(items[0].raw) == num_candidates:
            return scorer.score(user, items[0].layout, items[0].raw)
        scores = np.full(num_candidates, np.nan, dtype=np.float32)
        for rows in items:
            scores[rows.present] = scorer.score(user, rows.layout, rows.raw)
        return scores

    def _count(self, state: UserState, fetched: Sequence[Rows]) -> None:
        if state != "PRESENT":
            self._metrics.missing.labels("user").inc()
        for rows in fetched:
            if rows.num_rejected:
                self._metrics.store_errors.labels("rejected_row").inc(rows.num_rejected)

    def _count_candidates(self, num_candidates: int, num_stored: int, *, num_finite: int) -> None:
        self._metrics.candidates.observe(num_candidates)
        if num_stored < num_candidates:
            self._metrics.missing.labels("item").inc(num_candidates - num_stored)
        if num_finite < num_stored:
            self._metrics.nonfinite.inc(num_stored - num_finite)
