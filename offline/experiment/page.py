"""The page of all experiments, generated from the result files alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from offline.experiment import plots, sections
from offline.experiment.page_parts import DASH, markdown, table_results
from offline.experiment.protocol import CostOptions, Protocol
from offline.experiment.results import ResultFolder, Results, read_json
from ranktower.training.config import POOLS, Pool

_INTRO = """\
# Experiments

The paper's tables on real data, and more. Every figure on this page comes from the result files in
`docs/experiments/results`; `ranktower experiment --page` writes the page from them. A dash stands for what has not been
run. Everything that decides over a result (filters, settings, search spaces, trials, seeds) is a line of
`offline/experiment/protocol.yaml`.

<!-- not run: it takes hours -->
```text
make experiments
```

A model is measured in two pools, never in one table: in the **full corpus** it ranks all items but those the user met
in training and validation, which is what a pre-ranker does; among **impressions** it ranks the user's own test
impressions, where the cut is lower, for they are few; the paper's figures are at 100 in every table. The paper does not
say which pool its figures are of, nor are its data these, so its figures are there for order and margins.

± is the standard deviation over seeds. On one machine all seeds share a retrieval model, so its candidates and the
embeddings that training starts from, and a teacher: ± is over the rest, which is the other weights, the sampled lists
and their order. Another machine trains its own two from the same configuration; how many did stands at the end of a
data set's part. In the comparisons p is corrected for their number in the table (Holm); the first interval is
Student's over users, the second a bootstrap that draws users and seeds anew.
"""


def write_page(protocol: Protocol, root: Path) -> Path:
    """Write ``index.md`` and the plots beside the folder of results; returns the page."""
    path = root.parent / "index.md"
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.part")
    aside.write_text(page(protocol, root, plots_to=root.parent), encoding="utf-8")
    aside.replace(path)
    return path


def page(protocol: Protocol, root: Path, *, plots_to: Path) -> str:
    """The page as Markdown; its plots are drawn into ``plots_to``."""
    folders = [ResultFolder(path) for path in sorted(root.iterdir())] if root.is_dir() else []
    parts = [
        _DatasetPage(protocol.on(folder.path.name), Results(folder), plots_to).text()
        for folder in folders
        if folder.dataset.is_file()
    ]
    return "\n".join([_INTRO, *(parts or ["Nothing has been run yet.\n"])])


class _DatasetPage:
    """The part of the page that is about one data set."""

    def __init__(self, protocol: Protocol, results: Results, plots_to: Path) -> None:
        self.protocol, self.results, self.plots_to = protocol, results, plots_to
        self.about = results.dataset
        self.name = results.folder.path.name
        self.k: dict[Pool, int] = {pool: self.about["popularity"][pool]["k"] for pool in POOLS}
        tuned = results.tuned(protocol)
        self.rows = {
            name: table_results(protocol, table, results, tuned)
            for name, table in (protocol.tables | protocol.extras).items()
        }
        path = results.folder.cost
        self.cost: dict[str, Any] | None = read_json(path) if path.is_file() else None

    def text(self) -> str:
        """All sections, each with a heading."""
        blocks = [f"## {self.about['title']}", self._data()]
        for name in self.protocol.tables:
            blocks += self._table(name, f"Table {name}: {self.protocol.tables[name].title.lower()}")
        if "1" in self.rows:
            blocks += [*self._expense(), *self._consistency(), *self._calibration()]
        blocks += [*self._shapes(), *self._learning_curve()]
        for name, table in self.protocol.extras.items():
            if table.reference is not None:
                blocks += self._table(name, table.title)
        blocks += [*self._tuning(), self._circumstances()]
        return "\n\n".join(blocks) + "\n"

    def _data(self) -> str:
        counts, options, popularity = (self.about[name] for name in ("counts", "options", "popularity"))
        popular = ", ".join(
            f"{popularity[pool]['recall']:.4f} / {popularity[pool]['ndcg']:.4f} at {self.k[pool]} "
            f"({pool.replace('_', ' ')})"
            for pool in POOLS
        )
        text = (
            f"{counts['active_users']:,} users with at least {options['min_impressions']} impressions and "
            f"{options['min_positives']} positives, {counts['items']:,} items; {counts['train']:,} impressions to "
            f"train on, {counts['validation']:,} to validate and {counts['test']:,} to test. "
            f"{popularity['full_corpus']['num_users']:,} users are tested. Popularity alone has Recall / NDCG "
            f"{popular}."
        )
        if self.about["teacher"] is None:
            return text
        told = sections.teacher(self.about["teacher"])
        return f"{text}\n\nThe teacher on test impressions and, out of fold, on those of training:\n\n{told}"

    def _table(self, name: str, title: str) -> list[str]:
        table, rows = self.protocol.table(name), self.rows[name]
        blocks = []
        for pool in POOLS:
            blocks += [
                f"### {title}, {pool.replace('_', ' ')}",
                sections.quality(rows, pool=pool, dataset=self.name, k=self.k[pool]),
            ]
        if table.reference is not None:
            blocks.append(
                f"Paired over users at {self.k['full_corpus']} in the full corpus, on the seeds that both have:"
            )
            blocks += [
                sections.significance(
                    rows, self.protocol.significance, metric=metric, reference=table.reference, dataset=self.name
                )
                for metric in reversed(sections.METRICS)
            ]
        return blocks

    def _expense(self) -> list[str]:
        blocks = [
            "### Training and serving",
            "Training is on one thread, validations included. Patience ended a training whose last epoch is before the "
            "last that was allowed.",
        ]
        if self.cost is not None:
            options = CostOptions.model_validate(self.cost["options"])
            blocks.append(
                f"Serving is one user against {options.num_candidates:,} candidates: the exported scorer on one thread "
                f"of ONNX Runtime, the median of {options.num_rounds * options.runs_a_round} runs, all models in one "
                f"process in turn; the reference of the ratio is {self.protocol.models[options.reference].title}."
            )
        return [*blocks, sections.expense(self.rows["1"], self.cost)]

    def _consistency(self) -> list[str]:
        options = self.protocol.test.consistency
        blocks = [
            "### Consistency with the teacher",
            f"Of {options.num_users:,} test users the best {options.num_candidates:,} items that the retrieval model "
            "found, as the model and as the teacher order them: the part of their first 10 and 100 that they share, "
            "and the part of the teacher's first 10 that stands in the model's first 100.",
        ]
        for name, table in self.protocol.tables.items():
            blocks += [f"Table {name}, {table.title.lower()}:", sections.consistency(self.rows[name])]
        return blocks

    def _calibration(self) -> list[str]:
        options = self.protocol.test.calibration
        picture = self._picture("calibration", plots.draw_calibration(self.rows["1"], self._plot("calibration")))
        return [
            "### Calibration",
            f"Probability of feedback on test impressions of up to {options.num_users:,} users, in {options.num_bins} "
            "bins of equal size: the expected calibration error of sigmoid(score), and after a Platt scaling fitted on "
            "validation. A ranking loss promises an order, no probabilities.",
            sections.calibration(self.rows["1"]),
            *picture,
        ]

    def _shapes(self) -> list[str]:
        shapes = self.rows.get("heads", [])
        groups = {"models": self.rows.get("1", [])}
        for of in shapes:
            groups.setdefault(f"{self.protocol.models[of.row.model].title} by shape", []).append(of)
        drawn = plots.draw_quality_by_cost(groups, self.cost, self._plot("quality-by-cost"))
        table = [sections.shapes(shapes, self.cost, k=self.k["full_corpus"])] if shapes else []
        return ["### Quality against cost", *table, *self._picture("quality-by-cost", drawn)]

    def _learning_curve(self) -> list[str]:
        rows = self.rows.get("learning_curve", [])
        if not rows:
            return []
        drawn = plots.draw_learning_curve(rows, self._plot("learning-curve"))
        return [
            "### Amount of data",
            f"All are tested on the same users, {100 * min(of.train_users for of in rows):g} % of them.",
            sections.learning_curve(rows, k=self.k["full_corpus"]),
            *self._picture("learning-curve", drawn),
        ]

    def _tuning(self) -> list[str]:
        # Those of the files too: one whose search was another is not shown.
        options = self.protocol.tuning
        titles = {name: model.title for name, model in self.protocol.models.items()}
        return [
            "### Tuning",
            f"{options.num_trials} trials a model on {options.num_users:,} users (Optuna, TPE, median pruning); the "
            "first trial is the base. NDCG is of validation.",
            sections.tuning(self.results.tunings(self.protocol), titles),
        ]

    def _circumstances(self) -> str:
        """When, where and with which commands the shown results were made."""
        shown = [result for rows in self.rows.values() for of in rows for result in of.by_seed.values()]
        shown += [self.cost] if self.cost else []
        made = sorted({(of["date"], of["machine"]["cpu"], of["machine"]["num_cores"], of["command"]) for of in shown})
        lines = [[date, f"{cores} cores of {cpu}", f"`{command}`"] for date, cpu, cores, command in made]
        versions = sorted({f"{name} {of}" for result in shown for name, of in result["versions"].items()})
        told = f"Versions: {', '.join(versions) or DASH}."
        if taught := {of["teacher_id"] for of in shown if of.get("teacher_id")}:
            told += f" Teachers, each trained anew from one configuration: {len(taught)}."
        return f"### How it was run\n\n{markdown(['date', 'machine', 'command'], lines)}\n\n{told}"

    def _plot(self, name: str) -> Path:
        return self.plots_to / f"{self.name}-{name}.svg"

    def _picture(self, name: str, drawn: bool) -> list[str]:
        if not drawn:
            # Of results that are no longer those of the protocol.
            self._plot(name).unlink(missing_ok=True)
        return [f"![{name.replace('-', ' ')}]({self._plot(name).name})"] if drawn else []
