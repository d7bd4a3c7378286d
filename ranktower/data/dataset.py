"""The prepared data set: what ``ranktower prepare`` writes and training, evaluation and precompute read.

A folder of ``.npy`` arrays (memory-mapped at load), ``features.json``, ``features.yaml`` and ``info.json``, which holds
the SHA-256 of each part and ``data_id``, one SHA-256 over them all. No pickle.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranktower.data.encoder import EncodedFeatures, FeatureEncoder, SideEncoder
from ranktower.data.feature_spec import FeatureSpec
from ranktower.data.staged_folder import staged_folder
from ranktower.data.tables import SPEC_FILE
from ranktower.errors import ConfigError, DataError

FORMAT_VERSION = 1
INFO_FILE = "info.json"
ENCODER_FILE = "features.json"
OWNED_FILES = (INFO_FILE, ENCODER_FILE, SPEC_FILE, "users.*.npy", "items.*.npy", "interactions.*.npy")

MIN_MAPPED_BYTES = 1 << 20
DAMAGED = "is damaged: its SHA-256 is not the one in info.json"

TRAIN, VALIDATION, TEST, UNUSED = 0, 1, 2, 255
"""Codes of `Interactions.split`."""


@dataclass(frozen=True, eq=False)
class Side:
    """All users, or all items, sorted by canonical id.

    ``ids`` is an object array [n] of strings; row numbers everywhere are places in it.
    """

    ids: NDArray[np.object_]
    features: EncodedFeatures

    def __len__(self) -> int:
        return len(self.ids)


@dataclass(frozen=True, eq=False)
class Interactions:
    """One row a distinct (user, item) pair, sorted by user row, then time stamp, then item row; arrays of length m."""

    user_row: NDArray[np.int32]
    item_row: NDArray[np.int32]
    stage: NDArray[np.uint8]
    """Index into `ranktower.data.tables.STAGES`: the furthest stage the pair reached."""
    split: NDArray[np.uint8]
    """0 train, 1 validation, 2 test; 255: not used (user filtered out by activity, or a logged random item)."""
    feedback: NDArray[np.float32]
    """Weighted sum of the feedback columns, without the impression label."""
    teacher_scores: NDArray[np.float32]
    """In [0, 1]; NaN where absent."""
    timestamp: NDArray[np.int64]
    """Milliseconds."""

    def __len__(self) -> int:
        return len(self.user_row)

    def take(self, rows: Any) -> Interactions:
        """The given rows (an index array, a slice or a boolean mask), in their order."""
        return Interactions(**{field.name: getattr(self, field.name)[rows] for field in fields(self)})


@dataclass(frozen=True, eq=False)
class PreparedDataset:
    """Users, items and interactions, encoded and split.

    ``info`` holds ``data_id``, ``format_version``, ``source``, ``options``, ``counts`` and ``sha256`` (of each part).
    """

    users: Side
    items: Side
    interactions: Interactions
    encoder: FeatureEncoder
    spec: FeatureSpec
    info: dict[str, Any]

    @property
    def data_id(self) -> str:
        """SHA-256 over the content; equal content has an equal id, whatever the order of the rows it came from."""
        return str(self.info["data_id"])

    @property
    def teacher_id(self) -> str:
        """SHA-256 of the teacher's scores that took the place of the prepared ones; empty where none did."""
        return str(self.info.get("teacher_id", ""))

    def training_labels(self) -> NDArray[np.float32]:
        """Hard labels float32 [m] (section 4.2.1): impression label + weighted feedback on impressions, else 0."""
        impression = self.interactions.stage == 0
        labels = np.where(impression, self.interactions.feedback + self.spec.impression_label, 0.0)
        return labels.astype(np.float32)

    def save(self, folder: Path) -> None:
        """Write the folder, aside first and then renamed; an older prepared data set there is replaced.

        Raises:
            DataError: ``folder`` holds something else.
        """
        with staged_folder(folder, owned=OWNED_FILES) as staging:
            for name, array in _arrays(self).items():
                np.save(staging / name, array, allow_pickle=False)
            for name, text in _texts(self.encoder, self.spec).items():
                (staging / name).write_text(text, encoding="utf-8")
            info = json.dumps(self.info, indent=2, sort_keys=True, ensure_ascii=False)
            (staging / INFO_FILE).write_text(info + "\n", encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, *, verify: bool = True) -> PreparedDataset:
        """Read a prepared data set; large arrays are memory-mapped and read-only.

        Args:
            folder: what `save` wrote.
            verify: hash every array (about a second a gigabyte) and compare; the small files are always compared.

        Raises:
            DataError: a file is missing, is damaged or is of another format version; the text names it.
        """
        info = _read_info(folder)
        for name in (ENCODER_FILE, SPEC_FILE):
            if hashlib.sha256(_read_bytes(folder / name)).hexdigest() != info["sha256"].get(name):
                raise DataError(DAMAGED, file=folder / name)
        try:
            encoder, spec = FeatureEncoder.load(folder / ENCODER_FILE), FeatureSpec.load(folder / SPEC_FILE)
        except ConfigError as error:
            raise DataError(str(error), file=folder) from error
        arrays = {name: _read_array(folder / name) for name in info["sha256"] if name.endswith(".npy")}
        for name, array in arrays.items():
            if verify and array_sha256(array) != info["sha256"][name]:
                raise DataError(DAMAGED, file=folder / name)
        try:
            users, items = (_side(arrays, *side) for side in (("users", encoder.user), ("items", encoder.item)))
            interactions = Interactions(
                **{field.name: arrays[f"interactions.{field.name}.npy"] for field in fields(Interactions)}
            )
        except KeyError as error:
            raise DataError(f"its list of parts lacks {error}", file=folder / INFO_FILE) from error
        return cls(users=users, items=items, interactions=interactions, encoder=encoder, spec=spec, info=info)


