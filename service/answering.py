"""From a query to scores: fetch both sides, choose the user's arrays, score. Shared by every endpoint that scores."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from ranktower.embedding_store.protocol import Rows, Side, StoreUnavailableError
from ranktower.errors import ConfigError
from service.budget import Deadline
from service.errors import DeadlineExceededError, MalformedError, StoreDownError
from service.loaded import LoadedRelease
from service.metrics import Metrics
from service.scorer import Arrays

Id = str | int
UserState = Literal["PRESENT", "COMPUTED", "FALLBACK"]
Feed = Mapping[str, NDArray[np.int64]]


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
            if self._release.store.waits:
                fetched = await asyncio.gather(self._fetch_user(user_id, feed), self._fetch("item", candidate_ids))
                user_rows, item_rows = fetched
            else:
                # Nothing waits, so two tasks would cost more than they overlap.
                user_rows = await self._fetch_user(user_id, feed)
                item_rows = await self._fetch("item", candidate_ids)
        return self._score(user_rows, feed, candidate_ids, item_rows)

    async def retrieve_and_score(self, user_id: Id, num_candidates: int, features: Mapping[str, Any] | None) -> Scored:
        """Score the candidates nearest to the user in the retrieval index. Raises as ``score``; also MalformedError
        if the release has no index."""
        retrieval = self._release.retrieval
        if retrieval is None:
            raise MalformedError("candidate_ids: required, because this release has no retrieval index")
        feed = self._encode(features)
        with self._metrics.stage("fetch"):
            user_rows = await self._fetch_user(user_id, feed)
            arrays, _ = self._user(user_rows, feed)
            candidate_ids = retrieval.candidate_ids(arrays, num_candidates)
            item_rows = await self._fetch("item", candidate_ids)
        return self._score(user_rows, feed, candidate_ids, item_rows)

    def _encode(self, features: Mapping[str, Any] | None) -> Feed | None:
        if features is None:
            return None
        try:
            return self._release.user_tower.encode(features)
        except ConfigError as error:
            raise MalformedError(f"user_features: {error}") from error

    async def _fetch(self, side: Side, ids: Sequence[Id]) -> Rows:
        time_left_s = self._deadline.remaining_s()
        if time_left_s <= 0:
            raise DeadlineExceededError("the budget was used up before the embeddings were fetched")
        store = self._release.store
        try:
            rows = await store.fetch(side, ids, timeout_s=min(time_left_s, store.timeout_s))
        except StoreUnavailableError as error:
            self._metrics.store_errors.labels(error.kind).inc()
            # The loop's timers may go off a moment early, so the clock alone does not say which bound it was.
            budget_ran_out = error.kind == "timeout" and time_left_s < store.timeout_s
            if budget_ran_out or self._deadline.passed():
                raise DeadlineExceededError("the embeddings were not fetched within the budget") from error
            raise StoreDownError("the embedding store does not answer") from error
        if rows.num_rejected:
            self._metrics.store_errors.labels("rejected_row").inc(rows.num_rejected)
        return rows

    async def _fetch_user(self, user_id: Id, feed: Feed | None) -> Rows | None:
        """The user's row; None where the store failed and the request's own features can stand in for it."""
        try:
            return await self._fetch("user", [user_id])
        except StoreDownError:
            if feed is None:
                raise
            return None

    def _user(self, rows: Rows | None, feed: Feed | None) -> tuple[Arrays, UserState]:
        if rows is not None and rows.present[0]:
            return self._release.scorer.user_arrays(rows.raw), "PRESENT"
        if feed is not None:
            return self._release.user_tower.compute(feed), "COMPUTED"
        return self._release.fallback_user, "FALLBACK"

    def _score(self, user_rows: Rows | None, feed: Feed | None, candidate_ids: Sequence[Id], item_rows: Rows) -> Scored:
        if self._deadline.passed():
            raise DeadlineExceededError("the budget was used up before the candidates were scored")
        with self._metrics.stage("score"):
            arrays, state = self._user(user_rows, feed)
            scores = np.full(len(candidate_ids), np.nan, dtype=np.float32)
            scores[item_rows.present] = self._release.scorer.score(arrays, item_rows.raw)
            finite = np.isfinite(scores)
            missing = np.flatnonzero(~finite)
            scores[missing] = np.nan
        self._count(state, candidate_ids, item_rows, num_finite=len(candidate_ids) - len(missing))
        return Scored(state, candidate_ids, scores, missing)

    def _count(self, state: UserState, candidate_ids: Sequence[Id], item_rows: Rows, *, num_finite: int) -> None:
        self._metrics.candidates.observe(len(candidate_ids))
        if state != "PRESENT":
            self._metrics.missing.labels("user").inc()
        num_stored = len(item_rows.raw)
        if num_stored < len(candidate_ids):
            self._metrics.missing.labels("item").inc(len(candidate_ids) - num_stored)
        if num_finite < num_stored:
            self._metrics.nonfinite.inc(num_stored - num_finite)
