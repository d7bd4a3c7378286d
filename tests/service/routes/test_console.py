"""``GET /console`` and its files over HTTP: what is served, how it may be kept, what it may do, and to whom."""

from __future__ import annotations

import re
from collections.abc import Callable
from importlib.resources import files
from typing import Any

import pytest

NAMES = sorted(one.name for one in files("service").joinpath("console").iterdir() if one.name != "index.html")
MEDIA_TYPES = {"css": "text/css; charset=utf-8", "js": "text/javascript; charset=utf-8", "svg": "image/svg+xml"}


def test_the_page_names_nothing_but_its_own_files(server: Any) -> None:
    answer = server.client.get("/console")
    assert (answer.status_code, answer.headers["content-type"]) == (200, "text/html; charset=utf-8")
    addresses = re.findall(r'(?:src|href)="([^"#]+)"', answer.text)
    assert {address.removeprefix("console/") for address in addresses} <= set(NAMES)
    assert "//" not in answer.text
    assert "<style" not in answer.text
    assert re.findall(r"<script[^>]*>", answer.text) == ['<script type="module" src="console/main.js">']


@pytest.mark.parametrize("name", NAMES)
def test_every_file_is_served_and_names_no_other_server(server: Any, name: str) -> None:
    answer = server.client.get(f"/console/{name}")
    assert (answer.status_code, answer.headers["content-type"]) == (200, MEDIA_TYPES[name.rpartition(".")[2]])
    assert re.findall(r"https?:(?!//www\.w3\.org/2000/svg)", answer.text) == []
    imported = re.findall(r'^import .* from "\./(.*)";$', answer.text, flags=re.MULTILINE)
    assert set(imported) <= set(NAMES)


@pytest.mark.parametrize("path", ["/console", "/console/main.js"])
def test_a_file_is_asked_for_again_and_not_sent_again(server: Any, path: str) -> None:
    answer = server.client.get(path)
    assert answer.headers["cache-control"] == "no-cache"
    etag = answer.headers["etag"]
    for known in (etag, f'"other", W/{etag}'):
        again = server.client.get(path, headers={"if-none-match": known})
        assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
    assert server.client.get(path, headers={"if-none-match": '"other"'}).status_code == 200


def test_the_page_may_do_only_what_it_does(server: Any) -> None:
    policies = server.client.get("/console").headers.get_list("content-security-policy")
    assert len(policies) == 1
    rules = dict(rule.strip().split(" ", 1) for rule in policies[0].split(";"))
    assert rules["default-src"] == "'none'"
    assert {rules[f"{kind}-src"] for kind in ("script", "style", "connect", "img")} == {"'self'"}
    assert rules["require-trusted-types-for"] == "'script'"


@pytest.mark.parametrize("path", ["/console", "/console/main.js"])
def test_a_file_can_be_asked_about(server: Any, path: str) -> None:
    answer, full = server.client.head(path), server.client.get(path)
    assert (answer.status_code, answer.content) == (200, b"")
    for name in ("etag", "content-type", "content-length", "content-security-policy"):
        assert answer.headers[name] == full.headers[name]


def test_a_slash_at_the_end_leads_to_the_page(server: Any) -> None:
    answer = server.client.get("/console/")
    assert (answer.status_code, answer.headers["location"]) == (307, "../console")
    assert server.client.get("/console/", follow_redirects=True).url.path == "/console"


@pytest.mark.parametrize("path", ["/console/index.html", "/console/other.js", "/console/..%2fapp.py"])
def test_no_other_file_is_served(server: Any, path: str) -> None:
    answer = server.client.get(path)
    assert (answer.status_code, answer.json()["error_type"]) == (404, "not_found")


def test_users_are_proposed_at_random(server: Any, release: Any) -> None:
    answer = server.client.get("/v1/console/users")
    assert (answer.status_code, answer.headers["cache-control"]) == (200, "no-store")
    body = answer.json()
    assert body["release"] == release.release
    assert sorted(body["users"]) == sorted(release.user_ids)
    orders = {tuple(server.client.get("/v1/console/users").json()["users"]) for _ in range(5)}
    assert len(orders) > 1


def test_the_page_is_open_and_what_it_asks_for_needs_the_key(release: Any, start_server: Callable[..., Any]) -> None:
    server = start_server(release.folder.parent.parent, AUTH__API_KEY="correct-horse-battery")
    server.wait_ready()
    assert server.client.get("/console").status_code == 200
    assert server.client.get("/console/main.js").status_code == 200
    assert server.client.get("/v1/console/users").status_code == 401
    assert server.stop() == 0


def test_off_by_configuration(release: Any, start_server: Callable[..., Any]) -> None:
    server = start_server(release.folder.parent.parent, CONSOLE__ENABLED="false")
    server.wait_ready()
    for path in ("/console", "/console/main.js", "/v1/console/users"):
        assert server.client.get(path).status_code == 404
    assert server.stop() == 0
