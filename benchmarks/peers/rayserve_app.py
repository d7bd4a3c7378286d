"""The job as a Ray Serve deployment: one replica on a local cluster of its own."""

from __future__ import annotations

import signal
import sys
from typing import Any

import ray
from job import Job
from ray import serve
from starlette.requests import Request

_OBJECT_STORE_BYTES = 100 << 20  # nothing of this job is kept there


@serve.deployment(num_replicas=1, max_ongoing_requests=100)
class Scoring:
    """Loads the job in the replica."""

    def __init__(self) -> None:
        self.job = Job.load()

    async def __call__(self, request: Request) -> dict[str, Any]:
        """Score the candidates."""
        body = await request.json()
        return {"scores": self.job.score(body["user_id"], body["candidate_ids"])}


def main() -> None:
    """Serve on the port of the first argument until SIGTERM."""
    # Ray counts cores to place actors: the replica takes one, and the proxy and the controller none.
    ray.init(num_cpus=2, include_dashboard=False, object_store_memory=_OBJECT_STORE_BYTES, log_to_driver=False)
    serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})
    serve.run(Scoring.bind(), logging_config={"enable_access_log": False})
    # After ray.init, which has a handler of its own. The harness ends the daemons.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))
    signal.pause()


if __name__ == "__main__":
    main()
