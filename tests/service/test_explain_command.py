"""``ranktower explain`` against a running server, servers that are none, and the table it prints."""

from __future__ import annotations

import json
import re
import socket
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import pytest

from ranktower.cli import main as ranktower
from ranktower.errors import ConfigError
from service.explain_command import KEY_ENV, WIDTH, ask, main, table

KEY = "correct-horse-battery"
BODY = {"user_id": "user-1", "candidate_ids": ["1"]}


@pytest.fixture(autouse=True)
def _no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(KEY_ENV, raising=False)


def explanation(num_users: int, num_items: int, **changes: object) -> dict[str, Any]:
    """All contributions 0.5 / 0.25, all attention even."""
    return {
        "id": "1",
        "score": 2.0 * num_users,
        "matches": [{"item_subspace": 0, "cosine": 0.5, "contribution": 2.0}] * num_users,
        "user_attention": [[1 / num_items] * num_items] * num_users,
        "item_attention": [[1 / num_users] * num_users] * num_items,
    } | changes


def told(*explanations: object, **more: object) -> dict[str, Any]:
    return {"release": "r", "user": "PRESENT", "explanations": list(explanations)} | more


def test_the_table_of_a_running_service(server: Any, release: Any, capsys: pytest.CaptureFixture[str]) -> None:
    features = ["--user-features", '{"country": "fr"}', "--item-features", '{"new": {"shelf": 3}}']
    assert main(["--url", server.url, "--user", "nobody", "--candidates", "12", "none", "new", *features]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= WIDTH
    assert lines[0] == f"release {release.release}, user nobody (COMPUTED)"
    body = {"user_id": "nobody", "candidate_ids": [12, "none", "new"]}
    body |= {"user_features": {"country": "fr"}, "item_features": {"new": {"shelf": 3}}}
    first, _, third = server.client.post("/v1/explain", json=body).json()["explanations"]
    assert [line for line in lines if line.startswith("candidate")] == [
        f"candidate 12: score {first['score']:.4f}",
        "candidate none: no score",
        f"candidate new (COMPUTED): score {third['score']:.4f}",
    ]
    place = lines.index(f"candidate 12: score {first['score']:.4f}")
    for user, match in enumerate(first["matches"]):
        columns = lines[place + 2 + user].split()
        assert columns[:2] == [str(user), str(match["item_subspace"])]
        assert columns[2:4] == [f"{match['cosine']:.4f}", f"{match['contribution']:.4f}"]


def test_the_example_in_the_documentation() -> None:
    page = (Path(__file__).parents[2] / "docs" / "api.md").read_text(encoding="utf-8")
    section = page.split("### `POST /v1/explain`")[1].split("\n### ")[0]
    one = json.loads(re.findall(r"```json\n(.*?)```", section, flags=re.DOTALL)[0])
    (printed,) = re.findall(r"```\n(release .*?)```", section, flags=re.DOTALL)
    answer = told(one, release="20260101T000000Z-0a1b2c3d")
    assert table({"user_id": "12", "candidate_ids": ["1"]}, answer) == printed
    assert sum(match["contribution"] for match in one["matches"]) == pytest.approx(one["score"])


@pytest.mark.parametrize(("num_users", "num_items"), [(1, 1), (4, 4), (2, 16), (16, 2), (12, 12), (16, 16)])
def test_every_shape_fits(num_users: int, num_items: int) -> None:
    lines = table(BODY, told(explanation(num_users, num_items))).splitlines()
    assert max(map(len, lines)) <= WIDTH
    rows = [line for line in lines if re.fullmatch(r" +\d+( +\d+)+", line)]
    numbers = [list(map(int, line.split())) for line in rows]
    assert sum(line.count(round(100 / num_items)) for line in numbers) >= num_users * num_items
    assert sum(line.count(round(100 / num_users)) for line in numbers) >= num_users * num_items


def test_bars_are_as_long_as_what_they_stand_for() -> None:
    parts = [4.0, 2.0, -1.0, 0.0]
    matches = [{"item_subspace": 0, "cosine": part / 4, "contribution": part} for part in parts]
    lines = table(BODY, told(explanation(4, 2, matches=matches))).splitlines()[4:8]
    assert [re.sub(r"^( +-?[\d.]+){4}", "", line).strip() for line in lines] == ["#" * 40, "#" * 20, "-" * 10, ""]


def test_nothing_contributes() -> None:
    matches = [{"item_subspace": 0, "cosine": 0.0, "contribution": 0.0}]
    assert "#" not in table(BODY, told(explanation(1, 1, matches=matches)))
    assert table(BODY, told(None)).endswith("candidate 1: no score\n")


@pytest.mark.parametrize(
    ("candidate", "shown"), [("ключ-ß", "ключ-ß"), ("line\nbreak", '"line\\nbreak"'), ("x" * 256, "x" * 48 + "...")]
)
def test_ids_stay_in_their_line(candidate: str, shown: str) -> None:
    body = {"user_id": candidate, "candidate_ids": [candidate]}
    lines = table(body, told(explanation(4, 4))).splitlines()
    assert lines[0] == f"release r, user {shown} (PRESENT)"
    assert lines[2] == f"candidate {shown}: score 8.0000"


def test_a_refusal_is_told_in_the_services_words(server: Any, capsys: pytest.CaptureFixture[str]) -> None:
    many = [str(number) for number in range(33)]
    assert ranktower(["explain", "--url", server.url, "--user", "1", "--candidates", *many]) == 2
    text = f"--url {server.url}: 413 too_many_candidates: candidate_ids: 33 candidates, at most 32 are accepted"
    assert capsys.readouterr().err == f"ranktower explain: {text}\n"


def test_the_key_comes_from_the_environment(
    release: Any, start_server: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = start_server(release.folder.parent.parent, AUTH__API_KEY=KEY)
    server.wait_ready()
    with pytest.raises(ConfigError, match=r": 401 unauthorized: "):
        ask(server.url, BODY, timeout_s=10)
    monkeypatch.setenv(KEY_ENV, KEY)
    assert ask(f"{server.url}/", BODY, timeout_s=10)["user"] == "PRESENT"
    monkeypatch.setenv(KEY_ENV, "two\nlines")
    with pytest.raises(ConfigError, match=rf"^{KEY_ENV}: holds characters that no header can$"):
        ask(server.url, BODY, timeout_s=10)
    assert server.stop() == 0


@pytest.fixture
def other_service() -> Iterator[Callable[[int, bytes], str]]:
    """``other_service(status, body)``: the address of a server that answers so to everything."""
    servers: list[HTTPServer] = []

    def start(status: int, content: bytes) -> str:
        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                self.rfile.read(int(self.headers["content-length"]))
                self.send_response(status)
                self.send_header("content-length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *arguments: Any) -> None:
                pass

        servers.append(HTTPServer(("127.0.0.1", 0), Handler))
        threading.Thread(target=servers[-1].serve_forever, daemon=True).start()
        return f"http://127.0.0.1:{servers[-1].server_port}"

    yield start
    for one in servers:
        one.shutdown()
        one.server_close()


@pytest.mark.parametrize(
    ("status", "content", "text"),
    [
        (200, b"<html>", "answers, but not as RankTower does"),
        (200, b"[]", "answers, but not as RankTower does"),
        (200, b"{}", "answers, but not as RankTower does"),
        (502, b"bad gateway", "502 bad gateway"),
        (404, b'{"detail": "no"}', '404 {"detail": "no"}'),
        (500, b"\xff" * 1000, "500 " + "\ufffd" * 200),
    ],
)
def test_another_service(other_service: Callable[..., str], status: int, content: bytes, text: str) -> None:
    url = other_service(status, content)
    with pytest.raises(ConfigError) as caught:
        ask(url, BODY, timeout_s=10)
    assert str(caught.value) == f"--url {url}: {text}"


def test_an_address_where_nobody_listens() -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{probe.getsockname()[1]}"
        with pytest.raises(ConfigError, match=rf"^--url {url}: cannot be reached: .*refused"):
            ask(url, BODY, timeout_s=10)


@pytest.mark.parametrize("url", ["localhost:8000", "file:///etc/hostname", "ftp://host", ""])
def test_what_is_no_address(url: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--url {url}: must begin with http:// or https://$"):
        ask(url, BODY, timeout_s=10)


@pytest.mark.parametrize("url", ["http://", "http://127.0.0.1:none", "http://[::1", "http://a b/"])
def test_an_address_that_cannot_be_reached(url: str) -> None:
    with pytest.raises(ConfigError, match=rf"^--url {re.escape(url)}: cannot be reached: "):
        ask(url, BODY, timeout_s=10)


@pytest.mark.parametrize("text", ["{", "[]", "1", "{'a': 1}"])
def test_features_that_are_no_json_object(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--user", "1", "--candidates", "1", "--user-features", text])
    assert "argument --user-features: must be a JSON object, got " in capsys.readouterr().err
