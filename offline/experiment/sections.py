"""The sections of a data set on the page, each a function of its results alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from offline.experiment.page_parts import (
    DASH,
    RowResults,
    markdown,
    number,
    percent,
    probability,
    spread,
)
from offline.experiment.results import ResultFolder, read_json
from offline.experiment.significance import Difference, difference
from ranktower.training.config import Pool

_NDCG = ("metrics", "full_corpus", "ndcg")


def quality(rows: Sequence[RowResults], *, pool: Pool, dataset: str, k: int) -> str:
    """Recall and NDCG in one pool, each with the paper's beside it."""
    head = ["", f"Recall@{k}", "paper", f"NDCG@{k}", "paper", "seeds"]
    lines = []
    for of in rows:
        paper = of.row.paper.get(dataset)
        recall, ndcg = (spread(of.values("metrics", pool, name)) for name in ("recall", "ndcg"))
        told = [DASH, DASH] if paper is None else [f"{value:.4f}" for value in paper]
        lines.append([of.row.title, recall, told[0], ndcg, told[1], str(len(of.by_seed)) if of.by_seed else DASH])
    return markdown(head, lines)


def significance(rows: Sequence[RowResults], *, reference: str, dataset: str) -> str:
    """The reference row minus every other: NDCG of each user in the full corpus, a mean over the seeds of both."""
    chosen = next(of for of in rows if of.row.name == reference)
    others = [of for of in rows if of is not chosen]
    best = max(others, key=lambda of: of.mean(*_NDCG) or -1.0, default=None)
    head = [f"{chosen.row.title} minus", "NDCG", "95 % interval", "relative", "paper", "t-test p", "Wilcoxon p"]
    lines = []
    for of in others:
        runner_up = of is best and len(others) > 1 and bool(of.by_seed)
        found, margin = _difference(chosen, of)
        cells = (
            [DASH] * 3
            if found is None
            else [f"{found.mean:+.4f}", f"{found.low:+.4f} to {found.high:+.4f}", percent(margin)]
        )
        tests = [DASH] * 2 if found is None else [probability(found.p_t), probability(found.p_wilcoxon)]
        title = f"{of.row.title} (the best of them)" if runner_up else of.row.title
        lines.append([title, *cells, percent(_paper_margin(chosen, of, dataset)), *tests])
    return markdown(head, lines)


def _difference(chosen: RowResults, other: RowResults) -> tuple[Difference | None, float | None]:
    """Paired over users on the seeds that both have, and relative to the other's mean."""
    seeds = sorted(chosen.by_seed.keys() & other.by_seed.keys())
    if not seeds:
        return None, None
    values = other.per_user(seeds)
    found = difference(chosen.per_user(seeds), values)
    return found, found.mean / float(values.mean()) if values.mean() else None


def _paper_margin(chosen: RowResults, other: RowResults, dataset: str) -> float | None:
    ours, theirs = chosen.row.paper.get(dataset), other.row.paper.get(dataset)
    return ours[1] / theirs[1] - 1 if ours and theirs else None


def expense(rows: Sequence[RowResults], cost: dict[str, Any] | None) -> str:
    """What training and serving take."""
    head = ["", "parameters", "training s", "pairs/s", "serving µs", "to the reference"]
    lines = []
    for of in rows:
        serving = cost_of(cost, of)
        numbers = [of.mean("training", name) for name in ("num_parameters", "seconds", "pairs_per_s")]
        served = [number(serving.get("us")), number(serving.get("ratio"), ".2f")]
        lines.append([of.row.title, *map(number, numbers), *served])
    return markdown(head, lines)


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
    cells = {(of.row.title, of.train_users): spread(of.values(*_NDCG)) for of in rows}
    head = [f"NDCG@{k}, trained on", *(f"{100 * share:g} % of the users" for share in shares)]
    return markdown(head, [[title, *(cells[title, share] for share in shares)] for title in titles])


def shapes(rows: Sequence[RowResults], cost: dict[str, Any] | None, *, k: int) -> str:
    """Quality and cost over RankTower's shape."""
    head = ["", f"Recall@{k}", f"NDCG@{k}", "parameters", "serving µs"]
    lines = []
    for of in rows:
        measured = [spread(of.values("metrics", "full_corpus", name)) for name in ("recall", "ndcg")]
        served = number(cost_of(cost, of).get("us"))
        lines.append([of.row.title, *measured, number(of.mean("training", "num_parameters")), served])
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


def tuning(folder: ResultFolder, titles: dict[str, str]) -> str:
    """What tuning chose, and what it was worth on its own validation users."""
    head = ["", "trials", "pruned", "NDCG of the base", "best", "values"]
    lines = []
    for model, title in titles.items():
        path = folder.tuning(model)
        if not path.is_file():
            lines.append([title, *[DASH] * 5])
            continue
        content = read_json(path)
        trials, best = content["trials"], content["best"]
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
