"""``ranktower experiment``: tune, run the tables, measure, and write the page; stopped at any time, it goes on."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from tqdm import tqdm

from offline.device import choose_device
from offline.experiment.cost import is_measured, measure_cost
from offline.experiment.describe import describe
from offline.experiment.jobs import finished
from offline.experiment.page import write_page
from offline.experiment.plan import PlannedRun, Tuned, planned_runs
from offline.experiment.protocol import PROTOCOL, Protocol, Table
from offline.experiment.results import ResultFolder, Results, read_json, write_json
from offline.experiment.runs import RunTask, execute
from offline.experiment.tuning import TuningTask, tune_model
from offline.experiment.workspace import Workspace, make_workspace
from offline.pipeline import DATA_DIR
from ranktower.errors import ConfigError, RankTowerError
from ranktower.training.config import TrainConfig

_COST = "cost"
_Task = TypeVar("_Task")


@dataclass(frozen=True)
class Experiment:
    """One call of the command: what it works on, and what it was told."""

    protocol: Protocol
    results: ResultFolder
    workspace: Workspace
    options: argparse.Namespace
    command: str

    def work(self) -> None:
        """Everything that the command asks for; what fails keeps nothing else from being done.

        Raises:
            RankTowerError: some of it failed.
        """
        steps = [(self.options.tune, self.tune), (True, self.run), (_COST in self.options.extra, self.cost)]
        failed = []
        for asked, step in steps:
            try:
                if asked:
                    step()
            except RankTowerError as error:
                failed.append(str(error))
        if failed:
            raise RankTowerError("; ".join(failed))

    def tune(self) -> None:
        """Tune every model of the first table."""
        models = dict.fromkeys(row.model for row in self.protocol.table("1").rows)
        tasks = [
            TuningTask(model, self.protocol, self.workspace, self.results, self.options.device, self.command)
            for model in models
            if self.protocol.models[model].search
        ]
        self._do("tune", tune_model, tasks, name=lambda task: task.model)

    def run(self) -> None:
        """Do the runs of the tables asked for that have no result yet."""
        planned: dict[str, PlannedRun] = {}
        found = Results(self.results)
        tables = [self.protocol.table(name) for name in _tables(self.options)]
        tuned = self._tuned(found, tables)
        for table in tables:
            for run in planned_runs(self.protocol, table, tuned, seeds=self.options.seeds or self.protocol.seeds):
                if found.find(run) is None:
                    # A row that is another table's too is run once, under its first name.
                    planned.setdefault(run.key(found.data), run)
        tasks = [
            RunTask(run, self.workspace, self.results, self.options.device, self.command) for run in planned.values()
        ]
        self._do("run", execute, tasks[: self.options.max_runs], name=lambda task: task.run.name)

    def cost(self) -> None:
        """Time every shape of Table 1 and of the shape's grid, unless all have been."""
        found, options = Results(self.results), self.protocol.cost
        tables = [self.protocol.table("1"), *(table for name, table in self.protocol.extras.items() if name == "heads")]
        tuned = self._tuned(found, tables)
        runs = [run for table in tables for run in planned_runs(self.protocol, table, tuned, seeds=1)]
        shapes: dict[str, TrainConfig] = {run.config.model.model_dump_json(): run.config for run in runs}
        configs, path = list(shapes.values()), self.results.cost
        if not (path.is_file() and is_measured(read_json(path), configs, options, data_id=found.data.data_id)):
            write_json(path, measure_cost(configs, self.workspace, options, self.command))

    def _tuned(self, found: Results, tables: Sequence[Table]) -> Tuned:
        """The tuned values.

        Raises:
            ConfigError: some models of the tables are tuned and others are not, which compares nothing.
        """
        tuned = found.tuned(self.protocol)
        models = dict.fromkeys(row.model for table in tables for row in table.rows)
        searched = [model for model in models if self.protocol.models[model].search]
        missing = [model for model in searched if model not in tuned]
        if missing and len(missing) < len(searched):
            raise ConfigError(f"model {', '.join(missing)} is not tuned, while others are; run --tune")
        return tuned

    def _do(
        self, what: str, work: Callable[[_Task], Path], tasks: Sequence[_Task], *, name: Callable[[_Task], str]
    ) -> None:
        """Do the tasks, and show each that ends.

        Raises:
            RankTowerError: some failed; the others have been done.
        """
        failed = []
        with tqdm(total=len(tasks), desc=what, unit=what, disable=None) as bar:
            for task, future in finished(work, tasks, num_jobs=self.options.jobs):
                try:
                    bar.write(f"  {future.result()}", file=sys.stdout)
                except RankTowerError as error:
                    failed.append(f"{name(task)}: {error}")
                bar.update()
        if failed:
            raise RankTowerError("; ".join(failed))


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(argv)
    protocol = Protocol.load(options.protocol)
    experiment = None if options.page else _experiment(protocol, options, _as_typed(argv))
    try:
        if experiment is not None:
            experiment.work()
    finally:
        # Stopped or failed, what is done is shown.
        page = write_page(protocol, options.results)
    sys.stdout.write(f"experiment: {page}\n")
    return 0


