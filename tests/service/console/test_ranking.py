"""From a user to a ranking and its explanations, by mouse and by keyboard, against what the API answers."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect

MARKUP = '<img src="x" onerror="alert(1)">'


def rank(page: Page, user: str, **fields: str) -> None:
    page.fill("#user", user)
    if {"features", "own"} & fields.keys():
        page.evaluate("document.querySelector('#more').open = true")
    for name, value in fields.items():
        page.fill(f"#{name}", value)
    page.click("#ask button[type=submit]")


def explained(page: Page) -> None:
    expect(page.locator("#why h2")).to_be_visible()


def rows(page: Page) -> list[list[str]]:
    cells = "row => [...row.cells].slice(0, -1).map(cell => cell.textContent)"
    found: list[list[str]] = page.evaluate(f"[...document.querySelectorAll('.ranking tbody tr')].map({cells})")
    return found


def shown(value: float) -> str:
    return f"{value:.3f}".replace("-", "−")


def expected_rows(server: Any, items: list[dict[str, Any]], user: str) -> list[list[str]]:
    ids = [item["id"] for item in items]
    body = {"user_id": user, "candidate_ids": ids, "levels": True}
    explanations = server.client.post("/v1/explain", json=body).json()["explanations"]
    return [
        [str(item["rank"]), item["id"], *map(shown, (one["score"], one["levels"]["maxsim"], one["levels"]["pooled"]))]
        for item, one in zip(items, explanations, strict=True)
    ]


def test_retrieved_items_are_ranked_a_page_at_a_time(server: Any, console: Page) -> None:
    rank(console, "user-3", count="60")
    explained(console)
    items = server.client.post("/v1/rank", json={"user_id": "user-3", "num_candidates": 60}).json()["items"]
    assert rows(console) == expected_rows(server, items[:25], "user-3")
    strips = console.locator(".ranking .strip")
    expect(strips).to_have_count(25)
    assert strips.first.bounding_box()["width"] == 120
    expect(strips.first.locator(".mark")).to_have_count(3)
    console.get_by_role("button", name="Next").click()
    expect(console.locator(".pager span")).to_have_text("26–50 of 60")
    explained(console)
    assert rows(console) == expected_rows(server, items[25:50], "user-3")
    console.get_by_role("button", name="Next").click()
    expect(console.locator(".pager span")).to_have_text("51–60 of 60")
    expect(console.get_by_role("button", name="Next")).to_be_disabled()


def test_users_are_proposed(server: Any, console: Page, release: Any) -> None:
    proposed = console.evaluate("[...document.querySelectorAll('#users option')].map(one => one.value)")
    assert sorted(proposed) == sorted(release.user_ids)
    before = console.input_value("#user")
    console.click("#another")
    explained(console)
    assert console.input_value("#user") in set(proposed) - {before}


def test_why_shows_every_number_of_the_explanation(server: Any, console: Page) -> None:
    rank(console, "user-5", own="17\n5")
    explained(console)
    console.get_by_role("button", name="5", exact=True).click()
    expect(console.locator("#why h2")).to_contain_text("Why 5 scores")
    body = {"user_id": "user-5", "candidate_ids": ["5"]}
    one = server.client.post("/v1/explain", json=body).json()["explanations"][0]
    cells = "[...document.querySelectorAll('#why tbody tr')].map(row => [...row.cells].map(cell => cell.textContent))"
    matches = [
        [str(user), str(match["item_subspace"]), shown(match["cosine"]), shown(match["contribution"]), ""]
        for user, match in enumerate(one["matches"])
    ]
    found = console.evaluate(cells)
    assert found[:4] == matches
    weights = [*one["user_attention"], *one["item_attention"]]
    in_percent = [[float(cell) for cell in row[1:]] for row in found[4:]]
    assert in_percent == [[pytest.approx(100 * weight, abs=0.51) for weight in row] for row in weights]
    shades = console.evaluate(
        "[...document.querySelectorAll('.map tbody td')].map(one => getComputedStyle(one).backgroundColor)"
    )
    assert len(set(shades)) > 1, "the cells of the heat maps are shaded"


def test_everything_by_keyboard(console: Page) -> None:
    console.locator("#user").focus()
    console.keyboard.press("Enter")
    explained(console)
    chosen = console.locator(".item[aria-pressed=true]")
    for _ in range(12):  # through the form and into the table
        console.keyboard.press("Tab")
        if console.evaluate("document.activeElement.matches('.item')"):
            break
    expect(chosen).to_be_focused()
    assert console.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    for key, place in (("ArrowDown", 1), ("ArrowDown", 2), ("ArrowUp", 1), ("End", 24), ("Home", 0), ("PageDown", 25)):
        console.keyboard.press(key)
        expect(chosen).to_have_attribute("data-place", str(place))
        expect(chosen).to_be_focused()
        explained(console)
        expect(console.locator("#why h2 .mono")).to_have_text(chosen.inner_text())
    console.keyboard.press("PageUp")
    expect(chosen).to_have_attribute("data-place", "0")
    expect(chosen).to_be_focused()
    console.keyboard.press("Escape")
    expect(console.locator("#user")).to_be_focused()


def test_a_user_of_features_alone_with_all_digits_kept(console: Page) -> None:
    with console.expect_request("**/v1/rank") as sent:
        rank(console, "", features='{"age": 33.10, "country": "fr", "tags": []}', count="10")
    assert '"user_features":{"age": 33.10, ' in (sent.value.post_data or "")
    expect(console.locator(".summary")).to_contain_text("user computed from features")
    explained(console)


@pytest.mark.parametrize(
    ("fields", "text", "focused"),
    [
        ({"user": ""}, "A user's id, or features, are needed.", "user"),
        ({"user": "1", "features": "[1]"}, "User features must be a JSON object.", "features"),
        ({"user": "1", "features": "{"}, "User features must be a JSON object.", "features"),
    ],
)
def test_what_is_not_even_asked(console: Page, fields: dict[str, str], text: str, focused: str) -> None:
    rank(console, **fields)
    expect(console.get_by_role("alert")).to_contain_text(text)
    expect(console.locator(f"#{focused}")).to_be_focused()


def test_ids_are_text_whatever_they_hold(console: Page, release: Any) -> None:
    odd = [one for one in release.item_ids if not one.isdigit() and "\n" not in one]
    rank(console, MARKUP, own="\n".join([*odd, "<script>alert(2)</script>", "a\u202eb"]))
    explained(console)
    assert {row[1] for row in rows(console)} == set(odd)
    expect(console.locator("#ranking .note").nth(1)).to_have_text(
        "Without a score: <script>alert(2)</script>, a\\u{202e}b"
    )
    console.get_by_role("button", name=MARKUP).click()
    expect(console.locator("#why h2 .mono")).to_have_text(MARKUP)
    assert console.locator("main img, main script").count() == 0


def test_a_degraded_answer_says_what_it_is_worth(console: Page) -> None:
    degraded = {"level": "maxsim", "reason": "load", "share": 0.25, "expected_ndcg": 0.92, "expected_recall": 0.9}

    def answer(route: Any) -> None:
        answered = route.fetch()
        route.fulfill(response=answered, body=json.dumps(answered.json() | {"degraded": degraded}))

    console.route("**/v1/rank", answer)
    rank(console, "user-1", count="30")
    expect(console.locator(".degraded")).to_have_text(
        "Degraded to maxsim (load): 25 % scored in full, expected NDCG 0.920, recall 0.900 of full scoring."
    )
    expect(console.locator(".ranking thead")).to_have_text(re.compile("#itemansweredfullmaxsimpooled"))


def test_no_candidate_has_a_score(console: Page) -> None:
    rank(console, "user-1", own="none\nno one")
    expect(console.locator("#ranking")).to_contain_text("None of the candidates has a score.")
    expect(console.locator("#why")).to_be_hidden()


def test_a_release_without_a_ladder(
    build_release: Callable[..., Any], start_server: Callable[..., Any], open_console: Any, tmp_path: Any
) -> None:
    build_release(tmp_path, seed=81, ladder=False).promote()
    server = start_server(tmp_path)
    server.wait_ready()
    page = open_console(server.url)
    rank(page, "user-1", count="5")
    explained(page)
    assert [row[3:] for row in rows(page)] == [["–", "–"]] * 5
    page.click("nav a[href='#service']")
    expect(page.locator("#release")).to_contain_text("No ladder: everything is scored in full.")
    assert server.stop() == 0
