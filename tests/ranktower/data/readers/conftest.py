"""Small files in the official formats, and the real data where there is some."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable
from pathlib import Path

import pytest

Writer = Callable[[str, str], Path]


@pytest.fixture
def write(tmp_path: Path) -> Writer:
    """Write a text below the test's folder, compressed where the name ends in .gz."""

    def writer(name: str, text: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        content = text.encode()
        path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
        return path

    return writer


@pytest.fixture(scope="session")
def kuairand_folder() -> Path:
    """The real KuaiRand subset, or a skip that says where it was looked for."""
    beside = Path(__file__).parents[4].parent / "shared" / "data"
    root = Path(os.environ.get("RANKTOWER_DATA_DIR", beside))
    for folder in (root, root / "kuairand-pure"):
        if any(folder.glob("exposures_before_*")):
            return folder
    pytest.skip(f"no KuaiRand subset in {root}; name its folder in RANKTOWER_DATA_DIR")
