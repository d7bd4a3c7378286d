"""Work that recurs: faults do not end it, and a stop does."""

from __future__ import annotations

import asyncio

import pytest

from service.recurring import Recurring


async def test_a_fault_is_logged_and_the_work_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    done = asyncio.Event()
    outcomes = iter([RuntimeError("first"), None, RuntimeError("second"), None])

    async def work() -> None:
        outcome = next(outcomes, done)
        if outcome is done:
            done.set()
        elif isinstance(outcome, RuntimeError):
            raise outcome

    recurring = Recurring("the work", work, every_s=0.001, retry_s=0.001)
    recurring.start()
    async with asyncio.timeout(20):
        await done.wait()
    await recurring.stop()
    assert [record.getMessage() for record in caplog.records] == ["the work failed; trying again"] * 2
    assert [str(record.exc_info[1]) for record in caplog.records if record.exc_info] == ["first", "second"]


async def test_a_stop_ends_the_work_in_the_middle_and_may_be_repeated() -> None:
    begun, ended = asyncio.Event(), []

    async def work() -> None:
        begun.set()
        try:
            await asyncio.sleep(600)
        finally:
            ended.append(True)

    recurring = Recurring("the work", work, every_s=600, retry_s=600)
    await recurring.stop()  # before it began there is nothing to end
    recurring.start()
    await begun.wait()
    await recurring.stop()
    await recurring.stop()
    assert ended == [True]
