"""Widths, colours, motion and addresses: how the page stands on other screens and behind a proxy."""

from __future__ import annotations

import re
import socket
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Page, expect

NGINX = """
daemon off; master_process off; pid {folder}/nginx.pid; error_log stderr;
events {{}}
http {{
  access_log off; client_body_temp_path {folder}; proxy_temp_path {folder};
  fastcgi_temp_path {folder}; uwsgi_temp_path {folder}; scgi_temp_path {folder};
  server {{
    listen 127.0.0.1:{port};
    location /scoring/ {{ proxy_pass {url}/; }}
  }}
}}
"""
# Foreground and background as they are seen: of a background that is not there, the nearest one behind it.
CONTRASTS = """() => [...document.querySelectorAll('body *')].flatMap((node) => {
  const text = [...node.childNodes].some((one) => one.nodeType === 3 && one.textContent.trim());
  if (!text || !node.checkVisibility() || node.closest('svg, option, [disabled]')) return [];
  let behind = node;
  while (getComputedStyle(behind).backgroundColor === 'rgba(0, 0, 0, 0)') behind = behind.parentElement;
  const [front, back] = [getComputedStyle(node).color, getComputedStyle(behind).backgroundColor];
  return [[node.textContent.trim().slice(0, 40), front, back]];
})"""


def fill_all(page: Page, own: str = "") -> None:
    page.evaluate("document.querySelector('#more').open = true")
    page.fill("#own", own)
    page.click("#ask button[type=submit]")
    expect(page.locator("#why h2")).to_be_visible()


def luminance(colour: str) -> float:
    scale = 1.0 if colour.startswith("color(") else 255.0
    channels = [float(part) / scale for part in re.findall(r"(?<![\w.])[\d.]+", colour)[:3]]
    linear = [one / 12.92 if one <= 0.04045 else ((one + 0.055) / 1.055) ** 2.4 for one in channels]
    return sum(weight * one for weight, one in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


@pytest.mark.parametrize("width", [360, 600, 900, 1280])
def test_nothing_scrolls_sideways(server: Any, release: Any, open_console: Callable[..., Page], width: int) -> None:
    page = open_console(server.url, viewport={"width": width, "height": 740})
    expect(page.locator("#user")).not_to_have_value("")
    fill_all(page, "\n".join(one for one in release.item_ids[-30:] if "\n" not in one))
    for view in ("rank", "service", "playground"):
        page.click(f"nav a[href='#{view}']")
        if view == "service":
            expect(page.locator("#release dl")).to_be_visible()
            expect(page.locator("#live table").first).to_be_visible()
        if view == "playground":
            page.click("#play button[type=submit]")
            expect(page.locator("#answer pre")).to_be_visible()
        assert page.evaluate("document.documentElement.scrollWidth") <= width, view


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_text_stands_out_from_its_ground(server: Any, open_console: Callable[..., Page], scheme: Any) -> None:
    page = open_console(server.url, color_scheme=scheme)
    expect(page.locator("#user")).not_to_have_value("")
    fill_all(page)
    page.click("#key-toggle")
    grounds = set()
    for view in ("rank", "service", "playground"):
        page.click(f"nav a[href='#{view}']")
        if view == "service":
            expect(page.locator("#release dl")).to_be_visible()
        for text, colour, ground in page.evaluate(CONTRASTS):
            darker, lighter = sorted((luminance(colour), luminance(ground)))
            assert (lighter + 0.05) / (darker + 0.05) >= 4.5, (view, text, colour, ground)
            grounds.add(luminance(ground))
    assert max(grounds) == 1.0 if scheme == "light" else min(grounds) < 0.01


def test_nothing_moves_where_motion_is_not_wanted(server: Any, open_console: Callable[..., Page]) -> None:
    page = open_console(server.url, reduced_motion="reduce")
    page.evaluate("document.querySelector('#ranking').setAttribute('aria-busy', 'true')")
    assert page.evaluate("getComputedStyle(document.querySelector('#ranking')).transitionDuration") == "0s"


def test_it_works_behind_a_prefix(server: Any, open_console: Callable[..., Page], tmp_path: Path) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    (tmp_path / "nginx.conf").write_text(NGINX.format(folder=tmp_path, port=port, url=server.url))
    with subprocess.Popen(["nginx", "-e", "stderr", "-p", tmp_path, "-c", tmp_path / "nginx.conf"]) as nginx:
        try:
            server.wait_until(lambda: is_open(port), "reached through nginx")
            page = open_console(f"http://127.0.0.1:{port}/scoring")
            expect(page.locator("#user")).not_to_have_value("")
            fill_all(page)
            page.click("nav a[href='#service']")
            expect(page.locator("#release dl")).to_be_visible()
            expect(page.locator("#live table").first).to_be_visible()
            page.click("nav a[href='#playground']")
            assert f"'http://127.0.0.1:{port}/scoring/v1/rank'" in page.locator("#curl").inner_text()
        finally:
            nginx.terminate()


def is_open(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def test_the_address_names_the_view(server: Any, console: Page) -> None:
    console.click("nav a[href='#service']")
    expect(console.locator("nav a[aria-current=page]")).to_have_text("Service")
    console.go_back()
    expect(console.locator("#rank")).to_be_visible()
    console.goto(f"{server.url}/console#playground")
    console.reload()
    expect(console.locator("#playground")).to_be_visible()
    expect(console.locator("#rank")).to_be_hidden()
