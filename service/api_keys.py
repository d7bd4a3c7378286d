"""API keys: the file that holds their hashes, and finding the one that a client gave.

A key is ``rt_<id>_<secret>``. The secret has 256 random bits, so a plain SHA-256 of the key gives nothing away: what a
slow hash makes expensive, trying likely passwords, does not exist here (ADR 30).
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import ipaddress
import logging
import math
import secrets
from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import ErrorDetails, PydanticCustomError
from yaml.constructor import ConstructorError

from ranktower.errors import ConfigError
from service.rate_limit import Rate
from service.settings import ENV_PREFIX, Settings

logger = logging.getLogger(__name__)

_ID_BYTES, _SECRET_BYTES = 5, 32


def _moment(value: object) -> datetime:
    """YAML knows dates and times itself, JSON does not. Numbers are neither, though pydantic would take them."""
    try:
        moment = datetime.fromisoformat(value.isoformat() if isinstance(value, date) else str(value))
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, OverflowError):  # in UTC it may be in the year 10000
        text = "must be a date or a time, such as 2027-01-31 or 2027-01-31T12:00:00Z"
        raise PydanticCustomError("no_moment", text) from None


Moment = Annotated[datetime, BeforeValidator(_moment)]
"""A point in time; UTC where no zone is given, the beginning of the day where no time is."""


class KeyEntry(BaseModel):
    """One key of the keys file."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str = Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    """What logs, metrics and ``ranktower keys`` call it."""
    id: str = Field(pattern=r"^[a-z0-9]{4,32}$")
    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    """Of the whole key."""
    rate_per_s: float | None = Field(default=None, ge=0.001, le=1e6)
    """Requests a second over all workers of one service; null is unlimited."""
    burst: int | None = Field(default=None, ge=1, le=1_000_000)
    """Requests that may come at once; by default those of one second."""
    expires: Moment | None = None
    """From when on it is refused."""

    @model_validator(mode="after")
    def _burst_needs_a_rate(self) -> KeyEntry:
        if self.burst is not None and self.rate_per_s is None:
            raise PydanticCustomError("burst", "burst is given without rate_per_s")
        return self

    @property
    def rate(self) -> Rate | None:
        """The limit, with the default burst."""
        if self.rate_per_s is None:
            return None
        return Rate(round(1e9 / self.rate_per_s), self.burst or max(1, math.ceil(self.rate_per_s)))


class _KeysFile(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")

    keys: tuple[KeyEntry, ...]


@dataclass(frozen=True, slots=True)
class ApiKey:
    """A key as requests meet it."""

    name: str
    id: str
    digest: bytes
    rate: Rate | None = None
    expires_at: float = math.inf
    """On the ``time.time`` clock."""


class Keyring:
    """The keys that are valid until the file changes."""

    def __init__(self, entries: Sequence[KeyEntry], environment_key: str | None = None) -> None:
        """``environment_key`` is ``auth.api_key``: of any form, without limit or end."""
        self._keys: dict[bytes, ApiKey] = {}
        if environment_key is not None:
            key = environment_key.encode("utf-8")
            self._keys[_id_of(key)] = ApiKey("environment", "", hashlib.sha256(key).digest())
        for one in entries:
            expires_at = math.inf if one.expires is None else one.expires.timestamp()
            self._keys[one.id.encode()] = ApiKey(one.name, one.id, bytes.fromhex(one.sha256), one.rate, expires_at)
        # An unknown id is compared like a known one, with what nothing hashes to.
        self._nobody = ApiKey("", "", secrets.token_bytes(hashlib.sha256().digest_size))

    def find(self, given: bytes) -> ApiKey | None:
        """The key that these bytes are, also if it has expired. An unknown id takes as long as a wrong secret."""
        key = self._keys.get(_id_of(given), self._nobody)
        return key if hmac.compare_digest(hashlib.sha256(given).digest(), key.digest) else None


def _id_of(key: bytes) -> bytes:
    """Empty for a key of another form, which only the environment's can be."""
    parts = key.split(b"_", 2)
    return parts[1] if len(parts) == 3 and parts[0] == b"rt" else b""


def new_key() -> tuple[str, str]:
    """A new key and its id. Both are of lower-case letters and digits, so that a double click selects all of it."""
    key_id, secret = (
        base64.b32encode(secrets.token_bytes(size)).decode().rstrip("=").lower() for size in (_ID_BYTES, _SECRET_BYTES)
    )
    return f"rt_{key_id}_{secret}", key_id


class _Loader(yaml.SafeLoader):
    """Names the line of what is no error to YAML itself: a date that does not exist, and a key that is given twice."""

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        except (ValueError, OverflowError):
            raise ConstructorError(None, None, "a value that does not exist", node.start_mark) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        names = [key.value for key, _ in node.value]
        for place, (key, _) in enumerate(node.value):
            if key.value in names[:place]:
                raise ConstructorError(None, None, "a field that is there twice", key.start_mark)
        return super().construct_mapping(node, deep)


def read_keys(path: Path) -> tuple[KeyEntry, ...]:
    """The entries of a keys file, which is YAML or JSON.

    Raises:
        ConfigError: it cannot be read or something in it is wrong; names file, entry and key, and shows no value, for a
            secret may have been put in the wrong place.
    """
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), _Loader)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}") from None
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else "?"
        raise ConfigError(f"{path}, line {line}: neither YAML nor JSON: {error.problem}") from None
    except (UnicodeDecodeError, yaml.YAMLError, RecursionError):
        raise ConfigError(f"{path}: neither YAML nor JSON in UTF-8") from None
    try:
        entries = _KeysFile.model_validate(content).keys
    except ValidationError as error:
        raise ConfigError("; ".join(f"{path}: {_explain(one)}" for one in error.errors())) from None
    for field in ("name", "id"):
        _refuse_duplicates(path, field, [getattr(entry, field) for entry in entries])
    return entries


def _refuse_duplicates(path: Path, field: str, values: Sequence[str]) -> None:
    for place, value in enumerate(values):
        if value in values[:place]:
            raise ConfigError(f"{path}: keys.{place}.{field}: that of keys.{values.index(value)} too")


def _explain(error: ErrorDetails) -> str:
    where = [str(part) for part in error["loc"]]
    if error["type"] == "extra_forbidden":
        # Not shown: the field may be a key, pasted where its name belongs.
        known = KeyEntry.model_fields if len(where) > 1 else _KeysFile.model_fields
        return f"{'.'.join(where[:-1]) or 'file'}: unknown field; known are {', '.join(known)}"
    return f"{'.'.join(where)}: {error['msg']}" if where else "must be a mapping with the list 'keys'"


def check_keys(settings: Settings) -> None:
    """Refuse to serve without keys where they are required, and say so in the log where they are not.

    Raises:
        ConfigError: there is no key, or the keys file is wrong.
    """
    auth, host = settings.auth, settings.http.host
    entries = () if auth.keys_file is None else read_keys(auth.keys_file)
    if entries or auth.api_key is not None:
        return
    if auth.required or (auth.required is None and not _is_loopback(host)):
        lack = "no API key is set" if auth.keys_file is None else f"{auth.keys_file} holds no API key"
        raise ConfigError(
            f"auth: http.host={host!r} asks for API keys, but {lack}: make one with 'ranktower keys create --file F"
            f" --name N' and set {ENV_PREFIX}AUTH__KEYS_FILE=F, or set {ENV_PREFIX}AUTH__REQUIRED=false"
        )
    without = "no API key is asked for" if auth.keys_file is None else "the keys file is empty: nobody is let in"
    logger.warning(without, extra={"fields": {"host": host}})


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
