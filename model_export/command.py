"""``ranktower export``: a finished training run to ONNX, checked against torch; RankTower's with a measured ladder."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from model_export.calibrate import CalibrateOptions, TooFewUsersError, calibrate
from model_export.export import export_model
from model_export.export_folder import read_description
from model_export.parity import RealRows
from model_export.traced_export import export_traced
from ranktower.data.dataset import PreparedDataset
from ranktower.models import RankTower
from ranktower.training.run import TrainedRun, load_run_and_data
from ranktower.training.tensors import side_features

# Real rows of each side in the parity check: every user against every item.
NUM_REAL_USERS, NUM_REAL_ITEMS = 32, 1000


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    parser = argparse.ArgumentParser(prog="ranktower export", description=__doc__)
    parser.add_argument("--run", type=Path, required=True, help="folder of a finished training run")
    parser.add_argument("--data", type=Path, required=True, help="the prepared data it was trained on")
    parser.add_argument("--out", type=Path, required=True, help="folder to write the export to")
    parser.add_argument(
        "--no-ladder", action="store_true", help="leave 'ranktower calibrate' out, which only RankTower has"
    )
    options = parser.parse_args(argv)
    started = time.monotonic()
    run, dataset = load_run_and_data(options.run, options.data)
    description = read_description(options.out)
    if description is not None and description["run_id"] == run.run_id:
        told = "of this very run already"
    else:
        told = f"torch and ONNX differ by at most {_export(run, dataset, options.out)}"
    sys.stdout.write(f"export: {options.out}, {told}, {time.monotonic() - started:.1f} s\n")
    if isinstance(run.model, RankTower) and not options.no_ladder:
        try:
            calibrate(run, dataset, options.out, CalibrateOptions())
        except TooFewUsersError as error:  # a release without a ladder is one that only scores in full
            sys.stdout.write(f"calibrate: no ladder, {error}\n")
    return 0


def _export(run: TrainedRun, dataset: PreparedDataset, out: Path) -> str:
    """Write the export; returns the greatest difference and its check."""
    generator = np.random.default_rng(0)
    real = RealRows(
        *(
            side_features(side.features.take(generator.permutation(len(side))[:count]))
            for side, count in ((dataset.users, NUM_REAL_USERS), (dataset.items, NUM_REAL_ITEMS))
        )
    )
    origin = {"run_id": run.run_id, "data_id": run.data_id, "config": run.config.model_dump(mode="json")}
    if isinstance(run.model, RankTower):
        parity = export_model(run.model, run.encoder, out, real=real, origin=origin)
    else:
        parity = export_traced(run.model, run.encoder, out, real=real, origin=origin)
    worst = max(parity, key=lambda check: parity[check])
    return f"{parity[worst]:.1e} ({worst})"
