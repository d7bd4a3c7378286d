"""The rows of the dashboard that show what the requests are scored with: releases, rows, processes."""

from __future__ import annotations

from panel import HERE, INSTALLATION, Panel, Query, Row, mean, quantiles, total

_INFO = f'ranktower_release_info{{{HERE}, model="$model"}} == 1'


def missing(side: str, requests: str) -> tuple[Query, ...]:
    """Shares of one side's rows that were not stored, by what became of them."""
    of = f'{HERE}, side="{side}"'
    absent, computed = total("ranktower_missing_total", selector=of), total("ranktower_computed_total", selector=of)
    rows = total(f"ranktower_candidates_{requests}")
    return (
        Query(f"({absent} - {computed}) / {rows}", f"{side}s without a row"),
        Query(f"{computed} / {rows}", f"{side}s computed from features"),
    )


SERVED = Row(
    "Which release is served where?",
    (
        Panel(
            "Releases served now",
            "By replica; current answers the requests, canary its share of the users, shadow nobody.",
            (Query(f"max by (instance, role, model, release) (ranktower_release_info{{{HERE}}} == 1)"),),
            kind="table",
            columns={"instance": "replica", "role": "role", "model": "model", "release": "release"},
        ),
        Panel(
            "Replicas that serve a release",
            "Two lines of one role side by side: workers or replicas have not all followed the pointer yet.",
            (Query(f"count by (role, release) ({_INFO})", "{{role}} {{release}}"),),
            width=6,
        ),
        Panel(
            "Answers by role",
            "How large the canary's share is.",
            (Query(total("ranktower_answers_total", "role"), "{{role}}"),),
            unit="reqps",
            width=5,
            stacking="normal",
        ),
        Panel(
            "Releases refused",
            "Every attempt to load one counts. What was served before is served still.",
            (
                Query(
                    f"sum by (role, reason) (increase(ranktower_release_refused_total{{{HERE}}}[$__rate_interval]))",
                    "{{role}}: {{reason}}",
                ),
            ),
            width=5,
        ),
    ),
)

_DELTA_AGE = f"max(time() - (ranktower_delta_timestamp_seconds{{{HERE}}} > 0))"
FRESH = Row(
    "How fresh is it?",
    (
        Panel(
            "Age of the served release",
            "Since it was created, of the replica with the oldest one. An alert begins at two days.",
            (Query(f"max(ranktower_release_age_seconds{{{HERE}}})", "release"),),
            unit="s",
            width=6,
            limits=((172800, "red"),),
        ),
        Panel(
            "Age of the newest rows",
            "Since the last delta was computed; nothing without a delta. An alert begins at two hours.",
            (Query(_DELTA_AGE, "delta"),),
            unit="s",
            width=6,
            limits=((7200, "red"),),
        ),
        Panel(
            "Rows of the delta",
            "Each delta copies those before it: run a full precompute before they become many.",
            (Query(f"min by (side) (ranktower_overlay_rows{{{HERE}}})", "{{side}}s"),),
            width=6,
        ),
        Panel(
            "Deltas refused",
            "Every attempt counts. The rows before are served still.",
            (Query(f"sum(increase(ranktower_overlay_refused_total{{{HERE}}}[$__rate_interval]))", "refused"),),
            width=6,
        ),
    ),
)

SHADOW = Row(
    "How good is the shadow?",
    (
        Panel(
            "Agreement with the current release",
            "overlap: part of the best candidates that both share. correlation: Spearman's, of all candidates. 1 is the"
            " same list.",
            (
                Query(mean("ranktower_shadow_overlap"), "overlap"),
                *(
                    Query(query.expr, f"overlap, {query.legend}")
                    for query in quantiles("ranktower_shadow_overlap", 0.1)
                ),
                Query(mean("ranktower_shadow_rank_correlation"), "correlation"),
            ),
            unit="percentunit",
        ),
        Panel(
            "Scores against the current release",
            "drift: mean of shadow less current. difference: mean of its absolute value. In logits.",
            (
                Query(mean("ranktower_shadow_score_drift"), "drift"),
                Query(mean("ranktower_shadow_score_difference"), "difference"),
            ),
        ),
        Panel(
            "Answers taken for the shadow",
            "dropped: there was no time for it, which under load is no fault. failed: its features or its store.",
            (Query(total("ranktower_shadow_answers_total", "outcome"), "{{outcome}}"),),
            unit="reqps",
            stacking="normal",
        ),
    ),
)

ROWS_FOUND = Row(
    "Do the store and the cold start hold?",
    (
        Panel(
            "Failures of the store",
            "rejected_row counts rows, of a wrong size or of another release; the others count requests.",
            (Query(total("ranktower_store_errors_total", "kind"), "{{kind}}"),),
            unit="ops",
            width=6,
            stacking="normal",
        ),
        Panel(
            "Users that are not stored",
            "Of the requests. Those without a row are scored for the fallback user.",
            missing("user", "count"),
            unit="percentunit",
            width=6,
        ),
        Panel(
            "Candidates that are not stored",
            "Of the candidates. Those without a row get no score.",
            missing("item", "sum"),
            unit="percentunit",
            width=6,
        ),
        Panel(
            "Scores that are not finite",
            "They are answered as null. More than none points to a damaged row or graph.",
            (Query(total("ranktower_nonfinite_scores_total"), "scores"),),
            unit="ops",
            width=6,
        ),
    ),
)

FLEET = Row(
    "How is the fleet?",
    (
        Panel(
            "Replicas",
            "The version that each runs, its worker processes, and how long the youngest of them has run.",
            (
                Query(f"ranktower_build_info{{{HERE}}}"),
                Query(f"sum by (instance) (ranktower_workers{{{HERE}}})"),
                Query(f"time() - max by (instance) (ranktower_start_time_seconds{{{HERE}}})"),
            ),
            kind="table",
            columns={"instance": "replica", "version": "version", "Value #B": "workers", "Value #C": "runs for, s"},
        ),
        Panel(
            "Replicas that answer to Prometheus",
            "Targets of the installation, and those of them that are up.",
            (Query(f"count(up{{{INSTALLATION}}})", "known"), Query(f"sum(up{{{INSTALLATION}}})", "up")),
            width=4,
        ),
        Panel(
            "Processor",
            "Cores in use by each replica.",
            (Query(total("ranktower_cpu_seconds_total", "instance"), "{{instance}}"),),
            width=4,
        ),
        Panel(
            "Memory",
            "Of each replica's workers, without the mapped tables that they share.",
            (Query(f"sum by (instance) (ranktower_memory_bytes{{{HERE}}})", "{{instance}}"),),
            unit="bytes",
            width=4,
        ),
        Panel(
            "Requests turned away",
            "For a missing or wrong API key, and for a key above its rate, by the key's name.",
            (
                Query(total("ranktower_auth_failures_total", "reason"), "{{reason}}"),
                Query(total("ranktower_rate_limited_total", "key"), "above its rate: {{key}}"),
            ),
            unit="reqps",
            width=4,
        ),
    ),
)
