"""What it measures takes a container engine and minutes; here it is what it says where there is none."""

from __future__ import annotations

from pathlib import Path

import pytest
import stack_start


def test_without_an_engine_it_says_so_and_measures_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    stack_start.main()
    assert capsys.readouterr().err == "stack_start: no container engine is reachable, nothing is measured\n"
