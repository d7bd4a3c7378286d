"""The queue on a real event loop, with work that only says how long it takes; a running server is tested elsewhere."""

from __future__ import annotations

import asyncio
import contextlib
import math
import time
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from service.budget import Deadline
from service.costs import CostLine, Costs
from service.errors import ClientGoneError, DeadlineExceededError, ShedError
from service.metrics import Metrics
from service.settings import OverloadSettings
from service.tickets import Demand, Ticket
from service.turns import Turns


def make_turns(**settings: Any) -> Turns:
    return Turns(OverloadSettings(**settings), Metrics())


def make_costs(full_s: float = 0.0, least_s: float = 0.0) -> Costs:
    """Of a thousand candidates; other work costs a second a thing."""
    lines: dict[Any, CostLine] = {("full", "projected"): CostLine(0.0, full_s / 1200)}
    lines |= {"maxsim": CostLine(0.0, least_s / 1200), "pooled": CostLine(0.0, least_s / 1200)}
    return Costs(lines | {work: CostLine(0.0, 1 / 1.2) for work in ("find", "answer")})


def demand(budget_s: float = math.inf, *, costs: Costs | None = None, is_low: bool = False, **more: Any) -> Demand:
    at = time.perf_counter() + budget_s
    return Demand(1000, Deadline(at), costs or make_costs(), is_low=is_low, **more)


def shed(turns: Turns, reason: str, priority: str = "normal", endpoint: str = "score") -> float:
    """How many of a class were refused for a reason."""
    labels = {"reason": reason, "priority": priority, "endpoint": endpoint}
    return turns._metrics.registry.get_sample_value("ranktower_shed_total", labels) or 0.0


async def work(turns: Turns, asked: Demand, log: list[Any], name: object, *, blocks_s: float = 0.0) -> Ticket:
    """Take a turn; the loop is blocked for ``blocks_s``."""
    with turns.admit(asked) as ticket:
        await ticket.turn()
        log.append(name)
        time.sleep(blocks_s)  # as scoring does
        return ticket


async def test_one_at_a_time_and_the_earliest_deadline_first() -> None:
    turns, log = make_turns(), list[Any]()
    budgets = [math.inf, 30.0, 10.0, 20.0, math.inf, 5.0]
    await asyncio.gather(*(work(turns, demand(budget), log, budget) for budget in budgets))
    # A request without a budget may wait a second, so it comes before one with five.
    assert log == [math.inf, math.inf, 5.0, 10.0, 20.0, 30.0]
    assert turns.is_idle


async def test_the_lower_class_comes_after_all_others() -> None:
    turns, log = make_turns(), list[Any]()
    jobs = [(5.0, True), (9.0, False), (1.0, True), (8.0, False), (7.0, False)]
    await asyncio.gather(*(work(turns, demand(budget, is_low=low), log, budget) for budget, low in jobs))
    assert log == [7.0, 8.0, 9.0, 1.0, 5.0]


async def test_the_loop_looks_at_its_sockets_between_two_turns() -> None:
    turns, log = make_turns(), list[Any]()
    loop = asyncio.get_running_loop()

    async def other() -> None:
        for _ in range(20):
            log.append("loop")
            await asyncio.sleep(0)

    background = loop.create_task(other())
    await asyncio.gather(*(work(turns, demand(), log, number) for number in range(4)))
    await background
    turns_at = [place for place, entry in enumerate(log) if entry != "loop"]
    assert [log[place] for place in turns_at] == [0, 1, 2, 3]
    assert all(after - before > 1 for before, after in pairwise(turns_at))


async def test_a_request_that_could_not_be_done_in_time_is_refused_at_once() -> None:
    turns, costs = make_turns(), make_costs(full_s=2.0, least_s=1.0)
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(turns.admit(demand(10.0, costs=costs)))
        await running.turn()
        for budget_s in (4.0, 5.0, 5.5):
            stack.enter_context(turns.admit(demand(budget_s, costs=costs)))
        # Two seconds of the running one and one of each of the three that wait.
        with pytest.raises(ShedError, match=r"^overloaded: the request would wait 500\d\.\d ms$") as refused:
            turns.admit(demand(5.9, costs=costs)).__enter__()
        assert refused.value.headers == {"retry-after": "6"}
        # One in a hurry could still be done, but the last of the three would come too late for it.
        with pytest.raises(ShedError, match=r"^overloaded: others would come too late$"):
            turns.admit(demand(3.5, costs=costs)).__enter__()
        assert shed(turns, "no_time") == 2
        # The lower class has no such claim.
        stack.enter_context(turns.admit(demand(6.5, costs=costs, is_low=True)))
        stack.enter_context(turns.admit(demand(6.2, costs=costs)))
    assert turns.is_idle


