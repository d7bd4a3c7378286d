"""A real Chromium before a real server. A page that logs an error, breaks its policy or opens a dialog fails."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

PATIENCE_MS = 30_000
expect.set_options(timeout=PATIENCE_MS)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser a module."""
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        yield started
        started.close()


@pytest.fixture
def open_console(browser: Browser) -> Iterator[Callable[..., Page]]:
    """``open_console(url, **options)`` opens the console of a service in a context of its own."""
    problems: list[str] = []
    contexts = []

    def open_page(url: str, **options: Any) -> Page:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE_MS)
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: (problems.append(dialog.message), dialog.dismiss()))
        page.on("console", lambda message: note(message.type, message.text))
        page.goto(f"{url}/console")
        return page

    def note(kind: str, text: str) -> None:
        # The browser's own line about an answer that is not 200, or a server that is gone, is no fault of the page.
        if kind in ("error", "warning") and not text.startswith("Failed to load resource: "):
            problems.append(text)

    yield open_page
    for context in contexts:
        context.close()
    assert not problems


@pytest.fixture
def console(server: Any, open_console: Callable[..., Page]) -> Page:
    """The console of the session's server, with a user in the field."""
    page = open_console(server.url)
    expect(page.locator("#user")).not_to_have_value("")
    return page
