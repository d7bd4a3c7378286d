"""``docs/kubernetes.md``: its table is the chart's values, its examples work."""

from __future__ import annotations

import re
import runpy
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[3]
PAGE = ROOT / "docs" / "kubernetes.md"


def blocks(language: str) -> list[str]:
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(rf"^( *)```{language}\n(.*?)^\1```", text, flags=re.DOTALL | re.MULTILINE)
    return [textwrap.dedent(block) for _, block in found]


def test_the_table_is_that_of_the_values() -> None:
    written = runpy.run_path(str(ROOT / "deploy/helm/values_table.py"))
    assert PAGE.read_text(encoding="utf-8") == written["page"](), "run python deploy/helm/values_table.py"
    assert "| `drain.delaySeconds` | `5` | After SIGTERM, how long pods serve on" in written["table"]()


def test_the_examples_are_values(render: Any) -> None:
    examples = [yaml.safe_load(block) for block in blocks("yaml")]
    start, _, ingress = examples
    assert render(start).container()["resources"]["requests"]["cpu"] == str(start["config"]["http"]["workers"])
    ingress["ingress"] |= {"enabled": True, "host": "rank.example.com"}
    annotations = render(ingress).one("Ingress")["metadata"]["annotations"]
    assert annotations == ingress["ingress"]["annotations"]


def test_the_adapters_rule_makes_the_autoscalers_metric(everything: Any, tmp_path: Path) -> None:
    (adapter,) = (yaml.safe_load(block) for block in blocks("yaml") if "metricsQuery" in block)
    (rule,) = adapter["rules"]
    pods = next(one["pods"] for one in everything.one("HorizontalPodAutoscaler")["spec"]["metrics"] if "pods" in one)
    assert rule["name"]["as"] == pods["metric"]["name"]
    query = rule["metricsQuery"].replace("<<.Series>>", rule["seriesQuery"].partition("{")[0])
    query = query.replace("<<.LabelMatchers>>", 'namespace="ranking",pod=~"a|b"').replace("<<.GroupBy>>", "pod")
    rules = {"groups": [{"name": "adapter", "rules": [{"record": "shed", "expr": query}]}]}
    (tmp_path / "rules.yml").write_text(yaml.safe_dump(rules))
    checked = subprocess.run(
        ["promtool", "check", "rules", tmp_path / "rules.yml"], capture_output=True, text=True, check=False
    )
    assert checked.returncode == 0, checked.stdout + checked.stderr


def test_the_sizing_command_runs() -> None:
    (command,) = blocks("sh")
    done = subprocess.run(
        [sys.executable, "-m", "ranktower.cli", *command.split()[1:]], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "cores at" in done.stdout


def test_what_is_typed_names_what_the_chart_has(render: Any) -> None:
    """``render`` installs the chart as ``films`` in the namespace ``ranking``, and so does the page."""
    typed = "\n".join(blocks("text"))
    ((chart, file),) = re.findall(r"^helm upgrade --install films (\S+) -n ranking -f (\S+)$", typed, re.MULTILINE)
    assert (ROOT / chart / "Chart.yaml").is_file()
    (values,) = (yaml.safe_load(block) for block in blocks("yaml") if block.startswith(f"# {file}\n"))
    (job,) = re.findall(r"^kubectl -n ranking create job --from=cronjob/(\S+) \S+$", typed, re.MULTILINE)
    assert job in {one["metadata"]["name"] for one in render(values).all("CronJob")}
    secret = re.findall(r"^kubectl -n ranking create secret generic (\S+) --from-file=(\S+)$", typed, re.MULTILINE)
    assert [name for name in secret[0] if name not in str(render(values).one("Deployment"))] == []
