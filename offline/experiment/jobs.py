"""Work in several processes, each with one thread; none outlives the command that started it."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from typing import TypeVar

_Task = TypeVar("_Task")
_Result = TypeVar("_Result")

_THREADS = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "POLARS_MAX_THREADS")


def finished(
    work: Callable[[_Task], _Result], tasks: Sequence[_Task], *, num_jobs: int
) -> Iterator[tuple[_Task, Future[_Result]]]:
    """Each task with its future once that is done, in the order in which they end; closing it ends the workers.

    ``work`` and the tasks are pickled, for the workers are started afresh.
    """
    # The libraries read these when they are loaded, which in a worker is before any code of ours runs.
    with _environment(dict.fromkeys(_THREADS, "1")):
        executor = ProcessPoolExecutor(num_jobs, multiprocessing.get_context("spawn"), _watch_parent)
        try:
            futures = {executor.submit(work, task): task for task in tasks}
            for future in as_completed(futures):
                yield futures[future], future
        finally:
            executor.shutdown(wait=False, cancel_futures=True)
            # After Ctrl-C, a failure or enough runs: what is under way goes on from its checkpoint next time.
            for worker in multiprocessing.active_children():
                worker.kill()


@contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _watch_parent() -> None:
    """In a worker: leave Ctrl-C to the parent, and end when the parent has, even if it was killed."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    parent = multiprocessing.parent_process()
    if parent is not None:

        def outlive_nobody() -> None:
            parent.join()
            os._exit(1)

        threading.Thread(target=outlive_nobody, daemon=True).start()
