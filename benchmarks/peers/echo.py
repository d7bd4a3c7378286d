"""The least a Python server can do with such a request: read it, answer as many constant scores. No lookup, no model.

Run by the harness under uvicorn. A generator that gets several times a peer's rate out of this is no bottleneck there.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

import orjson

Message = MutableMapping[str, Any]
# As many digits as a float32 score is written with.
_SCORE = 3.8467891


async def app(
    scope: Message, receive: Callable[[], Awaitable[Message]], send: Callable[[Message], Awaitable[None]]
) -> None:
    """Answer any request with one constant score a candidate."""
    body = b""
    is_whole = False
    while not is_whole:
        message = await receive()
        body += message.get("body", b"")
        is_whole = not message.get("more_body", False)
    answer = orjson.dumps({"scores": [_SCORE] * len(orjson.loads(body)["candidate_ids"])})
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(answer)).encode())]
    await send({"type": "http.response.start", "status": 200, "headers": headers})
    await send({"type": "http.response.body", "body": answer})
