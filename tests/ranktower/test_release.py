"""Names, ids and the manifest, and every way in which a manifest can be wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest

from ranktower.errors import ReleaseError
from ranktower.release import (
    Manifest,
    check_model_name,
    read_manifest,
    release_id,
    release_tag,
    write_manifest,
)
from ranktower.verification import hash_files, verify_release

QUALITY = {"ndcg": 0.2, "recall": 0.3, "ndcg_to_full": 0.9, "recall_to_full": 0.8}
COUNTS = {"k": 100, "num_users": 250, "num_candidates": 1000}
LINE = {"inputs": [0.0, 1.0], "outputs": [-1.0, 2.5]}
LADDER: list[dict[str, Any]] = [
    {"level": name, "share": share, **QUALITY, **COUNTS, "calibration": LINE if share == 0 else None}
    for name, share in (("full", 1.0), ("full_best", 0.25), ("maxsim", 0.0), ("pooled", 0.0))
]

MakeManifest = Callable[..., Manifest]


@pytest.fixture
def release_dir(tmp_path: Path, make_manifest: MakeManifest) -> Path:
    """A small release, complete and sealed."""
    (tmp_path / "scorer.onnx").write_bytes(b"graph")
    write_manifest(tmp_path, make_manifest(files=hash_files(tmp_path), parity={"scorer": 1e-6}))
    return tmp_path


def change(folder: Path, **keys: Any) -> None:
    """Rewrite keys of the manifest as text; a key of value None is taken out."""
    content = json.loads((folder / "manifest.json").read_text()) | keys
    (folder / "manifest.json").write_text(
        json.dumps({key: value for key, value in content.items() if value is not None})
    )


def refusal(folder: Path, check: Callable[[Path], Manifest] = read_manifest) -> str:
    """The text of the ReleaseError, without the folder's path."""
    with pytest.raises(ReleaseError) as caught:
        check(folder)
    assert str(caught.value).startswith(f"{folder}/")
    return str(caught.value).removeprefix(f"{folder}/")


def test_a_manifest_is_read_as_it_was_written(tmp_path: Path, make_manifest: MakeManifest) -> None:
    manifest = make_manifest(
        config={"model": {"heads": 4, "phi": "silu"}, "seeds": [1, 2]},
        offline_metrics={"recall_at_100": 0.5},
        ladder=LADDER,
        files={name: {"sha256": "a" * 64, "size_bytes": 3} for name in ("maxsim.onnx", "pooled.onnx", "ünicode/é.bin")},
    )
    write_manifest(tmp_path, manifest)
    assert read_manifest(tmp_path) == manifest
    content = json.loads((tmp_path / "manifest.json").read_text(encoding="utf-8"))
    assert content["format_version"] == 2
    assert content["created"] == "2026-11-23T10:00:00Z"
    assert content["row_dtype"] == "float16"
    assert content["item_rows"] == "projected"
    assert content["files"]["ünicode/é.bin"] == {"sha256": "a" * 64, "size_bytes": 3}
    assert content["ladder"] == LADDER


def test_the_layout_of_each_side(make_manifest: MakeManifest) -> None:
    manifest = make_manifest(row_dtype="float32", num_users=5, num_items=6)
    user, item = manifest.layout("user"), manifest.layout("item")
    assert (user.heads, user.width, user.attention_width, user.dtype) == (2, 4, 5, "float32")
    assert (item.heads, item.width, item.attention_width, item.dtype) == (3, 4, 5, "float32")
    assert (user.kind, item.kind) == ("embedding", "projected")
    assert user.tag == item.tag == hashlib.sha256(b"20261123T100000Z-0123abcd").digest()[:8]
    assert (manifest.num_rows("user"), manifest.num_rows("item")) == (5, 6)
    assert not manifest.has_table("user")
    assert make_manifest(files={"users/rows.bin": {"sha256": "a" * 64, "size_bytes": 0}}).has_table("user")


@pytest.mark.parametrize("item_rows", ["projected", "embedding"])
def test_only_the_items_of_a_table_hold_projections_and_only_where_the_manifest_says_so(
    item_rows: str, make_manifest: MakeManifest
) -> None:
    manifest = make_manifest(item_rows=item_rows)
    assert manifest.layout("user").kind == "embedding"
    assert manifest.layout("item").kind == item_rows
    for side, num_heads in (("user", 2), ("item", 3)):
        in_redis = manifest.redis_layout("user" if side == "user" else "item")
        assert (in_redis.kind, in_redis.heads) == ("embedding", num_heads)
        assert in_redis.row_size == 8 + 2 * num_heads * 4
    # Hi = 3 heads of D = 4, and of the four projections' A = 5.
    assert manifest.layout("item").row_size == 8 + 2 * 3 * (4 + (20 if item_rows == "projected" else 0))


def test_release_ids_sort_by_time_and_carry_the_content() -> None:
    digest = hashlib.sha256(b"content").hexdigest()
    assert release_id(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), digest) == f"20260102T030405Z-{digest[:8]}"
    evening_in_new_york = datetime(2026, 1, 1, 22, 4, 5, tzinfo=timezone(timedelta(hours=-5)))
    assert release_id(evening_in_new_york, digest) == f"20260102T030405Z-{digest[:8]}"
    with pytest.raises(ValueError, match="has no time zone"):
        release_id(datetime(2026, 1, 2), digest)
    with pytest.raises(ReleaseError, match=r"release: '20260102T030405Z-XYZ' is not a release id"):
        release_id(datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC), "XYZ")


def test_the_tag_is_the_start_of_the_hash_of_the_id() -> None:
    assert release_tag("20261123T100000Z-0123abcd") == hashlib.sha256(b"20261123T100000Z-0123abcd").digest()[:8]
    assert release_tag("20261123T100001Z-0123abcd") != release_tag("20261123T100000Z-0123abcd")


