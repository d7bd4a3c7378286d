"""RankTower's users for locust; see docs/load-testing.md.

Run: ``locust -f benchmarks/locust/locustfile.py --host http://localhost:8000 --registry registry --model demo``.
One locust user stands for one request a second.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from typing import Any, ClassVar

import gevent
from arrivals import Arrivals, Sent, path_of
from configargparse import ArgumentParser
from locust import LoadTestShape, User, events, task
from locust.env import Environment
from locust.exception import CatchResponseError
from locust.runners import MasterRunner, WorkerRunner
from options import add_options, habits, thresholds
from outcomes import Tally
from population import release_populations
from record import Record
from shapes import rate_at
from thresholds import report
from traffic import Traffic
from workers import Master, Workers

from ranktower.errors import ConfigError, RankTowerError

_API_KEY_ENV = "RANKTOWER_AUTH__API_KEY"
_NO_HOST = "--host: needed, as http://host:port"
_USER_RATE_PER_S = 1.0


class Run:
    """One run after the other: what is sent, and what came of it."""

    def __init__(self, environment: Environment) -> None:
        """ConfigError or ReleaseError where the options make no traffic."""
        options = environment.parsed_options
        self.environment = environment
        self.thresholds = thresholds(options)
        populations = release_populations(Path(options.registry), options.model, exponent=options.zipf)
        self.traffic = Traffic(populations, habits(options))
        self.tally = Tally()
        runner = environment.runner
        self.workers = Workers(runner) if isinstance(runner, MasterRunner) else None
        self.master = Master(runner) if isinstance(runner, WorkerRunner) else None
        if options.record and (self.workers or self.master):
            raise ConfigError(f"--record {options.record}: goes with one process only")
        self.record = Record(Path(options.record)) if options.record else None
        self.arrivals: Arrivals | None = None
        self.started = 0.0

    def start(self) -> None:
        """Begin from nothing, with the host of now: the web page may have changed it."""
        self.tally = Tally()
        self.started = time.perf_counter()
        if self.workers:
            self.workers.start(self.tally)
        if self.master:
            self.master.tell_begun()
        self.arrivals = None
        key = os.environ.get(_API_KEY_ENV)
        if self.environment.host:
            self.arrivals = Arrivals(self.environment.host, {"x-api-key": key} if key else {}, self.note)

    def note(self, sent: Sent) -> None:
        """Count one request, here and in locust's own tables."""
        outcome = sent.outcome
        self.tally.add(outcome, latency_ms=sent.latency_ms, lag_ms=sent.lag_ms)
        if self.record:
            self.record.add(sent)
        name = sent.request.kind
        if outcome.name not in ("ok", "failed"):
            name += f" ({outcome.name.replace('_', ' ')})"
        self.environment.events.request.fire(
            request_type="POST",
            name=name,
            response_time=sent.latency_ms,
            response_length=len(sent.answer.body),
            exception=CatchResponseError(outcome.error) if outcome.error else None,
            context={},
        )

    def finish(self) -> None:
        """Wait for the last answers and say what the run was like."""
        seconds = time.perf_counter() - self.started
        if self.arrivals:
            self.arrivals.finish()
        if self.master:
            self.master.tell_counts(self.tally)
            return
        broken = self.workers.gather() if self.workers else []
        broken += self.thresholds.broken(self.tally)
        sys.stdout.write("\n".join([report(self.tally, seconds=seconds), *broken]) + "\n")
        self.environment.process_exit_code = int(bool(broken))


class RankTowerUser(User):
    """Requests at the times of a Poisson process; many users together are one of their number a second."""

    run_now: ClassVar[Run]

    @task
    def arrive(self) -> None:
        """Ask until the run is over."""
        arrivals = self.run_now.arrivals
        if arrivals is None:
            raise ConfigError(_NO_HOST)
        arrivals.send_at_random(self.run_now.traffic, _USER_RATE_PER_S)


class Shape(LoadTestShape):
    """The rate of ``--shape`` over ``--run-time``, up to ``--users``."""

    # Abstract, or locust would take it whatever --shape says.
    abstract = True
    use_common_options = True

    def __init__(self, environment: Environment) -> None:
        """Read the options at every tick: the web page may have changed them."""
        super().__init__()
        self._options = environment.parsed_options

    def tick(self) -> tuple[int, float] | None:
        """Users, and how many may be started in a second: all."""
        passed = self.get_run_time() / self._options.run_time
        if passed >= 1:
            return None
        users = rate_at(self._options.shape, passed, self._options.num_users)
        return users, float(self._options.num_users)


@events.init_command_line_parser.add_listener
def _add_options(parser: ArgumentParser) -> None:
    add_options(parser)


@events.init.add_listener
def _prepare(environment: Environment, **_: Any) -> None:
    options = environment.parsed_options
    try:
        if environment.host:
            path_of(environment.host)
        elif options.headless and not options.worker:  # which gets it from its master
            raise ConfigError(_NO_HOST)
        if options.shape != "constant":
            if not options.run_time:
                raise ConfigError(f"--shape {options.shape}: needs --run-time")
            environment.shape_class = Shape(environment)
        run = RankTowerUser.run_now = Run(environment)
    except (RankTowerError, OSError) as error:
        sys.stderr.write(f"locustfile: {error}\n")
        raise SystemExit(2) from error
    # Its clock stood still meanwhile, and --run-time would begin with the time that all this took.
    gevent.get_hub().loop.update_now()
    environment.events.test_start.add_listener(lambda **_: run.start())
    environment.events.test_stop.add_listener(lambda **_: run.finish())
    # After SIGTERM the run goes on until now, and its verdict is the exit status. Added last and so called first: a
    # worker says what it counted before it says that it quits.
    environment.events.quitting.add_listener(_end)


def _end(environment: Environment, **_: Any) -> None:
    if environment.runner is not None:
        environment.runner.stop()
