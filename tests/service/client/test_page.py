"""The examples of docs/client.md, each run as it stands there, against a real server."""

from __future__ import annotations

import dataclasses
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import service.client
from service.client import RankTowerError
from service.client.options import CallOptions, ClientOptions

PAGE = (Path(__file__).parents[3] / "docs" / "client.md").read_text(encoding="utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
PRINTED = (
    r"20\d{6}T\S+ \[\d+\.\d+, \d+\.\d+, None\] \[2\]",
    r"\[\d+\.\d+, \d+\.\d+, \d+\.\d+\] \['\d+', '\d+', '\d+', '\d+', '\d+'\]",
    r"[02] None",
    r"True",
    r"malformed candidate_ids\[0\]: must be a string or an integer.*",
)


@pytest.mark.parametrize(("example", "printed"), list(zip(EXAMPLES, PRINTED, strict=True)), ids=range(len(PRINTED)))
def test_an_example(server: Any, example: str, printed: str) -> None:
    code = example.replace("http://localhost:8000", server.url)
    # The machine may be busy: the page's deadlines are for one that is not.
    code = re.sub(r"deadline_ms=\d+", "deadline_ms=20_000", code)
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(printed, done.stdout.strip())


def test_every_error_option_and_field_of_the_retries_stands_in_it() -> None:
    errors = [one for one in vars(service.client).values() if isinstance(one, type) and issubclass(one, RankTowerError)]
    names = [error.__name__ for error in errors]
    names += [*CallOptions.__optional_keys__, *ClientOptions.__optional_keys__]
    names += [field.name for field in dataclasses.fields(service.client.Retries)]
    assert [name for name in names if name not in PAGE] == []
