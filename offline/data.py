"""``ranktower data``: canonical tables from a data set's original files, or from the cascade simulator."""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from ranktower.data.download import DOWNLOADS, download_dataset
from ranktower.data.readers.catalogue import READERS, find_dataset, read_dataset
from ranktower.data.simulator import SimulatorOptions, simulate
from ranktower.data.tables import Tables, validate_tables, write_tables

_SIMULATOR_FLAGS = {
    "--users": "num_users",
    "--items": "num_items",
    "--interests": "num_interests",
    "--requests-per-user": "requests_per_user",
    "--recalled": "num_recalled",
    "--ranked": "num_ranked",
    "--impressions": "num_impressions",
    "--popularity-exponent": "popularity_exponent",
    "--position-bias": "position_bias",
    "--teacher-noise": "teacher_noise",
    "--seed": "seed",
}
_HELP = {
    "--users": "number of users",
    "--items": "number of items",
    "--interests": "tastes of a user, who likes an item as much as the one that likes it best",
    "--requests-per-user": "mean number of requests of a user",
    "--recalled": "items that recall finds for a request",
    "--ranked": "of those, items that pre-ranking passes on",
    "--impressions": "of those, items that are shown",
    "--popularity-exponent": "Zipf exponent of recall, 0 for no skew",
    "--position-bias": "exponent of the chance (1 + position)^-e to be looked at",
    "--teacher-noise": "standard deviation of the noise on the teacher's logit",
    "--seed": "equal options and seed give equal files",
}


def main(argv: Sequence[str]) -> int:
    """Run ``ranktower data ...`` and return its exit status.

    Raises:
        RankTowerError: something the user can mend; the text names it.
    """
    arguments = _parser().parse_args(argv)
    started = time.perf_counter()
    with _reports_on_stderr():
        summary: str = arguments.run(arguments)
    sys.stdout.write(f"{summary} ({time.perf_counter() - started:.1f} s)\n")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ranktower data", description=__doc__)
    commands = parser.add_subparsers(required=True, metavar="COMMAND")

    listing = commands.add_parser("list", help="show the data sets and where they come from")
    listing.set_defaults(run=_list)

    download = commands.add_parser("download", help="fetch a data set's original files")
    download.add_argument("name", metavar="NAME", help=", ".join(DOWNLOADS))
    download.add_argument("--out", type=Path, required=True, help="folder for the original files")
    download.set_defaults(run=_download)

    importing = commands.add_parser("import", help="turn original files into canonical tables")
    importing.add_argument("name", metavar="NAME", help=f"auto (tell it from the files), {', '.join(READERS)}")
    importing.add_argument("--source", type=Path, required=True, help="folder of the original files")
    importing.add_argument("--out", type=Path, required=True, help="folder for the canonical tables")
    importing.set_defaults(run=_import)

    simulating = commands.add_parser("simulate", help="generate a whole cascade")
    simulating.add_argument("--out", type=Path, required=True, help="folder for the canonical tables")
    for flag, field in _SIMULATOR_FLAGS.items():
        default = getattr(SimulatorOptions, field)
        text = f"{_HELP[flag]} (default {default})"
        simulating.add_argument(flag, dest=field, type=type(default), default=default, help=text)
    simulating.set_defaults(run=_simulate)
    return parser


def _list(_: argparse.Namespace) -> str:
    lines = []
    for reader in READERS.values():
        downloads = [download.name for download in DOWNLOADS.values() if download.reader == reader.name]
        source = f"ranktower data download {' | '.join(downloads)}" if downloads else "log in there to download"
        files = ", ".join(reader.expected_files)
        lines.append(f"{reader.name}: {reader.title}\n  {reader.page} ({reader.licence})\n  {source}\n  files: {files}")
    return "\n".join([*lines, f"{len(lines)} data sets"])


def _download(arguments: argparse.Namespace) -> str:
    folder = download_dataset(arguments.name, arguments.out)
    return f"downloaded {arguments.name}; next: ranktower data import auto --source {folder} --out FOLDER"


def _import(arguments: argparse.Namespace) -> str:
    name, source = arguments.name, arguments.source
    if name == "auto":
        name, source = find_dataset(source)
    tables = read_dataset(name, source)
    validate_tables(tables, arguments.out)
    write_tables(arguments.out, tables)
    return _summary(f"imported {name}", tables, arguments.out)


def _simulate(arguments: argparse.Namespace) -> str:
    options = SimulatorOptions(**{field: getattr(arguments, field) for field in _SIMULATOR_FLAGS.values()})
    tables = simulate(options).tables
    write_tables(arguments.out, tables)
    return _summary(f"simulated with seed {options.seed}", tables, arguments.out)


def _summary(what: str, tables: Tables, folder: Path) -> str:
    sizes = f"{tables.users.height:,} users, {tables.items.height:,} items, {tables.interactions.height:,} interactions"
    return f"{what}: {sizes} in {folder}"


@contextmanager
def _reports_on_stderr() -> Iterator[None]:
    """Show what readers log (duplicates dropped, features missing) while the command runs."""
    logger = logging.getLogger("ranktower")
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(level)
