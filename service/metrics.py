"""The service's Prometheus metrics. One object per process; with several workers the values are merged over them."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest, multiprocess

from ranktower.embedding_store.codec import SIDES
from ranktower.embedding_store.overlay import OverlayPointer
from ranktower.release import Manifest

MULTIPROC_ENV = "PROMETHEUS_MULTIPROC_DIR"
_DURATION_BUCKETS = tuple(
    ms / 1000 for ms in (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 12, 16, 25, 50, 100, 250, 500, 1000, 5000)
)
_SHED_BUCKETS = tuple(us / 1e6 for us in (50, 100, 150, 200, 300, 400, 600, 800, 1000, 1500, 2000, 4000, 10_000))
_CANDIDATE_BUCKETS = (0, 1, 10, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)


Stage = Literal["queue", "parse", "fetch", "score", "serialize"]
Role = Literal["current", "canary", "shadow"]
"""What a release is served as."""


class Metrics:
    """All metrics, by the names of ``docs/api.md``. No label ever holds an id of a user or an item."""

    def __init__(self) -> None:
        """Register everything in a registry of its own, so that two applications can live in one process."""
        self.registry = CollectorRegistry()
        self._served: dict[Role, Manifest] = {}
        self._register_requests()
        self._register_releases()
        self._register_overlays()

    def _register_requests(self) -> None:
        self._request_duration = self._histogram(
            "request_duration_seconds",
            "From the request's arrival to the end of its answer.",
            _DURATION_BUCKETS,
            "endpoint",
            "outcome",
        )
        stages = self._histogram(
            "stage_duration_seconds", "Time in one stage of a request.", _DURATION_BUCKETS, "stage"
        )
        # Children looked up once: a lookup by label takes a lock and a tuple for every request.
        self._stages = {stage: stages.labels(stage) for stage in get_args(Stage)}
        self.candidates = self._histogram("candidates", "Candidates of a request.", _CANDIDATE_BUCKETS)
        self.missing = self._counter("missing", "Users or candidates without a stored row.", "side")
        self.computed = self._counter("computed", "Users or candidates computed from a request's features.", "side")
        self.degraded = self._counter("degraded", "Answers below full scoring.", "level", "reason")
        self._shed = self._counter("shed", "Requests refused for load.", "reason")
        self._shed_duration = self._histogram(
            "shed_duration_seconds", "From the reading of a request to its refusal for load.", _SHED_BUCKETS
        )
        self.store_errors = self._counter("store_errors", "Failures of the embedding store.", "kind")
        self.nonfinite = self._counter("nonfinite_scores", "Scores that were not finite and became null.")

    def _register_releases(self) -> None:
        self.refused = self._counter("release_refused", "Releases that were not accepted.", "reason", "role")
        answers = self._counter("answers", "Answers with scores, by the role of the release they come from.", "role")
        self.answers = {role: answers.labels(role) for role in ("current", "canary")}
        self._release_info = Gauge(
            "ranktower_release_info",
            "1 for a release being served in this role, 0 for one that was.",
            ["model", "release", "role"],
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self._release_age = Gauge(
            "ranktower_release_age_seconds",
            "Time since the served release was created.",
            registry=self.registry,
            multiprocess_mode="livemostrecent",
        )

    def _register_overlays(self) -> None:
        self.overlay_refused = self._counter("overlay_refused", "Overlays that were not accepted.")
        # The least of all workers: what every one of them serves.
        self._delta_timestamp = Gauge(
            "ranktower_delta_timestamp_seconds",
            "When the newest rows of the served release's overlay were computed, since the epoch; 0 without.",
            registry=self.registry,
            multiprocess_mode="livemin",
        )
        overlay_rows = Gauge(
            "ranktower_overlay_rows",
            "Rows of the served release's overlay.",
            ["side"],
            registry=self.registry,
            multiprocess_mode="livemin",
        )
        self._overlay_rows = {side: overlay_rows.labels(side) for side in SIDES}

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"ranktower_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(f"ranktower_{name}", text, labels, buckets=buckets, registry=self.registry)

    def observe_request(self, endpoint: str, outcome: str, seconds: float) -> None:
        """Count one answered request."""
        self._request_duration.labels(endpoint, outcome).observe(seconds)

    def count_shed(self, reason: str, seconds: float) -> None:
        """Count a request refused for load, so many seconds after it was read."""
        self._shed.labels(reason).inc()
        self._shed_duration.observe(seconds)

    @contextmanager
    def stage(self, stage: Stage) -> Iterator[None]:
        """Time one stage of a request; not counted when it fails."""
        start = time.perf_counter()
        yield
        self._stages[stage].observe(time.perf_counter() - start)

    def observe_stage(self, stage: Stage, seconds: float) -> None:
        """Count a stage timed elsewhere."""
        self._stages[stage].observe(seconds)

    def serve_release(self, role: Role, manifest: Manifest) -> None:
        """Say which release is served in a role, in place of the one before."""
        self.serve_nothing(role)
        self._served[role] = manifest
        self._release_info.labels(manifest.model, manifest.release, role).set(1)

    def serve_nothing(self, role: Role) -> None:
        """Say that no release is served in a role any more."""
        before = self._served.pop(role, None)
        if before is not None:
            self._release_info.labels(before.model, before.release, role).set(0)

    def serve_overlay(self, pointer: OverlayPointer | None) -> None:
        """Say which overlay the served release has; None for none."""
        self._delta_timestamp.set(pointer.created_s if pointer else 0)
        for side, gauge in self._overlay_rows.items():
            gauge.set(pointer.num_rows(side) if pointer else 0)

    def render(self) -> bytes:
        """The exposition text, over all workers where there are several."""
        if "current" in self._served:
            self._release_age.set(max(0.0, time.time() - self._served["current"].created.timestamp()))
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
