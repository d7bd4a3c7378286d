"""``ranktower data``: the tables it writes and the line it prints."""

from __future__ import annotations

import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest

from offline.data import main
from ranktower.data.simulator import SimulatorOptions, simulate
from ranktower.data.tables import read_tables
from ranktower.errors import ConfigError, DataError

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def taobao(tmp_path: Path) -> Path:
    folder = tmp_path / "raw"
    folder.mkdir()
    (folder / "UserBehavior.csv").write_text("1,5,80,buy,1511544070\n1,5,80,buy,1511544070\n2,6,80,pv,1511544071\n")
    return folder


def test_simulate_writes_tables_and_one_line(tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "tables"
    assert main(["simulate", "--out", str(out), "--users", "30", "--items", "200", "--seed", "5"]) == 0
    expected = simulate(SimulatorOptions(num_users=30, num_items=200, seed=5)).tables
    assert read_tables(out).interactions.rows() == expected.interactions.rows()
    line = capsys.readouterr().out
    assert re.fullmatch(
        rf"simulated with seed 5: 30 users, 200 items, {expected.interactions.height:,} interactions in "
        rf"{re.escape(str(out))} \(\d+\.\d s\)\n",
        line,
    )


def test_simulate_takes_every_option(tmp_path: Path) -> None:
    flags = {
        "--users": 40, "--items": 300, "--requests-per-user": 4.5, "--recalled": 12, "--ranked": 6, "--impressions": 3,
        "--popularity-exponent": 0.5, "--position-bias": 0.2, "--teacher-noise": 0.1, "--seed": 9,
    }  # fmt: skip
    main(["simulate", "--out", str(tmp_path / "t"), *(part for flag in flags.items() for part in map(str, flag))])
    options = SimulatorOptions(
        num_users=40, num_items=300, requests_per_user=4.5, num_recalled=12, num_ranked=6, num_impressions=3,
        popularity_exponent=0.5, position_bias=0.2, teacher_noise=0.1, seed=9,
    )  # fmt: skip
    assert read_tables(tmp_path / "t").interactions.rows() == simulate(options).tables.interactions.rows()


def test_a_wrong_option_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="simulator option num_users must be a whole number of at least 1, got 0"):
        main(["simulate", "--out", str(tmp_path / "t"), "--users", "0"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["taobao", "auto"])
def test_import_writes_tables_and_reports(taobao: Path, tmp_path: Path, capsys: Capture, name: str) -> None:
    out = tmp_path / "tables {1}"
    assert main(["import", name, "--source", str(taobao), "--out", str(out)]) == 0
    assert read_tables(out).interactions["buy"].to_list() == [1, 0]
    captured = capsys.readouterr()
    assert re.fullmatch(
        rf"imported taobao: 2 users, 2 items, 2 interactions in {re.escape(str(out))} \(\d+\.\d s\)\n", captured.out
    )
    assert captured.err == "UserBehavior.csv: 3 rows, 1 exact duplicates dropped\n"


def test_import_replaces_older_tables_but_nothing_else(taobao: Path, tmp_path: Path) -> None:
    out = tmp_path / "tables"
    main(["import", "taobao", "--source", str(taobao), "--out", str(out)])
    main(["import", "taobao", "--source", str(taobao), "--out", str(out)])
    with pytest.raises(DataError, match=r"will not replace this folder: it also holds 'UserBehavior\.csv'"):
        main(["import", "taobao", "--source", str(taobao), "--out", str(taobao)])
    assert (taobao / "UserBehavior.csv").exists()


def test_import_of_a_bad_file_writes_nothing(taobao: Path, tmp_path: Path) -> None:
    (taobao / "UserBehavior.csv").write_text("1,5,80,look,1511544070\n")
    with pytest.raises(DataError, match=r"UserBehavior\.csv, column 'behavior', row 0: 'look' is none of"):
        main(["import", "auto", "--source", str(taobao), "--out", str(tmp_path / "tables")])
    assert not (tmp_path / "tables").exists()


def test_import_of_an_unknown_name_or_folder(taobao: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="unknown data set 'netflix'"):
        main(["import", "netflix", "--source", str(taobao), "--out", str(tmp_path / "t")])
    with pytest.raises(DataError, match="nowhere: no such folder"):
        main(["import", "auto", "--source", str(tmp_path / "nowhere"), "--out", str(tmp_path / "t")])


def test_download_of_what_is_there_says_what_comes_next(tmp_path: Path, capsys: Capture) -> None:
    for name in ("ratings.dat", "users.dat", "movies.dat"):
        (tmp_path / name).write_text("")
    assert main(["download", "movielens-1m", "--out", str(tmp_path)]) == 0
    assert capsys.readouterr().out == (
        f"downloaded movielens-1m; next: ranktower data import auto --source {tmp_path} --out FOLDER (0.0 s)\n"
    )


def test_download_that_needs_a_login(tmp_path: Path) -> None:
    with pytest.raises(DataError, match="taobao needs a login"):
        main(["download", "taobao", "--out", str(tmp_path)])


def test_list_shows_every_data_set(capsys: Capture) -> None:
    assert main(["list"]) == 0
    text = capsys.readouterr().out
    for part in (
        "kuairand: KuaiRand (Pure, 1K or 27K)",
        "https://kuairand.com (CC BY-SA 4.0)",
        "ranktower data download kuairand-pure | kuairand-1k | kuairand-27k",
        "https://tianchi.aliyun.com/dataset/649",
        "log in there to download",
        "files: raw_sample.csv, ad_feature.csv, user_profile.csv",
        "ranktower data download movielens-1m",
    ):
        assert part in text
    assert re.search(r"^4 data sets \(\d+\.\d s\)$", text, re.MULTILINE)


def test_reports_end_with_the_command(capsys: Capture) -> None:
    main(["list"])
    logger = logging.getLogger("ranktower")
    assert logger.handlers == []
    assert logger.level == logging.NOTSET


@pytest.mark.parametrize("argv", [[], ["import", "auto"], ["simulate"], ["simulate", "--out", "x", "--users", "many"]])
def test_a_wrong_command_line_exits_with_2(argv: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as error:
        main(argv)
    assert error.value.code == 2
    assert "usage: ranktower data" in capsys.readouterr().err


def test_as_the_installed_command(tmp_path: Path) -> None:
    command = [sys.executable, "-c", "import sys; from ranktower.cli import main; sys.exit(main())", "data"]
    done = subprocess.run(
        [*command, "simulate", "--out", str(tmp_path / "t"), "--users", "5", "--items", "50"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("simulated with seed 0: 5 users, 50 items, ")
    bad = subprocess.run(
        [*command, "simulate", "--out", str(tmp_path / "t"), "--items", "-1"],
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert bad.returncode == 2
    assert bad.stderr == "ranktower data: simulator option num_items must be a whole number of at least 1, got -1\n"
