from __future__ import annotations

import json
import math
from io import BytesIO
from pathlib import Path

import matplotlib.image
import numpy as np
import pytest

from offline.bench.answers import OpenResult
from offline.bench.report import draw_curve, write_report
from offline.bench.verdict import Point, Question, verdict

ASKED = Question(1000, 10.0, max_degraded=0.5)


def point(rate: float, *, is_quick: bool = False, **changes: float) -> Point:
    base = dict.fromkeys(OpenResult.__dataclass_fields__, 0) | {"requests": 100, "inside": 100}
    base |= {"p50_ms": 2.0, "p99_ms": 4.0}
    of = OpenResult(**(base | changes))  # type: ignore[arg-type]
    return Point(rate, 10.0, is_quick, ASKED.is_met(of), of)


REFUSED = {"inside": 0, "status_429": 100, "non_200": 100, "p50_ms": math.nan, "p99_ms": math.nan}


def test_the_raw_data_say_what_was_asked_of_whom_and_what_came(tmp_path: Path) -> None:
    points = [point(20.0, is_quick=True), point(100.0, degraded=3), point(200.0, **REFUSED)]
    path = write_report(tmp_path, points, ASKED, {"release": "r-1", "is_complete": True})
    assert sorted(one.suffix for one in tmp_path.iterdir()) == [".json", ".png"]
    content = json.loads(path.read_text(), parse_constant=pytest.fail)  # NaN is no JSON
    assert content["verdict"] == verdict(points, ASKED)
    assert (content["release"], content["num_candidates"], content["budget_ms"]) == ("r-1", 1000, 10.0)
    assert {"cpu", "num_cores", "load_average", "python"} == set(content["machine"])
    quick, held, refused = content["points"]
    assert (quick["is_quick"], quick["holds"]) == (True, True)
    assert (held["rate_per_s"], held["degraded"], held["p99_ms"]) == (100.0, 3, 4.0)
    assert (refused["holds"], refused["status_429"], refused["p99_ms"]) == (False, 100, None)


@pytest.mark.parametrize(
    "points", [[point(5.0)], [point(5.0), point(5.0, inside=0)], [point(200.0, **REFUSED)], [point(5.0, is_quick=True)]]
)
def test_every_curve_can_be_drawn(points: list[Point]) -> None:
    image = matplotlib.image.imread(BytesIO(draw_curve(points, ASKED)), format="png")
    assert image.shape[0] > 500
    assert np.ptp(image) > 0.5
