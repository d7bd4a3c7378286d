"""HTTP/1.1 as uvicorn speaks it, with the time of each arrival, and for clients that offer another protocol too.

Every plain connection of Java's own client begins with ``Upgrade: h2c``. A server that has no such protocol goes on as
if the header were not there; uvicorn's parser stops instead and loses the body (github.com/Kludex/uvicorn/issues/2722).
"""

from __future__ import annotations

import time

import httptools
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_FRAMING = (b"content-length", b"transfer-encoding")


class HttpProtocol(HttpToolsProtocol):
    """Reads on where the parser stopped for an upgrade, with a new parser that is not told of it.

    Keeps no connection alive while the service drains, so that clients move on before it closes their connections.
    Puts into the state of a request's scope when it was read and when it may have arrived (``read_at``, ``arrival``, of
    ``time.perf_counter``), and how to ask whether the client has left (``is_gone``).
    """

    def on_message_begin(self) -> None:
        """As uvicorn's. Arrival is here, not when the request's task runs: the time between belongs to its budget."""
        super().on_message_begin()
        state = self.scope["state"]
        turns = state.get("turns")
        # While one request was scored, nothing was read: this one may have been in the socket ever since that began.
        busy_since = turns.busy_since if turns is not None else None
        state["read_at"] = now = time.perf_counter()
        state["arrival"] = now if busy_since is None else busy_since
        state["is_gone"] = self.transport.is_closing

    def on_headers_complete(self) -> None:
        """As uvicorn's. The answer to a request that comes while the service drains says ``connection: close``."""
        super().on_headers_complete()
        drain = self.app_state.get("drain")
        if drain is not None and drain.begun:
            self.cycle.keep_alive = False

    def data_received(self, data: bytes) -> None:
        """As uvicorn's, but for upgrades: the service has none."""
        self._unset_keepalive_if_required()
        try:
            while data:
                try:
                    self.parser.feed_data(data)
                    return
                except httptools.HttpParserUpgrade as upgrade:
                    data = data[upgrade.args[0] :]
                    self._forget_upgrade()
        except httptools.HttpParserError:
            message = "Invalid HTTP request received."
            self.logger.warning(message)
            self.send_400_response(message)

    def _forget_upgrade(self) -> None:
        """The old parser has called the request complete without its body. Its task runs after this, so it never
        knows."""
        self.cycle.more_body = True
        self.cycle.message_event.clear()
        framing = b"".join(b"%b: %b\r\n" % (name, value) for name, value in self.headers if name in _FRAMING)
        rest = _AfterTheHeaders(self)
        self.parser = httptools.HttpRequestParser(rest)
        self.parser.set_dangerous_leniencies(lenient_data_after_close=True)  # as uvicorn does
        self.parser.feed_data(b"POST / HTTP/1.1\r\n" + framing + b"\r\n")
        rest.request_known = False


class _AfterTheHeaders:
    """Passes on what the new parser finds, but for the first request's headers: the protocol has the real ones."""

    def __init__(self, protocol: HttpProtocol) -> None:
        self._protocol = protocol
        self.request_known = True
        self.on_body = protocol.on_body
        self.on_message_complete = protocol.on_message_complete

    def on_message_begin(self) -> None:
        if not self.request_known:
            self._protocol.on_message_begin()

    def on_url(self, url: bytes) -> None:
        if not self.request_known:
            self._protocol.on_url(url)

    def on_header(self, name: bytes, value: bytes) -> None:
        if not self.request_known:
            self._protocol.on_header(name, value)

    def on_headers_complete(self) -> None:
        if not self.request_known:
            self._protocol.on_headers_complete()
