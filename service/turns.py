"""Who computes next: one request at a time on the event loop, the others wait, earliest deadline first.

Scoring holds the loop for a millisecond or two, and nothing is read from any socket meanwhile. So the loop goes round
once between two turns: arrivals are seen at once, and are admitted or refused in microseconds. A request is refused
when its turn would come too late even if everything before it were scored at the lowest level. Before that happens the
turns get shorter: the time there is until the deadlines of those who wait is shared by their numbers of candidates.
"""

from __future__ import annotations

import asyncio
import math
import time
from bisect import bisect_right, insort
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from operator import attrgetter
from typing import Literal

from service.budget import Deadline
from service.costs import Costs
from service.errors import ClientGoneError, DeadlineExceededError, ShedError
from service.metrics import Metrics
from service.settings import OverloadSettings

Pressure = Literal["budget", "load"]

_key = attrgetter("key")
_RATE = 0.1
_LEAST_BETWEEN_S = 5e-5
# A stall of the machine must not look like a busier loop.
_LARGEST_SURPRISE = 4.0
# Of those who wait, as many are looked at when a turn is given its time: far more than fit into any budget.
_LOOKAHEAD = 64


@dataclass(frozen=True, slots=True)
class Demand:
    """What a request asks for, as far as turns go."""

    num_candidates: int
    deadline: Deadline
    costs: Costs
    """Of the release that scores it."""
    is_low: bool = False
    """Of the lower class: after all others, and not the reason for which one of them gets less time."""
    is_gone: Callable[[], bool] = lambda: False
    """Whether the client has left."""
    read_at: float | None = None
    """When the request was read from its socket."""


class Ticket:
    """A request's place in the queue, and then its turn."""

    __slots__ = ("_turns", "demand", "future", "is_ready", "key", "latest", "least_s", "pressure", "until", "waited_s")

    def __init__(self, turns: Turns, demand: Demand, now: float, number: int) -> None:
        """Use ``Turns.admit``."""
        self._turns = turns
        self.demand = demand
        finite = demand.deadline.is_finite
        self.latest = demand.deadline.plan_at if finite else now + turns.max_wait_s
        self.least_s = (demand.costs.least_s if finite else demand.costs.full_s)(demand.num_candidates)
        self.key = (demand.is_low, self.latest, number)
        self.future: asyncio.Future[None] | None = None
        self.is_ready = False
        self.waited_s = 0.0
        """How long it has waited for its turn."""
        self.until = math.inf
        """When the scoring must be done, on the ``time.perf_counter`` clock; known once it is the request's turn."""
        self.pressure: Pressure = "budget"
        """What bounds it: the request's own budget, or those who wait behind it."""

    async def turn(self) -> None:
        """Return when it is the request's turn; it is until the end of ``Turns.admit``'s block, or ``pause``.

        Raises:
            ClientGoneError: the client left while it waited.
            DeadlineExceededError: it waited too long to be done in time.
        """
        await self._turns.await_turn(self)

    def pause(self) -> None:
        """Let others compute while this request waits for something else; ``turn`` asks for the next turn."""
        self._turns.give_back(self)

    async def breathe(self) -> None:
        """In the middle of a long turn: let the loop look at its sockets. Raises ClientGoneError."""
        await asyncio.sleep(0)
        if self.demand.is_gone():
            raise ClientGoneError("the client closed the connection")


