"""The service's Prometheus metrics. One object per process; with several workers the values are merged over them."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Literal, get_args

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from ranktower.embedding_store.codec import SIDES
from ranktower.embedding_store.overlay import OverlayPointer
from ranktower.embedding_store.protocol import FailureKind
from ranktower.ladder import LevelName
from ranktower.release import Manifest
from service.native import Engine, NativeRefusal, NativeScorers
from service.worker_files import render_workers

MULTIPROC_ENV = "PROMETHEUS_MULTIPROC_DIR"
_DURATION_BUCKETS = tuple(
    ms / 1000 for ms in (0.25, 0.5, 0.75, 1, 1.5, 2, 3, 4, 6, 8, 10, 12, 16, 20, 25, 50, 100, 250, 500, 1000, 5000)
)
_SHED_BUCKETS = tuple(us / 1e6 for us in (50, 100, 150, 200, 300, 400, 600, 800, 1000, 1500, 2000, 4000, 10_000))
_CANDIDATE_BUCKETS = (0, 1, 10, 50, 100, 250, 500, 1000, 2500, 5000, 10_000)
_SCORING_ENDPOINTS = ("score", "rank", "infer")
_BUDGET_BUCKETS = (0.1, 0.25, 0.5, 0.75, 0.9, 1.0, 1.25, 1.5, 2.0, 5.0)

Stage = Literal["queue", "parse", "fetch", "score", "serialize"]
ShedReason = Literal["queue_full", "no_time", "long_wait"]
"""Why a request is refused: too many wait; its budget would not suffice; without a budget, it would wait too long."""
Priority = Literal["normal", "low"]
Queued = Literal["score", "rank", "infer", "explain"]
"""The endpoints whose requests wait for their turn."""
Role = Literal["current", "canary", "shadow"]
"""What a release is served as."""
RefusalReason = Literal["release_invalid", "golden_mismatch", "store_unavailable"]
"""Why a release that the pointer names is not accepted."""


class Metrics:
    """All metrics, by the names of ``docs/api.md``. No label ever holds an id of a user or an item."""

    def __init__(self) -> None:
        """Register everything in a registry of its own, so that two applications can live in one process."""
        self.registry = CollectorRegistry()
        self._served: dict[Role, Manifest] = {}
        self._register_requests()
        self._register_releases()
        self._register_overlays()
        self._begin_at_zero()

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
        budget_used = self._histogram(
            "budget_used_ratio",
            "Of answers with scores to requests with a budget: time from arrival to the end of the answer, to budget.",
            _BUDGET_BUCKETS,
            "endpoint",
        )
        # Children looked up once: a lookup by label takes a lock and a tuple for every request.
        self._stages = {stage: stages.labels(stage) for stage in get_args(Stage)}
        self._budget_used = {endpoint: budget_used.labels(endpoint) for endpoint in _SCORING_ENDPOINTS}
        self.candidates = self._histogram("candidates", "Candidates of a request.", _CANDIDATE_BUCKETS)
        self.missing = self._counter("missing", "Users or candidates without a stored row.", "side")
        self.computed = self._counter("computed", "Users or candidates computed from a request's features.", "side")
        self.degraded = self._counter("degraded", "Answers below full scoring.", "level", "reason")
        self._shed = self._counter("shed", "Requests refused for load.", "reason", "priority", "endpoint")
        self._shed_duration = self._histogram(
            "shed_duration_seconds", "From the reading of a request to its refusal for load.", _SHED_BUCKETS
        )
        self.store_errors = self._counter("store_errors", "Failures of the embedding store.", "kind")
        self.nonfinite = self._counter("nonfinite_scores", "Scores that were not finite and became null.")

    def _register_releases(self) -> None:
        self.refused = self._counter("release_refused", "Releases that were not accepted.", "reason", "role")
        answers = self._counter(
            "answers", "Answers with scores, by the role of the release they come from.", "role", "priority"
        )
        self._answers = {
            (role, priority): answers.labels(role, priority)
            for role, priority in product(("current", "canary"), get_args(Priority))
        }
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

        self._engine = Gauge(
            "ranktower_scorer_engine",
            "1 for what scores the pairs of the release served in this role, 0 for what does not.",
            ["engine", "role"],
            registry=self.registry,
            multiprocess_mode="livemax",
        )
        self._native_refused = self._counter(
            "native_refused", "Releases served by ONNX Runtime though the native scorer is installed.", "reason"
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

    def _begin_at_zero(self) -> None:
        """Counters that come with their first event have no increase by it, so those of alerts are there before."""
        for side in SIDES:
            self.missing.labels(side)
            self.computed.labels(side)
        for kind in (*get_args(FailureKind), "rejected_row"):
            self.store_errors.labels(kind)
        for shed, priority, endpoint in product(get_args(ShedReason), get_args(Priority), get_args(Queued)):
            self._shed.labels(shed, priority, endpoint)
        for refusal, role in (*product(get_args(RefusalReason), get_args(Role)), ("release_invalid", "previous")):
            self.refused.labels(refusal, role)
        for reason in get_args(NativeRefusal):
            self._native_refused.labels(reason)
        for level, cause in product(get_args(LevelName)[1:], ("budget", "load", "overrun")):
            self.degraded.labels(level, cause)
        for endpoint in _SCORING_ENDPOINTS:
            self._request_duration.labels(endpoint, "ok")

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"ranktower_{name}", text, labels, registry=self.registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], *labels: str) -> Histogram:
        return Histogram(f"ranktower_{name}", text, labels, buckets=buckets, registry=self.registry)

    def observe_request(self, endpoint: str, outcome: str, seconds: float, budget_s: float = math.inf) -> None:
        """Count one answered request; an infinite budget is none."""
        self._request_duration.labels(endpoint, outcome).observe(seconds)
        if outcome == "ok" and budget_s < math.inf and endpoint in self._budget_used:
            self._budget_used[endpoint].observe(seconds / budget_s)

    def count_answer(self, role: Role, priority: Priority) -> None:
        """Count an answer with scores of the current release or the canary."""
        self._answers[role, priority].inc()

    def count_shed(
        self, reason: ShedReason, seconds: float, priority: Priority = "normal", endpoint: Queued = "score"
    ) -> None:
        """Count a request refused for load, so many seconds after it was read."""
        self._shed.labels(reason, priority, endpoint).inc()
        self._shed_duration.observe(seconds)

    def observe_stage(self, stage: Stage, seconds: float) -> None:
        """Count one stage of a request."""
        self._stages[stage].observe(seconds)

    def serve_release(self, role: Role, manifest: Manifest, native: NativeScorers) -> None:
        """Say which release is served in a role, in place of the one before, and what scores it."""
        self.serve_nothing(role)
        self._served[role] = manifest
        self._release_info.labels(manifest.model, manifest.release, role).set(1)
        for engine in get_args(Engine):
            self._engine.labels(engine, role).set(engine == native.engine)
        if native.refusal is not None:
            self._native_refused.labels(native.refusal).inc()

    def serve_nothing(self, role: Role) -> None:
        """Say that no release is served in a role any more."""
        before = self._served.pop(role, None)
        if before is not None:
            self._release_info.labels(before.model, before.release, role).set(0)
            for engine in get_args(Engine):
                self._engine.labels(engine, role).set(0)
            if role == "current":
                self._release_age.set(math.nan)

    def serve_overlay(self, pointer: OverlayPointer | None) -> None:
        """Say which overlay the served release has; None for none."""
        self._delta_timestamp.set(pointer.created_s if pointer else 0)
        for side, gauge in self._overlay_rows.items():
            gauge.set(pointer.num_rows(side) if pointer else 0)

    def render(self) -> bytes:
        """The exposition text, over all workers where there are several. It takes milliseconds; any thread may."""
        served = self._served.get("current")
        if served is not None:
            self._release_age.set(max(0.0, time.time() - served.created.timestamp()))
        folder = os.environ.get(MULTIPROC_ENV)
        return generate_latest(self.registry) if folder is None else render_workers(Path(folder))
