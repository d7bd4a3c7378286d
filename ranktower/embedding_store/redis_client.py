"""Reading many keys at once from a Redis server or a Redis Cluster, with errors the service can count and show.

redis-py keeps the connections and hiredis reads the answers; the messages are written here (``docs/adr/0011``). Why not
the client's own ``mget_nonatomic`` on a cluster: row keys spread over all 16,384 hash slots, so it sends about one MGET
a key and awaits each answer by itself. Here the GETs of a node travel as one message.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import redis
import redis.asyncio
from redis import exceptions
from redis.asyncio.cluster import ClusterNode
from redis.asyncio.cluster import RedisCluster as AsyncRedisCluster
from redis.asyncio.connection import parse_url
from redis.asyncio.retry import Retry as AsyncRetry
from redis.backoff import ExponentialBackoff, NoBackoff
from redis.crc import key_slot
from redis.retry import Retry

from ranktower.embedding_store.protocol import FailureKind, StoreUnavailableError
from ranktower.errors import ConfigError

_AUTH_ERRORS = (
    exceptions.AuthenticationError,
    exceptions.AuthorizationError,
    exceptions.AuthenticationWrongNumberOfArgsError,
    exceptions.NoPermissionError,
)
_UNREADABLE = b""
"""Stands for a value that is no string: of no row's size, so it is rejected as one of a wrong size is."""


@dataclass(frozen=True)
class RedisOptions:
    """How to reach a Redis; times in seconds."""

    url: str = field(repr=False)
    """``redis://`` or ``rediss://`` (TLS) ``[user:password@]host:port/db``; a secret, never printed."""
    password: str | None = field(default=None, repr=False)
    """Where it is not in the URL."""
    cluster: bool = False
    connect_timeout_s: float = 1.0
    timeout_s: float = 5.0
    """For all but ``fetch``, which is told its own."""
    max_connections: int = 32

    def connection_options(self) -> dict[str, Any]:
        """The URL's parts and the password as redis-py wants them; ConfigError for no such URL, and for two passwords.
        Its text never shows the URL."""
        try:
            options: dict[str, Any] = dict(parse_url(self.url))
        except ValueError:
            raise ConfigError(
                "store url: not a redis:// or rediss:// URL (is a sign in the password not percent-encoded?)"
            ) from None
        if self.password is not None:
            if "password" in options:
                raise ConfigError("store url: has a password, and there is a password file as well; leave one out")
            options["password"] = self.password
        return options

    @property
    def address(self) -> str:
        """Host and port, or the socket's path, for messages."""
        options = self.connection_options()
        return str(options.get("path") or f"{options.get('host', 'localhost')}:{options.get('port', 6379)}")


def read_password(path: Path) -> str:
    """The password in a mounted secret's file, without the end of its line; ConfigError where there is none."""
    try:
        password = path.read_text(encoding="utf-8").rstrip("\r\n")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8'}") from None
    if not password:
        raise ConfigError(f"{path}: is empty")
    return password


@contextmanager
def store_errors(options: RedisOptions) -> Iterator[None]:
    """Turn whatever goes wrong while talking to Redis into a StoreUnavailableError without a secret in it."""
    try:
        yield
    except (exceptions.RedisError, exceptions.RedisClusterException, OSError) as error:
        kind = failure_kind(error)
        text = str(error) or type(error).__name__
        password = options.connection_options().get("password")
        if password:
            text = text.replace(str(password), "***")
        # Not chained: the causes' texts have not been looked through for secrets.
        raise StoreUnavailableError(f"redis {options.address}: {kind}: {text}", kind=kind) from None


def failure_kind(error: BaseException) -> FailureKind:
    """Which label an error of redis-py gets."""
    seen: BaseException | None = error
    while seen is not None:  # a cluster client wraps what its nodes answered
        if isinstance(seen, _AUTH_ERRORS):
            return "auth"
        seen = seen.__cause__
    if isinstance(error, (exceptions.TimeoutError, TimeoutError)):
        return "timeout"
    if isinstance(
        error, (exceptions.ConnectionError, exceptions.ClusterError, exceptions.RedisClusterException, OSError)
    ):
        return "connection"
    return "protocol"


class KeyReader(Protocol):
    """What the store needs of a server or a cluster."""

    async def mget(self, keys: Sequence[bytes]) -> list[bytes | None]:
        """The values of keys, None where there is none, in one round trip to each node."""
        ...

    async def ping(self) -> None:
        """Return once the server has answered."""
        ...

    async def close(self) -> None:
        """Close every connection."""
        ...


def open_reader(options: RedisOptions) -> KeyReader:
    """A reader that connects at its first use, in the event loop of that use."""
    return _ClusterReader(options) if options.cluster else _ServerReader(options)


class _ServerReader:
    def __init__(self, options: RedisOptions) -> None:
        # One retry, and only for a broken connection: a timeout means there is no time left to try again.
        retry = AsyncRetry(NoBackoff(), 1, supported_errors=(exceptions.ConnectionError,))
        pool = redis.asyncio.BlockingConnectionPool(**{"timeout": None, **_async_options(options), "retry": retry})
        self._client: Any = redis.asyncio.Redis.from_pool(pool)

    async def mget(self, keys: Sequence[bytes]) -> list[bytes | None]:
        message = _mget_message(keys)
        try:
            return await self._ask(message)
        except exceptions.AuthenticationError:
            raise
        except exceptions.ConnectionError:
            # The server was restarted, or closed a connection that was idle; reading twice does no harm.
            return await self._ask(message)

    async def _ask(self, message: bytes) -> list[bytes | None]:
        pool = self._client.connection_pool
        connection = await pool.get_connection()
        try:
            await connection.send_packed_command(message, check_health=False)
            values: list[bytes | None] = await connection.read_response()
        except exceptions.ResponseError:
            raise  # a refusal has been read to its end
        except BaseException:
            # Its answer may still come: nobody else may find it there.
            await connection.disconnect(nowait=True)
            raise
        finally:
            await pool.release(connection)
        return values

    async def ping(self) -> None:
        await self._client.ping()

    async def close(self) -> None:
        await self._client.aclose()


