"""Pictures of the console for ``docs/console.md``, in a real Chromium before a service that is asked meanwhile.

Run: ``python benchmarks/console_pictures.py --registry build/demo/kuairand/registry --model demo`` after ``make demo``.
"""

from __future__ import annotations

import argparse
import contextlib
import random
import shutil
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import httpx
from playwright.sync_api import Browser, Page, expect, sync_playwright
from reference_release import serving

ROOT = Path(__file__).parents[1]
IMAGES = ROOT / "docs" / "images"
# Requests in a second; one core is to be far from busy.
RATE = 20.0
# Readings of /metrics in the picture of the Service view.
READINGS = 12


def main() -> int:
    """Write the three pictures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--registry", type=Path, default=ROOT / "build" / "demo" / "kuairand" / "registry")
    parser.add_argument("--model", default="demo")
    options = parser.parse_args()
    with (
        serving(options.registry, {}, model=options.model) as url,
        traffic(url),
        sync_playwright() as playwright,
    ):
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        draw(browser, url)
        browser.close()
    return 0


def draw(browser: Browser, url: str) -> None:
    """Rank in the light, Service in the dark, Rank on a phone."""
    wide = {"width": 1280, "height": 860}
    light = browser.new_page(color_scheme="light", viewport=wide)
    rank(light, url)
    light.screenshot(path=IMAGES / "console-light.png")
    dark = browser.new_page(color_scheme="dark", viewport=wide)
    dark.goto(f"{url}/console#service")
    for _ in range(READINGS):
        dark.wait_for_event("response", lambda answer: answer.url.endswith("/metrics"))
    dark.screenshot(path=IMAGES / "console-dark.png")
    phone = browser.new_page(color_scheme="light", viewport={"width": 360, "height": 780}, device_scale_factor=2)
    rank(phone, url)
    phone.screenshot(path=IMAGES / "console-phone.png")


def rank(page: Page, url: str) -> None:
    """Ask for a ranking and wait until its first item is explained."""
    page.goto(f"{url}/console")
    expect(page.locator("#user")).not_to_have_value("")
    page.click("#ask button[type=submit]")
    page.wait_for_selector("#why h2", state="attached")


@contextlib.contextmanager
def traffic(url: str) -> Iterator[None]:
    """Requests at random times, some with a budget that is too small for full scoring."""
    done = threading.Event()

    def ask() -> None:
        with httpx.Client(base_url=url) as client:
            users = client.get("/v1/console/users").json()["users"]
            while not done.wait(random.expovariate(RATE)):
                body = {"user_id": random.choice(users), "num_candidates": random.choice([200, 500, 1000])}
                budget = {"budget_ms": random.uniform(8, 16)} if random.random() < 0.15 else {}
                client.post("/v1/rank", json=body | budget)

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


if __name__ == "__main__":
    sys.exit(main())
