"""What the page says when something is missing, refused or down, and how one goes on from there."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

from ranktower.registry import Registry
from ranktower.release import read_manifest, write_manifest
from ranktower.verification import hash_files

KEY = "correct-horse-battery"


def rank(page: Page, user: str = "user-1") -> None:
    page.fill("#user", user)
    page.click("#ask button[type=submit]")


def test_before_the_first_request(console: Page) -> None:
    expect(console.locator("#ranking")).to_contain_text("Choose a user and press Rank")
    expect(console.locator("#why")).to_be_hidden()
    expect(console.locator("#health")).to_contain_text("serving 2026")


def test_a_key_is_asked_for_and_kept_in_the_tab_alone(
    release: Any, start_server: Callable[..., Any], open_console: Callable[..., Page]
) -> None:
    server = start_server(release.folder.parent.parent, AUTH__API_KEY=KEY)
    server.wait_ready()
    page = open_console(server.url)
    expect(page.locator("#rank-notice")).to_contain_text("401 · unauthorized")
    expect(page.locator("#key")).to_be_focused()
    page.keyboard.type("wrong-horse-battery")
    page.keyboard.press("Enter")
    expect(page.locator("#rank-notice")).to_contain_text("403 · forbidden")
    page.fill("#key", KEY)
    page.keyboard.press("Enter")
    expect(page.locator("#user")).not_to_have_value("")
    expect(page.locator("#key-form")).to_be_hidden()
    rank(page)
    expect(page.locator("#why h2")).to_be_visible()
    page.click("nav a[href='#playground']")
    assert '-H "x-api-key: $RANKTOWER_AUTH__API_KEY"' in page.locator("#curl").inner_text()
    assert KEY not in page.content()
    assert page.evaluate("[Object.values(sessionStorage), localStorage.length, document.cookie]") == [[KEY], 0, ""]
    page.click("#key-toggle")
    page.get_by_role("button", name="Forget").click()
    assert page.evaluate("sessionStorage.length") == 0
    assert server.stop() == 0


@pytest.mark.parametrize("key", ["ключ-of-a-horse", "“quoted-by-a-page”"])
def test_a_key_that_no_header_can_carry_is_not_taken(console: Page, key: str) -> None:
    console.click("#key-toggle")
    console.fill("#key", key)
    console.keyboard.press("Enter")
    expect(console.locator("#key-form")).to_be_visible()
    assert console.locator("#key").evaluate("field => field.validity.patternMismatch")
    assert console.evaluate("sessionStorage.length") == 0
    console.fill("#key", KEY)
    console.keyboard.press("Enter")
    expect(console.locator("#key-form")).to_be_hidden()
    assert console.evaluate("Object.values(sessionStorage)") == [KEY]


def test_no_release_is_served_yet(
    build_release: Callable[..., Any],
    start_server: Callable[..., Any],
    open_console: Callable[..., Page],
    tmp_path: Path,
) -> None:
    built = build_release(tmp_path, seed=82)
    server = start_server(tmp_path)
    server.wait_not_ready("no_release")
    page = open_console(server.url)
    expect(page.locator("#health")).to_have_text("not ready: no_release")
    rank(page)
    expect(page.get_by_role("alert")).to_contain_text("Not available")
    expect(page.get_by_role("alert")).to_contain_text("503 · no_release")
    built.promote()
    server.wait_ready(built.release)
    page.get_by_role("button", name="Try again").click()
    expect(page.locator("#why h2")).to_be_visible()
    expect(page.locator("#rank-notice")).to_be_empty()
    expect(page.locator("#health")).to_have_text(f"serving {built.release}")
    assert server.stop() == 0


def test_the_store_is_down(
    build_release: Callable[..., Any],
    restartable_redis: Any,
    start_server: Callable[..., Any],
    open_console: Callable[..., Page],
    tmp_path: Path,
) -> None:
    built = build_release(tmp_path, seed=83)
    built.promote()
    built.write_to_redis(restartable_redis.url)
    stores = {"STORE__USERS": "redis", "STORE__ITEMS": "redis", "STORE__REDIS_URL": restartable_redis.url}
    server = start_server(tmp_path, **stores)
    server.wait_ready()
    page = open_console(server.url)
    expect(page.locator("#health")).to_have_class("ready")
    expect(page.locator("#another")).to_be_hidden()  # only Redis knows the users
    restartable_redis.stop()
    rank(page)
    expect(page.get_by_role("alert")).to_contain_text("the embedding store does not answer")
    expect(page.get_by_role("alert")).to_contain_text("503 · store_unavailable")
    assert server.stop() == 0


def test_a_release_without_an_index(
    build_release: Callable[..., Any],
    start_server: Callable[..., Any],
    open_console: Callable[..., Page],
    tmp_path: Path,
) -> None:
    built = build_release(tmp_path / "built", seed=84)
    registry = Registry(tmp_path / "served")
    folder = registry.staging_dir("demo", built.release)
    shutil.copytree(built.folder, folder)
    (folder / "items.faiss").unlink()
    write_manifest(folder, read_manifest(folder).model_copy(update={"files": hash_files(folder)}))
    registry.publish(folder)
    registry.promote("demo", built.release)
    server = start_server(tmp_path / "served")
    server.wait_ready()
    page = open_console(server.url)
    rank(page)
    expect(page.get_by_role("alert")).to_contain_text("this release has no retrieval index")
    expect(page.locator("#own")).to_be_focused()
    page.fill("#own", "1\n2")
    page.click("#ask button[type=submit]")
    expect(page.locator("#why h2")).to_be_visible()
    assert server.stop() == 0


def test_shed_requests_are_tried_again_when_the_service_says(console: Page) -> None:
    body = '{"error": "too much to do", "error_type": "shed", "request_id": "r-1"}'
    console.route("**/v1/rank", lambda route: route.fulfill(status=429, headers={"retry-after": "1"}, body=body))
    rank(console)
    expect(console.get_by_role("alert")).to_contain_text("Too much to do")
    expect(console.get_by_role("button", name="Try again in 1 s")).to_be_disabled()
    console.unroute("**/v1/rank")
    console.get_by_role("button", name="Try again", exact=True).click()
    expect(console.locator("#why h2")).to_be_visible()


def test_too_late(console: Page) -> None:
    console.fill("#budget", "0.001")
    rank(console)
    expect(console.get_by_role("alert")).to_contain_text("the budget was used up before anything was scored")


@pytest.mark.parametrize("body", ["<html>Bad gateway</html>", "[]", "null"])
def test_an_answer_of_a_server_in_between(console: Page, body: str) -> None:
    console.route("**/v1/rank", lambda route: route.fulfill(status=502, body=body))
    rank(console)
    expect(console.get_by_role("alert")).to_contain_text("it comes from a server in between")


def test_the_service_is_gone(release: Any, start_server: Callable[..., Any], open_console: Callable[..., Page]) -> None:
    server = start_server(release.folder.parent.parent)
    server.wait_ready()
    page = open_console(server.url)
    expect(page.locator("#user")).not_to_have_value("")
    assert server.stop() == 0
    rank(page)
    expect(page.get_by_role("alert")).to_contain_text("The service cannot be reached.")
    expect(page.locator("#health")).to_have_text("unreachable")


def test_a_release_that_cannot_explain_is_ranked_all_the_same(console: Page) -> None:
    body = '{"error": "export it again", "error_type": "not_explainable", "request_id": "r-1"}'
    console.route("**/v1/explain", lambda route: route.fulfill(status=501, body=body))
    rank(console)
    expect(console.get_by_role("alert")).to_contain_text("Not explainable")
    expect(console.locator(".ranking tbody tr")).to_have_count(25)


def test_the_notice_of_a_failed_explanation_goes_with_its_page(console: Page) -> None:
    console.route("**/v1/explain", lambda route: route.fulfill(status=503, body="-"))
    console.fill("#count", "60")
    rank(console)
    notice = console.locator("#rank-notice")
    expect(notice).to_contain_text("Not available")
    console.unroute("**/v1/explain")
    console.get_by_role("button", name="Next").click()
    expect(console.locator("#why h2")).to_be_visible()
    expect(notice).to_be_empty()


def test_a_failed_explanation_is_asked_for_again_for_the_candidate_chosen(console: Page) -> None:
    console.fill("#count", "60")
    rank(console)
    expect(console.locator("#why h2")).to_be_visible()
    console.route("**/v1/explain", lambda route: route.fulfill(status=503, body="-"))
    console.get_by_role("button", name="Next").click()
    expect(console.locator("#rank-notice")).to_contain_text("Not available")
    console.locator(".item").nth(3).click()
    console.unroute("**/v1/explain")
    console.get_by_role("button", name="Try again").click()
    expect(console.locator("#why h2")).to_be_visible()
    expect(console.locator(".item[aria-pressed=true]")).to_have_attribute("data-place", "28")
    expect(console.locator("#rank-notice")).to_be_empty()


def test_an_answer_that_comes_too_late_is_dropped(console: Page) -> None:
    """The second user's ranking stays, though the first one's answer comes after it."""
    held: list[Any] = []

    def hold_first(route: Any) -> None:
        if held:
            route.continue_()
        else:
            held.append(route)

    console.route("**/v1/rank", hold_first)
    rank(console, "user-1")
    expect(console.locator("#ranking")).to_have_attribute("aria-busy", "true")
    rank(console, "user-2")
    expect(console.locator("#why h2")).to_be_visible()
    first = console.locator(".ranking tbody").inner_text()
    with console.expect_response("**/v1/rank"):
        held[0].continue_()
    expect(console.locator("#ranking")).not_to_have_attribute("aria-busy", "true")
    assert console.locator(".ranking tbody").inner_text() == first