def _experiment(protocol: Protocol, options: argparse.Namespace, command: str) -> Experiment:
    """What the command is to work on: everything that is wrong about its options is said before anything is made."""
    if options.dataset is None:
        raise ConfigError("--dataset: needed, but with --page")
    for name in ("jobs", "seeds", "max_runs"):
        if (value := getattr(options, name)) is not None and value < 1:
            raise ConfigError(f"--{name.replace('_', '-')}: must be at least 1, got {value}")
    for name in _tables(options):
        protocol.table(name)
    choose_device(options.device)
    source = options.data or (Path(os.environ[DATA_DIR]) if os.environ.get(DATA_DIR) else None)
    entry = protocol.dataset(options.dataset)
    workspace = make_workspace(options.dataset, entry, source, options.work)
    results = ResultFolder(options.results / options.dataset)
    describe(workspace, results, protocol, options.dataset, command)
    return Experiment(protocol.on(options.dataset), results, workspace, options, command)


def _tables(options: argparse.Namespace) -> list[str]:
    """The names of those to run."""
    return [*options.table, *(name for name in options.extra if name != _COST)]


def _as_typed(argv: Sequence[str]) -> str:
    """The command for the result files: without what only says where files lie, which means nothing elsewhere."""
    words = list(argv)
    for place in ("--data", "--work", "--results"):
        if place in words:
            del words[words.index(place) : words.index(place) + 2]
    return " ".join(["ranktower experiment", *(Path(word).name if "/" in word else word for word in words)])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ranktower experiment", description=__doc__)
    add = parser.add_argument
    add("--dataset", help="kuairand, taobao, alimama, movielens-1m, simulator, or a name for your own tables")
    add("--data", type=Path, help=f"folder of original files or of canonical tables; by default {DATA_DIR}")
    add("--table", nargs="+", default=[], help="tables to run: 1 2 3 4")
    add(
        "--extra",
        nargs="+",
        default=[],
        help="what goes beyond the paper: heads, learning_curve, recipe, cross_attention, pairwise_distillation, cost",
    )
    add("--tune", action="store_true", help="tune every model of Table 1 first, each with as many trials")
    add("--seeds", type=int, help="by default the protocol's")
    add("--jobs", type=int, default=max(1, os.cpu_count() or 1), help="processes of one thread (default: %(default)s)")
    add("--max-runs", type=int, help="stop after so many new runs")
    add("--device", default="auto", help="auto, cpu or cuda")
    add("--page", action="store_true", help="only write the page and the plots from the result files")
    add("--protocol", type=Path, default=PROTOCOL, help="YAML file with every number (default: the project's)")
    add("--work", type=Path, default=Path("build/experiments"), help="folder for everything that can be made again")
    add("--results", type=Path, default=Path("docs/experiments/results"), help="folder of the result files")
    return parser
