"""The size and the habits of a simulated cascade."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from ranktower.errors import ConfigError


@dataclass(frozen=True)
class SimulatorOptions:
    """Validated once, when it is made.

    Attributes:
        num_users: rows of the users table.
        num_items: rows of the items table.
        requests_per_user: mean number of requests of a user, at least 1 (one, plus a Poisson number).
        num_recalled: items that recall finds for a request and pre-ranking scores.
        num_ranked: of those, the items that pre-ranking passes on to ranking.
        num_impressions: of those, the items that are shown.
        latent_size: length of the hidden vectors of users and items.
        num_interests: hidden vectors of a user, who likes an item as much as the one that likes it best.
        num_categories: clusters that users and items gather around.
        num_tags: different values of the items' multi-valued feature.
        popularity_exponent: Zipf exponent of how often recall finds an item; 0 is no skew.
        position_bias: exponent e of the chance (1 + position)^-e that a shown item is looked at; 0 is no bias.
        teacher_noise: standard deviation of the noise on the teacher's logit.
        seed: equal options give equal tables, byte for byte with the same versions on the same kind of machine.
    """

    num_users: int = 2000
    num_items: int = 5000
    requests_per_user: float = 10.0
    num_recalled: int = 24
    num_ranked: int = 14
    num_impressions: int = 8
    latent_size: int = 16
    num_interests: int = 1
    num_categories: int = 24
    num_tags: int = 64
    popularity_exponent: float = 0.8
    position_bias: float = 0.7
    teacher_noise: float = 0.3
    seed: int = 0

    def __post_init__(self) -> None:
        """Refuse a value that cannot be simulated.

        Raises:
            ConfigError: naming the option and its value.
        """
        for field in fields(self):
            least = {"requests_per_user": 1.0, "seed": 0}.get(field.name, 1 if field.type == "int" else 0.0)
            _check(field.name, getattr(self, field.name), whole=field.type == "int", least=least)
        for smaller, larger in (
            ("num_impressions", "num_ranked"),
            ("num_ranked", "num_recalled"),
            ("num_recalled", "num_items"),
        ):
            if getattr(self, smaller) > getattr(self, larger):
                raise ConfigError(
                    f"simulator option {smaller} = {getattr(self, smaller)} is more than "
                    f"{larger} = {getattr(self, larger)}"
                )


def _check(name: str, value: object, *, whole: bool, least: float) -> None:
    # A boolean is an int in Python, and never meant as one here.
    number = isinstance(value, int) if whole else isinstance(value, int | float) and math.isfinite(value)
    if not number or isinstance(value, bool) or value < least:  # type: ignore[operator]
        kind = "a whole number" if whole else "a finite number"
        raise ConfigError(f"simulator option {name} must be {kind} of at least {least}, got {value!r}")
