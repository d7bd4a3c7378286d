"""``ranktower explain``: asks a running service what a few scores are made of, and prints it as a table."""

from __future__ import annotations

import argparse
import http.client
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Mapping, Sequence
from itertools import zip_longest
from typing import Any

from ranktower.errors import ConfigError

KEY_ENV = "RANKTOWER_AUTH__API_KEY"
WIDTH = 100
"""Columns of the table."""
_BAR, _ID, _ANSWER = 40, 48, 200  # longest bar, id and foreign text, in characters
_CELL = 4  # columns of one attention weight


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status. Raises ConfigError with the service's own text where it refuses."""
    options = _parser().parse_args(argv)
    body = {
        "user_id": options.user,
        "candidate_ids": options.candidates,
        "user_features": options.user_features,
        "item_features": options.item_features,
    }
    sys.stdout.write(table(body, ask(options.url, body, timeout_s=options.timeout_s)))
    return 0


def ask(url: str, body: Mapping[str, Any], *, timeout_s: float) -> dict[str, Any]:
    """The answer of ``POST /v1/explain``; with the API key of the environment, where there is one.

    Raises:
        ConfigError: the service is not there, is another one, or refuses; says so in the service's own words.
    """
    if not url.startswith(("http://", "https://")):
        raise ConfigError(f"--url {url}: must begin with http:// or https://")
    headers = {"content-type": "application/json"}
    if key := os.environ.get(KEY_ENV):
        if not (key.isascii() and key.isprintable()):
            raise ConfigError(f"{KEY_ENV}: holds characters that no header can")
        headers["x-api-key"] = key
    try:
        request = urllib.request.Request(f"{url.rstrip('/')}/v1/explain", json.dumps(body).encode(), headers)
        with urllib.request.urlopen(request, timeout=timeout_s) as response:
            content = response.read()
    except urllib.error.HTTPError as error:
        raise ConfigError(f"--url {url}: {error.code} {_told(error)}") from None
    except (OSError, ValueError, http.client.HTTPException) as error:
        raise ConfigError(f"--url {url}: cannot be reached: {getattr(error, 'reason', error)}") from None
    answer = _json_object(content)
    if "explanations" not in answer:
        raise ConfigError(f"--url {url}: answers, but not as RankTower does")
    return answer


def _told(error: urllib.error.HTTPError) -> str:
    """What an error's body says: the service's own text, or the beginning of another server's."""
    content = error.read()
    told = _json_object(content)
    if told.keys() >= {"error_type", "error"}:
        return f"{told['error_type']}: {told['error']}"
    return content[:_ANSWER].decode("utf-8", errors="replace")


def _json_object(content: bytes) -> dict[str, Any]:
    """Empty where the content is no JSON object."""
    try:
        value = json.loads(content)
    except ValueError:
        value = None
    return value if isinstance(value, dict) else {}


def table(body: Mapping[str, Any], answer: Mapping[str, Any]) -> str:
    """Body and answer of ``POST /v1/explain`` as text of at most ``WIDTH`` columns."""
    explanations, computed = answer["explanations"], answer.get("computed", [])
    parts = [abs(match["contribution"]) for one in explanations if one for match in one["matches"]]
    largest = max(parts, default=0.0) or 1.0
    lines = [f"release {answer['release']}, user {_shown(body['user_id'])} ({answer['user']})"]
    for index, (candidate, one) in enumerate(zip(body["candidate_ids"], explanations, strict=True)):
        if one is None:
            lines += ["", f"candidate {_shown(candidate)}: no score"]
            continue
        origin = " (COMPUTED)" if index in computed else ""
        lines += ["", f"candidate {_shown(candidate)}{origin}: score {one['score']:.4f}"]
        lines += _matches(one["matches"], largest)
        lines += _attention(one["user_attention"], one["item_attention"])
    return "\n".join(lines) + "\n"


def _matches(matches: Sequence[Mapping[str, Any]], largest: float) -> list[str]:
    lines = ["  user  best item   cosine  contribution"]
    for user, match in enumerate(matches):
        contribution = match["contribution"]
        bar = ("#" if contribution > 0 else "-") * round(_BAR * abs(contribution) / largest)
        line = f"  {user:4}  {match['item_subspace']:9}  {match['cosine']:7.4f}  {contribution:12.4f}  {bar}"
        lines.append(line.rstrip())
    return lines


def _attention(user: Sequence[Sequence[float]], item: Sequence[Sequence[float]]) -> list[str]:
    """Both matrices in percent, beside each other where there is room."""
    left = _matrix("user attends to item, %", user)
    right = _matrix("item attends to user, %", item)
    indent = max(map(len, left)) + 4
    if indent + max(map(len, right)) > WIDTH:
        return [*left, *right]
    return [f"{one:{indent}}{other}".rstrip() for one, other in zip_longest(left, right, fillvalue="")]


def _matrix(title: str, weights: Sequence[Sequence[float]]) -> list[str]:
    columns = "".join(f"{column:{_CELL}}" for column in range(len(weights[0])))
    rows = [f"  {row:4}" + "".join(f"{100 * weight:{_CELL}.0f}" for weight in one) for row, one in enumerate(weights)]
    return [f"  {title}", f"      {columns}", *rows]


def _shown(one: str) -> str:
    text = one if one.isprintable() else json.dumps(one)
    return text if len(text) <= _ID else f"{text[:_ID]}..."


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ranktower explain", description=__doc__, epilog=f"{KEY_ENV} holds the API key, where there is one."
    )
    parser.add_argument("--url", default="http://127.0.0.1:8000", help="of the service (default %(default)s)")
    parser.add_argument("--user", required=True, help="the user's id")
    parser.add_argument("--candidates", required=True, nargs="+", metavar="ID", help="1 to 32 items")
    parser.add_argument("--user-features", type=_object, metavar="JSON", help="of a user who is not stored")
    parser.add_argument("--item-features", type=_object, metavar="JSON", help="by id, of candidates not stored")
    parser.add_argument("--timeout-s", type=float, default=10.0, help="wait no longer (default %(default)s)")
    return parser


def _object(text: str) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"must be a JSON object, got {text!r}: {error}") from None
    if not isinstance(value, dict):
        raise argparse.ArgumentTypeError(f"must be a JSON object, got {text!r}")
    return value
