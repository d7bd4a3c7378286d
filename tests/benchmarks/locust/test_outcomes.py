"""What an answer counts as, and the figures made of the counts."""

from __future__ import annotations

import math

import numpy as np
import pytest
from outcomes import Answer, Outcome, Tally, judge
from traffic import Request

GOOD = Request("score", "/v1/score", b"", budget_ms=20.0)
FREE = Request("score", "/v1/score", b"")
BAD = Request("bad", "/v1/score", b"", expected=422)
FULL = Answer(200, b'{"scores":[1.0],"degraded":null,"took_ms":1.3}')
DEGRADED = Answer(200, b'{"scores":[1.0],"degraded":{"level":"maxsim"},"took_ms":1.3}')


@pytest.mark.parametrize(
    ("request_", "answer", "latency_ms", "wanted"),
    [
        (GOOD, FULL, 20.0, Outcome("ok", "", True, True)),
        (GOOD, FULL, 20.1, Outcome("ok", "", False, True)),
        (FREE, FULL, 999.0, Outcome("ok", "", None, True)),
        (GOOD, DEGRADED, 5.0, Outcome("degraded", "", True, True)),
        (GOOD, Answer(429), 1.0, Outcome("shed", "", False, False)),
        (GOOD, Answer(504), 25.0, Outcome("out_of_time", "", False, False)),
        (
            GOOD,
            Answer(503, b'{"error":"no","error_type":"store_unavailable","request_id":"r"}'),
            1.0,
            Outcome("failed", "503 store_unavailable", False, False),
        ),
        (GOOD, Answer(502, b"<html>"), 1.0, Outcome("failed", "502", False, False)),
        (GOOD, Answer(500, b"[]"), 1.0, Outcome("failed", "500", False, False)),
        (GOOD, Answer(0, error="TimeoutError"), 10_000.0, Outcome("failed", "TimeoutError", False, True)),
        (BAD, Answer(422, b"{}"), 1.0, Outcome("ok", "", None, False)),
        (BAD, FULL, 1.0, Outcome("failed", "200, not 422", None, False)),
        (BAD, Answer(413, b'{"error_type":"too_many_candidates"}'), 1.0,
         Outcome("failed", "413 too_many_candidates, not 422", None, False)),
        (BAD, Answer(429), 1.0, Outcome("shed", "", None, False)),
    ],
)  # fmt: skip
def test_an_answer_is_judged(request_: Request, answer: Answer, latency_ms: float, wanted: Outcome) -> None:
    assert judge(request_, answer, latency_ms) == wanted


def test_the_word_degraded_within_an_id_says_nothing() -> None:
    answer = Answer(200, b'{"items":[{"id":"\\"degraded\\":{","score":1.0}],"degraded":null}')
    assert judge(GOOD, answer, 1.0).name == "ok"


def tally(*outcomes: Outcome, latency_ms: float = 1.0) -> Tally:
    counted = Tally()
    for outcome in outcomes:
        counted.add(outcome, latency_ms=latency_ms, lag_ms=0.1)
    return counted


def test_shares_are_of_all_requests_and_inside_of_those_with_a_budget() -> None:
    counted = tally(
        Outcome("ok", "", True, True),
        Outcome("ok", "", None, True),
        Outcome("shed", "", False, False),
        Outcome("failed", "500", None, False),
    )
    assert counted.requests == 4
    assert [counted.share(name) for name in ("ok", "shed", "failed", "degraded")] == [0.5, 0.25, 0.25, 0.0]
    assert counted.inside_share() == 0.5
    assert counted.errors == {"500": 1}


def test_percentiles_are_right_to_one_in_a_hundred() -> None:
    latencies = np.random.default_rng(0).lognormal(1.0, 1.0, 5000)
    counted = Tally()
    for latency_ms in latencies:
        counted.add(Outcome("ok", "", None, True), latency_ms=latency_ms, lag_ms=latency_ms / 10)
    for percent in (1, 50, 99, 100):
        exact = np.percentile(latencies, percent, method="inverted_cdf")
        assert exact <= counted.latency_ms(percent) * (1 + 1e-9) <= exact * 1.011
        assert counted.lag_ms(percent) == pytest.approx(exact / 10, rel=0.011)


def test_refusals_do_not_flatter_the_latencies() -> None:
    counted = tally(Outcome("ok", "", None, True), latency_ms=50.0)
    for _ in range(99):
        counted.add(Outcome("shed", "", None, False), latency_ms=0.1, lag_ms=0.1)
    assert counted.latency_ms(50) == pytest.approx(50.0, rel=0.011)


def test_processes_add_up() -> None:
    one, other = tally(Outcome("ok", "", True, True)), tally(Outcome("failed", "500", False, False))
    whole = Tally()
    whole.merge(one.counts())
    whole.merge(other.counts())
    assert whole.requests == 2
    assert whole.inside_share() == 0.5
    assert whole.errors == {"500": 1}


def test_of_nothing_there_is_no_figure() -> None:
    counted = Tally()
    assert math.isnan(counted.latency_ms(99))
    assert math.isnan(counted.inside_share())
    assert counted.share("failed") == 0.0