class Turns:
    """The queue of one worker."""

    def __init__(self, settings: OverloadSettings, metrics: Metrics) -> None:
        """Of an application; used on its event loop alone."""
        self._metrics = metrics
        self._max_waiting = settings.max_waiting
        self.max_wait_s = settings.max_wait_ms / 1000.0
        self._waiting: list[Ticket] = []
        """By class and deadline; those that fetch their rows among them."""
        self._running: Ticket | None = None
        self._is_opening = False
        self._num_admitted = 0
        self._ends_at = 0.0
        self._ended_at: float | None = None
        self._between_s = 3e-4
        """What the loop does between two turns: reading, parsing, refusing, writing. A running mean."""
        self.busy_since: float | None = None
        """Start of the turn that kept the loop from its sockets until just now: a request read now may have been there
        since then."""

    @property
    def is_idle(self) -> bool:
        """Whether nobody computes or waits."""
        return self._running is None and not self._waiting

    @contextmanager
    def admit(self, demand: Demand) -> Iterator[Ticket]:
        """A place in the queue, given back at the end of the block.

        Raises:
            ShedError: the queue is full, or the request could not be done in time.
        """
        now = time.perf_counter()
        self._num_admitted += 1
        ticket = Ticket(self, demand, now, self._num_admitted)
        if not self.is_idle:
            self._refuse_hopeless(ticket, now)
        insort(self._waiting, ticket, key=_key)
        try:
            yield ticket
        finally:
            if self._running is ticket:
                self._end_turn()
            else:
                self._waiting.remove(ticket)

    def _refuse_hopeless(self, ticket: Ticket, now: float) -> None:
        demand = ticket.demand
        places = self._max_waiting // 2 if demand.is_low else self._max_waiting
        before = self._waiting[: bisect_right(self._waiting, ticket.key, key=_key)]
        wait_s = sum(other.least_s for other in before) + self._between_s * (len(before) + 1)
        if self._running is not None:
            wait_s += max(0.0, self._ends_at - now)
        wait_s = max(wait_s, demand.costs.fetch_s(demand.num_candidates))
        if len(self._waiting) >= places:
            reason, text = "queue_full", f"{len(self._waiting)} requests are waiting"
        elif now + wait_s + ticket.least_s > ticket.latest:
            reason = "no_time" if demand.deadline.is_finite else "long_wait"
            text = f"the request would wait {wait_s * 1e3:.1f} ms"
        else:
            return
        self._metrics.count_shed(reason, time.perf_counter() - (demand.read_at or now))
        raise ShedError(f"overloaded: {text}", reason, retry_after_s=wait_s)

    async def await_turn(self, ticket: Ticket) -> None:
        """See ``Ticket.turn``."""
        asked_at = time.perf_counter()
        ticket.is_ready = True
        ticket.future = asyncio.get_running_loop().create_future()
        self._open_soon()
        await ticket.future
        now = time.perf_counter()
        ticket.waited_s += now - asked_at
        self._learn_between(now)
        self._refuse_late(ticket, now)
        self.busy_since = now
        self._give_time(ticket, now)

    def _refuse_late(self, ticket: Ticket, now: float) -> None:
        if ticket.demand.is_gone():
            raise ClientGoneError("the client closed the connection")
        if now + ticket.least_s > ticket.demand.deadline.at:
            raise DeadlineExceededError

    def _give_time(self, ticket: Ticket, now: float) -> None:
        """Set until when the ticket may score: its own deadline, or less where others would miss theirs."""
        demand = ticket.demand
        if not demand.deadline.is_finite:
            return
        answer_s = demand.costs.answer_s(demand.num_candidates)
        allowed_s = ticket.latest - now - answer_s
        pressure: Pressure = "budget"
        num_candidates, other_work_s = demand.num_candidates, answer_s
        for other in self._waiting[:_LOOKAHEAD]:
            if other.demand.is_low and not demand.is_low:
                break
            num_candidates += other.demand.num_candidates
            other_work_s += self._between_s + demand.costs.answer_s(other.demand.num_candidates)
            if not other.demand.deadline.is_finite:
                continue
            share_s = (other.latest - now - other_work_s) * demand.num_candidates / max(num_candidates, 1)
            if share_s < allowed_s:
                allowed_s, pressure = share_s, "load"
        ticket.until, ticket.pressure = now + allowed_s, pressure
        self._ends_at = min(self._ends_at, ticket.until + answer_s)

    def give_back(self, ticket: Ticket) -> None:
        """See ``Ticket.pause``."""
        ticket.is_ready = False
        insort(self._waiting, ticket, key=_key)
        self._end_turn()

    def _end_turn(self) -> None:
        self._running = None
        self._ended_at = time.perf_counter()
        self._open_soon()

    def _open_soon(self) -> None:
        """Begin the next turn two rounds of the loop from here: in the first it reads what has arrived, in the second
        those requests are admitted or refused. Else they would wait for a whole turn, and the turn's share of the time
        would not take them into account."""
        if self._running is None and not self._is_opening:
            self._is_opening = True
            asyncio.get_running_loop().call_soon(self._open)

    def _open(self) -> None:
        self._is_opening = False
        self.busy_since = None
        after = self._next_ready()
        if after is None:
            self._learn_between(time.perf_counter())
        else:
            self._wake(after)

    def _learn_between(self, now: float) -> None:
        if self._ended_at is not None:  # else the loop had nothing to do meanwhile
            found_s = min(now - self._ended_at, _LARGEST_SURPRISE * self._between_s)
            self._between_s = max(self._between_s + _RATE * (found_s - self._between_s), _LEAST_BETWEEN_S)
            self._ended_at = None

    def _next_ready(self) -> Ticket | None:
        return next((ticket for ticket in self._waiting if ticket.is_ready), None)

    def _wake(self, ticket: Ticket) -> None:
        self._start(ticket)
        if ticket.future is not None and not ticket.future.done():  # else its task was cancelled, and ends its turn
            ticket.future.set_result(None)

    def _start(self, ticket: Ticket) -> None:
        self._waiting.remove(ticket)
        self._running = ticket
        demand = ticket.demand
        self._ends_at = time.perf_counter() + demand.costs.full_s(demand.num_candidates)