def _mget_message(keys: Sequence[bytes]) -> bytes:
    """MGET in Redis's protocol. redis-py packs a command argument by argument in Python, which for a thousand keys
    takes longer than the server and the network."""
    headers = {length: b"$%d\r\n" % length for length in set(map(len, keys))}
    arguments = b"\r\n".join([headers[len(key)] + key for key in keys])
    return b"*%d\r\n$4\r\nMGET\r\n%b\r\n" % (len(keys) + 1, arguments)


class _ClusterReader:
    def __init__(self, options: RedisOptions) -> None:
        settings = _async_options(options)
        if "path" in settings:
            raise ConfigError(f"store url: a cluster is not reached by a unix socket ({options.address})")
        if settings.pop("connection_class", None) is not None:  # TLS: parse_url knows no other but the unix socket's
            settings["ssl"] = True
        self._client: Any = AsyncRedisCluster(**{**settings, "retry": AsyncRetry(NoBackoff(), 1)})
        self._free = asyncio.Semaphore(options.max_connections)

    async def mget(self, keys: Sequence[bytes]) -> list[bytes | None]:
        async with self._free:
            await self._client.initialize()
            try:
                return await self._mget(keys)
            except exceptions.AuthenticationError:
                raise
            except (exceptions.ConnectionError, exceptions.MovedError):
                # A node was restarted, or another has taken its place: ask the others who serves what, and once more.
                await self._client.nodes_manager.initialize()
                return await self._mget(keys, follow=True)

    async def _mget(self, keys: Sequence[bytes], *, follow: bool = False) -> list[bytes | None]:
        slots = self._client.nodes_manager.slots_cache
        by_node: dict[ClusterNode, list[int]] = {}
        for position, key in enumerate(keys):
            by_node.setdefault(slots[key_slot(key)][0], []).append(position)
        values: list[bytes | None] = [None] * len(keys)
        answers = await asyncio.gather(
            *(_get_from_node(node, [keys[position] for position in group]) for node, group in by_node.items()),
            return_exceptions=True,
        )
        for group, answer in zip(by_node.values(), answers, strict=True):
            if isinstance(answer, BaseException):
                raise answer
            for position, value in zip(group, answer, strict=True):
                if isinstance(value, exceptions.MovedError) and not follow:
                    raise value  # slots were given to another node: one look at the map tells of all of them
                refused = isinstance(value, exceptions.ResponseError)
                values[position] = await self._get(keys[position]) if refused else value
        return values

    async def _get(self, key: bytes) -> bytes | None:
        """One key that its node refused: the client follows a slot that is moving or has moved."""
        try:
            value: bytes | None = await self._client.get(key)
        except exceptions.ResponseError as error:
            if str(error).startswith("WRONGTYPE"):
                return _UNREADABLE
            raise
        return value

    async def ping(self) -> None:
        async with self._free:
            await self._client.initialize()
            await self._client.ping(target_nodes=AsyncRedisCluster.PRIMARIES)

    async def close(self) -> None:
        await self._client.aclose()


async def _get_from_node(node: ClusterNode, keys: Sequence[bytes]) -> list[Any]:
    """The node's answer to a GET for each key; a ResponseError stands where it has moved the key or refused it."""
    async with _connection(node) as connection:
        message = b"".join([b"*2\r\n$3\r\nGET\r\n$%d\r\n%b\r\n" % (len(key), key) for key in keys])
        await connection.send_packed_command(message, check_health=False)
        answers: list[Any] = []
        for _ in keys:
            try:
                answers.append(await connection.read_response())
            except exceptions.NoPermissionError:
                raise
            except exceptions.ResponseError as error:
                answers.append(error)
        return answers


@asynccontextmanager
async def _connection(node: ClusterNode) -> AsyncIterator[Any]:
    """A connection of the node's pool; one that did not get to the end of its answers is closed, never reused."""
    connection = node.acquire_connection()
    try:
        yield connection
    except BaseException as error:
        await connection.disconnect(nowait=True)
        if isinstance(error, exceptions.ConnectionError):
            await node.disconnect_free_connections()  # they are as stale as this one
        raise
    finally:
        node.release(connection)


def _async_options(options: RedisOptions) -> dict[str, Any]:
    """Settings of the asynchronous clients, the URL's own included."""
    settings = {"max_connections": options.max_connections, **options.connection_options()}
    settings.update(
        # The caller's timeout spans the whole request; another for each read would cost more than the reads.
        socket_timeout=None,
        socket_connect_timeout=options.connect_timeout_s,
        decode_responses=False,
        protocol=2,
    )
    return settings


def open_sync_client(options: RedisOptions) -> redis.Redis | redis.RedisCluster:
    """A blocking client for the batch jobs; it tries again a few times, which is safe for what they send."""
    settings: dict[str, Any] = {
        "socket_timeout": options.timeout_s,
        "socket_connect_timeout": options.connect_timeout_s,
        "decode_responses": False,
        "retry": Retry(ExponentialBackoff(cap=1.0, base=0.05), 3),
        # Asked for here also for the error about a wrong URL, which does not show it.
        "password": options.connection_options().get("password"),
    }
    if options.cluster:
        return redis.RedisCluster.from_url(options.url, **settings)
    return redis.Redis.from_url(options.url, **settings)
