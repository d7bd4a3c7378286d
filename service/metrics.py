"""The service's Prometheus metrics. One object per process; with several workers the values are merged over them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

MULTIPROC_ENV = "PROMETHEUS_MULTIPROC_DIR"
_DURATION_BUCKETS = tuple(
    ms / 1000 for ms in (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 25, 50, 100, 250, 500, 1000, 5000)
)
_CANDIDATE_BUCKETS = (0, 1, 10, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)


Stage = Literal["queue", "parse", "fetch", "score", "serialize"]


class Metrics:
    """All metrics, by the names of ``docs/api.md``. No label ever holds an id of a user or an item."""

    def __init__(self) -> None:
        """Register everything in a registry of its own, so that two applications can live in one process."""
        self.registry = CollectorRegistry()
        prefix = "ranktower_"
        self._request_duration = Histogram(
            f"{prefix}request_duration_seconds",
            "From the request's arrival to the end of its answer.",
            ["endpoint", "outcome"],
            buckets=_DURATION_BUCKETS,
            registry=self.registry,
        )
        stage_duration = Histogram(
            f"{prefix}stage_duration_seconds",
            "Time in one stage of a request.",
            ["stage"],
            buckets=_DURATION_BUCKETS,
            registry=self.registry,
        )
        # Children looked up once: a lookup by label takes a lock and a tuple for every request.
        self._stages = {s: stage_duration.labels(s) for s in get_args(Stage)}
        self.candidates = Histogram(
            f"{prefix}candidates", "Candidates of a request.", buckets=_CANDIDATE_BUCKETS, registry=self.registry
        )
        self.missing = self._counter("missing", "Users or candidates without a stored row.", "side")
        self.degraded = self._counter("degraded", "Answers below full scoring.", "level", "reason")
        self.shed = self._counter("shed", "Requests refused for load.", "reason")
        self.store_errors = self._counter("store_errors", "Failures of the embedding store.", "kind")
        self.nonfinite = self._counter("nonfinite_scores", "Scores that were not finite and became null.")
        self.refused = self._counter("release_refused", "Releases that were not accepted.", "reason")
        self._release_info = Gauge(
            f"{prefix}release_info",
            "1 for the release being served, 0 for one that was.",
            ["model", "release"],
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self._release_age = Gauge(
            f"{prefix}release_age_seconds",
            "Time since the served release was created.",
            registry=self.registry,
            multiprocess_mode="livemostrecent",
        )
        self._served: tuple[str, str] | None = None
        self._created: float | None = None

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"ranktower_{name}", text, labels, registry=self.registry)

    def observe_request(self, endpoint: str, outcome: str, seconds: float) -> None:
        """Count one answered request."""
        self._request_duration.labels(endpoint, outcome).observe(seconds)

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Time one stage of a request; not counted when it fails."""
        start = time.perf_counter()
        yield
        self._stages[stage].observe(time.perf_counter() - start)

    def observe_stage(self, stage: Stage, seconds: float) -> None:
        """Count a stage timed elsewhere."""
        self._stages[stage].observe(seconds)

    def serve_release(self, model: str, release: str, created: float) -> None:
        """Say which release is served; ``created`` in seconds since the epoch."""
        if self._served is not None:
            self._release_info.labels(*self._served).set(0)
        self._served = (model, release)
        self._created = created
        self._release_info.labels(model, release).set(1)

    def serve_nothing(self) -> None:
        """Say that no release is served any more."""
        if self._served is not None:
            self._release_info.labels(*self._served).set(0)
        self._served = self._created = None

    def render(self) -> bytes:
        """The exposition text, over all workers where there are several."""
        if self._created is not None:
            self._release_age.set(max(0.0, time.time() - self._created))
        folder = os.environ.get(MULTIPROC_ENV)
        if folder is None:
            return generate_latest(self.registry)
        _forget_dead_workers(Path(folder))
        merged = CollectorRegistry()
        multiprocess.MultiProcessCollector(merged, path=folder)  # type: ignore[no-untyped-call]
        return generate_latest(merged)


def _forget_dead_workers(folder: Path) -> None:
    """Drop the gauges of workers that are gone; their counters stay, for a counter must not go back."""
    for path in folder.glob("gauge_live*_*.db"):
        pid = int(path.stem.rsplit("_", 1)[1])
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            multiprocess.mark_process_dead(pid, path=str(folder))  # type: ignore[no-untyped-call]
        except PermissionError:
            continue
