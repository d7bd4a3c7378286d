"""Logs as JSON lines. They hold no body and no id of a user or an item, also not inside an exception's text."""

from __future__ import annotations

import logging
import math
import time
import traceback
from datetime import UTC, datetime
from typing import Any

import orjson


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, logger, message, and the fields given as ``extra={"fields": {...}}``."""

    def format(self, record: logging.LogRecord) -> str:
        """The record as one line."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, tz=UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage().strip(),
        }
        line.update(getattr(record, "fields", {}))
        if record.exc_info and record.exc_info[0] is not None:
            # The exception's text may quote what a client sent; its type and place are what finds the fault.
            line["exception"] = record.exc_info[0].__name__
            line["traceback"] = [
                f"{frame.filename}:{frame.lineno} {frame.name}" for frame in traceback.extract_tb(record.exc_info[2])
            ]
        return orjson.dumps(line, default=str).decode("utf-8")


class OnceAMinute(logging.Filter):
    """Lets the same message, whatever its arguments, or the same exception pass once a minute: a library repeats what
    cannot be helped as often as it tries, and a fault of ours as often as requests meet it."""

    def __init__(self) -> None:
        """Nothing has passed yet."""
        super().__init__()
        self._passed_at: dict[tuple[str, int], float] = {}

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is the first of its place in the code, which is an exception's own, for a minute."""
        place, now = (record.pathname, record.lineno), time.monotonic()
        if record.exc_info and record.exc_info[2] is not None:
            frame = traceback.extract_tb(record.exc_info[2])[-1]
            place = (frame.filename, frame.lineno or 0)
        if now - self._passed_at.get(place, -math.inf) < 60.0:
            return False
        self._passed_at[place] = now
        return True


class NoTraceback(logging.Filter):
    """Drops what the framework hands to the server of a failed start: one message that is a whole traceback, with the
    exception's text. ``service.lifespan`` has logged the exception."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether the record is another one."""
        return not record.getMessage().startswith("Traceback ")


def log_config(level: str) -> dict[str, Any]:
    """Configuration for ``logging.config.dictConfig``, in the form that uvicorn passes on to its workers."""
    stderr = {"class": "logging.StreamHandler", "formatter": "json", "stream": "ext://sys.stderr"}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"json": {"()": "service.logs.JsonFormatter"}},
        "filters": {
            "once_a_minute": {"()": "service.logs.OnceAMinute"},
            "no_traceback": {"()": "service.logs.NoTraceback"},
        },
        "handlers": {"stderr": stderr, "rarely": {**stderr, "filters": ["once_a_minute"]}},
        "root": {"level": "WARNING", "handlers": ["stderr"]},
        "loggers": {
            "service": {"level": level.upper()},
            # Of the requests that fail, RequestLog writes as many lines as it may.
            "service.errors": {"filters": ["once_a_minute"]},
            # Its lines on every start and stop of a process only double the service's own.
            "uvicorn.error": {"level": "WARNING" if level == "info" else level.upper(), "filters": ["no_traceback"]},
            "opentelemetry": {"handlers": ["rarely"], "propagate": False},
            # Quotes a caller's wrong headers.
            "opentelemetry.trace": {"level": "CRITICAL"},
        },
    }
