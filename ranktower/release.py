"""A release: one folder with everything the service needs, described and sealed by its ``manifest.json``.

The folder's contents and the manifest's keys are a versioned contract, see ``docs/formats.md``.
"""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from ranktower.embedding_store.codec import TAG_SIZE, RowDtype, RowKind, RowLayout, Side
from ranktower.embedding_store.durable import raise_error, write_file
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
# Bytes hashed at once: a few milliseconds, during which a stop waits. Between two of them the hashing thread takes the
# interpreter's lock, which a service that verifies while it serves should see rarely.
_BLOCK_SIZE = 4 << 20


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
        content_hash: at least 8 lower-case hex digits, as from ``content_hash``.
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
    """Largest absolute differences between runtimes and dtypes, on the cosine-sum scale."""
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


def hash_file(path: Path, *, on_block: Callable[[], None] = lambda: None) -> FileEntry:
    """Size and SHA-256 of a file, read in blocks; ``on_block`` is called at each."""
    digest = hashlib.sha256()
    size_bytes = 0
    block = memoryview(bytearray(_BLOCK_SIZE))
    with path.open("rb", buffering=0) as file:
        while num_read := file.readinto(block):
            on_block()
            digest.update(block[:num_read])
            size_bytes += num_read
    return FileEntry(sha256=digest.hexdigest(), size_bytes=size_bytes)


def hash_files(folder: Path) -> dict[str, FileEntry]:
    """``Manifest.files`` of a folder: every file in it but the manifest, in the order of their paths."""
    return {path: hash_file(folder / path) for path in _list_files(folder)}


def content_hash(files: Mapping[str, FileEntry]) -> str:
    """One SHA-256 (hex) over names and hashes of files, whatever their order."""
    lines = [f"{entry.sha256}  {path}\n" for path, entry in sorted(files.items())]
    return hashlib.sha256("".join(lines).encode("utf-8")).hexdigest()


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


def verify_release(
    folder: Path, *, max_hashed_bytes: int | None = None, on_block: Callable[[], None] = lambda: None
) -> Manifest:
    """The manifest, once every file has been found to be what the manifest says.

    Args:
        folder: of the release.
        max_hashed_bytes: files above this size are not hashed, only their presence and size are compared;
            ``verify_files`` of ``large_files`` makes up for it. None hashes every file.
        on_block: called at every few MiB; what it raises ends the work, which may take minutes.

    Raises:
        ReleaseError: as ``read_manifest``; a file is missing, is not listed, or differs in size or SHA-256.
    """
    manifest = read_manifest(folder)
    with _read_errors():
        _verify_presence(folder, manifest)
    left_out = [] if max_hashed_bytes is None else large_files(manifest, over_bytes=max_hashed_bytes)
    verify_files(folder, manifest, manifest.files.keys() - set(left_out), on_block=on_block)
    return manifest


def large_files(manifest: Manifest, *, over_bytes: int) -> list[str]:
    """Paths of the files that ``verify_release(max_hashed_bytes=over_bytes)`` does not hash, sorted."""
    return sorted(path for path, entry in manifest.files.items() if entry.size_bytes > over_bytes)


def verify_files(
    folder: Path, manifest: Manifest, paths: Iterable[str], *, on_block: Callable[[], None] = lambda: None
) -> None:
    """Hash these files of the manifest; ReleaseError if one is missing or has another SHA-256, UnreadableError if it
    cannot be read."""
    for path in sorted(paths):
        with _read_errors():
            sha256 = hash_file(folder / path, on_block=on_block).sha256
        if sha256 != manifest.files[path].sha256:
            raise ReleaseError(f"{folder / path}: SHA-256 {sha256}, {MANIFEST} says {manifest.files[path].sha256}")


class UnreadableError(ReleaseError):
    """A file could not be read (too many open files, a network file system that is away): no word on what it holds."""


@contextmanager
def _read_errors() -> Iterator[None]:
    try:
        yield
    except FileNotFoundError as error:
        raise ReleaseError(f"{error.filename}: missing from the release") from error
    except OSError as error:
        raise UnreadableError(f"{error.filename}: cannot be read: {error.strerror}") from error


def _verify_presence(folder: Path, manifest: Manifest) -> None:
    found = _list_files(folder)
    for path in sorted(manifest.files.keys() - set(found)):
        raise ReleaseError(f"{folder / path}: missing from the release")
    for path in sorted(set(found) - manifest.files.keys()):
        raise ReleaseError(f"{folder / path}: not listed in {MANIFEST}")
    # Sizes before any hash: they cost nothing, and a truncated file is the usual damage.
    for path, expected in manifest.files.items():
        size_bytes = (folder / path).stat().st_size
        if size_bytes != expected.size_bytes:
            raise ReleaseError(f"{folder / path}: {size_bytes} bytes, {MANIFEST} says {expected.size_bytes}")


def _list_files(folder: Path) -> list[str]:
    """Paths of the files in ``folder`` but the manifest, relative, with "/", sorted."""
    paths: list[str] = []
    for parent, folders, names in os.walk(folder, onerror=raise_error):
        for name in [*folders, *names]:
            path = Path(parent, name)
            if path.is_symlink() or not (path.is_file() or path.is_dir()):
                raise ReleaseError(f"{path}: not a regular file; a release holds its files itself")
        paths.extend(Path(parent, name).relative_to(folder).as_posix() for name in names)
    return sorted(path for path in paths if path != MANIFEST)
