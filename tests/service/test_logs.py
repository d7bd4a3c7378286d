"""One JSON line a record, and no text of an exception in it."""

from __future__ import annotations

import json
import logging
import sys
from typing import Any

import pytest

from service.logs import JsonFormatter, OnceAMinute, log_config


def line(*args: Any, **extra: Any) -> dict[str, Any]:
    record = logging.getLogger("service.x").makeRecord("service.x", logging.WARNING, "f", 1, *args, **extra)
    text = JsonFormatter().format(record)
    assert "\n" not in text
    content: dict[str, Any] = json.loads(text)
    return content


def test_a_record_is_one_line_with_its_fields() -> None:
    content = line('a "message"\nof %s', ("two lines",), None, extra={"fields": {"release": "r", "path": None}})
    assert content.pop("time").endswith("+00:00")
    assert content == {
        "level": "warning",
        "logger": "service.x",
        "message": 'a "message"\nof two lines',
        "release": "r",
        "path": None,
    }


def test_an_exception_gives_its_type_and_place_but_not_its_text() -> None:
    try:
        int("user-secret")
    except ValueError:
        content = line("failed", (), sys.exc_info())
    assert content["exception"] == "ValueError"
    assert content["traceback"][0].startswith(__file__)
    assert "secret" not in json.dumps(content).replace(__file__, "")


def test_a_message_that_is_repeated_passes_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr("service.logs.time.monotonic", lambda: now)
    sieve = OnceAMinute()

    def passes(lineno: int, argument: str) -> bool:
        record = logging.LogRecord("exporter", logging.WARNING, "exporter.py", lineno, "no %s", (argument,), None)
        return sieve.filter(record)

    assert [passes(1, "a"), passes(1, "b"), passes(2, "a")] == [True, False, True]
    now = 59.0
    assert not passes(1, "a")
    now = 61.0
    assert [passes(1, "a"), passes(1, "a")] == [True, False]


def test_an_exception_passes_by_its_place_whoever_logs_it() -> None:
    sieve = OnceAMinute()

    def passes(text: str) -> bool:
        try:
            int(text)
        except ValueError:
            return sieve.filter(logging.LogRecord("x", logging.ERROR, "errors.py", len(text), "e", (), sys.exc_info()))
        raise AssertionError

    assert [passes("a"), passes("ab")] == [True, False]
    assert sieve.filter(logging.LogRecord("x", logging.ERROR, "errors.py", 1, "e", (), None))


def test_the_level_is_the_settings() -> None:
    assert log_config("debug")["loggers"]["service"]["level"] == "DEBUG"
    assert log_config("debug")["loggers"]["uvicorn.error"]["level"] == "DEBUG"
    assert log_config("info")["loggers"]["uvicorn.error"]["level"] == "WARNING"
    assert log_config("error")["loggers"]["uvicorn.error"]["level"] == "ERROR"
