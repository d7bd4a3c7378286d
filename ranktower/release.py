"""A release: one folder with everything the service needs, described and sealed by its ``manifest.json``.

The folder's contents and the manifest's keys are a versioned contract, see ``docs/formats.md``.
"""

from __future__ import annotations

import hashlib
import json
import re
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ranktower.embedding_store.codec import TAG_SIZE, RowDtype, RowKind, RowLayout, Side
from ranktower.embedding_store.durable import write_file
from ranktower.errors import ReleaseError
from ranktower.ladder import LadderLevel, check_ladder

FORMAT_VERSION: Literal[2] = 2

MANIFEST = "manifest.json"
SCORERS: dict[RowKind, str] = {"projected": "scorer.onnx", "embedding": "embedding_scorer.onnx"}
"""The per-pair graph, for item rows of either kind; an export holds one of each dtype, ``export_name``."""
LevelGraph = Literal["maxsim", "pooled"]
LEVEL_GRAPHS: dict[LevelGraph, str] = {"maxsim": "maxsim.onnx", "pooled": "pooled.onnx"}
"""Graphs of the ladder's lower levels, over ``embedding`` rows; an export holds one of each dtype as well."""
TOWERS: dict[Side, str] = {"user": "user_tower.onnx", "item": "item_tower.onnx"}
FEATURES = "features.json"
TABLES: dict[Side, str] = {"user": "users", "item": "items"}
RETRIEVAL_INDEX = "items.faiss"
GOLDEN = "golden.npz"
FALLBACK_USER = "fallback_user.bin"

_MODEL_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_-]{0,63}")
_RELEASE_ID = re.compile(r"[0-9]{8}T[0-9]{6}Z-[0-9a-f]{8}")


def export_name(graph: str, dtype: RowDtype) -> str:
    """File of an export that becomes ``graph``, of SCORERS or LEVEL_GRAPHS, in a release with rows of ``dtype``."""
    return graph.replace(".onnx", f".{dtype}.onnx")


def check_model_name(name: str) -> str:
    """The name itself; ReleaseError unless it is 1 to 64 letters, digits, "_" or "-" and begins with no sign."""
    if not is_model_name(name):
        raise ReleaseError(f"model: {name!r} is not a model name (letters, digits, '_' and '-', at most 64)")
    return name


def is_model_name(name: str) -> bool:
    """Whether ``name`` reads like a model's name."""
    return _MODEL_NAME.fullmatch(name) is not None


def check_release_id(release: str) -> str:
    """The id itself; ReleaseError unless it reads ``YYYYMMDDTHHMMSSZ-<8 hex digits>``."""
    if not is_release_id(release):
        raise ReleaseError(f"release: {release!r} is not a release id (YYYYMMDDTHHMMSSZ-<8 hex digits>)")
    return release


def is_release_id(name: str) -> bool:
    """Whether ``name`` reads like a release id."""
    return _RELEASE_ID.fullmatch(name) is not None


def release_id(created: datetime, content_hash: str) -> str:
    """``YYYYMMDDTHHMMSSZ-<8 hex>``: sorts by creation time in UTC, then by content.

    Args:
        created: an aware time.
        content_hash: at least 8 lower-case hex digits, as from ``verification.content_hash``.
    """
    if created.tzinfo is None:
        raise ValueError(f"created: {created!r} has no time zone")
    return check_release_id(f"{created.astimezone(UTC):%Y%m%dT%H%M%SZ}-{content_hash[:8]}")


def release_tag(release: str) -> bytes:
    """The 8 bytes that every row of the release begins with: the start of the SHA-256 of its id."""
    return hashlib.sha256(release.encode("utf-8")).digest()[:TAG_SIZE]


class FileEntry(BaseModel):
    """What a file of the release must be, to the byte."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    sha256: str = Field(pattern=r"^[0-9a-f]{64}$")
    size_bytes: int = Field(ge=0)


class Shape(BaseModel):
    """Sizes of the multi-embeddings: Hu, Hi, D, A."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    num_user_heads: int = Field(ge=1)
    num_item_heads: int = Field(ge=1)
    width: int = Field(ge=1)
    attention_width: int = Field(ge=1)


