"""The stack of docker-compose.yml under a benchmark."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx

_ROOT = Path(__file__).parents[1]
_ASK = "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"


def engine_is_reachable() -> bool:
    """Whether there is a docker command, and an engine that answers it."""
    try:
        return subprocess.run(["docker", "info"], capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def docker(*arguments: str) -> str:
    """What a docker command writes; SystemExit with its own words where it fails."""
    done = subprocess.run(["docker", *arguments], cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"docker {' '.join(arguments)}: {done.stderr.strip()[-2000:]}")
    return done.stdout


class ComposeStack:
    """One project of docker compose. ``COMPOSE_FILE``, ``.env`` and the like hold as on the command line."""

    def __init__(self, project: str, address: str) -> None:
        """``address``: of the proxy, such as ``http://127.0.0.1:8080``."""
        self.address = address
        self._project = project

    def compose(self, *arguments: str) -> str:
        """What a command of docker compose writes."""
        return docker("compose", "--project-name", self._project, *arguments)

    def up(self, *options: str) -> None:
        """Start Prometheus and the proxy with all that it needs; Grafana would have to be pulled for nothing."""
        self.compose("up", "--detach", *options, "proxy", "prometheus")

    @contextlib.contextmanager
    def running(self) -> Iterator[None]:
        """Until the end; what did not run before is taken down again, without its volumes."""
        if self._proxy_answers():
            yield
            return
        try:
            self.up("--wait")
            yield
        finally:
            self.compose("down")

    def copy_registry(self, folder: Path) -> Path:
        """The registry of the service, for the ids in it, as a new folder below ``folder``."""
        self.compose("cp", "service:/registry", str(folder / "registry"))
        return folder / "registry"

    def replicas(self) -> list[str]:
        """The containers of the service, stopped ones included."""
        return self.compose("ps", "--all", "--quiet", "service").split()

    def kill(self, replica: str) -> None:
        """SIGKILL: nothing is drained."""
        docker("kill", "--signal", "KILL", replica)

    def revive(self, replica: str) -> None:
        """Start it again; nothing is done to one that runs."""
        docker("start", replica)

    def restart_redis(self) -> None:
        """Stop it as an operator does, and start it; its data stays."""
        self.compose("restart", "redis")

    def is_ready(self, replica: str) -> bool:
        """Whether a replica itself says that it serves; the proxy would hide it."""
        command = ["docker", "exec", replica, "python", "-ISc", _ASK]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def _proxy_answers(self) -> bool:
        try:
            return httpx.get(f"{self.address}/readyz", timeout=2).status_code == 200
        except httpx.TransportError:
            return False
