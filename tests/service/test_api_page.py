"""The request of ``docs/api.md`` is sent as it stands there."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path
from typing import Any

PAGE = (Path(__file__).parents[2] / "docs/api.md").read_text(encoding="utf-8")


def test_the_request_gets_the_answer_shown(server: Any) -> None:
    ((command, shown),) = re.findall(r"```sh\n(curl -s \S+/v1/score .*?)```\n```json\n(.*?)```", PAGE, flags=re.DOTALL)
    here = command.replace("localhost:8000", server.url).replace('"budget_ms": 20', '"budget_ms": 20000')
    answer = json.loads(subprocess.run(["sh", "-c", here], check=True, capture_output=True, text=True).stdout)
    expected = json.loads(shown)
    assert answer.keys() == expected.keys()
    for same in ("missing", "degraded"):
        assert answer[same] == expected[same]
    assert [score is None for score in answer["scores"]] == [score is None for score in expected["scores"]]
