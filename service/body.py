"""Reading a request's body without ever holding more of it than is allowed."""

from __future__ import annotations

import asyncio

from starlette.requests import Request
from starlette.types import Message

from service.context import context_of
from service.errors import BodyTimeoutError, BodyTooLargeError, ClientGoneError, UnsupportedEncodingError
from service.settings import LimitSettings


async def read_body(request: Request, limits: LimitSettings) -> bytes:
    """The whole body.

    Raises:
        UnsupportedEncodingError: the body is compressed.
        BodyTooLargeError: more than ``max_body_bytes``, found in the header before the body or while the body arrives.
        ClientGoneError: the client closed the connection.
        BodyTimeoutError: the client did not finish within ``body_timeout_ms``.
    """
    context = context_of(request)
    encoding = context.header(b"content-encoding").strip().lower()
    if encoding not in {"", "identity"}:
        raise UnsupportedEncodingError(
            "content-encoding: only uncompressed JSON is accepted", headers={"accept-encoding": ""}
        )
    declared = context.header(b"content-length")
    if declared.isdigit() and int(declared) > limits.max_body_bytes:
        raise _too_large(limits)
    try:
        # Around the first message too: a client may send its headers and nothing more.
        async with asyncio.timeout(limits.body_timeout_ms / 1000.0):
            return await _read(request, limits)
    except TimeoutError:
        raise BodyTimeoutError(f"the body did not arrive within {limits.body_timeout_ms:g} ms") from None


async def _read(request: Request, limits: LimitSettings) -> bytes:
    message = await request.receive()
    if message["type"] == "http.request" and not message.get("more_body", False):
        # The usual case, one message: no copy.
        whole: bytes = message.get("body", b"")
        if len(whole) > limits.max_body_bytes:
            raise _too_large(limits)
        return whole
    return await _read_rest(request, message, limits)


async def _read_rest(request: Request, message: Message, limits: LimitSettings) -> bytes:
    parts = bytearray()
    while True:
        if message["type"] == "http.disconnect":
            raise ClientGoneError("the client closed the connection")
        parts += message.get("body", b"")
        if len(parts) > limits.max_body_bytes:
            raise _too_large(limits)
        if not message.get("more_body", False):
            return bytes(parts)
        message = await request.receive()


def _too_large(limits: LimitSettings) -> BodyTooLargeError:
    return BodyTooLargeError(f"the body is larger than {limits.max_body_bytes} bytes")
