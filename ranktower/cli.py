"""The ``ranktower`` command: finds the sub-command among the installed entry points and loads only that one."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from types import FrameType

from ranktower import __version__
from ranktower.errors import ConfigError, RankTowerError

GROUP = "ranktower.commands"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one sub-command and return its exit status: 0 done, 2 the user can mend it, 130 interrupted.

    SIGTERM ends a command by an exception (status 143), so that what it began is tidied up, processes too.

    Args:
        argv: arguments after the program's name; ``sys.argv[1:]`` by default.
    """
    arguments = list(sys.argv[1:] if argv is None else argv)
    commands = {entry.name: entry for entry in entry_points(group=GROUP)}
    if not arguments or arguments[0] in {"-h", "--help"}:
        sys.stdout.write(_usage(sorted(commands)))
        return 0
    if arguments[0] == "--version":
        sys.stdout.write(f"ranktower {__version__}\n")
        return 0
    name, rest = arguments[0], arguments[1:]
    if name not in commands:
        sys.stderr.write(f"ranktower: unknown command {name!r}; one of: {', '.join(sorted(commands))}\n")
        return 2
    try:
        with _terminable():
            return _load(commands[name])(rest) or 0
    except (RankTowerError, OSError) as error:
        # OSError: a folder that cannot be written to, a full disk; a stack trace would explain it no better.
        sys.stderr.write(f"ranktower {name}: {error}\n")
        return 2
    except KeyboardInterrupt:
        sys.stderr.write(f"\nranktower {name}: interrupted; run it again to go on\n")
        return 130


def _load(entry: EntryPoint) -> Callable[[Sequence[str]], int | None]:
    try:
        command: Callable[[Sequence[str]], int | None] = entry.load()
    except ModuleNotFoundError as error:
        # Modules whose extra is not named like their program.
        extras = {"offline.experiment": "experiments", "model_export": "export"}
        program = entry.module.split(".")[0]
        extra = next((name for package, name in extras.items() if entry.module.startswith(package)), program)
        raise ConfigError(f"the package {error.name!r} is not installed; pip install 'ranktower[{extra}]'") from error
    return command


@contextmanager
def _terminable() -> Iterator[None]:
    def terminate(number: int, frame: FrameType | None) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, terminate)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _usage(names: Sequence[str]) -> str:
    lines = "\n".join(f"  ranktower {name} --help" for name in names)
    return f"ranktower {__version__}: an open pre-ranking system\n\nCommands:\n{lines}\n"


if __name__ == "__main__":
    sys.exit(main())
