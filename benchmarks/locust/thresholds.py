"""Whether a run kept its thresholds, and the line that says what it was like."""

from __future__ import annotations

from dataclasses import dataclass

from outcomes import OutcomeName, Tally

from ranktower.errors import ConfigError

_LATE_GENERATOR_MS = 5.0


@dataclass(frozen=True)
class Thresholds:
    """The largest values that are accepted; None accepts any. All but ``p99_ms`` are shares of all requests."""

    p99_ms: float | None = None
    failures: float | None = None
    degraded: float | None = None
    shed: float | None = None
    out_of_time: float | None = None

    def __post_init__(self) -> None:
        """ConfigError for a value that is no threshold."""
        if self.p99_ms is not None and not self.p99_ms > 0:
            raise ConfigError(f"--max-p99-ms {self.p99_ms:g}: must be above 0")
        for option, _, share in self._shares():
            if share is not None and not 0 <= share <= 1:
                raise ConfigError(f"{option} {share:g}: must be a share, 0 to 1")

    def broken(self, tally: Tally) -> list[str]:
        """What is above its threshold, in words. A run without a request has broken them all."""
        if not tally.requests:
            return ["no request was sent"]
        found = []
        p99_ms = tally.latency_ms(99)
        if self.p99_ms is not None and not p99_ms <= self.p99_ms:
            found.append(f"p99 {p99_ms:.1f} ms: above --max-p99-ms {self.p99_ms:g}")
        for option, outcome, most in self._shares():
            share = tally.share(outcome)
            if most is not None and share > most:
                found.append(f"{outcome.replace('_', ' ')} {share:.2%}: above {option} {most:g}")
        return found

    def _shares(self) -> list[tuple[str, OutcomeName, float | None]]:
        return [
            ("--max-failures", "failed", self.failures),
            ("--max-degraded", "degraded", self.degraded),
            ("--max-shed", "shed", self.shed),
            ("--max-out-of-time", "out_of_time", self.out_of_time),
        ]


def report(tally: Tally, *, seconds: float) -> str:
    """What a run was like, in a line, with another one for failures and one for a generator that was late."""
    inside = f"inside the budget {tally.inside_share():.2%}" if tally.budgets else "no budgets"
    line = (
        f"{tally.requests:,} requests, {tally.requests / seconds:.1f}/s: p50 {tally.latency_ms(50):.1f} ms,"
        f" p99 {tally.latency_ms(99):.1f} ms; {inside};"
        f" degraded {tally.share('degraded'):.2%}, 429 {tally.share('shed'):.2%},"
        f" 504 {tally.share('out_of_time'):.2%}, failed {tally.share('failed'):.2%};"
        f" the generator was {tally.lag_ms(99):.1f} ms late at p99"
    )
    lines = [line]
    if tally.errors:
        lines.append("failures: " + ", ".join(f"{count:,} × {error}" for error, count in tally.errors.most_common()))
    if tally.lag_ms(99) > _LATE_GENERATOR_MS:
        lines.append("the generator was late, and the latencies hold that: give it a core, or --processes")
    return "\n".join(lines)
