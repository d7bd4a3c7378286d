"""The Service view: figures from /metrics between two readings, the release, its ladder; and how seldom it asks."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Page, expect
from prometheus_client.parser import text_string_to_metric_families

MODULE = "import(new URL('console/metrics.js', document.baseURI))"
DURATION = "ranktower_request_duration_seconds"


def test_what_happened_between_two_readings(server: Any, console: Page) -> None:
    console.click("nav a[href='#service']")
    expect(console.locator("#live")).to_contain_text("Reading again soon.")
    for _ in range(20):
        server.score("user-1", list(range(100)))
    figures = console.locator("#live .figures")
    expect(figures).to_contain_text("p99")
    expect(console.get_by_role("img", name="Latency of 20 answers")).to_be_visible()
    expect(console.get_by_role("row", name="shed 0.0 % 0")).to_be_visible()
    expect(console.get_by_role("row", name="score")).to_contain_text("ms")


def test_the_release_and_its_ladder(server: Any, release: Any, console: Page) -> None:
    console.click("nav a[href='#service']")
    place = console.locator("#release")
    expect(place).to_contain_text(release.release)
    expect(place).to_contain_text("4 × 4 sub-spaces, width 32, attention 32")
    expect(place.locator(".figures-table tbody tr")).to_have_count(len(release.manifest.ladder))
    for level in release.manifest.ladder:
        name = f"{level.level} {100 * level.share:.0f} % {level.ndcg_to_full:.3f} {level.recall_to_full:.3f}"
        expect(place.get_by_role("row", name=name)).to_be_visible()


def test_each_replica_counts_for_itself(
    server: Any, release: Any, start_server: Callable[..., Any], console: Page
) -> None:
    """As behind a proxy: the readings come by turns from two replicas, of which one has counted far less."""
    other = start_server(release.folder.parent.parent)
    other.wait_ready()
    live = console.locator("#live")

    def read(replica: Any) -> None:
        text = replica.client.get("/metrics").text
        console.route("**/metrics", lambda route: route.fulfill(body=text), times=1)
        console.evaluate("async () => { await (await import(new URL('console/live.js', document.baseURI))).poll(); }")

    for _ in range(9):
        server.score("user-1", [1])
    read(server)
    read(other)
    expect(live).to_contain_text("Reading again soon.")
    for replica, times in ((server, 2), (other, 3)):
        for _ in range(times):
            replica.score("user-1", [1])
    read(server)
    expect(live.locator("[aria-label^='Latency of 2 answers']")).to_have_count(1)
    read(other)
    expect(live.locator("[aria-label^='Latency of 5 answers']")).to_have_count(1)
    for name, requests in (("degraded", 0), ("shed", 0), ("failed or refused", 0)):
        expect(live.locator("tr", has_text=name)).to_have_text(f"{name}0.0\u00a0%{requests}")
    assert other.stop() == 0


def test_the_release_after_a_failure_and_while_somebody_reads(server: Any, console: Page) -> None:
    """The button leads on by itself; the offline metrics keep the focus while what is above them goes on."""
    answer = server.client.get("/v1/release").json() | {"offline_metrics": {"ndcg": 0.5}}
    console.route("**/v1/release", lambda route: route.abort())
    console.click("nav a[href='#service']")
    place = console.locator("#release")
    expect(place.get_by_role("alert")).to_contain_text("The service cannot be reached.")
    console.route("**/v1/release", lambda route: route.fulfill(body=json.dumps(answer)))
    place.get_by_role("button", name="Try again").click()
    expect(place.locator("dl")).to_contain_text(answer["release"])
    summary = place.locator("summary")
    summary.click()
    answer["model"] = "another"
    console.evaluate("async () => (await import(new URL('console/release.js', document.baseURI))).showRelease()")
    expect(place.locator("dl")).to_contain_text("another")
    expect(place.locator("h2, dl, details")).to_have_count(3)
    expect(summary).to_be_focused()
    expect(place.locator("pre")).to_be_visible()
    answer["offline_metrics"]["ndcg"] = 0.75
    console.evaluate("async () => (await import(new URL('console/release.js', document.baseURI))).showRelease()")
    expect(place.locator("details pre")).to_contain_text("0.75")
    expect(place.locator("details pre")).to_be_visible()
    expect(place.locator("h2, dl, details")).to_have_count(3)


def test_metrics_are_read_only_while_they_are_seen(console: Page) -> None:
    asked: list[str] = []
    console.on("request", lambda request: asked.append(request.url))
    console.wait_for_timeout(2500)
    assert not [url for url in asked if url.endswith(("/metrics", "/v1/release"))]
    with console.expect_request("**/metrics"):
        console.click("nav a[href='#service']")
    with console.expect_request("**/metrics"):
        pass
    console.click("nav a[href='#rank']")
    expect(console.locator("#live")).to_be_hidden()


def test_the_text_is_read_as_the_prometheus_client_reads_it(server: Any, console: Page) -> None:
    server.score("user-1", [1])
    text = server.client.get("/metrics").text
    text += 'odd{a="q\\"b\\\\n\\nx",le="+Inf"} 1e-3\nnothing NaN\nendless +Inf\n'
    found = console.evaluate(
        f"""async (text) => {{
          const {{ Reading }} = await {MODULE};
          return [...new Reading(text).samples].flatMap(([name, samples]) =>
            samples.map(({{ labels, value }}) => [name, labels, String(value)]));
        }}""",
        text,
    )
    expected = [
        (sample.name, sample.labels, sample.value)
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    ]
    numbers = [(name, labels, float(value.replace("Infinity", "inf"))) for name, labels, value in found]
    assert repr(sorted(numbers, key=repr)) == repr(sorted(expected, key=repr))


@pytest.mark.parametrize(
    ("counts", "q", "expected"),
    [
        ([[1, 0], [2, 10], [math.inf, 0]], 0.5, 1.5),
        ([[1, 10], [2, 0], [4, 10], [math.inf, 0]], 0.75, 3.0),
        ([[1, 0], [2, 0], [math.inf, 5]], 0.99, 2.0),
        ([[1, 0], [math.inf, 0]], 0.5, None),
    ],
)
def test_quantiles(console: Page, counts: list[list[float]], q: float, expected: float | None) -> None:
    found = console.evaluate(f"async ([counts, q]) => (await {MODULE}).quantile(counts, q)", [counts, q])
    assert found == expected


def test_buckets_of_several_endpoints_are_one_histogram(console: Page) -> None:
    def text(*counts: int) -> str:
        names = [(endpoint, bound) for endpoint in ("score", "rank") for bound in ("0.5", "1.0", "+Inf")]
        labelled = zip(names, counts, strict=True)
        return "\n".join(f'{DURATION}_bucket{{endpoint="{e}",le="{b}"}} {count}' for (e, b), count in labelled)

    readings = [text(1, 2, 2, 0, 0, 0), text(4, 5, 6, 0, 1, 1)]
    script = f"""async (texts) => {{
      const {{ Reading, between }} = await {MODULE};
      return between(...texts.map((text) => new Reading(text).buckets("{DURATION}")));
    }}"""
    assert console.evaluate(script, readings) == [[0.5, 3], [1, 1], [math.inf, 1]]
