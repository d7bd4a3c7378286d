"""``ranktower bench``: the highest rate at which a running service answers inside a budget, found by an open loop."""

from __future__ import annotations

import argparse
import shlex
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from offline.bench.answers import OpenResult
from offline.bench.offer import ANSWER_TIMEOUT_S, Endpoint, Phase, offer
from offline.bench.report import write_report
from offline.bench.requests import Requests, random_requests, read_requests
from offline.bench.search import search, sweep
from offline.bench.served import Served, check_request, parse_endpoint, served_release
from offline.bench.verdict import Point, Question, late_generator, verdict
from ranktower.errors import ConfigError
from ranktower.registry import Registry

_DEFAULT_CANDIDATES = 1000
# Far above rate times budget, so that it is the service that keeps a request waiting and not the generator.
_CONNECTIONS = 256
_WARM_UP = Phase(rate=20.0, seconds=1.0)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status."""
    options = _parser().parse_args(argv)
    _check(options)
    endpoint = parse_endpoint(options.url, priority=options.priority)
    served = served_release(endpoint)
    requests = _requests(options, served)
    check_request(endpoint, requests.bodies[0])
    options.out.mkdir(parents=True, exist_ok=True)
    question = Question(requests.num_candidates, options.budget, options.max_degraded)
    bench = _Bench(endpoint, requests.bodies, question, options, points=[])
    is_complete = False
    try:
        bench.run()
        is_complete = True
    finally:  # also after Ctrl-C, or when the service goes away
        if bench.points:
            about = {
                "command": shlex.join(["ranktower", "bench", *argv]),
                "model": served.model,
                "release": served.release,
                "arrivals": "even" if options.even else "poisson",
                "is_complete": is_complete,
            }
            path = write_report(options.out, bench.points, question, about)
            for told in (late_generator(bench.points), f"see {path} and {path.with_suffix('.png').name}"):
                if told:
                    sys.stderr.write(f"ranktower bench: {told}\n")
            sys.stdout.write(f"{verdict(bench.points, question)}\n")
    return 0


@dataclass(frozen=True)
class _Bench:
    """One measurement; ``points`` is filled as it goes."""

    endpoint: Endpoint
    bodies: list[bytes]
    question: Question
    options: argparse.Namespace
    points: list[Point]

    def run(self) -> None:
        """Offer one rate after the other; whether each holds says which is the next."""
        options = self.options
        steps = sweep(options.rates, options.seconds) if options.rates else search(options.seconds)
        self._offer(_WARM_UP)
        step = next(steps, None)
        with tqdm(bar_format="{desc}|{bar}| {elapsed}<{remaining}", disable=True if options.quiet else None) as bar:
            while step is not None:
                bar.total = bar.n + step.seconds + step.left_s
                bar.set_description(f"{step.rate:.0f} requests/s")
                result = self._offer(Phase(step.rate, step.seconds, None if options.even else len(self.points)))
                bar.update(step.seconds)
                holds = self.question.is_met(result)
                self.points.append(Point(step.rate, step.seconds, step.is_quick, holds, result))
                try:
                    step = steps.send(holds)
                except StopIteration:
                    step = None

    def _offer(self, phase: Phase) -> OpenResult:
        answers = offer(self.endpoint, self.bodies, [phase], connections=_CONNECTIONS)
        return OpenResult.of(answers, seconds=phase.seconds, budget_ms=self.question.budget_ms)


def _requests(options: argparse.Namespace, served: Served) -> Requests:
    if options.requests:
        for name, value in (("--candidates", options.candidates), ("--model", options.model)):
            if value is not None:
                raise ConfigError(f"{name} {value}: goes with --registry, not with --requests")
        return read_requests(options.requests, budget_ms=options.budget)
    if options.model not in (None, served.model):
        raise ConfigError(f"--model {options.model}: {options.url} serves the model {served.model}")
    folder = Registry(options.registry).release_dir(served.model, served.release)
    if not folder.is_dir():
        raise ConfigError(f"--registry {options.registry}: no {folder}, which {options.url} serves")
    num_candidates = options.candidates or _DEFAULT_CANDIDATES
    return random_requests(folder, num_candidates=num_candidates, budget_ms=options.budget)


def _check(options: argparse.Namespace) -> None:
    if not 0 < options.budget <= ANSWER_TIMEOUT_S * 1e3:
        raise ConfigError(f"--budget {options.budget:g}: must be above 0 and at most {ANSWER_TIMEOUT_S * 1000} ms")
    if options.candidates is not None and options.candidates < 1:
        raise ConfigError(f"--candidates {options.candidates}: must be at least 1")
    if not 0 <= options.max_degraded <= 1:
        raise ConfigError(f"--max-degraded {options.max_degraded:g}: must be a share, 0 to 1")
    for name, values in (("--seconds", [options.seconds]), ("--rates", options.rates)):
        for value in values:
            if not 0 < value < float("inf"):
                raise ConfigError(f"{name} {value:g}: must be above 0")


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ranktower bench", description=__doc__)
    parser.add_argument(
        "--url",
        required=True,
        help="of the service: http://host:port; an API key is taken from the environment, RANKTOWER_AUTH__API_KEY",
    )
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--registry", type=Path, help="random users and items of the served release, from this folder")
    source.add_argument("--requests", type=Path, metavar="FILE.jsonl", help="bodies of /v1/score, one a line")
    parser.add_argument("--model", help="name of the model in the registry; what the service says where left out")
    parser.add_argument("--candidates", type=int, help=f"of a random request ({_DEFAULT_CANDIDATES} where left out)")
    parser.add_argument("--budget", type=float, required=True, help="milliseconds a request may take; sent with it")
    parser.add_argument("--max-degraded", type=float, default=1.0, help="largest share of degraded answers (1: all)")
    parser.add_argument("--seconds", type=float, default=10.0, help="of load at each rate (10)")
    parser.add_argument("--rates", type=float, nargs="+", default=[], help="offer just these requests/s")
    parser.add_argument("--even", action="store_true", help="requests at even distances, not at random times")
    parser.add_argument("--priority", choices=["low"], help="class of the requests; the ordinary one where left out")
    parser.add_argument("--out", type=Path, default=Path(), help="folder of the plot and the raw data (this one)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser
