"""What happens when a Redis server does not answer, is not one, restarts, or wants credentials."""

from __future__ import annotations

import asyncio
import signal
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import redis
from numpy.typing import NDArray

from ranktower.embedding_store.local import LocalTable
from ranktower.embedding_store.protocol import StoreUnavailableError
from ranktower.embedding_store.redis import RedisStore, RedisWriter
from ranktower.embedding_store.redis_client import RedisOptions
from ranktower.embedding_store.redis_releases import PointerWatch, delete_release, write_pointer
from ranktower.embedding_store.table_writer import write_table
from ranktower.errors import ConfigError
from ranktower.pointer import Pointer
from ranktower.release import Manifest

Arrays = dict[str, NDArray[np.float32]]
MakeArrays = Callable[..., Arrays]
WriteItems = Callable[..., None]


async def test_many_requests_at_once_never_mix_their_answers(
    store: RedisStore, redis_server: Any, manifest: Manifest, random_arrays: MakeArrays, write_items: WriteItems
) -> None:
    layout = manifest.redis_layout("item")
    arrays = random_arrays(layout, 200)
    write_items(RedisOptions(redis_server.url), manifest, list(range(200)), arrays)

    async def one(seed: int) -> None:
        ids = np.random.default_rng(seed).integers(0, 200, size=20)
        # Some give up at once: what they leave unread must not become another's answer.
        hurried = seed % 3 == 0
        try:
            found = await store.fetch("item", ids.tolist(), timeout_s=0.0005 if hurried else 5.0)
        except StoreUnavailableError:
            if not hurried:
                raise
            return
        np.testing.assert_array_equal(layout.decode(found.raw)["embedding"], arrays["embedding"][ids])

    await asyncio.gather(*(one(seed) for seed in range(300)))


@asynccontextmanager
async def listening(answer: bytes | None) -> AsyncIterator[int]:
    """The port of a server that answers every connection with the same bytes, or with nothing at all."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        if answer is None:
            await reader.read()  # until the client gives up
        else:
            writer.write(answer)
            await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        yield server.sockets[0].getsockname()[1]
        await asyncio.sleep(0.02)  # let the connections end


async def test_a_server_that_is_down_is_an_error_at_once(manifest: Manifest) -> None:
    with socket.socket() as bound:
        bound.bind(("127.0.0.1", 0))  # bound, not listening: connections are refused
        port = bound.getsockname()[1]
        store = RedisStore(RedisOptions(f"redis://127.0.0.1:{port}"), manifest)
        for ask in (lambda: store.fetch("item", [1], timeout_s=2.0), store.ping, store.is_complete):
            start = time.perf_counter()
            with pytest.raises(StoreUnavailableError, match=rf"^redis 127\.0\.0\.1:{port}: connection: ") as caught:
                await ask()
            assert caught.value.kind == "connection"
            assert time.perf_counter() - start < 0.5
        await store.close()


async def test_a_server_that_accepts_and_says_nothing_is_a_timeout(manifest: Manifest) -> None:
    async with listening(None) as port:
        store = RedisStore(RedisOptions(f"redis://127.0.0.1:{port}"), manifest)
        start = time.perf_counter()
        with pytest.raises(StoreUnavailableError, match=rf"^redis 127\.0\.0\.1:{port}: timeout: ") as caught:
            await store.fetch("item", [1], timeout_s=0.05)
        assert 0.04 < time.perf_counter() - start < 0.5
        assert caught.value.kind == "timeout"
        await store.close()


@pytest.mark.parametrize(("answer", "kind"), [(b"HTTP/1.1 400 Bad Request\r\n\r\n", "protocol"), (b"", "connection")])
async def test_a_server_that_is_no_redis(answer: bytes, kind: str, manifest: Manifest) -> None:
    async with listening(answer) as port:
        store = RedisStore(RedisOptions(f"redis://127.0.0.1:{port}"), manifest)
        with pytest.raises(StoreUnavailableError) as caught:
            await store.fetch("item", [1], timeout_s=1.0)
        assert caught.value.kind == kind
        await store.close()


async def test_a_server_that_refuses_the_command(start_redis: Callable[..., Any], manifest: Manifest) -> None:
    server = start_redis("--rename-command", "MGET", "")
    store = RedisStore(RedisOptions(server.url), manifest)
    with pytest.raises(StoreUnavailableError, match=r": protocol: unknown command 'MGET'") as caught:
        await store.fetch("item", [1], timeout_s=1.0)
    assert caught.value.kind == "protocol"
    await store.close()


async def test_a_paused_server_times_out_and_later_answers(
    restartable_redis: Any, manifest: Manifest, random_arrays: MakeArrays, write_items: WriteItems
) -> None:
    layout = manifest.redis_layout("item")
    arrays = random_arrays(layout, 2)
    write_items(RedisOptions(restartable_redis.url), manifest, [1, 2], arrays)
    store = RedisStore(RedisOptions(restartable_redis.url), manifest)
    assert (await store.fetch("item", [1], timeout_s=2.0)).present.all()
    restartable_redis.command("client", "pause", "400")
    start = time.perf_counter()
    with pytest.raises(StoreUnavailableError) as caught:
        await store.fetch("item", [1], timeout_s=0.05)
    assert caught.value.kind == "timeout"
    assert time.perf_counter() - start < 0.3
    # The late answer to [1] must not be taken for the answer to [2].
    found = await store.fetch("item", [2], timeout_s=5.0)
    np.testing.assert_array_equal(layout.decode(found.raw)["embedding"], arrays["embedding"][1:])
    await store.close()


async def test_a_server_that_stops_and_comes_back(
    restartable_redis: Any, manifest: Manifest, random_arrays: MakeArrays, write_items: WriteItems
) -> None:
    options, arrays = RedisOptions(restartable_redis.url), random_arrays(manifest.redis_layout("item"), 3)
    write_items(options, manifest, [1, 2, 3], arrays)
    store = RedisStore(options, manifest)
    await asyncio.gather(*(store.fetch("item", [1], timeout_s=2.0) for _ in range(8)))  # several connections
    restartable_redis.stop()
    for _ in range(3):
        start = time.perf_counter()
        with pytest.raises(StoreUnavailableError) as caught:
            await store.fetch("item", [1], timeout_s=2.0)
        assert caught.value.kind == "connection"
        assert time.perf_counter() - start < 0.5
    restartable_redis.start()
    assert not (await store.fetch("item", [1, 2], timeout_s=2.0)).present.any()  # it came back empty
    write_items(options, manifest, [1, 2, 3], arrays)
    assert (await store.fetch("item", [1, 2], timeout_s=2.0)).present.all()
    await store.close()


async def test_a_restart_between_two_requests_is_not_noticed(restartable_redis: Any, manifest: Manifest) -> None:
    store = RedisStore(RedisOptions(restartable_redis.url), manifest)
    await asyncio.gather(*(store.fetch("item", [1], timeout_s=2.0) for _ in range(8)))
    restartable_redis.stop()
    restartable_redis.start()
    for _ in range(8):
        assert (await store.fetch("item", [1], timeout_s=2.0)).present.tolist() == [False]
    await store.close()


@pytest.fixture(scope="module")
def locked_redis(start_redis: Callable[..., Any]) -> Any:
    """A server with a password, a user who may do everything and one who may read only another application's keys."""
    return start_redis(
        "--requirepass", "se/cr:et",
        "--user", "ranker", "on", ">p@ss word", "~ranktower:*", "+@all",
        "--user", "stranger", "on", ">other", "~other:*", "+@all",
    )  # fmt: skip


