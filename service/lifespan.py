"""What runs beside the requests, from the start of a process that serves to its end."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from fastapi import FastAPI

from service.door import Door
from service.draining import Drain
from service.garbage import collect_garbage
from service.process_metrics import ProcessMetrics
from service.state import ServiceState
from service.turns import Turns

logger = logging.getLogger(__name__)

Lifespan = Callable[[FastAPI], AbstractAsyncContextManager[dict[str, Turns | Drain]]]


def lifespan_of(state: ServiceState, process: ProcessMetrics, door: Door) -> Lifespan:
    """Starts everything, and stops it in the opposite order; the process accepts connections in between."""

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[dict[str, Turns | Drain]]:
        async with AsyncExitStack() as started:
            try:
                await start(started)
            except Exception:
                logger.exception("the service cannot start")
                raise
            # Into the state of every request's scope, where service.protocol looks for them.
            yield {"turns": state.turns, "drain": state.drain}

    async def start(started: AsyncExitStack) -> None:
        started.push_async_callback(_end, asyncio.create_task(collect_garbage()))
        if state.tracing is not None:
            await state.tracing.start()
            started.callback(state.tracing.stop)
        state.releases.start()
        started.push_async_callback(state.releases.stop)
        state.shadow.start()
        started.push_async_callback(state.shadow.stop)
        process.start()
        started.push_async_callback(process.stop)
        state.drain.start()
        started.callback(state.drain.stop)
        started.push_async_callback(door.close)
        await door.open(lambda: state.drain.begun)
        if state.drain.begun:
            state.drain.end()  # nobody has been let in, so there is nobody to wait for

    return lifespan


async def _end(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.wait([task])
