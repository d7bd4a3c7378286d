"""Everything that can be set, read once: command line over environment over YAML file over defaults."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal
from urllib.parse import urlsplit

import yaml
from pydantic import BaseModel, ConfigDict, Field, SecretStr, ValidationError
from pydantic_settings import (
    BaseSettings,
    EnvSettingsSource,
    PydanticBaseSettingsSource,
    SettingsConfigDict,
    SettingsError,
)

from ranktower.errors import ConfigError

if TYPE_CHECKING:
    from ranktower.embedding_store.redis_client import RedisOptions

ENV_PREFIX = "RANKTOWER_"
SHARED_FOLDER_ENV = f"{ENV_PREFIX}SHARED_FOLDER"
"""No setting: how ``ranktower serve`` names to its workers the folder that they share."""
EngineChoice = Literal["auto", "onnx", "native"]
Milliseconds = Annotated[float, Field(gt=0, le=600_000, allow_inf_nan=False)]


class Section(BaseModel):
    """Base of the sections; ``RANKTOWER_<SECTION>__<KEY>`` sets a key."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class HttpSettings(Section):
    """Where the service listens, and how it stops."""

    host: str = "127.0.0.1"
    port: int = Field(default=8000, ge=0, le=65535)
    """0 lets the system choose; the log names the port."""
    workers: int = Field(default=1, ge=1, le=256)
    backlog: int = Field(default=2048, ge=1)
    drain_delay_s: float = Field(default=0, ge=0, le=600, allow_inf_nan=False)
    """After SIGTERM, how long to serve on while readiness is off already, until no one sends any more."""
    drain_timeout_s: int = Field(default=30, ge=1)
    """After that, how long the requests under way may still take."""


class ReleaseSettings(Section):
    """Which release to serve. ``registry`` and ``model`` are required."""

    registry: Path
    model: str = Field(min_length=1)
    pointer: Literal["file", "redis"] = "file"
    """Where to read which release is current: the registry's file, or the store's Redis."""
    poll_ms: Milliseconds = 500.0
    retry_max_ms: Milliseconds = 30_000.0
    """Longest wait before a refused release is tried again; the wait starts at ``poll_ms`` and doubles."""
    verify: Literal["background", "before_serving"] = "background"
    """When the SHA-256 of the large files is compared. All else is compared before a release is served."""
    golden_tolerance: float = Field(default=1e-4, gt=0)
    """Largest difference of a golden score, on the cosine-sum scale."""


class StoreSettings(Section):
    """Where the rows of users and items are."""

    users: Literal["local", "redis"] = "local"
    items: Literal["local", "redis", "local+redis"] = "local"
    redis_url: SecretStr | None = None
    redis_password_file: Path | None = None
    """A mounted secret: the password of the URL's user, where the URL has none."""
    redis_cluster: bool = False
    timeout_ms: Milliseconds = 50.0
    """How long a request waits for the store; the request's own budget may make it less."""
    connect_timeout_ms: Milliseconds = 1000.0
    max_connections: int = Field(default=32, ge=1)
    """Of one worker to Redis, or to each node of a cluster."""

    def redis_options(self) -> RedisOptions:
        """How to reach Redis; ConfigError if the URL is missing or is none, without showing it, or if the file of the
        password cannot be read."""
        # Here, because the client is large and the process that only starts the workers has no use for it.
        from ranktower.embedding_store.redis_client import RedisOptions, read_password

        if self.redis_url is None:
            raise ConfigError(f"store.redis_url: not set (set {ENV_PREFIX}STORE__REDIS_URL)")
        try:
            password = read_password(self.redis_password_file) if self.redis_password_file else None
        except ConfigError as error:
            raise ConfigError(f"store.redis_password_file: {error}") from None
        options = RedisOptions(
            self.redis_url.get_secret_value(),
            password,
            cluster=self.redis_cluster,
            connect_timeout_s=self.connect_timeout_ms / 1000.0,
            max_connections=self.max_connections,
        )
        try:
            options.connection_options()
        except ConfigError as error:
            raise ConfigError(f"store.redis_url: {error}") from None
        return options


class ScorerSettings(Section):
    """What scores pairs of a user and a candidate."""

    engine: EngineChoice = "auto"
    """``native`` refuses to start without the package ranktower-native; ``auto`` uses it where it is installed."""

    def check(self) -> None:
        """ConfigError where the native scorer is asked for by name and cannot be had."""
        if self.engine != "native":
            return
        try:
            from ranktower_native import NativeError, paths
        except ImportError as error:
            raise ConfigError(
                "scorer.engine: is native, and the package ranktower-native is not installed or cannot be imported"
                f" ({error}); install it, or set auto"
            ) from None
        try:
            paths()
        except NativeError as error:
            raise ConfigError(f"scorer.engine: is native, and it cannot be loaded: {error}") from None


class LimitSettings(Section):
    """What a request may ask for."""

    max_candidates: int = Field(default=10_000, ge=1, le=1_000_000)
    max_item_features: int = Field(default=256, ge=0, le=10_000)
    """Items whose features a request may bring: each costs what many stored candidates do."""
    max_body_bytes: int = Field(default=4 << 20, ge=1024)
    body_timeout_ms: Milliseconds = 10_000.0
    """How long a client may take to send its body."""