def test_no_manifest(tmp_path: Path) -> None:
    for check in (read_manifest, verify_release):
        assert refusal(tmp_path, check) == "manifest.json: cannot be read: No such file or directory"


@pytest.mark.parametrize(
    ("content", "text"),
    [
        (b"", "manifest.json: not JSON: "),
        (b'{"format_version": 2,', "manifest.json: not JSON: "),
        (b"\xff\xfe\x00{", "manifest.json: not JSON: "),
        (b"[" * 100_000, "manifest.json: not JSON: "),
        (b"[1]", "manifest.json: must be a JSON object, got list"),
        (b"null", "manifest.json: must be a JSON object, got NoneType"),
    ],
)
def test_a_manifest_that_is_no_json_object(content: bytes, text: str, tmp_path: Path) -> None:
    (tmp_path / "manifest.json").write_bytes(content)
    assert refusal(tmp_path).startswith(text)


@pytest.mark.parametrize(
    ("version", "shown"), [(1, "1"), (3, "3"), (0, "0"), ("2", "'2'"), (True, "True"), (2.0, "2.0"), (None, "None")]
)
def test_another_format_version_is_named_before_anything_else(version: Any, shown: str, release_dir: Path) -> None:
    change(release_dir, format_version=version, shape="of a version to come", unknown=1)
    for check in (read_manifest, verify_release):
        assert refusal(release_dir, check) == f"manifest.json: format_version: {shown} is not supported, only 2"


@pytest.mark.parametrize(
    ("keys", "text"),
    [
        ({"colour": "red"}, "colour: Extra inputs are not permitted, got 'red'"),
        ({"tau": None}, "tau: Field required"),
        ({"tau": 0}, "tau: Input should be greater than 0, got 0"),
        ({"tau": float("nan")}, "tau: Input should be a finite number, got nan"),
        ({"row_dtype": "bfloat16"}, "row_dtype: Input should be 'float16' or 'float32', got 'bfloat16'"),
        ({"item_rows": "raw"}, "item_rows: Input should be 'embedding' or 'projected', got 'raw'"),
        ({"num_items": -1}, "num_items: Input should be greater than or equal to 0, got -1"),
        ({"created": "2026-11-23T10:00:00+01:00"}, "created: Value error, must be a time in UTC"),
        ({"created": "2026-11-23T10:00:00"}, "created: Value error, must be a time in UTC"),
        (
            {"shape": {"num_user_heads": 2, "num_item_heads": 0, "width": 4, "attention_width": 5}},
            "shape.num_item_heads: Input should be greater than or equal to 1, got 0",
        ),
        (
            {"files": {"a": {"sha256": "A" * 64, "size_bytes": 1}}},
            f"files.a.sha256: String should match pattern '^[0-9a-f]{{64}}$', got '{'A' * 64}'",
        ),
        (
            {"ladder": LADDER[1:]},
            "ladder: Value error, levels must be full, any number of full_best, maxsim, pooled, got ",
        ),
        ({"ladder": [LADDER[0] | {"recall": 2}]}, "ladder.0.recall: Input should be less than or equal to 1, got 2"),
        (
            {"ladder": [LADDER[2] | {"calibration": {"inputs": [0, 1], "outputs": [1, 1]}}]},
            "ladder.0.calibration: Value error, outputs: must increase strictly, got 1.0 behind 1.0",
        ),
        ({"ladder": LADDER}, "Value error, ladder: needs maxsim.onnx, which files does not list"),
        ({"release": "latest"}, "Value error, release: 'latest' is not a release id (YYYYMMDDTHHMMSSZ-<8 hex digits>)"),
        (
            {"model": "../x"},
            "Value error, model: '../x' is not a model name (letters, digits, '_' and '-', at most 64)",
        ),
        (
            {"tag": "00" * 8},
            "Value error, tag: '0000000000000000' is not the tag of release 20261123T100000Z-0123abcd (",
        ),
    ],
)
def test_a_wrong_key_is_named_with_its_value(keys: dict[str, Any], text: str, release_dir: Path) -> None:
    change(release_dir, **keys)
    assert refusal(release_dir).startswith(f"manifest.json: {text}")


@pytest.mark.parametrize(
    "path", ["../scorer.onnx", "/etc/passwd", "a/../../b", "a//b", "./a", "", ".", "a\\..\\b", "a/"]
)
def test_a_path_that_leads_elsewhere(path: str, release_dir: Path) -> None:
    change(release_dir, files={path: {"sha256": "a" * 64, "size_bytes": 1}})
    assert refusal(release_dir) == f"manifest.json: files: Value error, {path!r} is not a path inside the release"


def test_the_manifest_cannot_list_itself(release_dir: Path) -> None:
    change(release_dir, files={"manifest.json": {"sha256": "a" * 64, "size_bytes": 1}})
    assert refusal(release_dir).endswith("manifest.json cannot list itself")


@pytest.mark.parametrize("name", ["demo", "a", "Model_2-b", "x" * 64, "0"])
def test_model_names(name: str) -> None:
    assert check_model_name(name) == name


@pytest.mark.parametrize(
    "name", ["", ".", "..", "a/b", "a:b", "-a", "_a", ".a", "a b", "a\n", "é", "x" * 65, "a*", "a{b}"]
)
def test_names_no_model_has(name: str) -> None:
    with pytest.raises(ReleaseError) as caught:
        check_model_name(name)
    assert str(caught.value).startswith(f"model: {name!r} is not a model name")


def test_a_manifest_does_not_change(make_manifest: MakeManifest) -> None:
    with pytest.raises(ValueError, match="frozen"):
        make_manifest().tau = 1.0  # type: ignore[misc]
