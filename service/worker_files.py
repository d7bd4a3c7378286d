"""The files through which several workers share their metrics, one set for each process that ever served."""

from __future__ import annotations

import os
from pathlib import Path

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.mmap_dict import MmapedDict
from prometheus_client.multiprocess import MultiProcessCollector, mark_process_dead

from ranktower.file_lock import file_lock

# No process has this id.
_GONE = 0


def render_workers(folder: Path) -> bytes:
    """The exposition text over all workers, those that are gone included as far as they counted."""
    # Whoever reads must not see a dead worker's counts twice, or not at all, while another worker adds them up.
    with file_lock(folder / "metrics.lock"):
        for pid in {int(path.stem.rsplit("_", 1)[1]) for path in folder.glob("*.db")} - {_GONE}:
            if not _is_alive(pid):
                _forget(folder, pid)
        merged = CollectorRegistry()
        MultiProcessCollector(merged, path=folder)  # type: ignore[no-untyped-call]
        return generate_latest(merged)


def _is_alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _forget(folder: Path, pid: int) -> None:
    """Drop a dead worker's gauges, and keep its counts, which must not go back: with those of all the other dead ones,
    for a worker that is started again and again must not fill the disk."""
    mark_process_dead(pid, path=str(folder))  # type: ignore[no-untyped-call]
    for path in folder.glob(f"*_{pid}.db"):
        kind = path.stem.rsplit("_", 1)[0]
        total = MmapedDict(folder / f"{kind}_{_GONE}.db")  # type: ignore[no-untyped-call]
        for key, value, timestamp, _ in MmapedDict.read_all_values_from_file(path):  # type: ignore[no-untyped-call]
            before, _ = total.read_value(key)  # type: ignore[no-untyped-call]
            total.write_value(key, before + value, timestamp)  # type: ignore[no-untyped-call]
        total.close()  # type: ignore[no-untyped-call]
        path.unlink()