class BudgetSettings(Section):
    """Time a request may take."""

    default_ms: Milliseconds | None = None
    """Budget of a request that names none; null is unlimited."""
    max_ms: Milliseconds = 60_000.0
    """Largest ``budget_ms`` a request may name."""
    reserve_ms: float = Field(default=0.3, ge=0, le=1000, allow_inf_nan=False)
    """Kept back from every budget for the way back to the client."""
    margin: float = Field(default=0.2, ge=0, lt=1)
    """Part of every budget that no work is planned into, for what cannot be foreseen."""


class OverloadSettings(Section):
    """How many requests may wait, and for how long."""

    max_waiting: int = Field(default=256, ge=1, le=100_000)
    """Requests of one worker that wait for their turn; those of low priority may take half of the places."""
    max_wait_ms: Milliseconds = 1000.0
    """How long a request without a budget may have to wait; one with a budget has that."""


class AuthSettings(Section):
    """Who may ask."""

    required: bool | None = None
    """Whether to serve only with keys; null: unless ``http.host`` is a loopback address."""
    keys_file: Path | None = None
    """The keys' hashes, as ``ranktower keys`` writes them; the service follows the file."""
    api_key: SecretStr | None = Field(default=None, min_length=16)
    """One more key, by environment only."""

    @property
    def asks_for_keys(self) -> bool:
        """Whether there may be keys. A keys file without any lets nobody in."""
        return self.keys_file is not None or self.api_key is not None


class ConsoleSettings(Section):
    """The page for people under /console."""

    enabled: bool = True


class LogSettings(Section):
    """What is logged, as JSON lines on standard error."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    slow_ms: Milliseconds = 100.0
    """A request that takes as long gets a line, and one that fails; of the others only a share does."""
    sample: float = Field(default=0.0, ge=0, le=1)
    """That share."""
    max_lines_per_s: int = Field(default=10, ge=1, le=100_000)
    """Lines of one worker about requests; how many are left out for it is logged too."""


class Settings(BaseSettings):
    """The service's configuration. Constructing it reads nothing; ``load_settings`` does."""

    model_config = SettingsConfigDict(
        env_prefix=ENV_PREFIX, env_nested_delimiter="__", frozen=True, extra="forbid", validate_default=True
    )

    release: ReleaseSettings
    http: HttpSettings = HttpSettings()
    store: StoreSettings = StoreSettings()
    scorer: ScorerSettings = ScorerSettings()
    limits: LimitSettings = LimitSettings()
    budget: BudgetSettings = BudgetSettings()
    overload: OverloadSettings = OverloadSettings()
    auth: AuthSettings = AuthSettings()
    console: ConsoleSettings = ConsoleSettings()
    log: LogSettings = LogSettings()

    @classmethod
    def settings_customise_sources(
        cls,
        settings_cls: type[BaseSettings],
        init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource,
        dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:
        """Only what the constructor is given, so that the sources and their order stand in ``load_settings`` alone."""
        return (init_settings,)

    @property
    def needs_redis(self) -> bool:
        """Whether any part of the service talks to Redis."""
        return "redis" in {self.store.users, *self.store.items.split("+"), self.release.pointer}


def load_settings(overrides: Mapping[str, Any], config: Path | None = None) -> Settings:
    """Read and validate the configuration.

    Args:
        overrides: section -> key -> value from the command line, which win over everything.
        config: YAML file with the same sections and keys, which loses to everything.

    Raises:
        ConfigError: a key is unknown or its value is wrong; names the key and, unless it may be a secret, the value.
    """
    try:
        environment = EnvSettingsSource(Settings)()
        settings = Settings(**_merge(_merge(_read_yaml(config), environment), overrides))
    except SettingsError as error:
        raise ConfigError(f"environment: {error}") from None
    except ValidationError as error:
        raise ConfigError("; ".join(_explain(one) for one in error.errors())) from None
    if settings.needs_redis:
        settings.store.redis_options()
    settings.scorer.check()
    return settings


def _read_yaml(path: Path | None) -> dict[str, Any]:
    if path is None:
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"--config {path}: cannot be read: {error}") from None
    if content is None:
        return {}
    if not isinstance(content, dict) or not all(isinstance(value, dict) for value in content.values()):
        raise ConfigError(f"--config {path}: must be a mapping of sections, each a mapping of keys")
    _refuse_secrets(content, path)
    return content


def _refuse_secrets(content: Mapping[str, Mapping[str, Any]], path: Path) -> None:
    secrets = []
    if "api_key" in content.get("auth", {}):
        secrets.append("auth.api_key")
    if urlsplit(str(content.get("store", {}).get("redis_url", ""))).password:
        secrets.append("store.redis_url with a password")
    for key in secrets:
        raise ConfigError(f"--config {path}: {key} is a secret and may only come from the environment")


def _merge(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for key, value in above.items():
        old = merged.get(key)
        merged[key] = _merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged


def _explain(error: Any) -> str:
    key = ".".join(str(part) for part in error["loc"])
    how = f" (set {ENV_PREFIX}{key.upper().replace('.', '__')})"
    if error["type"] == "missing":
        # A whole section is missing when none of its keys is given; only release has required keys.
        return f"{key}: not set" + (" (give --registry and --model)" if key == "release" else how)
    if error["type"] == "extra_forbidden":
        return f"{key}: unknown key"
    if key in {"auth.api_key", "store.redis_url"}:
        return f"{key}: {error['msg']}"
    return f"{key}: {error['msg']}, got {error['input']!r}"
