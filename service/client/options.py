"""What clients and calls are told besides the question itself, checked where it enters."""

from __future__ import annotations

import re
import ssl
from collections.abc import Iterable, Mapping
from typing import Any, TypedDict

from service.client.retries import Retries

Id = str | int
Features = Mapping[str, Any]


class ClientOptions(TypedDict, total=False):
    """What a client takes besides the service's address. None is as good as absent, here and below."""

    api_key: str | None
    deadline_ms: float | None
    """Of calls that name none; 1000 by default."""
    retries: Retries | None
    ssl_context: ssl.SSLContext | None
    """For ``https`` with certificates of one's own."""


class CallOptions(TypedDict, total=False):
    """What every call takes."""

    deadline_ms: float | None
    """How long the call may take, retries included, a day at most; the client's own without it."""
    request_id: str | None
    """1 to 128 of ``A-Z a-z 0-9 . _ : / + = @ -``; a random one without it. All attempts have the same."""
    traceparent: str | None
    """Of the caller's span (W3C Trace Context); passed on."""
    low_priority: bool | None
    """After all other requests, and the first to be refused."""


class QueryOptions(CallOptions, total=False):
    """What every call about a user takes; as in docs/api.md, like the fields below."""

    user_features: Features | None
    item_features: Mapping[str, Features] | None


class ExplainOptions(QueryOptions, total=False):
    """What ``explain`` takes besides user and candidates."""

    levels: bool | None


class ScoreOptions(QueryOptions, total=False):
    """What ``score`` takes besides user and candidates."""

    freshness: bool | None


class RankOptions(ScoreOptions, total=False):
    """What ``rank`` takes besides the user. Without ``candidate_ids``, ``num_candidates`` are retrieved."""

    candidate_ids: Iterable[Id] | None
    num_candidates: int | None
    top_k: int | None


_LONGEST_DEADLINE_MS = 86_400_000  # a socket takes no infinite wait
_HEADERS = {
    "api_key": (re.compile(r"[ -~]+"), "printable ASCII characters"),
    "traceparent": (re.compile(r"[ -~]+"), "printable ASCII characters"),
    "request_id": (re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}"), "1 to 128 of A-Z a-z 0-9 . _ : / + = @ -"),
}


def given(options: Mapping[str, Any], kind: Any) -> dict[str, Any]:
    """Those of the options that are not None. ``kind`` is the TypedDict with all that there are.

    Raises:
        TypeError: there is no such option.
        ValueError: a value cannot be sent; it names the option, and no value that may be a secret.
    """
    known = kind.__optional_keys__
    if unknown := sorted(options.keys() - known):
        raise TypeError(f"unknown option {', '.join(unknown)}; known are {', '.join(sorted(known))}")
    found = {name: value for name, value in options.items() if value is not None}
    for name, (pattern, form) in _HEADERS.items():
        if name in found:
            found[name] = _header(found[name], name, pattern, form)
    deadline_ms = found.get("deadline_ms", 0)
    if not deadline_ms <= _LONGEST_DEADLINE_MS:  # nor NaN
        raise ValueError(f"deadline_ms: must be at most {_LONGEST_DEADLINE_MS} (a day), got {deadline_ms}")
    return found


def _header(value: Any, name: str, pattern: re.Pattern[str], form: str) -> str:
    """Without the white space around it, which HTTP drops too: a key that was read from a file ends with a newline."""
    stripped = value.strip() if isinstance(value, str) else ""
    if not pattern.fullmatch(stripped):
        raise ValueError(f"{name}: must be a string of {form}")
    return stripped
