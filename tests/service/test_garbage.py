"""When cycles are collected: never by themselves while the task runs, and as before once it has ended."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
import weakref
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from service.app import create_app
from service.garbage import collect_garbage
from service.settings import Settings


class Node:
    """Refers to itself, so that no reference count frees it."""

    def __init__(self) -> None:
        self.me = self


@asynccontextmanager
async def collecting(period_s: float) -> AsyncIterator[None]:
    task = asyncio.create_task(collect_garbage(period_s))
    await asyncio.sleep(0)  # the task begins
    try:
        yield
    finally:
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task


async def test_the_automatic_collection_is_off_while_it_runs() -> None:
    assert gc.isenabled()
    async with collecting(60.0):
        assert not gc.isenabled()
        assert gc.get_freeze_count() > 10_000  # the libraries: no run looks at them
        node = weakref.ref(Node())
        _ = [[] for _ in range(100_000)]  # many times what starts the automatic collection
        assert node() is not None
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
    gc.collect()
    assert node() is None


async def test_cycles_are_collected_every_period() -> None:
    async with collecting(0.01):
        for _ in range(2):
            node = weakref.ref(Node())
            deadline = time.monotonic() + 20
            while node() is not None:
                assert time.monotonic() < deadline
                await asyncio.sleep(0.005)


async def test_what_was_there_before_can_be_collected_afterwards() -> None:
    before = Node()
    gone = weakref.ref(before)
    async with collecting(60.0):
        del before
        gc.collect()
        assert gone() is not None  # set aside
    gc.collect()
    assert gone() is None


@pytest.mark.parametrize("fails", [False, True])
async def test_the_application_collects_as_long_as_it_lives(tmp_path: Path, fails: bool) -> None:
    settings: Any = Settings.model_validate({"release": {"registry": str(tmp_path), "model": "m"}})
    app = create_app(settings)
    with contextlib.suppress(ZeroDivisionError):
        async with app.router.lifespan_context(app):
            await asyncio.sleep(0)
            assert not gc.isenabled()
            if fails:
                raise ZeroDivisionError
    assert gc.isenabled()
    assert gc.get_freeze_count() == 0
