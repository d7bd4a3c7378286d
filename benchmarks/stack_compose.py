"""The stack of docker-compose.yml under a benchmark."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

import httpx

_ROOT = Path(__file__).parents[1]
# From nothing, the offline job trains first.
_START_TIMEOUT_S = 1800.0
_ASK = "import urllib.request as u; u.urlopen('http://127.0.0.1:8000/readyz', timeout=2)"


class ComposeStack:
    """One project of docker compose. ``COMPOSE_FILE``, ``.env`` and the like hold as on the command line."""

    def __init__(self, project: str, address: str) -> None:
        """``address``: of the proxy, such as ``http://127.0.0.1:8080``."""
        self.address = address
        self._project = project

    def start(self) -> None:
        """Bring it up, with all that the proxy needs, unless the proxy answers; wait until it does."""
        if self._proxy_answers():
            return
        self._compose("up", "--detach", "proxy")
        deadline = time.monotonic() + _START_TIMEOUT_S
        while not self._proxy_answers():
            if time.monotonic() > deadline:
                raise SystemExit(f"{self.address}: not ready within {_START_TIMEOUT_S:.0f} s")
            time.sleep(1)

    def copy_registry(self, folder: Path) -> Path:
        """The registry of the service, for the ids in it, as a new folder below ``folder``."""
        self._compose("cp", "service:/registry", str(folder / "registry"))
        return folder / "registry"

    def replicas(self) -> list[str]:
        """The containers of the service, stopped ones included."""
        return self._compose("ps", "--all", "--quiet", "service").split()

    def kill(self, replica: str) -> None:
        """SIGKILL: nothing is drained."""
        _docker("kill", "--signal", "KILL", replica)

    def revive(self, replica: str) -> None:
        """Start it again; nothing is done to one that runs."""
        _docker("start", replica)

    def restart_redis(self) -> None:
        """Stop it as an operator does, and start it; its data stays."""
        self._compose("restart", "redis")

    def is_ready(self, replica: str) -> bool:
        """Whether a replica itself says that it serves; the proxy would hide it."""
        command = ["docker", "exec", replica, "python", "-ISc", _ASK]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def _proxy_answers(self) -> bool:
        try:
            return httpx.get(f"{self.address}/readyz", timeout=2).status_code == 200
        except httpx.TransportError:
            return False

    def _compose(self, *arguments: str) -> str:
        return _docker("compose", "--project-name", self._project, *arguments)


def _docker(*arguments: str) -> str:
    done = subprocess.run(["docker", *arguments], cwd=_ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"docker {' '.join(arguments)}: {done.stderr.strip()}")
    return done.stdout
