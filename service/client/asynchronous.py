"""The client that awaits."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from types import TracebackType
from typing import TypeVar, Unpack

import httpx

from service.client.answers import Explanations, Ranking, Release, Scores
from service.client.calling import Caller
from service.client.errors import NOT_READY
from service.client.exchange import Exchange, Outcome, Received
from service.client.options import CallOptions, ClientOptions, ExplainOptions, Id, RankOptions, ScoreOptions
from service.client.requests import Call, explain_call, rank_call, ready_call, release_call, score_call

T = TypeVar("T")


class AsyncRankTowerClient:
    """As ``RankTowerClient``, for the tasks of one event loop."""

    def __init__(self, url: str, **options: Unpack[ClientOptions]) -> None:
        """As that of ``RankTowerClient``."""
        self._caller = Caller(url, options)
        self._http = httpx.AsyncClient(**self._caller.http_options)

    async def score(self, user_id: Id, candidate_ids: Iterable[Id], **options: Unpack[ScoreOptions]) -> Scores:
        """Scores of the candidates for a user, in their order."""
        return await self._run(score_call(user_id, candidate_ids, options))

    async def rank(self, user_id: Id, **options: Unpack[RankOptions]) -> Ranking:
        """The best of the given candidates, or of retrieved ones."""
        return await self._run(rank_call(user_id, options))

    async def explain(
        self, user_id: Id, candidate_ids: Iterable[Id], **options: Unpack[ExplainOptions]
    ) -> Explanations:
        """What the scores of a few candidates are made of."""
        return await self._run(explain_call(user_id, candidate_ids, options))

    async def release(self, **options: Unpack[CallOptions]) -> Release:
        """What is being served."""
        return await self._run(release_call(options))

    async def ready(self, **options: Unpack[CallOptions]) -> bool:
        """Whether the service can be reached and serves a release. Tried once."""
        try:
            return await self._run(ready_call(options))
        except NOT_READY:
            return False

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def __aenter__(self) -> AsyncRankTowerClient:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self.close()

    async def _run(self, call: Call[T]) -> T:
        exchange = self._caller.begin(call)
        while (pause_s := exchange.take(await self._send(exchange))) is not None:
            await asyncio.sleep(pause_s)
        return exchange.result

    async def _send(self, exchange: Exchange[T]) -> Outcome:
        request = exchange.request(self._http)
        try:
            async with asyncio.timeout(exchange.left_s()):
                response = await self._http.send(request)
        except (httpx.RequestError, TimeoutError) as error:
            return error
        return Received(response.status_code, response.headers, response.content)
