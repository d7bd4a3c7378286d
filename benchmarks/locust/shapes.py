"""How the rate changes over a run."""

from __future__ import annotations

NUM_STEPS = 5
SHAPES = ("constant", "steps", "spike", "soak")


def rate_at(shape: str, passed: float, peak: int) -> int:
    """Requests a second when the share ``passed`` of a run is over, at least 1.

    ``steps`` goes up to ``peak`` in five even steps; ``spike`` has a fifth of it, and ``peak`` in the middle fifth of
    the run; ``soak`` rises over the first twentieth and stays.
    """
    if shape == "steps":
        part = (int(passed * NUM_STEPS) + 1) / NUM_STEPS
    elif shape == "spike":
        part = 1.0 if 0.4 <= passed < 0.6 else 0.2
    elif shape == "soak":
        part = passed / 0.05
    else:
        raise ValueError(f"shape: {shape!r} has no rate of its own")
    return max(round(min(part, 1.0) * peak), 1)
