"""``ranktower keys``: what it writes, prints and refuses."""

from __future__ import annotations

import re
import threading
from pathlib import Path

import pytest

from ranktower.errors import ConfigError
from service.api_keys import Keyring, read_keys
from service.keys_command import main


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "keys.yaml"


def create(file: Path, name: str, *options: str) -> int:
    return main(["create", "--file", str(file), "--name", name, *options])


def test_a_key_is_printed_alone_and_opens(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert create(file, "mobile") == 0
    first = capsys.readouterr()
    assert create(file, "web", "--rate-per-s", "2.5", "--burst", "7", "--expires", "2027-01-31") == 0
    second = capsys.readouterr()
    assert first.err == f"{file}: added 'mobile'; the key is shown this once\n"
    entries = read_keys(file)
    for told, entry in zip((first, second), entries, strict=True):
        assert re.fullmatch(rf"rt_{entry.id}_[a-z2-7]{{52}}\n", told.out)
        found = Keyring(entries).find(told.out.strip().encode())
        assert found is not None
        assert found.name == entry.name
        assert told.out[12:-1] not in file.read_text() + told.err
    web = entries[1]
    assert (web.rate_per_s, web.burst, str(web.expires)) == (2.5, 7, "2027-01-31 00:00:00+00:00")


def test_only_the_owner_may_read_the_file_and_nothing_lies_beside_it(file: Path) -> None:
    create(file, "a")
    file.chmod(0o644)
    create(file, "b")
    assert file.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in file.parent.iterdir()) == [".keys.yaml.lock", "keys.yaml"]


def test_a_link_to_the_file_stays_one(file: Path, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    target = tmp_path / "elsewhere" / "real.yaml"
    file.symlink_to(target)
    create(file, "a")
    create(file, "b")
    assert file.is_symlink()
    assert [entry.name for entry in read_keys(target)] == ["a", "b"]


def test_keys_are_listed_without_their_hashes(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create(file, "mobile", "--rate-per-s", "500")
    create(file, "old-web-client", "--expires", "2026-01-31T12:00:00+02:00")
    ids = [entry.id for entry in read_keys(file)]
    capsys.readouterr()
    assert main(["list", "--file", str(file)]) == 0
    assert capsys.readouterr().out == (
        "name            id        limit             expires\n"
        f"mobile          {ids[0]}  500/s, burst 500  never\n"
        f"old-web-client  {ids[1]}  none              2026-01-31T10:00:00Z (expired)\n"
    )


def test_a_revoked_key_is_gone_and_its_name_free(file: Path, capsys: pytest.CaptureFixture[str]) -> None:
    create(file, "a")
    create(file, "b")
    assert main(["revoke", "--file", str(file), "--name", "a"]) == 0
    assert [entry.name for entry in read_keys(file)] == ["b"]
    assert capsys.readouterr().err.endswith(f"{file}: revoked 'a'\n")
    main(["revoke", "--file", str(file), "--name", "b"])
    assert read_keys(file) == ()
    create(file, "a")
    assert [entry.name for entry in read_keys(file)] == ["a"]


def test_commands_at_once_lose_no_key(file: Path) -> None:
    threads = [threading.Thread(target=create, args=(file, f"key-{number}")) for number in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {entry.name for entry in read_keys(file)} == {f"key-{number}" for number in range(12)}


@pytest.mark.parametrize(
    ("options", "text"),
    [
        (["--name", "a"], r"^--name a: .*keys.yaml has a key of this name$"),
        (["--name", "b c"], r"^--name: String should match pattern .*, got 'b c'$"),
        (["--name", "b", "--rate-per-s", "-1"], r"^--rate-per-s: .*greater than or equal to 0.001, got -1.0$"),
        (["--name", "b", "--burst", "3"], r"^burst is given without rate_per_s$"),
        (["--name", "b", "--rate-per-s", "1", "--burst", "0"], r"^--burst: .*greater than or equal to 1, got 0$"),
        (["--name", "b", "--expires", "soon"], r"^--expires: must be a date or a time, .*, got 'soon'$"),
    ],
)
def test_a_wrong_option_is_named_and_writes_nothing(file: Path, options: list[str], text: str) -> None:
    create(file, "a")
    before = file.read_bytes()
    with pytest.raises(ConfigError, match=text):
        main(["create", "--file", str(file), *options])
    assert file.read_bytes() == before


def test_an_unknown_name_and_a_broken_file_are_told(file: Path) -> None:
    create(file, "a")
    create(file, "b")
    with pytest.raises(ConfigError, match=r"^--name c: .*keys.yaml has no such key; it has: a, b$"):
        main(["revoke", "--file", str(file), "--name", "c"])
    file.write_text("keys: 1")
    for command in (["create", "--name", "c"], ["revoke", "--name", "a"], ["list"]):
        with pytest.raises(ConfigError, match=r"keys.yaml: keys: Input should be a valid tuple$"):
            main([*command, "--file", str(file)])
    assert file.read_text() == "keys: 1"
