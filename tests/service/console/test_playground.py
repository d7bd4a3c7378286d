"""The playground: what it sends, what it shows, and the curl line run by a real shell."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from playwright.sync_api import Page, expect

ODD = 'it\'s "odd" $HOME `id` \\ !x\n<b>ключ'


def open_playground(page: Page) -> None:
    page.click("nav a[href='#playground']")


def send(page: Page) -> str:
    page.click("#play button[type=submit]")
    expect(page.locator("#answer .status")).to_be_visible()
    return page.locator("#answer pre").inner_text()


def same(answer: dict[str, Any]) -> dict[str, Any]:
    """What two answers to one request share."""
    return {key: value for key, value in answer.items() if key not in ("request_id", "took_ms")}


@pytest.mark.parametrize("user", ["user-1", ODD])
def test_the_curl_line_asks_the_same(console: Page, user: str) -> None:
    open_playground(console)
    console.fill("#body", json.dumps({"user_id": user, "num_candidates": 30, "top_k": 3}, ensure_ascii=False, indent=1))
    shown = json.loads(send(console))
    line = console.locator("#curl").text_content() or ""
    told = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True).stdout
    assert same(json.loads(told)) == same(shown)
    assert len(shown["items"]) == 3


def test_what_was_ranked_stands_there(console: Page) -> None:
    console.fill("#user", "user-2")
    console.fill("#budget", "5000")
    console.click("#ask button[type=submit]")
    expect(console.locator("#why h2")).to_be_visible()
    open_playground(console)
    body = {"user_id": "user-2", "num_candidates": 1000, "budget_ms": 5000}
    assert json.loads(console.input_value("#body")) == body


def test_an_endpoint_without_a_body(server: Any, console: Page) -> None:
    open_playground(console)
    console.select_option("#endpoint", "v1/release")
    expect(console.locator("#body")).to_be_disabled()
    assert "--data" not in console.locator("#curl").inner_text()
    assert json.loads(send(console)) == server.client.get("/v1/release").json()


def test_a_refusal_is_an_answer_too(console: Page) -> None:
    open_playground(console)
    console.select_option("#endpoint", "v1/score")
    console.fill("#body", "{")
    console.press("#body", "Control+Enter")
    expect(console.locator("#answer .status")).to_have_text("Status 422")
    expect(console.locator("#answer")).to_contain_text("x-request-id")
    assert json.loads(console.locator("#answer pre").inner_text())["error_type"] == "malformed"


def test_the_line_is_copied_or_selected(console: Page) -> None:
    open_playground(console)
    console.context.grant_permissions(["clipboard-read", "clipboard-write"])
    console.click("#copy")
    expect(console.locator("#copied")).to_have_text("Copied.")
    line = console.locator("#curl").text_content()
    assert console.evaluate("navigator.clipboard.readText()") == line
    console.evaluate("Object.defineProperty(navigator, 'clipboard', { value: undefined })")
    console.click("#copy")
    expect(console.locator("#copied")).to_have_text("Selected; press Ctrl+C.")
    assert console.evaluate("getSelection().toString()") == line


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('{"a":1,"b":[1,2.50,12345678901234567890]}', '{\n  "a": 1,\n  "b": [1, 2.50, 12345678901234567890]\n}'),
        ('[{"id":"x, [y]","s":1e-7},{}]', '[\n  {"id": "x, [y]", "s": 1e-7},\n  {}\n]'),
        ('{"a":{"b":{"c":null}}}', '{\n  "a": {\n    "b": {"c": null}\n  }\n}'),
        ('"a \\" b"', '"a \\" b"'),
        ("<html>", "<html>"),
        ("[]", "[]"),
    ],
)
def test_answers_are_indented_and_not_changed(console: Page, text: str, expected: str) -> None:
    module = "import(new URL('console/playground.js', document.baseURI))"
    assert console.evaluate(f"async (text) => (await {module}).indented(text)", text) == expected
