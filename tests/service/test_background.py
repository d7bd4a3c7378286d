"""Work beside the requests: its threads have the lowest priority, and they alone."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from service.background import run_beside


def priority() -> int:
    return os.getpriority(os.PRIO_PROCESS, threading.get_native_id())


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere a priority belongs to a whole process")
async def test_only_the_threads_beside_are_of_the_lowest_priority() -> None:
    before = priority()
    assert await run_beside(priority) == 19
    assert await asyncio.to_thread(priority) == before
    assert priority() == before


async def test_what_the_function_gives_or_raises_comes_back() -> None:
    assert await run_beside(int, "ff", base=16) == 255
    with pytest.raises(ValueError, match="invalid literal"):
        await run_beside(int, "none")


def test_a_second_release_is_opened_beside_the_first_and_the_first_is_not(
    build_release: Callable[..., Any], start_server: Callable[..., Any], tmp_path: Any
) -> None:
    """The threads of a running service: none of them is slow before another release is loaded."""

    def niceness(pid: int) -> set[int]:
        stats = [(task / "stat").read_text() for task in Path(f"/proc/{pid}/task").iterdir()]
        return {int(stat.rpartition(")")[2].split()[16]) for stat in stats}

    first, second = (build_release(tmp_path, seed=seed) for seed in (80, 81))
    first.promote()
    server = start_server(tmp_path)
    server.wait_ready(first.release)
    usual = niceness(server.process.pid)
    second.promote()
    server.wait_ready(second.release)
    assert niceness(server.process.pid) == usual | {19}
