"""``ranktower serve``: the HTTP service, in one process or several."""

from __future__ import annotations

import argparse
import logging
import logging.config
import os
import signal
import socket
import sys
import tempfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

import uvicorn
from uvicorn.config import STARTUP_FAILURE

from ranktower.errors import ConfigError
from service.api_keys import check_keys
from service.draining import STOP_SIGNALS, Workers
from service.logs import log_config
from service.protocol import HttpProtocol
from service.settings import ENV_PREFIX, SHARED_FOLDER_ENV, Settings, load_settings
from service.tracing import tracing_is_asked_for

if TYPE_CHECKING:
    from starlette.types import ASGIApp

logger = logging.getLogger(__name__)

SignalHandler = Callable[[int, FrameType | None], None]

# What ``--option`` sets, by section and key.
_OPTIONS: dict[str, tuple[str, str]] = {
    "registry": ("release", "registry"),
    "model": ("release", "model"),
    "host": ("http", "host"),
    "port": ("http", "port"),
    "workers": ("http", "workers"),
}


def main(argv: Sequence[str] | None = None) -> int:
    """Serve until SIGTERM or SIGINT, then finish the requests under way. Returns the exit status.

    Raises:
        ConfigError: the configuration is wrong, API keys are required and there are none, or the address cannot be
            listened on.
    """
    arguments = vars(_parser().parse_args(argv))
    overrides: dict[str, dict[str, Any]] = {}
    for option, (section, key) in _OPTIONS.items():
        if arguments[option] is not None:
            overrides.setdefault(section, {})[key] = arguments[option]
    settings = load_settings(overrides, arguments["config"])
    logging.config.dictConfig(log_config(settings.log.level))
    check_keys(settings)
    tracing_is_asked_for(os.environ)  # raises here, not in each worker, where it cannot be had
    folder = tempfile.TemporaryDirectory(prefix="ranktower-workers-")
    stop_at_once = partial(_stop_at_once, folder)
    _on_stop_signals(stop_at_once)
    with folder, _listen(settings) as listener:
        host, port = listener.getsockname()[:2]
        fields = {"host": host, "port": port, "workers": settings.http.workers, "model": settings.release.model}
        logger.info("listening", extra={"fields": fields})
        status = _run(settings, listener, folder.name, stop_at_once)
    if status == 0:
        logger.info("stopped")
    return status


def _run(settings: Settings, listener: socket.socket, shared_folder: str, stop_at_once: SignalHandler) -> int:
    """Serve until told to stop; the exit status. One that cannot start has said why in the log."""
    config = uvicorn.Config(
        partial(_create_server, settings),
        factory=True,
        loop="uvloop",
        http=HttpProtocol,
        ws="none",
        lifespan="on",
        workers=settings.http.workers,
        backlog=settings.http.backlog,
        timeout_graceful_shutdown=settings.http.drain_timeout_s,
        log_config=log_config(settings.log.level),
        access_log=False,
        server_header=False,
        # Nothing here asks who the client is, and finding out costs every request.
        proxy_headers=False,
    )
    if settings.http.workers > 1:
        _share_with_workers(shared_folder)
        workers = Workers(config, listener, settings.http.drain_delay_s)
        workers.run()
        return STARTUP_FAILURE if workers.have_failed else 0
    server = uvicorn.Server(config)

    def stop(number: int, frame: FrameType | None) -> None:
        # uvicorn raises the signal again once it has drained, and a service that stopped as asked exits with 0.
        if not server.started:
            stop_at_once(number, frame)

    _on_stop_signals(stop)
    server.run(sockets=[listener])  # exits by itself where it cannot start
    return 0


def _create_server(settings: Settings) -> ASGIApp:
    """The application, imported by the process that serves it: the parent of several workers needs none of it, and
    importing it there first would double the time until they are ready."""
    from service.app import create_server
    from service.background import SWITCH_INTERVAL_S

    sys.setswitchinterval(SWITCH_INTERVAL_S)
    return create_server(settings)


def _share_with_workers(folder: str) -> None:
    """Tell the workers of a folder of theirs, by the environment, before any of them starts."""
    from service.metrics import MULTIPROC_ENV

    os.environ[MULTIPROC_ENV] = folder  # read by prometheus_client when a worker imports it
    os.environ[SHARED_FOLDER_ENV] = folder


def _stop_at_once(folder: tempfile.TemporaryDirectory[str], number: int, frame: FrameType | None) -> None:
    """What a stop signal does before the server listens to signals itself: there is nothing to drain yet.

    It does not raise ``SystemExit``: where the signal arrives inside a destructor or a weak reference's callback, which
    imports and the start of a loop run by the dozen, Python ignores what is raised, and the signal would be lost.
    """
    folder.cleanup()
    os._exit(0)


def _on_stop_signals(handler: SignalHandler) -> None:
    for number in STOP_SIGNALS:
        signal.signal(number, handler)


def _listen(settings: Settings) -> socket.socket:
    host, port = settings.http.host, settings.http.port
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            # A client that connects while the application is still imported waits instead of being refused.
            listener.listen(settings.http.backlog)
        except OSError:
            listener.close()
            raise
    except OSError as error:
        raise ConfigError(f"http.host={host!r}, http.port={port}: cannot listen: {error.strerror}") from error
    listener.set_inheritable(True)
    return listener


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="ranktower serve",
        description="Serve the promoted release of a model over HTTP.",
        epilog=f"Every setting of docs/api.md can also be given as {ENV_PREFIX}<SECTION>__<KEY> or in the YAML file;"
        " an option wins over the environment, the environment over the file.",
    )
    parser.add_argument("--registry", type=Path, help="folder of the releases")
    parser.add_argument("--model", help="which model's releases to serve")
    parser.add_argument("--host", help="address to listen on (default 127.0.0.1)")
    parser.add_argument("--port", type=int, help="port to listen on, 0 for any (default 8000)")
    parser.add_argument("--workers", type=int, help="processes, one core each (default 1)")
    parser.add_argument("--config", type=Path, help="YAML file with the same sections and keys")
    return parser
