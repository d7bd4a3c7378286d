"""Work beside the requests, in threads that get the core when nothing else wants it."""

from __future__ import annotations

import asyncio
import contextlib
import os
import sys
import threading
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import ParamSpec, Protocol, TypeVar

P = ParamSpec("P")
T = TypeVar("T")

SWITCH_INTERVAL_S = 0.0005
"""After so long a thread that holds the interpreter's lock is asked for it. Python's own 5 ms are two requests."""


class Runner(Protocol):
    """Runs a function in another thread: ``asyncio.to_thread``, or ``run_beside``."""

    def __call__(self, function: Callable[P, T], /, *arguments: P.args, **named: P.kwargs) -> Awaitable[T]:
        """What the function returns."""
        ...


def take_lowest_priority() -> None:
    """Of the calling thread; it cannot be raised again."""
    if sys.platform == "linux":  # elsewhere a priority belongs to a whole process
        with contextlib.suppress(OSError):  # a sandbox that does not let it: then it runs as the others do
            os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 19)


# Threads of their own, for asyncio's would stay slow for everybody.
_THREADS = ThreadPoolExecutor(4, thread_name_prefix="beside", initializer=take_lowest_priority)


async def run_beside(function: Callable[P, T], /, *arguments: P.args, **named: P.kwargs) -> T:
    """As ``asyncio.to_thread``, in a thread of the lowest priority."""
    return await asyncio.get_running_loop().run_in_executor(_THREADS, partial(function, *arguments, **named))
