"""The candidates in a request's JSON, left as the text that compiled code looks up, where the package ranktower-native
is installed: of all that parsing does, making a thousand objects of them takes the longest."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from importlib.util import find_spec
from typing import TYPE_CHECKING

import orjson

from ranktower.embedding_store.joined_ids import JoinedIds

if TYPE_CHECKING:
    from ranktower_native import JoinedArray

_KEY = b'"candidate_ids"'
_SPACES = b" \n\t\r"
# Of some 150 candidates. Shorter bodies are parsed whole, and their ids joined, in the time that this takes.
_LEAST_BYTES = 2048


def split_candidates(body: bytes) -> tuple[bytes, JoinedIds] | None:
    """A body's JSON with null in place of its candidates, and the candidates.

    The rest is to be parsed: it is an object with null under ``candidate_ids``, or what was cut out were not the
    candidates but stood deeper down.

    Returns:
        None where the whole body must be parsed instead, be it right or wrong.
    """
    join = _join_ids()
    at = -1 if join is None or len(body) < _LEAST_BYTES else body.find(_KEY)
    if join is None or at < 0:
        return None
    start = _behind_spaces(body, at + len(_KEY))
    if body[start : start + 1] != b":":
        return None
    start = _behind_spaces(body, start + 1)
    array = join(body, start)
    if array is None:
        return None
    rest = b"%bnull%b" % (body[:start], body[array.end :])
    # The key may come twice, once perhaps with an escape in it, and then the last one counts.
    if rest.count(_KEY) > 1 or b"\\" in rest:
        return None
    return rest, JoinedIds(array.joined, array.num_ids, lambda: orjson.loads(body[start : array.end]))


def _behind_spaces(body: bytes, at: int) -> int:
    while body[at : at + 1] and body[at] in _SPACES:
        at += 1
    return at


@cache
def _join_ids() -> Callable[[bytes, int], JoinedArray | None] | None:
    if find_spec("ranktower_native") is None:
        return None
    try:
        from ranktower_native import join_ids

        join_ids(b"[]", 0)  # loads the library
    except (ImportError, RuntimeError):  # of which NativeError is one; whoever opens a table says so in the log
        return None
    return join_ids
