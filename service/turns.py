"""Who computes next: one request at a time on the event loop, the others wait, earliest deadline first.

Scoring holds the loop for a millisecond or two, and nothing is read from any socket meanwhile. So the loop goes round
twice between two turns: what has arrived is read, and admitted or refused, before the next one. A request is refused
when its turn would come too late even if everything before it were scored at the lowest level. Before that happens the
turns get shorter: the time there is until the deadlines of those who wait is shared by their numbers of candidates.
"""

from __future__ import annotations

import asyncio
import time
from bisect import bisect_right, insort
from collections.abc import Iterator
from contextlib import contextmanager
from operator import attrgetter

from service.errors import ShedError
from service.metrics import Metrics, ShedReason
from service.settings import OverloadSettings
from service.tickets import Demand, Pressure, Ticket

_key = attrgetter("key")
_RATE = 0.1
# Of the time until the deadlines of those who wait, what is given to them; the rest is for those yet to come. With all
# of it given away, a newcomer would find every deadline used up, and be refused where shorter turns had sufficed.
_GIVEN = 0.6
# Requests that wait for another machine at once. Sending and parsing is work on this loop too: with all of them sent,
# that would be done for those who are lost already, until nobody is in time.
_MAX_FETCHING = 8
_LEAST_BETWEEN_S = 5e-5
# A stall of the machine must not look like a busier loop.
_LARGEST_SURPRISE = 4.0
# Of those who wait, as many are looked at when a turn is given its time: far more than fit into any budget.
_LOOKAHEAD = 64


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
        self._num_fetching = 0
        self._num_admitted = 0
        self._ends_at = 0.0
        self._ended_at: float | None = None
        self._between_s = 3e-4
        """What lies between two turns: reading, parsing, refusing, writing, and fetching rows. A running mean."""
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
            ShedError: the queue is full, or the request could not be done in time, or only at the cost of one that has
                been admitted.
        """
        now = time.perf_counter()
        self._num_admitted += 1
        ticket = Ticket(self, demand, now, self._num_admitted)
        if self.is_idle:
            ticket.is_tried = True
        else:
            self._refuse_hopeless(ticket, now)
        insort(self._waiting, ticket, key=_key)
        try:
            yield ticket
        finally:
            if self._running is ticket:
                self._end_turn()
            elif ticket in self._waiting:
                self._waiting.remove(ticket)
            self._end_fetch(ticket)

    def _refuse_hopeless(self, ticket: Ticket, now: float) -> None:
        demand = ticket.demand
        place = bisect_right(self._waiting, ticket.key, key=_key)
        wait_s = self._between_s + sum(other.least_s + self._between_s for other in self._waiting[:place])
        if self._running is not None:
            wait_s += max(0.0, self._ends_at - now)
        done_at = now + max(wait_s, demand.fetch_s) + ticket.least_s
        if len(self._waiting) >= (self._max_waiting // 2 if demand.is_low else self._max_waiting):
            raise self.shed(ticket, "queue_full", f"{len(self._waiting)} requests are waiting", retry_after_s=wait_s)
        if done_at > ticket.latest:
            reason: ShedReason = "no_time" if demand.deadline.is_finite else "long_wait"
            raise self.shed(ticket, reason, f"the request would wait {wait_s * 1e3:.1f} ms", retry_after_s=wait_s)
        if self._would_spoil(ticket, place, done_at):
            raise self.shed(ticket, "no_time", "others would come too late", retry_after_s=wait_s)

    def _would_spoil(self, ticket: Ticket, place: int, done_at: float) -> bool:
        """Whether one who is behind ``place`` and in time would come too late, with a newcomer there done at
        ``done_at``."""
        added_s = ticket.least_s + self._between_s
        for other in self._waiting[place:]:
            if other.demand.is_low and not ticket.demand.is_low:
                return False
            done_at += other.least_s + self._between_s
            if other.demand.deadline.is_finite and done_at - added_s <= other.latest < done_at:
                return True
        return False

    def shed(self, ticket: Ticket, reason: ShedReason, text: str, *, retry_after_s: float) -> ShedError:
        """Count a refusal, and make its error."""
        now = time.perf_counter()
        demand = ticket.demand
        self._metrics.count_shed(reason, now - (demand.read_at or now), demand.priority, demand.endpoint)
        return ShedError(f"overloaded: {text}", retry_after_s=retry_after_s)

    async def await_fetch(self, ticket: Ticket) -> None:
        """See ``Ticket.fetch``."""
        if self._num_fetching < _MAX_FETCHING:
            self._begin_fetch(ticket)
            return
        ticket.future = asyncio.get_running_loop().create_future()
        await ticket.future

    def _begin_fetch(self, ticket: Ticket) -> None:
        ticket.is_fetching = True
        self._num_fetching += 1

    def _end_fetch(self, ticket: Ticket) -> None:
        if not ticket.is_fetching:
            return
        ticket.is_fetching = False
        self._num_fetching -= 1
        self._drop_hopeless(time.perf_counter())
        after = next((one for one in self._waiting if one.is_waiting and not one.is_ready), None)
        if after is not None:
            self._begin_fetch(after)
            after.wake(None)

    async def await_turn(self, ticket: Ticket) -> None:
        """See ``Ticket.turn``."""
        self._end_fetch(ticket)
        ticket.is_ready = True
        ticket.future = asyncio.get_running_loop().create_future()
        self._open_soon()
        await ticket.future
        now = time.perf_counter()
        self._learn_between(now)
        self.busy_since = now
        self._give_time(ticket, now)

    def _give_time(self, ticket: Ticket, now: float) -> None:
        """Set until when the ticket may score: its own deadline, or less where others would miss theirs."""
        other_work_s = ticket.before_s + ticket.after_s
        num_own = num_candidates = ticket.demand.num_candidates
        full_s = ticket.demand.costs.full_line.seconds(num_own)
        self._ends_at = now + other_work_s + full_s
        if not ticket.demand.deadline.is_finite:
            return
        pressure: Pressure = "budget"
        allowed_s = ticket.latest - now - other_work_s
        for other in self._waiting[:_LOOKAHEAD]:
            demand = other.demand
            if demand.is_low and not ticket.demand.is_low:
                break
            if now + other.least_s > demand.deadline.at:
                continue  # it is lost whatever this one does
            num_candidates += demand.num_candidates
            other_work_s += self._between_s + other.before_s + other.after_s
            share_s = ((other.latest - now) * _GIVEN - other_work_s) * num_own / max(num_candidates, 1)
            if demand.deadline.is_finite and share_s < allowed_s:
                allowed_s, pressure = share_s, "load"
        ticket.until, ticket.pressure = now + ticket.before_s + allowed_s, pressure
        self._ends_at = min(self._ends_at, ticket.until + ticket.after_s)

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
        now = time.perf_counter()
        self._drop_hopeless(now)
        ticket = next((one for one in self._waiting if one.is_ready), None)
        if ticket is None:
            if not self._waiting:
                self._learn_between(now)
            return
        self._waiting.remove(ticket)
        self._running = ticket
        self._give_time(ticket, now)  # for those who are admitted before it begins
        ticket.wake(None)

    def _drop_hopeless(self, now: float) -> None:
        dropped = [(one, error) for one in self._waiting if one.is_waiting and (error := one.why_hopeless(now))]
        for ticket, error in dropped:
            self._waiting.remove(ticket)
            ticket.wake(error)

    def _learn_between(self, now: float) -> None:
        if self._ended_at is not None:  # else the loop had nothing to do meanwhile
            found_s = min(now - self._ended_at, _LARGEST_SURPRISE * self._between_s)
            self._between_s = max(self._between_s + _RATE * (found_s - self._between_s), _LEAST_BETWEEN_S)
            self._ended_at = None
