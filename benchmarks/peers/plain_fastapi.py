"""The peer most teams would write: FastAPI with pydantic models in and out, under uvicorn."""

from __future__ import annotations

from fastapi import FastAPI, HTTPException
from job import PATH, Job
from pydantic import BaseModel


class ScoreRequest(BaseModel):
    """One user and its candidates."""

    user_id: int | str
    candidate_ids: list[int | str]


class ScoreResponse(BaseModel):
    """Scores in the order of the candidates; null for an unknown one."""

    scores: list[float | None]


app = FastAPI()
job = Job.load()


# ``async``: with one core and one worker, the thread pool of a plain function only adds a hop.
@app.post(PATH)
async def score(request: ScoreRequest) -> ScoreResponse:
    """Score the candidates."""
    try:
        return ScoreResponse(scores=job.score(request.user_id, request.candidate_ids))
    except KeyError as error:
        raise HTTPException(404, f"unknown user {error}") from error
