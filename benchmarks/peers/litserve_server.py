"""The job as a LitServe API: one worker, one API server, no batching."""

from __future__ import annotations

import sys

import litserve
from job import PATH, Job


class Scoring(litserve.LitAPI):
    """Loads the job in the worker."""

    def setup(self, device: str) -> None:
        self.job = Job.load()

    # No annotation: LitServe would take one for the type of the body.
    def decode_request(self, request) -> tuple[int | str, list[int | str]]:
        return request["user_id"], request["candidate_ids"]

    def predict(self, inputs: tuple[int | str, list[int | str]]) -> list[float | None]:
        return self.job.score(*inputs)

    def encode_response(self, output: list[float | None]) -> dict[str, list[float | None]]:
        return {"scores": output}


def main() -> None:
    """Serve on the port of the first argument."""
    # ``fast_queue`` (ZeroMQ in place of a manager process) is the faster of its two transports here.
    server = litserve.LitServer(
        Scoring(api_path=PATH), accelerator="cpu", devices=1, workers_per_device=1, fast_queue=True
    )
    server.run(
        host="127.0.0.1",
        port=int(sys.argv[1]),
        num_api_servers=1,
        log_level="warning",
        generate_client_file=False,
    )


if __name__ == "__main__":
    main()
