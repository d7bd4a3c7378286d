"""The client that blocks."""

from __future__ import annotations

import time
from collections.abc import Iterable
from contextlib import closing
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


class RankTowerClient:
    """Calls of the service at one address, over connections that are kept. Threads may share it.

    Every call may raise a ``RankTowerError``.
    """

    def __init__(self, url: str, **options: Unpack[ClientOptions]) -> None:
        """Nothing is sent before the first call."""
        self._caller = Caller(url, options)
        self._http = httpx.Client(**self._caller.http_options)

    def score(self, user_id: Id, candidate_ids: Iterable[Id], **options: Unpack[ScoreOptions]) -> Scores:
        """Scores of the candidates for a user, in their order."""
        return self._run(score_call(user_id, candidate_ids, options))

    def rank(self, user_id: Id, **options: Unpack[RankOptions]) -> Ranking:
        """The best of the given candidates, or of retrieved ones."""
        return self._run(rank_call(user_id, options))

    def explain(self, user_id: Id, candidate_ids: Iterable[Id], **options: Unpack[ExplainOptions]) -> Explanations:
        """What the scores of a few candidates are made of."""
        return self._run(explain_call(user_id, candidate_ids, options))

    def release(self, **options: Unpack[CallOptions]) -> Release:
        """What is being served."""
        return self._run(release_call(options))

    def ready(self, **options: Unpack[CallOptions]) -> bool:
        """Whether the service can be reached and serves a release. Tried once."""
        try:
            return self._run(ready_call(options))
        except NOT_READY:
            return False

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def __enter__(self) -> RankTowerClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _run(self, call: Call[T]) -> T:
        exchange = self._caller.begin(call)
        while (pause_s := exchange.take(self._send(exchange))) is not None:
            time.sleep(pause_s)
        return exchange.result

    def _send(self, exchange: Exchange[T]) -> Outcome:
        request = exchange.request(self._http)
        try:
            with closing(self._http.send(request, stream=True)) as response:
                content = bytearray()
                for chunk in response.iter_bytes():
                    # httpx bounds the wait for each chunk alone.
                    if exchange.left_s() <= 0:
                        return TimeoutError()
                    content += chunk
                return Received(response.status_code, response.headers, bytes(content))
        except httpx.RequestError as error:
            return error
