"""One request in the queue: what it asks for, and its place until it has had its turn."""

from __future__ import annotations

import asyncio
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Literal

from service.budget import Deadline
from service.costs import Costs, OtherWork
from service.errors import ClientGoneError, DeadlineExceededError, ServiceError
from service.metrics import Priority, Queued

if TYPE_CHECKING:
    from service.turns import Turns

Pressure = Literal["budget", "load"]


@dataclass(frozen=True, slots=True)
class Demand:
    """What a request asks for, as far as turns go."""

    num_candidates: int
    deadline: Deadline
    costs: Costs
    """Of the release that scores it."""
    before: Mapping[OtherWork, int] = field(default_factory=dict)
    """Work of its turn ahead of the scoring."""
    after: Mapping[OtherWork, int] = field(default_factory=dict)
    """Work of its turn behind the scoring."""
    fetch_s: float = 0.0
    """How long its rows may be on the way from another machine; others compute meanwhile."""
    endpoint: Queued = "score"
    """That was asked."""
    is_low: bool = False
    """Of the lower class: after all others, and not the reason for which one of them gets less time."""
    is_gone: Callable[[], bool] = lambda: False
    """Whether the client has left."""
    read_at: float | None = None
    """When the request was read from its socket."""

    @property
    def priority(self) -> Priority:
        """Its class, by its name in the metrics."""
        return "low" if self.is_low else "normal"


class Ticket:
    """A request's place in the queue, and then its turn."""

    __slots__ = (
        "_turns", "after_s", "before_s", "demand", "future", "is_fetching", "is_ready", "is_tried", "key", "latest",
        "least_s", "pressure", "until",
    )  # fmt: skip

    def __init__(self, turns: Turns, demand: Demand, now: float, number: int) -> None:
        """Use ``Turns.admit``."""
        self._turns = turns
        self.demand = demand
        finite, costs = demand.deadline.is_finite, demand.costs
        self.latest = demand.deadline.plan_at if finite else now + turns.max_wait_s
        self.before_s, self.after_s = costs.sum_s(demand.before), costs.sum_s(demand.after)
        scoring = costs.least_line if finite else costs.full_line
        self.least_s = self.before_s + scoring.seconds(demand.num_candidates) + self.after_s
        self.key = (demand.is_low, self.latest, number)
        self.future: asyncio.Future[None] | None = None
        """Done when what it waits for has come, permission to fetch or its turn."""
        self.is_fetching = False
        self.is_ready = False
        """Whether it has its rows, and waits for its turn."""
        self.is_tried = False
        """Whether it is scored even where that looks hopeless: a wrong estimate could else never be corrected."""
        self.until = math.inf
        """When the scoring must be done, on the ``time.perf_counter`` clock; known once it is the request's turn."""
        self.pressure: Pressure = "budget"
        """What bounds it: the request's own budget, or those who wait behind it."""

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for something of the queue."""
        return self.future is not None and not self.future.done()

    async def fetch(self) -> None:
        """Return when the request may ask another machine for its rows; raises as ``turn``, which ends the fetch."""
        await self._turns.await_fetch(self)

    async def turn(self) -> None:
        """Return when it is the request's turn; it is until the end of ``Turns.admit``'s block, or ``pause``.

        Raises:
            ClientGoneError: the client left while it waited.
            DeadlineExceededError: it waited too long to be done in time.
            ShedError: it has no budget, and waited for as long as such a request may.
        """
        await self._turns.await_turn(self)

    def pause(self) -> None:
        """Let others compute while this request waits for something else; ``turn`` asks for the next turn."""
        self._turns.give_back(self)

    async def breathe(self) -> None:
        """In the middle of a long turn: let the loop read its sockets, and admit or refuse what it reads.
        ClientGoneError if the client has left."""
        await asyncio.sleep(0)
        self._turns.busy_since = time.perf_counter()
        await asyncio.sleep(0)
        if self.demand.is_gone():
            raise ClientGoneError("the client closed the connection")

    def wake(self, error: Exception | None) -> None:
        """End its waiting, with an error or for its turn."""
        if self.future is None or self.future.done():  # its task was cancelled, and will give its place back
            return
        if error is None:
            self.future.set_result(None)
        else:
            self.future.set_exception(error)

    def why_hopeless(self, now: float) -> ServiceError | None:
        """Why it need not wait for its turn any longer; None if it should."""
        if self.demand.is_gone():
            return ClientGoneError("the client closed the connection")
        if now + (0.0 if self.is_tried else self.least_s) > self.demand.deadline.at:
            return DeadlineExceededError()
        if now > self.latest and not self.demand.deadline.is_finite:
            return self._turns.shed(self, "long_wait", "the request has waited for too long", retry_after_s=0.0)
        return None
