"""Which rates to offer, one after the other, to find the highest that a service holds."""

from __future__ import annotations

import itertools
import math
from collections.abc import Generator, Sequence
from typing import NamedTuple

LOWEST_RATE = 5.0
"""Requests a second. A service that does not hold this is not searched further."""
_FACTOR = 2.0
_QUICK_S = 2.0
# The bisection ends when the rate that holds and the one that does not are this close.
_RESOLUTION = 1.05
# The ramp's length is not known before its end; so many steps lead to 640 requests a second.
_EXPECTED_RAMP = 8


class Step(NamedTuple):
    """A rate to offer, in requests a second, for ``seconds``; ``left_s`` of further load are expected behind it, and
    ``is_quick`` says that it only looks for the range."""

    rate: float
    seconds: float
    left_s: float
    is_quick: bool = False


def search(seconds: float) -> Generator[Step, bool, None]:
    """Double the rate in short steps until it does not hold, then bisect in steps of ``seconds``.

    Each step is answered by whether the rate held. A short step that fails is repeated at full length before it is
    believed, and the highest rate that holds has held for ``seconds``.
    """
    quick = min(_QUICK_S, seconds / 2)
    low, high, confirmed = 0.0, LOWEST_RATE, 0.0
    bisection_s = seconds * (2 + _bisections(_FACTOR))
    for number in itertools.count(1):
        ramp_s = quick * max(0, _EXPECTED_RAMP - number)
        if not (yield Step(high, quick, ramp_s + bisection_s, is_quick=True)):
            if not (yield Step(high, seconds, bisection_s - seconds)):
                break
            confirmed = high
        low, high = high, high * _FACTOR
    while low >= LOWEST_RATE:
        steps = _bisections(high / low)
        if not steps and low == confirmed:
            return
        rate = math.sqrt(low * high) if steps else low
        if (yield Step(rate, seconds, seconds * (steps - (low == confirmed)))):
            low = confirmed = rate
        elif rate == low:  # a short step had flattered it
            low, high = low / _FACTOR, low
        else:
            high = rate


def sweep(rates: Sequence[float], seconds: float) -> Generator[Step, bool, None]:
    """Just these rates, whether they hold or not."""
    for number, rate in enumerate(rates, start=1):
        yield Step(rate, seconds, seconds * (len(rates) - number))


def _bisections(ratio: float) -> int:
    """Halvings of ``ratio``, on a logarithmic scale, until it is within the resolution."""
    return max(0, math.ceil(math.log2(math.log(ratio) / math.log(_RESOLUTION) + 1e-9)))