def with_content_id(dataset: PreparedDataset) -> PreparedDataset:
    """The data set with ``format_version``, ``sha256`` and ``data_id`` of its info computed from its content."""
    texts = _texts(dataset.encoder, dataset.spec)
    hashes = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in texts.items()}
    hashes |= {name: array_sha256(array) for name, array in _arrays(dataset).items()}
    info = {**dataset.info, "format_version": FORMAT_VERSION, "sha256": hashes, "data_id": _data_id(hashes)}
    return replace(dataset, info=info)


def array_sha256(array: NDArray[Any]) -> str:
    """SHA-256 over dtype, shape and content (C order) of an array."""
    digest = hashlib.sha256(f"{array.dtype.str} {array.shape}\n".encode())
    if array.size:
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()


def _data_id(hashes: Mapping[str, str]) -> str:
    return hashlib.sha256(json.dumps(hashes, sort_keys=True).encode()).hexdigest()


def _texts(encoder: FeatureEncoder, spec: FeatureSpec) -> dict[str, str]:
    return {ENCODER_FILE: encoder.to_text(), SPEC_FILE: spec.to_yaml()}


def _arrays(dataset: PreparedDataset) -> dict[str, NDArray[Any]]:
    """Every array by its file name. Bags are numbered, because a feature's name need not be a file name."""
    arrays: dict[str, NDArray[Any]] = {}
    for name, side in (("users", dataset.users), ("items", dataset.items)):
        arrays[f"{name}.id_bytes.npy"], arrays[f"{name}.id_ends.npy"] = _pack_ids(side.ids)
        arrays[f"{name}.codes.npy"] = side.features.codes
        for place, bag in enumerate(side.features.bags):
            arrays[f"{name}.bag_{place}.npy"] = side.features.bags[bag]
            arrays[f"{name}.bag_{place}_length.npy"] = side.features.lengths[bag]
    for field in fields(Interactions):
        arrays[f"interactions.{field.name}.npy"] = getattr(dataset.interactions, field.name)
    return arrays


def _side(arrays: Mapping[str, NDArray[Any]], name: str, encoder: SideEncoder) -> Side:
    bags = list(enumerate(encoder.bag_fields))
    features = EncodedFeatures(
        codes=arrays[f"{name}.codes.npy"],
        bags={bag: arrays[f"{name}.bag_{place}.npy"] for place, bag in bags},
        lengths={bag: arrays[f"{name}.bag_{place}_length.npy"] for place, bag in bags},
    )
    return Side(ids=_unpack_ids(arrays[f"{name}.id_bytes.npy"], arrays[f"{name}.id_ends.npy"]), features=features)


def _pack_ids(ids: NDArray[np.object_]) -> tuple[NDArray[np.uint8], NDArray[np.int64]]:
    """Ids as UTF-8 bytes one after the other and the end of each: no pickle, and one long id costs only itself."""
    encoded = [text.encode() for text in ids.tolist()]
    ends = np.cumsum(np.fromiter(map(len, encoded), dtype=np.int64, count=len(encoded)))
    return np.frombuffer(b"".join(encoded), dtype=np.uint8), ends


def _unpack_ids(id_bytes: NDArray[np.uint8], ends: NDArray[np.int64]) -> NDArray[np.object_]:
    raw = id_bytes.tobytes()
    ids = np.empty(len(ends), dtype=object)
    ids[:] = [raw[start:end].decode() for start, end in pairwise([0, *ends.tolist()])]
    return ids


def _read_bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise DataError(f"cannot be read: {error.strerror}", file=path) from error


def _read_info(folder: Path) -> dict[str, Any]:
    path = folder / INFO_FILE
    if not path.is_file():
        raise DataError("no such file; is this a folder that 'ranktower prepare' wrote?", file=path)
    try:
        info = json.loads(_read_bytes(path))
    except ValueError as error:
        raise DataError(f"is not JSON: {error}", file=path) from error
    version = info.get("format_version") if isinstance(info, dict) else None
    if version != FORMAT_VERSION:
        raise DataError(f"format_version {FORMAT_VERSION} is read here, got {version!r}", file=path)
    hashes = info.get("sha256")
    if not isinstance(hashes, dict) or info.get("data_id") != _data_id(hashes):
        raise DataError("data_id does not fit the list of parts", file=path)
    return dict(info)


def _read_array(path: Path) -> NDArray[Any]:
    try:
        large = path.stat().st_size >= MIN_MAPPED_BYTES
        array: NDArray[Any] = np.load(path, mmap_mode="r" if large else None, allow_pickle=False)
    except FileNotFoundError as error:
        raise DataError("no such file", file=path) from error
    except (OSError, ValueError, EOFError) as error:
        raise DataError(f"is no whole array: {error}", file=path) from error
    return array
