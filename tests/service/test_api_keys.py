"""The keys file, good and bad, and finding the key that was given."""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from ranktower.errors import ConfigError
from service.api_keys import Keyring, check_keys, new_key, read_keys
from service.rate_limit import Rate
from service.settings import Settings

KEY = "rt_abcd1234_" + "s3cret" * 8
SHA256 = hashlib.sha256(KEY.encode()).hexdigest()
GOOD: dict[str, Any] = {"name": "mobile", "id": "abcd1234", "sha256": SHA256}


@pytest.fixture
def write(tmp_path: Path) -> Callable[..., Path]:
    def write(*entries: object) -> Path:
        path = tmp_path / "keys.yaml"
        path.write_text(yaml.safe_dump({"keys": list(entries)}))
        return path

    return write


def settings(**sections: Any) -> Settings:
    return Settings.model_validate({"release": {"registry": "/r", "model": "m"}} | sections)


def test_a_new_key_has_256_random_bits_and_an_id() -> None:
    key, key_id = new_key()
    # 32 bytes in base32 are 52 characters, 5 bytes are 8.
    assert re.fullmatch(r"rt_[a-z2-7]{8}_[a-z2-7]{52}", key)
    assert key.split("_")[1] == key_id
    assert len({new_key()[0] for _ in range(100)}) == 100


def test_a_given_key_is_found_by_its_id_and_only_whole(write: Callable[..., Path]) -> None:
    other = new_key()[0]
    entry = {"name": "web", "id": other.split("_")[1], "sha256": hashlib.sha256(other.encode()).hexdigest()}
    ring = Keyring(read_keys(write(GOOD, entry)))
    for key, name in ((KEY, "mobile"), (other, "web")):
        found = ring.find(key.encode())
        assert found is not None
        assert found.name == name
    wrong = [KEY[:-1], KEY + "x", KEY.upper(), KEY.replace("rt_", ""), f"rt_{other.split('_')[1]}_{KEY[12:]}"]
    for given in [*wrong, "", "_", "__", "rt__", "rt_abcd1234_", SHA256, f"rt_abcd1234_{SHA256}", "rt_unknown1_x"]:
        assert ring.find(given.encode()) is None, given


@pytest.mark.parametrize(
    "key", ["correct-horse-battery", "rt_ab_c_d_e_f_g_h_i", new_key()[0]], ids=["text", "parts", "new"]
)
def test_the_environments_key_may_have_any_form(key: str, write: Callable[..., Path]) -> None:
    ring = Keyring(read_keys(write(GOOD)), key)
    assert ring.find(KEY.encode()) is not None
    found = ring.find(key.encode())
    assert found is not None
    assert (found.name, found.rate) == ("environment", None)
    assert Keyring(()).find(key.encode()) is None


