"""Follows the keys file, so that keys are rotated without a restart."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from prometheus_client import Counter

from ranktower.errors import ConfigError
from service.api_keys import KeyEntry, Keyring, read_keys
from service.recurring import Recurring
from service.settings import Settings

logger = logging.getLogger(__name__)

_State = tuple[int, int, int, int]


class KeyWatch:
    """The keys that are valid now. A file that is broken or gone changes nothing: the keys before it stay.

    A worker that takes the place of a dead one while the file is broken knows no key from it, and so refuses all of
    them: the one who was to be locked out by the newest file could be among them.
    """

    def __init__(self, settings: Settings, refused: Counter, on_change: Callable[[Sequence[KeyEntry]], None]) -> None:
        """Reads nothing before ``start``. ``refused`` counts every look at a file that is refused; ``on_change`` is
        called with the entries of every one that is taken."""
        key = settings.auth.api_key
        self._environment_key = None if key is None else key.get_secret_value()
        self._path = settings.auth.keys_file
        self._refused = refused
        self._on_change = on_change
        self._taken: _State | None = None
        self._trouble: str | None = None
        self._recurring: Recurring | None = None
        self._every_s = settings.release.poll_ms / 1000.0
        self.ring = Keyring((), self._environment_key)

    async def start(self) -> None:
        """Read the file, and go on looking at it as often as at the pointer to the releases."""
        if self._path is not None:
            look = partial(self._look, self._path)
            await look()
            self._recurring = Recurring("reading the keys file", look, every_s=self._every_s, retry_s=self._every_s)
            self._recurring.start()

    async def stop(self) -> None:
        """Look no more."""
        if self._recurring is not None:
            await self._recurring.stop()

    async def _look(self, path: Path) -> None:
        try:
            # In a thread, because the file may lie on a network file system.
            found = await asyncio.to_thread(_read_if_changed, path, self._taken)
        except Exception as error:  # whatever it is, a worker starts, and who watches the counter learns of it
            self._refused.inc()
            is_known = isinstance(error, ConfigError)
            detail = str(error) if is_known else f"{path}: {type(error).__name__}"
            if detail != self._trouble:
                said = "keys file refused; the keys before it stay"
                logger.warning(said, exc_info=not is_known, extra={"fields": {"detail": detail}})
            self._trouble = detail
            return
        self._trouble = None
        if found is not None:
            self._taken, entries = found
            self.ring = Keyring(entries, self._environment_key)
            self._on_change(entries)
            logger.info("keys file read", extra={"fields": {"keys": len(entries)}})


def _read_if_changed(path: Path, taken: _State | None) -> tuple[_State, tuple[KeyEntry, ...]] | None:
    """State and entries of a file that is not in the state ``taken``; raises ConfigError for one that is refused."""
    try:
        status = path.stat()
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    # Asked for before the content: whatever changes in between is found at the next look.
    state = (status.st_ino, status.st_mtime_ns, status.st_ctime_ns, status.st_size)
    return None if state == taken else (state, read_keys(path))
