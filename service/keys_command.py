"""``ranktower keys``: makes, lists and revokes the API keys of a keys file."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import yaml
from pydantic import ValidationError
from pydantic_core import ErrorDetails

from ranktower.embedding_store.durable import write_file
from ranktower.errors import ConfigError
from ranktower.file_lock import file_lock
from service.api_keys import KeyEntry, new_key, read_keys

_HEADER = (
    "# Written by 'ranktower keys'; comments do not stay. The keys themselves are not in here, only their SHA-256.\n"
)


def main(argv: Sequence[str]) -> int:
    """Run the command; returns the exit status. Raises ConfigError where the file or an option is wrong."""
    options = _parser().parse_args(argv)
    # The file itself, not a link to it, is what is replaced.
    options.file = options.file.resolve()
    run = {"create": _create, "list": _list, "revoke": _revoke}[options.command]
    run(options)
    return 0


def _create(options: argparse.Namespace) -> None:
    """Standard output gets the key alone, so that a script can take it."""
    key, key_id = new_key()
    given = {name: getattr(options, name) for name in ("rate_per_s", "burst", "expires")}
    try:
        entry = KeyEntry(name=options.name, id=key_id, sha256=hashlib.sha256(key.encode()).hexdigest(), **given)
    except ValidationError as error:
        raise ConfigError("; ".join(map(_explain, error.errors()))) from None
    with file_lock(_lock_of(options.file)):
        entries = read_keys(options.file) if options.file.exists() else ()
        if any(one.name == options.name for one in entries):
            raise ConfigError(f"--name {options.name}: {options.file} has a key of this name")
        _write(options.file, (*entries, entry))
    sys.stdout.write(f"{key}\n")
    sys.stderr.write(f"{options.file}: added {options.name!r}; the key is shown this once\n")


def _list(options: argparse.Namespace) -> None:
    now = datetime.now(UTC)
    rows = [("name", "id", "limit", "expires")]
    for one in read_keys(options.file):
        limit = f"{one.rate_per_s:g}/s, burst {one.rate.burst}" if one.rate else "none"
        expires = "never" if one.expires is None else f"{one.expires:%Y-%m-%dT%H:%M:%SZ}"
        rows.append(
            (one.name, one.id, limit, f"{expires} (expired)" if one.expires and one.expires <= now else expires)
        )
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    for row in rows:
        sys.stdout.write("  ".join(f"{cell:{width}}" for cell, width in zip(row, widths, strict=True)).rstrip() + "\n")


def _revoke(options: argparse.Namespace) -> None:
    with file_lock(_lock_of(options.file)):
        entries = read_keys(options.file)
        rest = [one for one in entries if one.name != options.name]
        if len(rest) == len(entries):
            names = ", ".join(one.name for one in entries) or "none"
            raise ConfigError(f"--name {options.name}: {options.file} has no such key; it has: {names}")
        _write(options.file, rest)
    sys.stderr.write(f"{options.file}: revoked {options.name!r}\n")


def _lock_of(file: Path) -> Path:
    return file.with_name(f".{file.name}.lock")


def _write(file: Path, entries: Sequence[KeyEntry]) -> None:
    keys = [one.model_dump(mode="json", exclude_none=True) for one in entries]
    write_file(file, (_HEADER + yaml.safe_dump({"keys": keys}, sort_keys=False)).encode(), mode=0o600)


def _explain(error: ErrorDetails) -> str:
    if not error["loc"]:  # of no option alone
        return error["msg"]
    option = str(error["loc"][0]).replace("_", "-")
    return f"--{option}: {error['msg']}, got {error['input']!r}"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="ranktower keys", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    create = commands.add_parser("create", help="add a key and print it, once")
    listing = commands.add_parser("list", help="show what is known of each key")
    revoke = commands.add_parser("revoke", help="remove a key")
    for command in (create, listing, revoke):
        command.add_argument("--file", required=True, type=Path, help="the keys file (auth.keys_file)")
    for command in (create, revoke):
        command.add_argument("--name", required=True, help="what logs and metrics call the key")
    create.add_argument("--rate-per-s", type=float, metavar="R", help="requests a second (default: no limit)")
    create.add_argument("--burst", type=int, metavar="B", help="requests at once (default: those of one second)")
    create.add_argument(
        "--expires", metavar="DATE", help="from when on it is refused: 2027-01-31, 2027-01-31T12:00:00Z"
    )
    return parser
