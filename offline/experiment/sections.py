"""The sections of a data set on the page, each a function of its results alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np

from offline.experiment.page_parts import (
    DASH,
    RowResults,
    markdown,
    number,
    percent,
    probability,
    spread,
)
from offline.experiment.protocol import SignificanceOptions
from offline.experiment.significance import Difference, corrected, difference
from ranktower.training.config import Pool

Metric = Literal["recall", "ndcg"]
# In the order of a row's figures of the paper.
METRICS: tuple[Metric, ...] = ("recall", "ndcg")
_TITLES: dict[Metric, str] = {"recall": "Recall", "ndcg": "NDCG"}
_CORPUS = ("metrics", "full_corpus")


def quality(rows: Sequence[RowResults], *, pool: Pool, dataset: str, k: int) -> str:
    """Recall and NDCG in one pool, each with the paper's beside it."""
    head = ["", f"Recall@{k}", "paper", f"NDCG@{k}", "paper", "seeds"]
    lines = []
    for of in rows:
        paper = of.row.paper.get(dataset)
        recall, ndcg = (spread(of.values("metrics", pool, name)) for name in METRICS)
        told = [DASH, DASH] if paper is None else [f"{value:.4f}" for value in paper]
        lines.append([of.row.title, recall, told[0], ndcg, told[1], str(len(of.by_seed)) if of.by_seed else DASH])
    return markdown(head, lines)


def significance(
    rows: Sequence[RowResults], options: SignificanceOptions, *, metric: Metric, reference: str, dataset: str
) -> str:
    """The reference row minus every other by a figure of the full corpus, on the seeds that both have."""
    chosen = next(of for of in rows if of.row.name == reference)
    others = [of for of in rows if of is not chosen]
    best = max(others, key=lambda of: of.mean(*_CORPUS, metric) or -1.0, default=None)
    differences: dict[str, Difference] = {}
    for of in others:
        if seeds := sorted(chosen.by_seed.keys() & of.by_seed.keys()):
            values, beside = (one.per_user(metric, seeds) for one in (chosen, of))
            differences[of.row.name] = difference(values, beside, options)
    found = corrected(differences)
    over = ("95 % over users", "over users and seeds")
    head = [f"{chosen.row.title} minus", _TITLES[metric], *over, "relative", "paper", "t-test p", "Wilcoxon p"]
    lines = []
    for of in others:
        runner_up = of is best and len(others) > 1 and of.row.name in found
        title = f"{of.row.title} (the best of them)" if runner_up else of.row.title
        lines.append([title, *_compared(found.get(of.row.name), _paper_margin(chosen, of, dataset, metric))])
    return markdown(head, lines)


def _compared(found: Difference | None, paper: float | None) -> list[str]:
    if found is None:
        return [*[DASH] * 4, percent(paper), *[DASH] * 2]
    intervals = [f"{low:+.4f} to {high:+.4f}" for low, high in (found.over_users, found.over_both)]
    tests = [probability(p) for p in (found.p_t, found.p_wilcoxon)]
    return [f"{found.mean:+.4f}", *intervals, percent(found.relative), percent(paper), *tests]


def _paper_margin(chosen: RowResults, other: RowResults, dataset: str, metric: Metric) -> float | None:
    ours, theirs = (of.row.paper.get(dataset) for of in (chosen, other))
    place = METRICS.index(metric)
    return ours[place] / theirs[place] - 1 if ours and theirs else None


def expense(rows: Sequence[RowResults], cost: dict[str, Any] | None) -> str:
    """What training and serving take."""
    head = ["", "parameters", "training s", "epochs to the best / last", "pairs/s", "serving µs", "to the reference"]
    lines = []
    for of in rows:
        serving = cost_of(cost, of)
        size, seconds, rate = (
            number(of.mean("training", name)) for name in ("num_parameters", "seconds", "pairs_per_s")
        )
        served = [number(serving.get("us")), number(serving.get("ratio"), ".2f")]
        lines.append([of.row.title, size, seconds, _epochs(of), rate, *served])
    return markdown(head, lines)


