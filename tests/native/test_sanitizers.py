"""Every code path that this processor runs, held against the reference while the sanitizers look on."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from typing import Any

import pytest


def without_randomized_addresses() -> list[str]:
    """The sanitizers of older compilers find no room where a newer kernel scatters addresses widely."""
    command = ["setarch", "-R"]
    if (
        shutil.which("setarch") is None
        or subprocess.run([*command, "true"], check=False, capture_output=True).returncode
    ):
        return []
    return command


@pytest.mark.parametrize(
    ("mode", "count"),
    [("models", 60), ("lengths", 5), ("extremes", 60), ("bad_values", 12), ("refusals", 1), ("threads", 40)],
)
def test_nothing_is_read_or_written_that_should_not_be(
    build_harness: Callable[..., Any], cxx: str, mode: str, count: int
) -> None:
    flags = ("-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    build_harness(cxx, *flags, before=without_randomized_addresses()).hold(mode, count)


@pytest.mark.parametrize("of_char", ["-fsigned-char", "-funsigned-char"])  # as on x86, and as on Arm
def test_ids_are_looked_up_within_their_tables_sound_or_damaged(
    build_harness: Callable[..., Any], cxx: str, of_char: str
) -> None:
    flags = (of_char, "-O1", "-fsanitize=address,undefined", "-fno-sanitize-recover=all")
    driver = build_harness(cxx, *flags, before=without_randomized_addresses(), program="ids_driver")
    assert re.fullmatch(r"ids: [1-9]\d* held\n", driver.run(1, 4000))


def test_threads_that_score_at_once_share_nothing_they_write(build_harness: Callable[..., Any], cxx: str) -> None:
    build_harness(cxx, "-O1", "-fsanitize=thread", before=without_randomized_addresses()).hold("threads", 60)