async def test_work_around_the_scoring_and_rows_on_their_way_count_at_the_door() -> None:
    turns, costs = make_turns(), make_costs(least_s=1.0)
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(turns.admit(demand(9.0, costs=costs, before={"find": 2}, after={"answer": 1})))
        await running.turn()
        # Three seconds around the first one's scoring, one of scoring, two around it.
        with pytest.raises(ShedError):
            turns.admit(demand(5.9, costs=costs, before={"find": 1}, after={"answer": 1})).__enter__()
        stack.enter_context(turns.admit(demand(6.1, costs=costs, before={"find": 1}, after={"answer": 1})))
        with pytest.raises(ShedError):
            turns.admit(demand(20.0, costs=costs, fetch_s=19.5)).__enter__()


async def test_without_a_budget_a_request_is_refused_only_for_a_long_wait() -> None:
    turns, costs = make_turns(max_wait_ms=2500), make_costs(full_s=1.0, least_s=0.1)
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(turns.admit(demand(costs=costs)))
        await running.turn()
        assert running.until == math.inf
        stack.enter_context(turns.admit(demand(costs=costs)))
        # It is never scored at a lower level, so it would be done after three seconds.
        with pytest.raises(ShedError) as refused:
            turns.admit(demand(costs=costs)).__enter__()
    assert refused.value.headers == {"retry-after": "3"}
    assert shed(turns, "long_wait") == 1


async def test_the_queue_is_bounded_and_half_of_it_for_the_lower_class() -> None:
    turns = make_turns(max_waiting=4)
    with contextlib.ExitStack() as stack:
        running = stack.enter_context(turns.admit(demand()))
        await running.turn()
        for is_low in (True, True):
            stack.enter_context(turns.admit(demand(is_low=is_low)))
        with pytest.raises(ShedError, match=r"^overloaded: 2 requests are waiting$") as refused:
            turns.admit(demand(is_low=True)).__enter__()
        assert refused.value.headers == {"retry-after": "1"}
        assert shed(turns, "queue_full", "low") == 1
        for _ in range(2):
            stack.enter_context(turns.admit(demand()))
        with pytest.raises(ShedError):
            turns.admit(demand(endpoint="explain")).__enter__()
        assert shed(turns, "queue_full", endpoint="explain") == 1
        assert shed(turns, "queue_full") == 0


async def test_on_an_idle_service_even_the_smallest_budget_is_tried() -> None:
    turns = make_turns()
    with turns.admit(demand(1e-3, costs=make_costs(full_s=9.0, least_s=5.0))) as ticket:
        await ticket.turn()
        assert ticket.until < time.perf_counter() + 1


async def test_alone_a_request_has_its_own_budget() -> None:
    turns = make_turns()
    asked = demand(10.0)
    with turns.admit(asked) as ticket:
        await ticket.turn()
        assert ticket.until == pytest.approx(asked.deadline.plan_at, abs=1e-3)
        assert ticket.pressure == "budget"


async def test_the_time_until_the_last_deadline_is_shared_by_those_who_wait() -> None:
    turns = make_turns()
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(turns.admit(demand(10.0)))
        for _ in range(3):
            stack.enter_context(turns.admit(demand(12.0)))
        # One without a budget comes before those in the order, and is shortened neither for them nor for itself.
        stack.enter_context(turns.admit(demand()))
        stack.enter_context(turns.admit(demand(1000.0, is_low=True)))
        await first.turn()
        # Six tenths of twelve seconds for five; the little that the loop does between their turns is taken off.
        assert first.until - time.perf_counter() == pytest.approx(0.6 * 2.4, abs=0.05)
        assert first.pressure == "load"


async def test_the_lower_class_leaves_time_to_all_others() -> None:
    turns = make_turns()
    with contextlib.ExitStack() as stack:
        low = stack.enter_context(turns.admit(demand(12.0, is_low=True)))
        stack.enter_context(turns.admit(demand(8.0)))
        await low.turn()
        assert low.until - time.perf_counter() == pytest.approx(0.6 * 4.0, abs=0.05)


