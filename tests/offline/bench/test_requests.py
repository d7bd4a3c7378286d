from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from offline.bench.requests import random_requests, read_requests
from ranktower.embedding_store.codec import SIDES
from ranktower.embedding_store.table_writer import write_table
from ranktower.errors import ConfigError
from ranktower.release import TABLES, Manifest


@pytest.fixture(params=["integers", "strings"])
def release_dir(
    request: pytest.FixtureRequest,
    tmp_path: Path,
    make_manifest: Callable[..., Manifest],
    random_arrays: Callable[..., dict[str, NDArray[np.float32]]],
) -> Path:
    """Tables of 5 users and 30 items, with ids of either kind."""
    for side, count in zip(SIDES, (5, 30), strict=True):
        layout = make_manifest().layout(side)
        numbers = 100 + np.arange(count)
        ids = numbers if request.param == "integers" else np.char.add("ß-", numbers.astype(str))
        write_table(tmp_path / TABLES[side], ids, lambda rows, of=layout: random_arrays(of, len(rows)), layout)
    return tmp_path


def test_random_requests_name_stored_ids_none_twice(release_dir: Path) -> None:
    requests = random_requests(release_dir, num_candidates=20, budget_ms=7.5, num_bodies=50)
    bodies = [json.loads(body) for body in requests.bodies]
    assert (len(bodies), requests.num_candidates) == (50, 20)
    known = {f"{100 + number}" for number in range(30)}
    for body in bodies:
        items = {str(one).removeprefix("ß-") for one in body["candidate_ids"]}
        assert len(items) == 20
        assert items <= known
        assert body["budget_ms"] == 7.5
    assert {str(body["user_id"]).removeprefix("ß-") for body in bodies} == {f"{100 + number}" for number in range(5)}
    assert random_requests(release_dir, num_candidates=20, budget_ms=7.5, num_bodies=50) == requests


def test_a_budget_is_sent_only_where_there_is_one(release_dir: Path) -> None:
    (body,) = random_requests(release_dir, num_candidates=1, num_bodies=1).bodies
    assert set(json.loads(body)) == {"user_id", "candidate_ids"}


def test_more_candidates_than_items_are_refused(release_dir: Path) -> None:
    with pytest.raises(ConfigError, match=r"--candidates 31: .* has 5 users and 30 items"):
        random_requests(release_dir, num_candidates=31)


def test_a_release_without_tables_asks_for_bodies(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no table of users; give bodies with --requests instead"):
        random_requests(tmp_path, num_candidates=1)


def test_bodies_of_a_file_get_the_budget(tmp_path: Path) -> None:
    path = tmp_path / "bodies.jsonl"
    path.write_text(
        '{"user_id": 1, "candidate_ids": [1, 2], "budget_ms": 99}\n\n'
        '{"candidate_ids": ["ß"], "user_id": "x", "user_features": {"age": 3}}\n'
    )
    requests = read_requests(path, budget_ms=5)
    assert [json.loads(body) for body in requests.bodies] == [
        {"user_id": 1, "candidate_ids": [1, 2], "budget_ms": 5},
        {"user_id": "x", "candidate_ids": ["ß"], "user_features": {"age": 3}, "budget_ms": 5},
    ]
    assert requests.num_candidates == 2


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("{nothing", r"bodies.jsonl, line 2: not JSON: .*, got b'{nothing'"),
        ("[1]", r"line 2: candidate_ids: expected an object with a list of ids, got b'\[1\]'"),
        ('{"user_id": 1}', "line 2: candidate_ids: expected"),
        ('{"user_id": 1, "candidate_ids": 7}', "line 2: candidate_ids: expected"),
    ],
)
def test_a_line_that_is_no_body_is_named(line: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "bodies.jsonl"
    path.write_text(f'{{"user_id": 1, "candidate_ids": [1]}}\n{line}\n')
    with pytest.raises(ConfigError, match=told):
        read_requests(path, budget_ms=5)


@pytest.mark.parametrize("content", ["", "\n \n"])
def test_an_empty_file_is_named(content: str, tmp_path: Path) -> None:
    path = tmp_path / "bodies.jsonl"
    path.write_text(content)
    with pytest.raises(ConfigError, match=r"--requests .*bodies.jsonl: no bodies in it"):
        read_requests(path, budget_ms=5)
