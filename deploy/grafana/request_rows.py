"""The rows of the dashboard that show how requests fare."""

from __future__ import annotations

from panel import HERE, HOT, INSTALLATION, Panel, Query, Row, mean, quantiles, total

BUDGET = Row(
    "Is it inside the budget?",
    (
        Panel(
            "Firing alerts",
            "Alerts of deploy/prometheus/alerts.yml that fire now; docs/runbooks.md says what to do.",
            (Query('count(ALERTS{alertname=~"RankTower.+", alertstate="firing"}) or vector(0)', "alerts"),),
            kind="stat",
            width=4,
            limits=((1, "red"),),
        ),
        Panel(
            "Inside the budget, last hour",
            "Of the answers with scores to requests that had a budget, those that left within it. Objective: 99.9%.",
            (Query(f"1 - job:ranktower_late:ratio_rate1h{{{INSTALLATION}}}", "in time"),),
            unit="percentunit",
            kind="stat",
            width=5,
            limits=((0.99, "orange"), (0.999, "green")),
            above="red",
        ),
        Panel(
            "Answered with scores, last hour",
            "Of the requests that deserved scores: neither a client's fault nor of low priority and shed."
            " Objective: 99.9%.",
            (Query(f"1 - job:ranktower_unanswered:ratio_rate1h{{{INSTALLATION}}}", "answered"),),
            unit="percentunit",
            kind="stat",
            width=5,
            limits=((0.99, "orange"), (0.999, "green")),
            above="red",
        ),
        Panel(
            "How fast the error budget burns",
            "1 uses up the 0.1% of 30 days in 30 days. Above 14.4 (one hour) or 6 (six hours) somebody is paged.",
            tuple(
                Query(f"job:ranktower_{what}:ratio_rate{window}{{{INSTALLATION}}} / 0.001", f"{what}, {window}")
                for what in ("late", "unanswered")
                for window in ("1h", "6h")
            ),
            width=10,
            limits=((1, "yellow"), (6, "orange"), (14.4, "red")),
        ),
        Panel(
            "Part of the budget used",
            "From a request's arrival to the end of its answer, to its budget. Above 1 it came too late.",
            quantiles("ranktower_budget_used_ratio", 0.5, 0.9, 0.99),
            unit="percentunit",
            limits=((1, "red"),),
        ),
        Panel(
            "Latency of answers with scores",
            "From arrival to the end of the answer, time in the queue included.",
            quantiles(
                "ranktower_request_duration_seconds",
                *(0.5, 0.99, 0.999),
                by="endpoint",
                selector=f'{HOT}, outcome="ok"',
            ),
            unit="s",
        ),
        Panel(
            "Requests by outcome",
            "ok, or the error_type of docs/api.md.",
            (Query(total("ranktower_request_duration_seconds_count", "outcome", HOT), "{{outcome}}"),),
            unit="reqps",
            stacking="normal",
        ),
    ),
)

_FULL = f"{total('ranktower_answers_total')} - {total('ranktower_degraded_total')}"
_QUEUE = f'{HERE}, stage="queue"'
PRESSURE = Row(
    "What is it degrading and shedding, and why?",
    (
        Panel(
            "Answers by level",
            "full: all candidates by the scorer. The others are the lower levels of the ladder (docs/budgets.md).",
            (Query(_FULL, "full"), Query(total("ranktower_degraded_total", "level"), "{{level}}")),
            unit="reqps",
            width=6,
            stacking="percent",
        ),
        Panel(
            "Why answers are degraded",
            "budget: the request's own was too small. load: others would have missed theirs. overrun: the work took"
            " longer than expected.",
            (Query(total("ranktower_degraded_total", "reason"), "{{reason}}"),),
            unit="reqps",
            width=6,
            stacking="normal",
        ),
        Panel(
            "Requests shed",
            "queue_full: too many wait. no_time: the budget would not suffice. long_wait: without a budget, it would"
            " wait too long.",
            (Query(total("ranktower_shed_total", "reason, priority"), "{{reason}}, {{priority}}"),),
            unit="reqps",
            width=6,
            stacking="normal",
        ),
        Panel(
            "Load of a worker",
            "Requests that wait, on average (Little's law), and the part of the time that a worker's core is busy.",
            (
                Query(
                    f"{total('ranktower_stage_duration_seconds_sum', selector=_QUEUE)}"
                    f" / sum(ranktower_workers{{{HERE}}})",
                    "requests waiting",
                ),
                Query(f"{total('ranktower_cpu_seconds_total')} / sum(ranktower_workers{{{HERE}}})", "core busy"),
            ),
            width=6,
        ),
    ),
)

SLOW = Row(
    "What is slow?",
    (
        Panel(
            "Latency of answers with scores, all of them",
            "Answers a second in each bucket of the histogram.",
            (
                Query(
                    total("ranktower_request_duration_seconds_bucket", "le", f'{HOT}, outcome="ok"'),
                    "{{le}}",
                ),
            ),
            unit="s",
            width=12,
            kind="heatmap",
        ),
        Panel(
            "Where the time goes",
            "Mean of each stage of a request.",
            (Query(mean("ranktower_stage_duration_seconds", "stage"), "{{stage}}"),),
            unit="s",
            width=12,
            stacking="normal",
        ),
        Panel(
            "Slowest of a hundred, by stage",
            "p99 of each stage by itself; they do not add up.",
            quantiles("ranktower_stage_duration_seconds", 0.99, by="stage"),
            unit="s",
        ),
        Panel(
            "Candidates of a request",
            "Cost goes with their number.",
            quantiles("ranktower_candidates", 0.5, 0.99),
        ),
        Panel(
            "How soon a request is refused",
            "From the reading of a request to its refusal for load; the caller can go elsewhere then.",
            quantiles("ranktower_shed_duration_seconds", 0.5, 0.99),
            unit="s",
        ),
    ),
)
