"""``make loadtest`` is the command that ``tests/benchmarks/locust`` runs."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def test_make_runs_the_locustfile(page: Callable[..., Any]) -> None:
    """With the options of the page's other command it would run just that one, which another test runs."""
    load_testing = page("load-testing.md")
    (make,) = load_testing.commands(test="test_make_runs_the_locustfile")
    (other,) = load_testing.commands(test="test_the_pages_command_runs")
    expected = shlex.split(other)
    options = shlex.join(expected[expected.index("--headless") :])
    command = [*shlex.split(make), f"LOCUST={options}", "--dry-run"]
    told = subprocess.run(command, cwd=ROOT, check=True, capture_output=True, text=True).stdout
    (would_run,) = re.findall(r"^\S+/bin/locust .*$", told, flags=re.MULTILINE)
    assert shlex.split(would_run)[1:] == expected[1:]
