"""``ranktower prepare``: canonical tables to a prepared data set."""

from __future__ import annotations

import argparse
import hashlib
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ranktower.data.dataset import PreparedDataset
from ranktower.data.prepare import PrepareOptions, prepare
from ranktower.data.tables import TABLE_FILES, read_tables
from ranktower.errors import DataError


def main(argv: Sequence[str]) -> int:
    """Prepare a folder of tables; where the result of the same tables and options is there already, reuse it.

    Raises:
        DataError: the tables are wrong, or ``--out`` holds something else than a prepared data set.
        ConfigError: the feature specification or an option is wrong.
    """
    arguments = _parser().parse_args(list(argv))
    started = time.perf_counter()
    options = PrepareOptions(
        min_impressions=arguments.min_impressions,
        min_positives=arguments.min_positives,
        train_fraction=arguments.train_fraction,
        validation_fraction=arguments.validation_fraction,
        seed=arguments.seed,
    )
    dataset, reused = prepare_folder(arguments.tables, arguments.out, options)
    line = summary(dataset, reused=reused, seconds=time.perf_counter() - started)
    sys.stdout.write(f"{arguments.out}: {line}\n")
    return 0


def prepare_folder(tables: Path, out: Path, options: PrepareOptions) -> tuple[PreparedDataset, bool]:
    """The data set prepared from ``tables`` into ``out``, and whether it was there already.

    It was if what lies in ``out`` is whole and comes from the same bytes with the same options.
    """
    source = {"sha256": {name: _file_sha256(tables / name) for name in TABLE_FILES}}
    existing = _existing(out)
    if existing is not None and existing.info["source"] == source and existing.info["options"] == asdict(options):
        return existing, True
    dataset = prepare(read_tables(tables), options, source=source)
    dataset.save(out)
    return dataset, False


def summary(dataset: PreparedDataset, *, reused: bool, seconds: float) -> str:
    """One line: what is in the data set, whether it was reused, and how long it took."""
    counts: dict[str, int] = dataset.info["counts"]
    return (
        f"{'reused, same tables and options' if reused else 'prepared'}: "
        f"{counts['users']:,} users ({counts['active_users']:,} active), {counts['items']:,} items, "
        f"{counts['interactions']:,} interactions; impressions: {counts['train']:,} train, "
        f"{counts['validation']:,} validation, {counts['test']:,} test, {counts['unused']:,} of inactive users; "
        f"{seconds:.1f} s"
    )


def _existing(out: Path) -> PreparedDataset | None:
    try:
        dataset = PreparedDataset.load(out)
    except DataError:
        # Nothing there, or half of something: prepared anew (and refused at the end where it is not ours to replace).
        return None
    known: dict[str, Any] = dataset.info
    return dataset if {"source", "options", "counts"} <= known.keys() else None


def _file_sha256(path: Path) -> str:
    try:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise DataError("no such file" if isinstance(error, FileNotFoundError) else str(error), file=path) from error


def _parser() -> argparse.ArgumentParser:
    defaults = PrepareOptions()
    parser = argparse.ArgumentParser(
        prog="ranktower prepare",
        description="Split canonical tables, fit the feature encoder on the training split, encode users and items.",
    )
    add = parser.add_argument
    add("--tables", type=Path, required=True, help="folder of the three Parquet tables and features.yaml")
    add("--out", type=Path, required=True, help="folder to write the prepared data set into")
    numbers = (
        ("--min-impressions", int, "distinct impressions an active user has at least; the paper: 100"),
        ("--min-positives", int, "positive ones among them; the paper: 20"),
        ("--train-fraction", float, "share of each user's impressions"),
        ("--validation-fraction", float, "share of each user's impressions; what remains is test"),
        ("--seed", int, "of the split"),
    )
    for flag, kind, text in numbers:
        default = getattr(defaults, flag.strip("-").replace("-", "_"))
        add(flag, type=kind, default=default, help=f"{text} (default: %(default)s)")
    return parser