async def test_who_waited_too_long_to_be_done_is_not_begun() -> None:
    turns, log, costs = make_turns(), list[Any](), make_costs(full_s=0.01, least_s=0.01)
    blocking = work(turns, demand(0.09, costs=costs), log, "first", blocks_s=0.2)
    late = work(turns, demand(0.1, costs=costs), log, "late")
    _, found = await asyncio.gather(blocking, late, return_exceptions=True)
    assert isinstance(found, DeadlineExceededError)
    assert log == ["first"]
    assert turns.is_idle


@pytest.mark.parametrize("leaves", ["while it waits", "while it computes"])
async def test_a_client_that_left_costs_nothing_more(leaves: str) -> None:
    turns, log = make_turns(), list[Any]()
    if leaves == "while it waits":
        first, second = work(turns, demand(), log, 1), work(turns, demand(is_gone=lambda: True), log, 2)
        _, error = await asyncio.gather(first, second, return_exceptions=True)
        assert isinstance(error, ClientGoneError)
        assert log == [1]
    else:
        gone = False
        with turns.admit(demand(is_gone=lambda: gone)) as ticket:
            await ticket.turn()
            gone = True
            with pytest.raises(ClientGoneError):
                await ticket.breathe()
    assert turns.is_idle


async def test_a_cancelled_request_leaves_the_queue_to_the_next() -> None:
    turns, log = make_turns(), list[Any]()
    tasks = [asyncio.create_task(work(turns, demand(), log, number)) for number in range(4)]
    while log != [0]:
        await asyncio.sleep(0)
    tasks[1].cancel()
    tasks[2].cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert log == [0, 3]
    assert turns.is_idle


async def test_while_a_request_waits_for_its_store_others_compute() -> None:
    turns, log = make_turns(), list[Any]()

    async def fetches(pauses: bool) -> None:
        with turns.admit(demand(1.0)) as ticket:
            if pauses:
                await ticket.turn()
                log.append("before")
                ticket.pause()
            await asyncio.sleep(0.05)
            await ticket.turn()
            log.append("after")

    await asyncio.gather(fetches(pauses=True), fetches(pauses=False), work(turns, demand(20.0), log, "other"))
    assert log == ["before", "other", "after", "after"]
    assert turns.is_idle


async def test_an_error_ends_the_turn() -> None:
    turns, log = make_turns(), list[Any]()

    async def fails() -> None:
        with turns.admit(demand()) as ticket:
            await ticket.turn()
            raise ValueError("broken")

    found = await asyncio.gather(fails(), work(turns, demand(), log, 1), return_exceptions=True)
    assert isinstance(found[0], ValueError)
    assert log == [1]


async def test_what_was_read_right_after_a_turn_may_have_come_since_it_began() -> None:
    turns = make_turns()
    assert turns.busy_since is None
    before = time.perf_counter()
    with turns.admit(demand()) as ticket:
        await ticket.turn()
    assert turns.busy_since is not None
    assert before <= turns.busy_since <= time.perf_counter()
    await asyncio.sleep(0.01)
    assert turns.busy_since is None


async def test_every_turn_comes_whatever_the_order_of_arrival_and_leaving() -> None:
    turns, log = make_turns(max_waiting=400), list[Any]()  # the low ones may fill half; all may wait at once
    random = np.random.default_rng(0)

    async def request(number: int) -> None:
        await asyncio.sleep(random.uniform(0, 0.02))
        with turns.admit(demand(random.uniform(5, 6), is_low=bool(number % 3 == 0))) as ticket:
            if number % 2:
                await asyncio.sleep(random.uniform(0, 0.005))
            await ticket.turn()
            assert turns._running is ticket
            if number % 5 == 0:
                ticket.pause()
                await asyncio.sleep(0)
                await ticket.turn()
            log.append(number)

    await asyncio.wait_for(asyncio.gather(*map(request, range(200))), timeout=20)
    assert sorted(log) == list(range(200))
    assert turns.is_idle


async def test_those_who_came_in_one_round_share_the_time_from_the_first_turn_on() -> None:
    turns, untils = make_turns(), list[float]()

    async def request() -> None:
        with turns.admit(demand(12.0)) as ticket:
            await ticket.turn()
            untils.append(ticket.until - time.perf_counter())

    await asyncio.gather(*(request() for _ in range(4)))
    assert untils[0] == pytest.approx(0.6 * 3.0, abs=0.05)
    assert untils[-1] == pytest.approx(12.0, abs=0.05)