@pytest.mark.parametrize("credentials", [":se%2Fcr%3Aet", "default:se%2Fcr%3Aet", "ranker:p%40ss%20word"])
async def test_password_and_acl_come_from_the_url(
    credentials: str, locked_redis: Any, manifest: Manifest, random_arrays: MakeArrays, write_items: WriteItems
) -> None:
    options = RedisOptions(f"redis://{credentials}@127.0.0.1:{locked_redis.port}/0")
    write_items(options, manifest, [1], random_arrays(manifest.redis_layout("item"), 1))
    store = RedisStore(options, manifest)
    assert (await store.fetch("item", [1], timeout_s=2.0)).present.all()
    await store.close()


@pytest.mark.parametrize(
    "credentials", ["", ":wr0ng-secret@", "ranker:wr0ng-secret@", "nobody:wr0ng-secret@", "stranger:other@"]
)
async def test_refused_credentials(credentials: str, locked_redis: Any, manifest: Manifest) -> None:
    options = RedisOptions(f"redis://{credentials}127.0.0.1:{locked_redis.port}/0")
    store = RedisStore(options, manifest)
    errors: list[StoreUnavailableError] = []
    with pytest.raises(StoreUnavailableError) as caught:
        await store.fetch("item", [1], timeout_s=2.0)
    errors.append(caught.value)
    with pytest.raises(StoreUnavailableError) as caught, RedisWriter(options, manifest) as writer:
        writer.rows_done("item")
    errors.append(caught.value)
    for error in errors:
        assert error.kind == "auth"
        assert str(error).startswith(f"redis 127.0.0.1:{locked_redis.port}: auth: ")
        assert "wr0ng-secret" not in str(error) + repr(error) + repr(error.__cause__)
    assert "wr0ng-secret" not in repr(options)
    await store.close()


