"""What ``make demo`` reaches: quality beside the baselines, parity, the price of float16, and how long it takes.

Run: ``python benchmarks/demo_quality.py`` (``--max-users 0`` evaluates all test users, as the README's table does). It
runs the demo as a user does; what an earlier demo left is reused, and then the time says nothing: give ``--fresh``.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import numpy as np
from reference_release import serving
from result_file import write_result

from ranktower.data.dataset import PreparedDataset
from ranktower.registry import Registry
from ranktower.release import read_manifest
from ranktower.training.evaluation import ModelScorer
from ranktower.training.run import load_run

MODEL = "demo"
HTTP_USERS, HTTP_ITEMS = 50, 1000


def main() -> None:
    """Run the demo, collect what it wrote, and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--work", type=Path, default=Path("build/demo"))
    parser.add_argument("--fresh", action="store_true", help="remove what an earlier demo left")
    parser.add_argument("--max-users", type=int, default=1000, help="test users evaluated; 0: all")
    options = parser.parse_args()
    if options.fresh:
        shutil.rmtree(options.work, ignore_errors=True)
    started = time.monotonic()
    command = [sys.executable, "-m", "ranktower.cli", "demo", "--work", str(options.work)]
    env = {**os.environ, "DEMO_ONCE": "1"}
    output = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=env).stdout
    seconds = round(time.monotonic() - started, 1)
    lines = output.splitlines()
    curl = next(number for number, line in enumerate(lines) if line.startswith("curl "))
    data = next(line for line in lines if line.startswith("Data: ")).removeprefix("Data: ").split()[0]
    figures: dict[str, Any] = {"data": data, "demo_s": seconds, "fresh": options.fresh}
    figures |= {"steps_s": _step_seconds(lines), "request": lines[curl], "answer": json.loads(lines[curl + 1])}
    figures |= _manifest(options.work / data / "registry")
    figures["parity"]["http"] = _http_difference(options.work / data)
    figures["quality"] = _quality(options.work / data, options.max_users)
    write_result("demo_quality", figures, "torch", "onnxruntime", "numpy")


def _step_seconds(lines: list[str]) -> dict[str, float]:
    """``[train] 61.2 s`` lines, by step."""
    ends = (line for line in lines if line.startswith("[") and line.endswith(" s") and "ranktower" not in line)
    return {line[1 : line.index("]")]: float(line.split()[-2]) for line in ends}


def _manifest(registry: Path) -> dict[str, Any]:
    pointer = Registry(registry).current(MODEL)
    if pointer is None:
        raise SystemExit(f"{registry}: the demo promoted no release")
    manifest = read_manifest(Registry(registry).release_dir(MODEL, pointer.release))
    changes = {
        pool: metrics["ndcg_change"] for pool, metrics in manifest.offline_metrics.items() if "ndcg_change" in metrics
    }
    return {"parity": manifest.parity, "float16_ndcg_change": changes}


def _http_difference(folder: Path) -> float:
    """Scores over HTTP against torch from features in float32, on the cosine-sum scale: all that lies between them."""
    run, dataset = load_run(_latest_run(folder)), PreparedDataset.load(folder / "prepared")
    scorer = ModelScorer.encode(run.model, dataset)
    random = np.random.default_rng(0)
    worst = 0.0
    with serving(folder / "registry", {}, model=MODEL) as address, httpx.Client(base_url=address) as client:
        for user in random.permutation(len(dataset.users))[:HTTP_USERS].tolist():
            items = random.permutation(len(dataset.items))[:HTTP_ITEMS]
            body = {"user_id": dataset.users.ids[user], "candidate_ids": dataset.items.ids[items].tolist()}
            scores = np.array(client.post("/v1/score", json=body).json()["scores"])
            worst = max(worst, float(np.abs(scores - scorer(user, items)).max()))
    return worst * run.model.similarity.tau.item()


def _latest_run(folder: Path) -> Path:
    return max(folder.glob("run-*"), key=lambda path: path.stat().st_mtime)


def _quality(folder: Path, max_users: int) -> list[dict[str, Any]]:
    """Rows of ``ranktower evaluate`` on the demo's latest run."""
    run = _latest_run(folder)
    command = [sys.executable, "-m", "ranktower.cli", "evaluate", "--run", str(run), "--data", str(folder / "prepared")]
    command += ["--max-users", str(max_users)] if max_users else []
    subprocess.run(command, check=True)
    rows: list[dict[str, Any]] = json.loads((run / "metrics.json").read_text())["evaluation"]["results"]
    return rows


if __name__ == "__main__":
    main()