async def test_one_that_is_lost_anyway_takes_no_time_from_others() -> None:
    turns, costs = make_turns(), make_costs(least_s=5.0)
    with contextlib.ExitStack() as stack:
        first = stack.enter_context(turns.admit(demand(12.0)))
        # Admitted in time, its rows are still on their way, and by now it cannot be done any more.
        late = stack.enter_context(turns.admit(demand(14.0, costs=costs)))
        late.demand.deadline.at = late.latest = time.perf_counter() + 3.0
        await first.turn()
        assert first.until - time.perf_counter() == pytest.approx(12.0, abs=0.05)
        assert first.pressure == "budget"


@pytest.mark.parametrize("why", ["the client left", "the deadline passed", "it waited for longer than it may"])
async def test_one_of_the_lower_class_need_not_get_a_turn_to_be_told(why: str) -> None:
    """While others always come before it."""
    turns, log, gone = make_turns(max_wait_ms=60), list[Any](), [False]
    budget_s = 0.06 if why == "the deadline passed" else math.inf
    low = asyncio.create_task(
        work(turns, demand(budget_s, is_low=True, is_gone=lambda: gone[0]), log, "low"),
    )
    running = True

    async def others() -> None:
        while running:
            await work(turns, demand(60.0), log, "other", blocks_s=0.002)

    busy = [asyncio.create_task(others()) for _ in range(3)]
    await asyncio.sleep(0.01)
    gone[0] = why == "the client left"
    expected = {"the client left": ClientGoneError, "the deadline passed": DeadlineExceededError}.get(why, ShedError)
    with pytest.raises(expected):
        await low
    running = False
    await asyncio.gather(*busy)
    assert "low" not in log
    assert turns.is_idle


async def test_in_a_long_turn_the_time_of_arrival_is_that_of_the_last_breath() -> None:
    turns = make_turns()
    with turns.admit(demand()) as ticket:
        await ticket.turn()
        began = turns.busy_since
        await ticket.breathe()
        assert began is not None
        assert turns.busy_since is not None
        assert turns.busy_since > began


async def test_what_the_loop_does_between_two_turns_is_forgotten_when_it_does_less() -> None:
    turns = make_turns()
    turns._between_s = 1.0
    for _ in range(100):
        await work(turns, demand(), [], None)
        await asyncio.sleep(0.001)
    assert turns._between_s < 0.01


async def test_few_wait_for_another_machine_at_once_and_the_earliest_deadlines_of_the_others_follow() -> None:
    turns, log = make_turns(), list[Any]()
    sent = asyncio.Event()

    async def request(budget_s: float) -> None:
        with turns.admit(demand(budget_s)) as ticket:
            await ticket.fetch()
            log.append(budget_s)
            await sent.wait()
            await ticket.turn()

    tasks = [asyncio.create_task(request(budget_s)) for budget_s in (*range(30, 38), 25, 15, 20)]
    await asyncio.sleep(0.01)
    assert log == list(range(30, 38))
    sent.set()
    await asyncio.gather(*tasks)
    assert log[8:] == [15, 20, 25]
    assert turns.is_idle
    assert turns._num_fetching == 0


@pytest.mark.parametrize("ends", ["fails", "is cancelled", "is hopeless"])
async def test_a_place_to_fetch_is_given_on_however_it_ends(ends: str) -> None:
    turns = make_turns()
    release = asyncio.Event()

    async def holds() -> None:
        with turns.admit(demand(60.0)) as ticket:
            await ticket.fetch()
            await release.wait()
            raise ValueError("the store failed")

    holding = [asyncio.create_task(holds()) for _ in range(8)]
    await asyncio.sleep(0)
    waiting = asyncio.create_task(_fetches(turns, demand(0.03 if ends == "is hopeless" else 50.0)))
    behind = asyncio.create_task(_fetches(turns, demand(55.0)))
    await asyncio.sleep(0.05)
    assert not behind.done()
    if ends == "is cancelled":
        waiting.cancel()
    release.set()
    found = await asyncio.gather(*holding, waiting, behind, return_exceptions=True)
    assert [type(one) for one in found[:8]] == [ValueError] * 8
    expected = {"fails": type(None), "is cancelled": asyncio.CancelledError}.get(ends, DeadlineExceededError)
    assert type(found[8]) is expected
    assert found[9] is None
    assert turns.is_idle
    assert turns._num_fetching == 0


async def _fetches(turns: Turns, asked: Demand) -> None:
    with turns.admit(asked) as ticket:
        await ticket.fetch()
        await ticket.turn()