async def test_a_refusal_keeps_the_connection(locked_redis: Any, manifest: Manifest) -> None:
    def num_connections() -> int:
        with redis.Redis.from_url(f"redis://:se%2Fcr%3Aet@127.0.0.1:{locked_redis.port}/0") as client:
            return int(client.info("stats")["total_connections_received"])

    store = RedisStore(RedisOptions(f"redis://stranger:other@127.0.0.1:{locked_redis.port}/0"), manifest)
    before = num_connections()
    for _ in range(5):
        with pytest.raises(StoreUnavailableError, match="auth"):
            await store.fetch("item", [1], timeout_s=2.0)
    assert num_connections() - before == 2  # the store's, and the one that asks
    await store.close()


async def test_a_request_that_gives_up_waiting_for_a_connection_leaves_the_pool_whole(
    restartable_redis: Any, manifest: Manifest
) -> None:
    store = RedisStore(RedisOptions(restartable_redis.url, max_connections=1), manifest)
    await store.fetch("item", [1], timeout_s=2.0)
    restartable_redis.process.send_signal(signal.SIGSTOP)
    try:
        requests = [store.fetch("item", [1], timeout_s=0.2) for _ in range(4)]
        answers = await asyncio.gather(*requests, return_exceptions=True)
    finally:
        restartable_redis.process.send_signal(signal.SIGCONT)
    assert [getattr(answer, "kind", None) for answer in answers] == ["timeout"] * 4
    for _ in range(3):
        assert (await store.fetch("item", [1], timeout_s=2.0)).present.tolist() == [False]
    await store.close()


@pytest.mark.parametrize(
    "url", ["", "localhost:6379", "http://u:wr0ng@h", "redis://u:wr0ng/slash@h:1", "redis://:wr0ng@h:port"]
)
def test_a_url_that_is_none(url: str, manifest: Manifest) -> None:
    with pytest.raises(ConfigError) as caught:
        RedisStore(RedisOptions(url), manifest)
    assert str(caught.value).startswith("store url: not a redis:// or rediss:// URL")
    assert "wr0ng" not in str(caught.value)
    with pytest.raises(ConfigError):
        RedisWriter(RedisOptions(url), manifest)


READER = ("+get", "+mget", "+ping")
WRITER = ("+set", "+get", "+exists", "+hget", "+hset", "+del", "+scan", "+unlink")
ON_A_CLUSTER = ("+cluster|slots", "+command")


@pytest.mark.parametrize("is_cluster", [False, True])
async def test_the_rights_that_docs_formats_names_are_enough(
    is_cluster: bool, request: pytest.FixtureRequest, make_manifest: Callable[..., Manifest],
    release_ids: Iterator[str], random_arrays: MakeArrays, tmp_path: Path,
) -> None:  # fmt: skip
    server = request.getfixturevalue("redis_cluster" if is_cluster else "redis_server")
    more = ON_A_CLUSTER if is_cluster else ()
    for node in server.servers if is_cluster else [server]:
        node.command("acl", "setuser", "reader", "on", ">r", "~ranktower:*", *READER, *more)
        node.command("acl", "setuser", "writer", "on", ">w", "~ranktower:*", *WRITER, *more)
    reader = RedisOptions(server.url.replace("//", "//reader:r@"), cluster=is_cluster)
    writer = RedisOptions(server.url.replace("//", "//writer:w@"), cluster=is_cluster)
    old, new = (make_manifest(model="rights", release=next(release_ids)) for _ in range(2))
    layout = old.layout("item")
    arrays = random_arrays(layout, 2)
    write_table(tmp_path, [1, 2], lambda rows: {name: values[rows] for name, values in arrays.items()}, layout)
    with RedisWriter(writer, old) as copy:
        copy.write_table("item", LocalTable(tmp_path, layout))
        copy.finish()
        assert copy.is_complete()
    with RedisWriter(writer, new) as copy:
        copy.finish()
    store, watch = RedisStore(reader, old), PointerWatch(reader, "rights")
    await store.ping()
    assert await store.is_complete()
    assert (await store.fetch("item", [1, 2], timeout_s=5.0)).present.all()
    write_pointer(writer, "rights", Pointer(release=new.release))
    assert await watch.read() == Pointer(release=new.release)
    assert delete_release(writer, "rights", old.release) == 2
    await store.close()
    await watch.close()


def test_tls_comes_from_the_url(tmp_path: Path, start_redis: Callable[..., Any], manifest: Manifest) -> None:
    key, certificate = tmp_path / "key.pem", tmp_path / "cert.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    tls = ["--tls-port", str(port), "--tls-cert-file", str(certificate), "--tls-key-file", str(key)]
    start_redis(*tls, "--tls-ca-cert-file", str(certificate), "--tls-auth-clients", "no")

    async def ping(url: str) -> None:
        store = RedisStore(RedisOptions(url), manifest)
        try:
            await store.ping()
        finally:
            await store.close()

    asyncio.run(ping(f"rediss://127.0.0.1:{port}?ssl_ca_certs={certificate}"))
    with pytest.raises(StoreUnavailableError) as caught:  # a certificate nobody vouches for
        asyncio.run(ping(f"rediss://127.0.0.1:{port}"))
    assert caught.value.kind == "connection"
