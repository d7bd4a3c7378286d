"""The job as a BentoML service: typed API, one worker, no batching."""

from __future__ import annotations

import bentoml
from job import PATH, Job


@bentoml.service(workers=1, logging={"access": {"enabled": False}})
class Scoring:
    """Loads the job once a worker."""

    def __init__(self) -> None:
        self.job = Job.load()

    # ``async``: a plain method would be sent to a thread and back.
    @bentoml.api(route=PATH)
    async def score(self, user_id: int | str, candidate_ids: list[int | str]) -> dict[str, list[float | None]]:
        """Score the candidates."""
        return {"scores": self.job.score(user_id, candidate_ids)}
