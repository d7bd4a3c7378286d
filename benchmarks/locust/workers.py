"""The counts of a run in several processes: a worker tells its master when it begins, and at the end what it counted.

Locust's own end of a run waits for no answers and no reports: the master's run is over before its workers have stopped.
"""

from __future__ import annotations

from typing import Any

import gevent
from arrivals import ANSWER_TIMEOUT_S
from locust.env import Environment
from locust.rpc import Message
from locust.runners import MasterRunner, WorkerRunner
from outcomes import Tally

_BEGUN, _END, _COUNTS = "ranktower_begun", "ranktower_end", "ranktower_counts"
# For the answers of its last requests, and as long again for a machine that is busy.
_COUNTS_TIMEOUT_S = 2 * ANSWER_TIMEOUT_S
_POLL_S = 0.05


class Workers:
    """The workers of a master."""

    def __init__(self, runner: MasterRunner) -> None:
        """Listen to what they say."""
        self._runner = runner
        self._awaited: set[str] = set()
        self._tally = Tally()
        runner.register_message(_BEGUN, self._begun)
        runner.register_message(_COUNTS, self._counted)

    def start(self, tally: Tally) -> None:
        """Begin a run, whose counts are added to ``tally``."""
        self._awaited.clear()
        self._tally = tally

    def gather(self) -> list[str]:
        """End the run and wait until the counts of all that have begun it are there; says of whom they are missing."""
        self._runner.send_message(_END)
        with gevent.Timeout(_COUNTS_TIMEOUT_S, False):
            while self._awaited:
                gevent.sleep(_POLL_S)
        missing = sorted(map(self._runner.get_worker_index, self._awaited))
        return [f"worker {index}: no word of what it counted" for index in missing]

    def _begun(self, msg: Message, **_: Any) -> None:
        self._awaited.add(msg.node_id)

    def _counted(self, msg: Message, **_: Any) -> None:
        self._awaited.discard(msg.node_id)
        self._tally.merge(msg.data)


class Master:
    """The master of a worker."""

    def __init__(self, runner: WorkerRunner) -> None:
        """End the run when it says so."""
        self._runner = runner
        runner.register_message(_END, self._end)

    def tell_begun(self) -> None:
        """A run has begun here."""
        self._runner.send_message(_BEGUN)

    def tell_counts(self, tally: Tally) -> None:
        """It is over, and these are all its requests."""
        self._runner.send_message(_COUNTS, tally.counts())

    def _end(self, environment: Environment, **_: Any) -> None:
        self._runner.stop()  # which does nothing where it has ended
