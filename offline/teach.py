"""``ranktower teach``: the teacher's soft labels for a prepared data set, resumable, with its AUC and log loss."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from offline.device import choose_device
from ranktower.data.dataset import PreparedDataset
from ranktower.training.teacher import TeacherTrainer
from ranktower.training.teacher_config import TeacherConfig
from ranktower.training.teacher_folder import TeacherFolder


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="ranktower teach", description=__doc__)
    parser.add_argument("--data", type=Path, required=True, help="folder of 'ranktower prepare'")
    parser.add_argument("--out", type=Path, required=True, help="folder of the teacher; a killed call goes on in it")
    parser.add_argument("--config", type=Path, help="YAML file; four rankers in four folds where left out")
    parser.add_argument("--device", default="auto", help="auto, cpu or cuda")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(argv)
    started = time.monotonic()
    dataset = PreparedDataset.load(options.data)
    config = TeacherConfig.load(options.config) if options.config else TeacherConfig()
    folder = TeacherFolder(options.out)
    trainer = TeacherTrainer(
        dataset, config, folder, device=choose_device(options.device), progress_bar=not options.quiet
    )
    report = trainer.fit()
    sys.stdout.write(_table(report))
    told = "reused" if trainer.reused else "written"
    sys.stdout.write(f"teach: {told} {folder.scores}, {time.monotonic() - started:.1f} s\n")
    return 0


def _table(report: dict[str, Any]) -> str:
    """AUC and log loss of every member and of the ensemble, on every split that has impressions."""
    splits = list(report["ensemble"])
    lines = [f"\n  {'':<16}{'weight':>8}" + "".join(f"{name.replace('_', ' '):>24}" for name in splits)]
    lines.append(f"  {'':<24}" + f"{'AUC':>14}{'log loss':>10}" * len(splits))
    for row in (*report["members"], {"name": "ensemble", "weight": 1.0, **report["ensemble"]}):
        figures = "".join(f"{_figure(row[name]['auc']):>14}{_figure(row[name]['log_loss']):>10}" for name in splits)
        lines.append(f"  {row['name']:<16}{row['weight']:>8.3f}{figures}")
    return "\n".join(lines) + "\n\n"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"