def test_json_is_read_too_and_dates_are_utc(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    expires = ["2027-01-31", "2027-01-31T00:00:00Z", "2027-01-31 02:00:00+02:00", "2027-01-31T00:00"]
    path.write_text(
        json.dumps({"keys": [GOOD | {"name": f"k{n}", "id": f"id{n:02}", "expires": e} for n, e in enumerate(expires)]})
    )
    assert {entry.expires.timestamp() for entry in read_keys(path) if entry.expires} == {1801353600.0}
    path.write_text(f"keys: [{{name: a, id: abcd, sha256: '{SHA256}', expires: 2027-01-31}}]")
    assert f"{read_keys(path)[0].expires:%Y-%m-%d %H:%M %Z}" == "2027-01-31 00:00 UTC"


@pytest.mark.parametrize(
    ("limits", "rate"),
    [
        ({}, None),
        ({"rate_per_s": 500, "burst": 1000}, Rate(2_000_000, 1000)),
        ({"rate_per_s": 2.5}, Rate(400_000_000, 3)),
        ({"rate_per_s": 0.01}, Rate(100_000_000_000, 1)),
    ],
)
def test_the_burst_is_that_of_a_second_where_none_is_given(
    limits: dict[str, Any], rate: Rate | None, write: Callable[..., Path]
) -> None:
    assert read_keys(write(GOOD | limits))[0].rate == rate


@pytest.mark.parametrize(
    ("entry", "text"),
    [
        ({**GOOD, "id": "other"}, "keys.1.name: that of keys.0 too"),
        ({**GOOD, "name": "other"}, "keys.1.id: that of keys.0 too"),
        ({**GOOD, "sha256": SHA256[:-1]}, "keys.1.sha256: String should match pattern '^[0-9a-f]{64}$'"),
        ({**GOOD, "sha256": KEY}, "keys.1.sha256: String should match pattern"),
        ({**GOOD, "name": f"a {KEY}"}, "keys.1.name: String should match pattern"),
        ({**GOOD, "secret": KEY}, "keys.1: unknown field; known are name, id, sha256, rate_per_s, burst, expires"),
        ({**GOOD, KEY: 1}, "keys.1: unknown field; known are name, "),
        ({**GOOD, "rate_per_s": 0}, "keys.1.rate_per_s: Input should be greater than or equal to 0.001"),
        ({**GOOD, "rate_per_s": float("nan")}, "keys.1.rate_per_s: Input should be "),
        ({**GOOD, "rate_per_s": 1, "burst": 0}, "keys.1.burst: Input should be greater than or equal to 1"),
        ({**GOOD, "burst": 5}, "keys.1: burst is given without rate_per_s"),
        ({**GOOD, "expires": 2027}, "keys.1.expires: must be a date or a time, such as 2027-01-31"),
        ({**GOOD, "expires": "9999-12-31T23:59:59-01:00"}, "keys.1.expires: must be a date or a time, such as"),
        ({**GOOD, "expires": "soon"}, "keys.1.expires: must be a date or a time, such as 2027-01-31"),
        ({"id": "abcd", "sha256": SHA256}, "keys.1.name: Field required"),
        (KEY, "keys.1: Input should be a valid dictionary"),
    ],
)
def test_a_wrong_entry_names_file_place_and_field_and_no_value(
    entry: object, text: str, write: Callable[..., Path]
) -> None:
    path = write(GOOD, entry)
    with pytest.raises(ConfigError) as caught:
        read_keys(path)
    assert f"{path}: {text}" in str(caught.value)
    assert "s3cret" not in str(caught.value)
    assert SHA256[:-1] not in str(caught.value)


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", ": must be a mapping with the list 'keys'"),
        (b"- a", ": must be a mapping with the list 'keys'"),
        (b"{}", ": keys: Field required"),
        (b"keys: []\nmore: 1", ": file: unknown field; known are keys"),
        (f"keys:\n- name: [{KEY}\n".encode(), ", line 3: neither YAML nor JSON: "),
        (b"\xff\xfe\x00", ": neither YAML nor JSON in UTF-8"),
        (b"keys: \x00", ": neither YAML nor JSON in UTF-8"),
        (b"[" * 5000, ": neither YAML nor JSON in UTF-8"),
        (b"keys:\n- expires: 2027-02-30\n", ", line 2: neither YAML nor JSON: a value that does not exist"),
        (b"keys:\n- expires: 2027-01-31 24:00:00\n", ", line 2: neither YAML nor JSON: a value that does not exist"),
        (b"keys:\n- burst: " + b"9" * 5000, ", line 2: neither YAML nor JSON: a value that does not exist"),
        (b"keys: []\nkeys: []\n", ", line 2: neither YAML nor JSON: a field that is there twice"),
        (f"keys:\n- {KEY}: 1\n  {KEY}: 2".encode(), ", line 3: neither YAML nor JSON: a field that is there twice"),
    ],
)
def test_a_wrong_file_is_named(content: bytes, text: str, tmp_path: Path) -> None:
    path = tmp_path / "keys.yaml"
    path.write_bytes(content)
    with pytest.raises(ConfigError) as caught:
        read_keys(path)
    assert str(caught.value).startswith(f"{path}{text}")
    assert "s3cret" not in str(caught.value)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.yaml: cannot be read: No such file or directory$"):
        read_keys(tmp_path / "none.yaml")
    with pytest.raises(ConfigError, match=r": cannot be read: Is a directory$"):
        read_keys(tmp_path)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "", "10.0.0.1", "service.local"])
def test_other_machines_are_served_only_with_keys(host: str, write: Callable[..., Path]) -> None:
    http = {"host": host}
    with pytest.raises(ConfigError, match=r"asks for API keys, but no API key is set: .*RANKTOWER_AUTH__KEYS_FILE"):
        check_keys(settings(http=http))
    with pytest.raises(ConfigError, match=rf"{re.escape(repr(host))} asks for API keys, but .*keys.yaml holds no API"):
        check_keys(settings(http=http, auth={"keys_file": write()}))
    check_keys(settings(http=http, auth={"keys_file": write(GOOD)}))
    check_keys(settings(http=http, auth={"api_key": "correct-horse-battery"}))
    check_keys(settings(http=http, auth={"required": False}))


@pytest.mark.parametrize("host", ["127.0.0.1", "127.8.8.8", "::1", "localhost"])
def test_this_machine_is_served_without_and_the_log_says_so(
    host: str, write: Callable[..., Path], caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        check_keys(settings(http={"host": host}))
        check_keys(settings(http={"host": host}, auth={"keys_file": write()}))
        check_keys(settings(http={"host": host}, auth={"keys_file": write(GOOD)}))
    told = ["no API key is asked for", "the keys file is empty: nobody is let in"]
    assert [record.getMessage() for record in caplog.records] == told
    with pytest.raises(ConfigError, match="asks for API keys"):
        check_keys(settings(http={"host": host}, auth={"required": True}))


def test_a_missing_keys_file_ends_the_start(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"none.yaml: cannot be read"):
        check_keys(settings(auth={"keys_file": tmp_path / "none.yaml", "required": False}))
