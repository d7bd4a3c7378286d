"""What the processes themselves are: how many, since when, how much memory and processor time they take.

prometheus_client's own ``process_*`` metrics are lost where several workers are merged, for each knows itself alone.
"""

from __future__ import annotations

import contextlib
import os
import time
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter, Gauge

from ranktower import __version__
from service.recurring import Recurring

_PERIOD_S = 2.0
_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class ProcessMetrics:
    """The metrics of one process; those of several workers are added up."""

    def __init__(self, registry: CollectorRegistry) -> None:
        """Register everything in the application's registry; nothing is measured before ``start``."""
        self._workers = Gauge(
            "ranktower_workers", "Processes that serve.", registry=registry, multiprocess_mode="livesum"
        )
        self._start_time = Gauge(
            "ranktower_start_time_seconds",
            "When the youngest worker started, since the epoch.",
            registry=registry,
            multiprocess_mode="livemax",
        )
        self._build_info = Gauge(
            "ranktower_build_info",
            "1, with the version of the service.",
            ["version"],
            registry=registry,
            multiprocess_mode="livemax",
        )
        # Without the pages of mapped files: the tables are there once for all workers.
        self._memory = Gauge(
            "ranktower_memory_bytes",
            "Memory of the workers without the mapped files that they share.",
            registry=registry,
            multiprocess_mode="livesum",
        )
        self._cpu = Counter("ranktower_cpu_seconds", "Processor time of the workers.", registry=registry)
        self._cpu_s = 0.0
        self._sampling = Recurring("measuring the process", self._sample, every_s=_PERIOD_S, retry_s=_PERIOD_S)

    def start(self) -> None:
        """Say that this process serves, and measure it in a task of the running loop until ``stop``."""
        self._workers.set(1)
        self._start_time.set(time.time())
        self._build_info.labels(__version__).set(1)
        self._sampling.start()

    async def stop(self) -> None:
        """Measure no more."""
        await self._sampling.stop()

    async def _sample(self) -> None:
        used_s = time.process_time()
        self._cpu.inc(used_s - self._cpu_s)
        self._cpu_s = used_s
        with contextlib.suppress(OSError):  # elsewhere than on Linux
            resident, shared = Path("/proc/self/statm").read_text().split()[1:3]
            self._memory.set((int(resident) - int(shared)) * _PAGE_BYTES)
