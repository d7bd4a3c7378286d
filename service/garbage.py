"""Garbage collection, kept off the path of requests.

Python's cycle collector runs when enough objects were made, in the middle of whichever request made the last of them,
and a full run looks at every object of the process, those of all libraries too. Almost
nothing of a request is in a cycle (reference counts free it), so the collector can wait for its own moment.
"""

from __future__ import annotations

import asyncio
import gc

PERIOD_S = 5.0


async def collect_garbage(period_s: float = PERIOD_S) -> None:
    """Switch the automatic collector off and collect every ``period_s`` seconds instead, until cancelled.

    What is there at the beginning, the libraries, is set aside for good (``gc.freeze``). So a run looks only at what
    was made since, between two requests and never within one.
    """
    gc.collect()
    gc.freeze()
    gc.disable()
    try:
        while True:
            await asyncio.sleep(period_s)
            gc.collect()
    finally:
        gc.enable()
        gc.unfreeze()
