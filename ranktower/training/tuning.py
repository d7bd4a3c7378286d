"""Hyperparameter search with Optuna (Akiba et al. 2019): TPE, median pruning, resumable to the same trials."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, Trial, TrialState
from pydantic import BaseModel, ConfigDict, Field, model_validator

from ranktower.errors import ConfigError, DivergedError


class SearchRange(BaseModel):
    """What one value is searched in: ``choices``, or from ``low`` to ``high`` (whole numbers where both are)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    choices: tuple[Any, ...] = ()
    low: int | float | None = None
    high: int | float | None = None
    log: bool = False

    @model_validator(mode="after")
    def _check(self) -> SearchRange:
        if bool(self.choices) == (self.low is not None and self.high is not None):
            raise ValueError(f"a range has choices, or low and high: {self.model_dump(exclude_defaults=True)}")
        return self

    def suggest(self, trial: Trial, name: str) -> Any:
        """Let Optuna choose; it takes no lists, so a choice is told to it as JSON."""
        if self.choices:
            return json.loads(trial.suggest_categorical(name, [json.dumps(choice) for choice in self.choices]))
        if isinstance(self.low, int) and isinstance(self.high, int):
            return trial.suggest_int(name, self.low, self.high, log=self.log)
        return trial.suggest_float(name, float(self.low or 0), float(self.high or 0), log=self.log)

    def encoded(self, value: Any, *, name: str) -> Any:
        """A value as Optuna keeps it; ConfigError if it is outside the range."""
        if self.choices:
            # As JSON has it: a tuple is a list.
            plain = json.loads(json.dumps(value))
            for text in map(json.dumps, self.choices):
                if json.loads(text) == plain:
                    return text
        elif value is not None and self.low is not None and self.high is not None and self.low <= value <= self.high:
            return value
        raise ConfigError(f"search: the base value of {name} is outside its range, got {value!r}")


class TuningOptions(BaseModel):
    """How a model is tuned.

    Attributes:
        num_trials: trials of every model, pruned ones included.
        startup_trials: drawn at random (but for the first, the base), and not pruned.
        warmup_validations: validations of a trial before it may be pruned.
        seed: of the search.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    num_trials: int = Field(default=8, ge=1)
    startup_trials: int = Field(default=3, ge=1)
    warmup_validations: int = Field(default=1, ge=0)
    seed: int = Field(default=0, ge=0)


@dataclass(frozen=True)
class TrialRecord:
    """One finished trial: its values by name, the best figure it reached, and its time."""

    number: int
    params: dict[str, Any]
    value: float | None
    pruned: bool
    seconds: float


# Told each validation's figure in turn; raises to end a trial that is not worth going on.
Report = Callable[[list[float]], None]
Objective = Callable[[Mapping[str, Any], Report], float]


def tune(
    objective: Objective,
    space: Mapping[str, SearchRange],
    base: Mapping[str, Any],
    options: TuningOptions,
    *,
    storage: Path,
) -> list[TrialRecord]:
    """Maximise ``objective`` over ``space``; a killed search goes on, and its killed trial is the first to be rerun.

    The first trial has the values of ``base``. Each trial draws from a generator of its own number, so that a search
    that was killed chooses as one that was not.

    Args:
        objective: takes the values by name and a function to report the figures of all validations so far.
        space: what is searched.
        base: a value for each name of ``space``.
        options: number of trials, pruning, seed.
        storage: SQLite file; one search in each.

    Returns:
        Every trial that ended, in order.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    storage.parent.mkdir(parents=True, exist_ok=True)
    study = optuna.create_study(
        storage=f"sqlite:///{storage.resolve()}",
        study_name="tuning",
        direction="maximize",
        pruner=optuna.pruners.MedianPruner(
            n_startup_trials=options.startup_trials, n_warmup_steps=options.warmup_validations
        ),
        load_if_exists=True,
    )
    if not study.trials:
        study.enqueue_trial({name: one.encoded(base[name], name=name) for name, one in space.items()})
    for killed in study.get_trials(states=(TrialState.RUNNING,)):
        study.tell(killed.number, state=TrialState.FAIL)
        study.enqueue_trial(killed.params)
    while len(done := _ended(study)) < options.num_trials:
        study.sampler = optuna.samplers.TPESampler(
            seed=options.seed + len(done), n_startup_trials=options.startup_trials
        )
        _run(study, study.ask(), objective, space)
    return [_record(trial, number, space) for number, trial in enumerate(done)]


def _run(study: optuna.Study, trial: Trial, objective: Objective, space: Mapping[str, SearchRange]) -> None:
    """One trial to its end, pruned or not; one that diverges counts as pruned, it found out that its values are bad."""
    values = {name: one.suggest(trial, name) for name, one in space.items()}
    reported = 0

    def report(figures: list[float]) -> None:
        nonlocal reported
        for step, figure in enumerate(figures[reported:], start=reported):
            trial.report(figure, step)
        reported = len(figures)
        if trial.should_prune():
            raise optuna.TrialPruned

    try:
        study.tell(trial, objective(values, report))
    except (optuna.TrialPruned, DivergedError):
        study.tell(trial, state=TrialState.PRUNED)


def _ended(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED))


def _record(trial: FrozenTrial, number: int, space: Mapping[str, SearchRange]) -> TrialRecord:
    figures = trial.intermediate_values.values()
    duration = trial.duration
    return TrialRecord(
        number=number,
        params={name: json.loads(value) if space[name].choices else value for name, value in trial.params.items()},
        value=max(figures) if figures else trial.value,
        pruned=trial.state == TrialState.PRUNED,
        seconds=round(duration.total_seconds(), 1) if duration else 0.0,
    )
