"""``ranktower canary`` and ``ranktower shadow``, with a real Redis too."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from offline import promote, rollback, variation
from ranktower.embedding_store.redis import RedisWriter
from ranktower.embedding_store.redis_client import RedisOptions
from ranktower.embedding_store.redis_releases import read_pointer
from ranktower.errors import ConfigError, ReleaseError
from ranktower.pointer import Pointer, Variation
from ranktower.registry import Registry
from ranktower.release import read_manifest

FIRST, SECOND = "20261123T100000Z-0123abcd", "20261124T100000Z-0123abcd"
MODEL = "tried"


@pytest.fixture
def place(tmp_path: Path, publish_small: Callable[..., Any]) -> list[str]:
    """Two published releases, the first one promoted."""
    for release in (FIRST, SECOND):
        publish_small(tmp_path, release, model=MODEL)
    Registry(tmp_path).promote(MODEL, FIRST)
    return ["--registry", str(tmp_path), "--model", MODEL]


@pytest.mark.parametrize(("command", "whose"), [(variation.canary, "users"), (variation.shadow, "answers")])
def test_on_another_share_and_off(
    command: Callable[..., int], whose: str, place: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    role = command.__name__
    for share in (0.05, 1.0):
        assert command([*place, "--release", SECOND, "--share", str(share)]) == 0
        expected = Pointer.model_validate({"release": FIRST, role: {"release": SECOND, "share": share}})
        assert Registry(tmp_path).current(MODEL) == expected
        assert capsys.readouterr().out == f"{role}: {MODEL}: {SECOND} for {share:g} of the {whose}\n"
    assert command([*place, "--off"]) == 0
    assert Registry(tmp_path).current(MODEL) == Pointer(release=FIRST)
    assert capsys.readouterr().out == f"{role}: {MODEL}: off\n"


def test_a_release_of_another_model(
    place: list[str], tmp_path: Path, publish_small: Callable[..., Any], capsys: pytest.CaptureFixture[str]
) -> None:
    publish_small(tmp_path, SECOND, model="other")
    variation.shadow([*place, "--release", SECOND, "--share", "0.5", "--from-model", "other"])
    pointer = Registry(tmp_path).current(MODEL)
    assert pointer is not None
    assert pointer.shadow == Variation(release=SECOND, share=0.5, model="other")
    assert capsys.readouterr().out == f"shadow: {MODEL}: {SECOND} of other for 0.5 of the answers\n"
    # Its own model, named: the same as not named.
    variation.shadow([*place, "--release", SECOND, "--share", "0.5", "--from-model", MODEL])
    pointer = Registry(tmp_path).current(MODEL)
    assert pointer is not None
    assert pointer.shadow == Variation(release=SECOND, share=0.5)


@pytest.mark.parametrize(
    ("options", "error"),
    [
        (["--release", SECOND], f"--share: needed beside --release {SECOND}"),
        (["--release", SECOND, "--share", "0"], "--share: Input should be greater than 0, got 0.0"),
        (["--release", SECOND, "--share", "1.5"], "--share: Input should be less than or equal to 1, got 1.5"),
        (["--release", SECOND, "--share", "nan"], "--share: .*, got nan"),
        (["--release", "newest", "--share", "0.5"], "--release: .*'newest' is not a release id"),
        (["--off", "--share", "0.5"], "--off: stands alone, got --share too"),
        (["--off", "--from-model", "other"], "--off: stands alone, got --from-model too"),
    ],
)
def test_what_cannot_be_is_refused(options: list[str], error: str, place: list[str], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=error):
        variation.canary([*place, *options])
    assert Registry(tmp_path).current(MODEL) == Pointer(release=FIRST)


def test_neither_or_both_are_a_usage_error(place: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    for options in ([], ["--off", "--release", SECOND]):
        with pytest.raises(SystemExit):
            variation.canary([*place, *options])
    assert "--release" in capsys.readouterr().err


@pytest.fixture
def redis_options(redis_server: Any, monkeypatch: pytest.MonkeyPatch) -> Iterator[RedisOptions]:
    monkeypatch.setenv("RANKTOWER_STORE__REDIS_URL", redis_server.url)
    yield RedisOptions(redis_server.url)
    redis_server.command("flushdb")


def test_redis_has_the_same_pointer_and_must_have_the_release(
    place: list[str], tmp_path: Path, redis_options: RedisOptions
) -> None:
    registry = Registry(tmp_path)

    def complete(release: str) -> None:
        with RedisWriter(redis_options, read_manifest(registry.release_dir(MODEL, release))) as writer:
            writer.finish()

    place = [*place, "--store", "redis"]
    complete(FIRST)
    promote.main([*place, "--release", FIRST])
    canary = ["--release", SECOND, "--share", "0.05"]
    with pytest.raises(ReleaseError, match=rf"release '{SECOND}' of model '{MODEL}' is not complete$"):
        variation.canary([*place, *canary])
    assert registry.current(MODEL) == read_pointer(redis_options, MODEL) == Pointer(release=FIRST)
    complete(SECOND)
    variation.canary([*place, *canary])
    expected = Pointer(release=FIRST, canary=Variation(release=SECOND, share=0.05))
    assert registry.current(MODEL) == read_pointer(redis_options, MODEL) == expected
    promote.main([*place, "--release", SECOND])
    assert read_pointer(redis_options, MODEL) == Pointer(release=SECOND, previous=(FIRST,))
    variation.shadow([*place, "--release", FIRST, "--share", "1"])
    rollback.main(place)  # which ends the trial of what is served again
    assert registry.current(MODEL) == read_pointer(redis_options, MODEL) == Pointer(release=FIRST)
    variation.shadow([*place, "--release", SECOND, "--share", "1"])
    expected = Pointer(release=FIRST, shadow=Variation(release=SECOND, share=1))
    assert registry.current(MODEL) == read_pointer(redis_options, MODEL) == expected
    variation.shadow([*place, "--off"])
    assert registry.current(MODEL) == read_pointer(redis_options, MODEL) == Pointer(release=FIRST)
