"""What a panel of the dashboard is, and the parts that its queries are made of."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

Kind = Literal["timeseries", "stat", "heatmap", "table"]


@dataclass(frozen=True)
class Query:
    """One expression and the name of its series, in Grafana's ``{{label}}`` form."""

    expr: str
    legend: str = ""


@dataclass(frozen=True)
class Panel:
    """One panel; ``width`` is in 24ths of the page."""

    title: str
    description: str
    queries: tuple[Query, ...]
    unit: str = "short"
    width: int = 8
    kind: Kind = "timeseries"
    stacking: Literal["none", "normal", "percent"] = "none"
    limits: tuple[tuple[float, str], ...] = ()
    """Values from which on a colour holds: lines in a graph, the background of a number."""
    above: str = "green"
    """Colour below the first limit."""
    columns: dict[str, str] = field(default_factory=dict)
    """Of a table: labels and their headings, in order."""


@dataclass(frozen=True)
class Row:
    """A question and the panels that answer it."""

    question: str
    panels: tuple[Panel, ...]


INSTALLATION = 'job="$job", namespace=~"$namespace", service=~"$service"'
"""Of series that have no replica: those of the recording rules, and ``up`` of a replica that serves nothing."""
HERE = 'job="$job", instance=~"$instance"'
HOT = f'{HERE}, endpoint=~"score|rank|infer"'


def rate(metric: str, selector: str = HERE) -> str:
    """A counter's increase a second, over the shortest window that is sure to hold two samples."""
    return f"rate({metric}{{{selector}}}[$__rate_interval])"


def total(metric: str, by: str = "", selector: str = HERE) -> str:
    """``rate`` added up over all labels but ``by``."""
    return f"sum by ({by}) ({rate(metric, selector)})" if by else f"sum({rate(metric, selector)})"


def quantiles(metric: str, *shares: float, by: str = "", selector: str = HERE) -> tuple[Query, ...]:
    """Quantiles of a histogram, of each value of ``by``."""
    labels = f"le, {by}" if by else "le"
    prefix = f"{{{{{by}}}}} " if by else ""
    buckets = total(f"{metric}_bucket", labels, selector)
    return tuple(Query(f"histogram_quantile({share:g}, {buckets})", f"{prefix}p{share * 100:g}") for share in shares)


def mean(metric: str, by: str = "", selector: str = HERE) -> str:
    """Mean of what a histogram observed."""
    return f"{total(f'{metric}_sum', by, selector)} / {total(f'{metric}_count', by, selector)}"
