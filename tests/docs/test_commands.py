"""Every command of the pages names the test that takes it from there and runs it, or says why none does."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
SHELLS = {"sh", "bash", "shell", "console"}
COMMANDS = (
    r"cd|curl|docker|export|git|helm|kubectl|locust|make|mkdocs|nginx|openssl|pip|prometheus|promtool|python3?"
    r"|ranktower|redis-cli|redis-server|sh"
)


@pytest.mark.parametrize("path", PAGES, ids=lambda path: str(path.relative_to(DOCS)))
def test_every_command_names_the_test_that_runs_it_or_says_why_none_does(path: Path) -> None:
    assert unfounded(path) == []


@pytest.mark.parametrize(
    ("above", "block", "fault"),
    [
        ("", "```sh\nls\n```", "no test is named"),
        ("", "```\nranktower gc\n```", "no test is named"),
        ("", "    ```text\n    # First:\n    A=1 docker compose up\n    ```", "no test is named"),
        ("<!-- not run: -->", "```text\nmake demo\n```", "no test is named"),
        ("<!-- not run: it could be -->", "```sh\nmake demo\n```", "no test is named"),
        (
            "<!-- run by: tests/docs/test_none.py::test_it -->",
            "```sh\nls\n```",
            "tests/docs/test_none.py has no test_it",
        ),
        (
            "<!-- run by: tests/docs/test_site.py::test_every_page_is_in_the_navigation -->",
            "```sh\nls\n```",
            "test_every_page_is_in_the_navigation takes no block out of quickstart.md",
        ),
        ("<!-- run by: tests/docs/test_quickstart.py::test_the_chain -->", "```sh\nls\n```", None),
        ("<!-- not run: it takes a cluster -->", "```text\nkubectl get pods\n```", None),
        ("", "```text\nAN_ENVIRONMENT=alone\nand 1 line of make\n```", None),
        ("", "```yaml\nmake: 1\n```", None),
    ],
)
def test_a_command_that_nobody_types_is_found(tmp_path: Path, above: str, block: str, fault: str | None) -> None:
    page = tmp_path / "quickstart.md"
    page.write_text(f"# A page\n\n{above}\n{block}\n", encoding="utf-8")
    assert unfounded(page) == ([] if fault is None else [f"quickstart.md, line 4: {fault}"])


def unfounded(page: Path) -> list[str]:
    """The blocks with commands that no test takes out of the page, and that do not say why."""
    text, faults = page.read_text(encoding="utf-8"), []
    for block in re.finditer(r"(.*)\n( *)```(\w*)\n((?:.*\n)*?)\2```$", text, flags=re.MULTILINE):
        above, _, language, content = block.groups()
        if language not in SHELLS:
            is_typed = re.search(rf"^ *(\w+=\S* )*({COMMANDS})( |$)", content, flags=re.MULTILINE)
            says_why = re.fullmatch(r" *<!-- not run: \S.* -->", above)
            if language not in {"", "text"} or not is_typed or says_why:
                continue
        if fault := _fault(page.name, above):
            faults.append(f"{page.name}, line {text.count(chr(10), 0, block.start(2)) + 1}: {fault}")
    return faults


def _fault(page: str, above: str) -> str | None:
    """What is wrong with the line above a block that a test has to take out of the page."""
    marker = re.fullmatch(r" *<!-- run by: (tests/\S+\.py)::(\w+) -->", above)
    if marker is None:
        return "no test is named"
    file, test = marker.groups()
    texts = _texts(ROOT / file, test)
    if texts is None:
        return f"{file} has no {test}"
    if not any(text.endswith(page) for text in texts) or not any("```" in text for text in texts):
        return f"{test} takes no block out of {page}"
    return None


def _texts(file: Path, test: str) -> set[str] | None:
    """The strings, but for docstrings, of a test and of all that it reaches by name in its file and in the conftest.py
    files above it: fixtures, functions, classes, constants. None where there is no such test."""
    defined: dict[str, ast.stmt] = {}
    for source in (file, *(folder / "conftest.py" for folder in file.parents)):
        for node in ast.parse(source.read_text(encoding="utf-8")).body if source.exists() else ():
            targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", node)]
            for target in targets:
                defined.setdefault(getattr(target, "name", None) or getattr(target, "id", ""), node)
    if test not in defined:
        return None
    texts: set[str] = set()
    reached, to_read = {test}, [test]
    while to_read:
        nodes = list(ast.walk(defined[to_read.pop()]))
        strings = {node for node in nodes if isinstance(node, ast.Constant) and isinstance(node.value, str)}
        strings -= {node.value for node in nodes if isinstance(node, ast.Expr)}
        texts |= {node.value for node in strings}
        names = {getattr(node, kind, "") for node in nodes for kind in ("id", "arg", "attr")}
        new = (names & defined.keys()) - reached
        reached |= new
        to_read += new
    return texts
