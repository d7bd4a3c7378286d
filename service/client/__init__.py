"""A client of the service, on httpx alone: it imports nothing of the service's own application.

``RankTowerClient`` blocks, ``AsyncRankTowerClient`` awaits; both do the same otherwise. docs/client.md has examples.
"""

from service.client.answers import (
    Degraded,
    Explanation,
    Explanations,
    Match,
    RankedItem,
    Ranking,
    Release,
    Scores,
)
from service.client.asynchronous import AsyncRankTowerClient
from service.client.blocking import RankTowerClient
from service.client.errors import (
    AuthenticationError,
    ConnectionFailedError,
    DeadlineError,
    InvalidRequestError,
    OverloadedError,
    RankTowerError,
    ServerError,
    UnavailableError,
)
from service.client.retries import Retries

__all__ = [
    "AsyncRankTowerClient",
    "AuthenticationError",
    "ConnectionFailedError",
    "DeadlineError",
    "Degraded",
    "Explanation",
    "Explanations",
    "InvalidRequestError",
    "Match",
    "OverloadedError",
    "RankTowerClient",
    "RankTowerError",
    "RankedItem",
    "Ranking",
    "Release",
    "Retries",
    "Scores",
    "ServerError",
    "UnavailableError",
]