def _epochs(of: RowResults) -> str:
    """Means over seeds beside the most that were allowed: patience ended what took fewer, the cap the others."""
    each = of.values("training", "steps_per_epoch")
    if not each:
        return DASH
    best, last = (np.mean(np.divide(of.values("training", name), each)) for name in ("best_step", "steps"))
    return f"{best:.1f} / {last:.1f} of {of.values('config', 'max_epochs')[0]:.0f}"


def cost_of(cost: dict[str, Any] | None, of: RowResults) -> dict[str, Any]:
    """The cost of a row's shape; nothing where it was not measured."""
    return next((row for row in (cost or {}).get("models", ()) if row["model"] == of.model), {})


def consistency(rows: Sequence[RowResults]) -> str:
    """Agreement with the teacher about what was retrieved."""
    names = ("overlap@10", "overlap@100", "survival")
    head = ["", "overlap@10", "overlap@100", "teacher's 10 in the model's 100"]
    return markdown(
        head, [[of.row.title, *(spread(of.values("consistency", name), 3) for name in names)] for of in rows]
    )


def calibration(rows: Sequence[RowResults]) -> str:
    """Expected calibration error of the probabilities."""
    head = ["", "as they are", "after Platt scaling"]
    kinds = ("raw", "platt")
    return markdown(
        head, [[of.row.title, *(spread(of.values("calibration", kind, "ece")) for kind in kinds)] for of in rows]
    )


def learning_curve(rows: Sequence[RowResults], *, k: int) -> str:
    """NDCG by the share of the users that were trained on."""
    shares = sorted({of.train_users for of in rows})
    titles = list(dict.fromkeys(of.row.title for of in rows))
    cells = {(of.row.title, of.train_users): spread(of.values(*_CORPUS, "ndcg")) for of in rows}
    head = [f"NDCG@{k}, trained on", *(f"{100 * share:g} % of the users" for share in shares)]
    return markdown(head, [[title, *(cells[title, share] for share in shares)] for title in titles])


def shapes(rows: Sequence[RowResults], cost: dict[str, Any] | None, *, k: int) -> str:
    """Quality and cost over the shape of what is stored."""
    head = ["", "floats of an item", f"Recall@{k}", f"NDCG@{k}", "parameters", "serving µs"]
    lines = []
    for of in rows:
        measured = [spread(of.values(*_CORPUS, name)) for name in METRICS]
        served = number(cost_of(cost, of).get("us"))
        floats = number(of.model["width"] * of.model.get("num_item_heads", 1))
        lines.append([of.row.title, floats, *measured, number(of.mean("training", "num_parameters")), served])
    return markdown(head, lines)


def teacher(report: dict[str, Any]) -> str:
    """AUC and log loss of the ensemble and its members, on test and on the training split out of fold."""
    head = ["", "weight", "AUC", "log loss", "AUC out of fold", "log loss out of fold", "training s"]
    lines = []
    for of in (*report["members"], {"name": "ensemble", **report["ensemble"]}):
        figures = [
            number((of.get(part) or {}).get(name), ".4f")
            for part in ("test", "out_of_fold")
            for name in ("auc", "log_loss")
        ]
        lines.append([of["name"], number(of.get("weight"), ".3f"), *figures, number(of.get("seconds"))])
    return markdown(head, lines)


def tuning(tunings: dict[str, dict[str, Any]], titles: dict[str, str]) -> str:
    """What tuning chose, and what it was worth on its own validation users."""
    head = ["", "trials", "pruned", "NDCG of the base", "best", "values"]
    lines = []
    for model, title in titles.items():
        if model not in tunings:
            lines.append([title, *[DASH] * 5])
            continue
        trials, best = tunings[model]["trials"], tunings[model]["best"]
        values = [trial["value"] for trial in trials if trial["value"] is not None and not trial["pruned"]]
        chosen = ", ".join(
            f"`{name}` {value:.4g}" if isinstance(value, float) else f"`{name}` {value}" for name, value in best.items()
        )
        pruned = str(sum(trial["pruned"] for trial in trials))
        lines.append(
            [
                title,
                str(len(trials)),
                pruned,
                number(trials[0]["value"], ".4f"),
                number(max(values, default=None), ".4f"),
                chosen,
            ]
        )
    return markdown(head, lines)
