"""Errors whose text is written for the person who can mend them: each names the key and the value that is wrong."""

from __future__ import annotations

from typing import Any


class RankTowerError(Exception):
    """Base of every error a user can cause; the command line prints its text without a stack trace."""


class ConfigError(RankTowerError):
    """A configuration file or option is wrong."""


class DivergedError(ConfigError):
    """A training run's loss is not finite any more."""


class DataError(RankTowerError):
    """A table or file of the user's data is wrong. The text names file, column and row where there is one."""

    def __init__(self, problem: str, *, file: object, column: str | None = None, row: int | None = None) -> None:
        """``row`` counts data rows from 0, the header not included."""
        where = f"{file}"
        if column is not None:
            where += f", column {column!r}"
        if row is not None:
            where += f", row {row}"
        super().__init__(f"{where}: {problem}")

    def __reduce__(self) -> tuple[Any, ...]:
        """Pickled, as a worker process hands it over, with its text alone."""
        return type(self).__new__, (type(self), str(self))


class ReleaseError(RankTowerError):
    """A release is missing, damaged, of another format version, or does not reproduce its golden scores."""


class StoreError(RankTowerError):
    """An embedding store could not be reached or answered something that is not a row."""