class Manifest(BaseModel):
    """``manifest.json``: what the release is, where it comes from, and the hash of every other file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    format_version: Literal[2] = FORMAT_VERSION
    model: str
    release: str
    tag: str
    """Hex of ``release_tag(release)``."""
    created: datetime
    """UTC."""
    shape: Shape
    row_dtype: RowDtype = "float16"
    item_rows: RowKind = "projected"
    """Kind of the rows in the items' table. Users' rows, and all rows in Redis, are of kind ``embedding``."""
    tau: float = Field(gt=0)
    """Temperature: a score times tau is the sum of cosines."""
    num_users: int = Field(ge=0)
    num_items: int = Field(ge=0)
    training_run_id: str
    data_id: str
    config: dict[str, Any] = {}
    """Configuration of the model and the training run."""
    files: dict[str, FileEntry]
    """Every file of the release but the manifest, by its path relative to the folder, with "/"."""
    offline_metrics: dict[str, Any] = {}
    parity: dict[str, float] = {}
    """Largest absolute difference between runtimes and dtypes, by check; each has the scale that formats.md says."""
    ladder: tuple[LadderLevel, ...] = ()
    """The degradation ladder with its measured quality, best level first; a release without one has full scoring."""
    fallback_user: bool = False
    """Whether ``fallback_user.bin`` holds one user row for users nothing is known of."""

    @field_validator("created")
    @classmethod
    def _in_utc(cls, created: datetime) -> datetime:
        if created.tzinfo is None or created.utcoffset() != UTC.utcoffset(None):
            raise ValueError("must be a time in UTC")
        return created

    @field_validator("files")
    @classmethod
    def _inside_the_release(cls, files: dict[str, FileEntry]) -> dict[str, FileEntry]:
        for path in files:
            parts = PurePosixPath(path).parts
            if not parts or path.startswith("/") or ".." in parts or "\\" in path or path != "/".join(parts):
                raise ValueError(f"{path!r} is not a path inside the release")
            if path == MANIFEST:
                raise ValueError(f"{MANIFEST} cannot list itself")
        return files

    @field_validator("ladder")
    @classmethod
    def _in_order(cls, ladder: tuple[LadderLevel, ...]) -> tuple[LadderLevel, ...]:
        check_ladder(ladder)
        return ladder

    @model_validator(mode="after")
    def _has_the_graphs_of_its_ladder(self) -> Manifest:
        absent = [name for name in LEVEL_GRAPHS.values() if name not in self.files]
        if self.ladder and absent:
            raise ValueError(f"ladder: needs {absent[0]}, which files does not list")
        return self

    @model_validator(mode="after")
    def _names_agree(self) -> Manifest:
        try:
            check_model_name(self.model)
            check_release_id(self.release)
        except ReleaseError as error:
            raise ValueError(str(error)) from None
        expected = release_tag(self.release).hex()
        if self.tag != expected:
            raise ValueError(f"tag: {self.tag!r} is not the tag of release {self.release} ({expected})")
        return self

    def layout(self, side: Side) -> RowLayout:
        """How the rows of one side's table are laid out."""
        return self._layout(side, self.item_rows if side == "item" else "embedding")

    def redis_layout(self, side: Side) -> RowLayout:
        """How the rows of one side are laid out in Redis."""
        return self._layout(side, "embedding")

    def _layout(self, side: Side, kind: RowKind) -> RowLayout:
        return RowLayout(
            heads=self.shape.num_user_heads if side == "user" else self.shape.num_item_heads,
            width=self.shape.width,
            attention_width=self.shape.attention_width,
            dtype=self.row_dtype,
            tag=bytes.fromhex(self.tag),
            kind=kind,
        )

    def num_rows(self, side: Side) -> int:
        """How many users or items have a row."""
        return self.num_users if side == "user" else self.num_items

    def has_table(self, side: Side) -> bool:
        """Whether the side's rows lie in the release itself, not only in another store."""
        return f"{TABLES[side]}/rows.bin" in self.files


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write ``manifest.json``, whole or not at all. Write it last: a folder without one is no release."""
    text = json.dumps(manifest.model_dump(mode="json"), indent=2, ensure_ascii=False, allow_nan=False)
    write_file(folder / MANIFEST, (text + "\n").encode("utf-8"))


def read_manifest(folder: Path) -> Manifest:
    """The manifest of a release folder; its files are not looked at.

    Raises:
        ReleaseError: no manifest, broken JSON, another format version, an unknown or missing key, a wrong value.
    """
    path = folder / MANIFEST
    try:
        text = path.read_bytes()
    except OSError as error:
        raise ReleaseError(f"{path}: cannot be read: {error.strerror}") from error
    return parse_manifest(text, source=str(path))


def parse_manifest(text: bytes, *, source: str) -> Manifest:
    """The manifest in ``text``; ``source`` names it in the ReleaseError of a wrong one."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ReleaseError(f"{source}: not JSON: {error}") from error
    if not isinstance(content, dict):
        raise ReleaseError(f"{source}: must be a JSON object, got {type(content).__name__}")
    # First of all: under another version every other key may mean something else.
    version = content.get("format_version")
    if type(version) is not int or version != FORMAT_VERSION:
        raise ReleaseError(f"{source}: format_version: {version!r} is not supported, only {FORMAT_VERSION}")
    try:
        return Manifest.model_validate(content)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(str(part) for part in first["loc"])
        value = "" if first["type"] in {"missing", "value_error"} else f", got {first['input']!r:.100}"
        raise ReleaseError(f"{source}: {key + ': ' if key else ''}{first['msg']}{value}") from error
