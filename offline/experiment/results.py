"""Result files: one JSON a run, found again by what the run depends on."""

from __future__ import annotations

import base64
import datetime
import json
import os
import platform
import subprocess
import sys
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from offline.experiment.plan import DataIdentity, PlannedRun, Tuned, tuning_key
from offline.experiment.protocol import Protocol
from ranktower import __version__
from ranktower.errors import ConfigError

_LIBRARIES = ("torch", "numpy", "scipy", "onnxruntime")
_LARGEST = np.iinfo(np.uint16).max


@dataclass(frozen=True)
class ResultFolder:
    """The results on one data set."""

    path: Path

    @property
    def dataset(self) -> Path:
        """What the runs stand on: data, teacher, popularity."""
        return self.path / "dataset.json"

    @property
    def cost(self) -> Path:
        """What serving each model costs."""
        return self.path / "cost.json"

    def tuning(self, model: str) -> Path:
        """Every trial of a model."""
        return self.path / f"tuned-{model}.json"

    def run(self, run: PlannedRun, data: DataIdentity) -> Path:
        """The result of a run."""
        return self.path / f"{run.name}-seed{run.config.seed}-{run.key(data)[:8]}.json"


class Results:
    """The results of one folder, looked up by run; which file they lie in does not matter, rows may share one."""

    def __init__(self, folder: ResultFolder) -> None:
        self.folder = folder
        self.dataset: dict[str, Any] = read_json(folder.dataset) if folder.dataset.is_file() else {}
        paths = sorted(folder.path.glob("*-seed*-*.json"))
        self.by_key: dict[str, dict[str, Any]] = {content["key"]: content for content in map(read_json, paths)}

    @property
    def data(self) -> DataIdentity:
        """What the results shown stand on."""
        return DataIdentity(self.dataset.get("data_id", ""), self.dataset.get("teacher_key"))

    def find(self, run: PlannedRun) -> dict[str, Any] | None:
        """The result of a run; None where there is none, or where a default of its options has changed since."""
        found = self.by_key.get(run.key(self.data))
        if found is None or not _agree(found["config"], run.config.model_dump(mode="json")):
            return None
        return found if _agree(found["test"], run.test.model_dump(mode="json")) else None

    def tunings(self, protocol: Protocol) -> dict[str, dict[str, Any]]:
        """The tuning files' content by model, without files of another protocol, other data or another teacher."""
        found = {}
        for model in protocol.models:
            path = self.folder.tuning(model)
            if not path.is_file():
                continue
            content = read_json(path)
            if content["key"] == tuning_key(protocol, model, self.data):
                found[model] = content
            else:
                _say_stale(path)
        return found

    def tuned(self, protocol: Protocol) -> Tuned:
        """The best values of every model that has been tuned."""
        return {model: content["best"] for model, content in self.tunings(protocol).items()}


@cache
def _say_stale(path: Path) -> None:
    """Once a process, however often the file is looked at."""
    sys.stderr.write(f"{path}: of another protocol, other data or another teacher, not used; --tune makes it anew\n")


def read_json(path: Path) -> dict[str, Any]:
    """A result file; ConfigError where it is no JSON."""
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{path}: is no JSON: {error}; remove it to measure again") from None
    return content


def write_json(path: Path, content: Mapping[str, Any]) -> None:
    """Written aside and renamed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{os.getpid()}.part")
    aside.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    aside.replace(path)


def circumstances(command: str) -> dict[str, Any]:
    """When, how and on what a result was made."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text(encoding="utf-8").splitlines() if cpuinfo.is_file() else []
    cpu = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())
    return {
        "date": datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d"),
        "command": command,
        "machine": {"cpu": cpu, "num_cores": os.cpu_count()},
        "versions": {
            "ranktower": __version__,
            "python": platform.python_version(),
            **{name: version(name) for name in _LIBRARIES},
        },
        "commit": _commit(),
    }


def _commit() -> str | None:
    """Of the source tree; None where it is no checkout."""
    command = ["git", "-C", str(Path(__file__).parent), "rev-parse", "HEAD"]
    try:
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None


def pack(values: NDArray[np.float64]) -> str:
    """Values in [0, 1] as base64 of the zlib of little-endian uint16, the value times 65,535."""
    return base64.b64encode(zlib.compress(np.rint(values * _LARGEST).astype("<u2").tobytes(), 9)).decode()


def unpack(text: str) -> NDArray[np.float64]:
    """What ``pack`` took, to 1/131,070."""
    values: NDArray[np.float64] = np.frombuffer(zlib.decompress(base64.b64decode(text)), dtype="<u2") / _LARGEST
    return values


def _agree(stored: Any, current: Any) -> bool:
    """Whether two configurations have equal values wherever both have one."""
    if isinstance(stored, dict) and isinstance(current, dict):
        return all(_agree(stored[key], current[key]) for key in stored.keys() & current.keys())
    return bool(stored == current)
