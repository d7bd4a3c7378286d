"""From feature values to the integer codes the towers embed: offline for whole tables, online for one request.

Only numpy and the standard library, because the service encodes the features of users that are not stored yet.
Index 0 of every field is "out of vocabulary or missing"; known categories and bins count from 1.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranktower.data.field_encoder import FieldEncoder, Ragged, Values, check_keys, ragged, short
from ranktower.errors import ConfigError

FORMAT_VERSION = 1
Columns = Mapping[str, Values | Ragged]


@dataclass(frozen=True, eq=False)
class EncodedFeatures:
    """Codes of the features of ``n`` users or items.

    ``codes`` is int32 [n, F], the single-valued fields in order. For each multi-valued field, ``bags`` holds
    int32 [n, max_length] and ``lengths`` int32 [n]; slots at or after the length are padding, 0, never read.
    """

    codes: NDArray[np.int32]
    bags: dict[str, NDArray[np.int32]]
    lengths: dict[str, NDArray[np.int32]]

    def __len__(self) -> int:
        return len(self.codes)

    def take(self, rows: Any) -> EncodedFeatures:
        """The given rows (an index array, a slice or a boolean mask), in their order."""
        return EncodedFeatures(
            codes=self.codes[rows],
            bags={name: bag[rows] for name, bag in self.bags.items()},
            lengths={name: length[rows] for name, length in self.lengths.items()},
        )


@dataclass(frozen=True)
class SideEncoder:
    """All features of one side (user or item), in the order of the feature specification."""

    fields: tuple[FieldEncoder, ...]

    @cached_property
    def single_fields(self) -> tuple[str, ...]:
        """Names of the columns of `EncodedFeatures.codes`, in order."""
        return tuple(field.name for field in self.fields if not field.is_bag)

    @cached_property
    def bag_fields(self) -> tuple[str, ...]:
        return tuple(field.name for field in self.fields if field.is_bag)

    @cached_property
    def cardinalities(self) -> dict[str, int]:
        """Number of codes of each field, index 0 included."""
        return {field.name: field.cardinality for field in self.fields}

    @cached_property
    def max_lengths(self) -> dict[str, int]:
        return {field.name: field.max_length for field in self.fields if field.is_bag}

    def encode(self, columns: Columns, num_rows: int) -> EncodedFeatures:
        """Encode a table: vectorised, at most one Python step for each distinct value.

        Args:
            columns: for each feature a flat array or sequence, or for multi-valued ones `Ragged` or a sequence of
                lists. None and NaN mean missing. A feature without a column is missing in every row; columns that
                are no features are ignored.
            num_rows: rows of the table.

        Raises:
            ConfigError: a value is of a wrong type or a column of a wrong length; the text names the feature.
        """
        codes = np.zeros((num_rows, len(self.single_fields)), dtype=np.int32)
        bags: dict[str, NDArray[np.int32]] = {}
        lengths: dict[str, NDArray[np.int32]] = {}
        for field in self.fields:
            column = columns.get(field.name)
            try:
                if field.is_bag:
                    flat = Ragged([], np.zeros(num_rows, dtype=np.int64)) if column is None else ragged(column)
                    _check_length(len(flat.lengths), num_rows)
                    bags[field.name], lengths[field.name] = field.bag(flat)
                elif column is not None:
                    if isinstance(column, Ragged):
                        raise TypeError("lists, where the feature has one value a row")
                    _check_length(len(column), num_rows)
                    codes[:, self.single_fields.index(field.name)] = field.codes(column)
            except (TypeError, ValueError) as error:
                raise ConfigError(f"feature {field.name!r}: {error}") from error
        return EncodedFeatures(codes=codes, bags=bags, lengths=lengths)

    def encode_one(self, features: Mapping[str, Any]) -> EncodedFeatures:
        """Encode the features of one request (n = 1) from its JSON values.

        Numbers for continuous features; strings, integers or booleans for categorical ones; lists of these for
        multi-valued ones; null, or leaving the key out, for a missing value.

        Raises:
            ConfigError: an unknown feature, or a value of a wrong type; the text names key and value.
        """
        for name in features:
            if name not in self.cardinalities:
                known = ", ".join(self.cardinalities) or "none"
                raise ConfigError(f"unknown feature {short(name)} = {short(features[name])}; known: {known}")
        codes = np.zeros((1, len(self.single_fields)), dtype=np.int32)
        bags = {name: np.zeros((1, length), dtype=np.int32) for name, length in self.max_lengths.items()}
        lengths = {name: np.zeros(1, dtype=np.int32) for name in bags}
        single = 0
        for field in self.fields:
            value = features.get(field.name)
            try:
                if field.is_bag:
                    entries = field.bag_one(value)
                    bags[field.name][0, : len(entries)] = entries
                    lengths[field.name][0] = len(entries)
                else:
                    codes[0, single] = field.code_one(value)
                    single += 1
            except TypeError as error:
                raise ConfigError(f"feature {field.name!r}: {error}") from error
        return EncodedFeatures(codes=codes, bags=bags, lengths=lengths)

    def to_json(self) -> list[dict[str, Any]]:
        """The fields as JSON values."""
        return [field.to_json() for field in self.fields]

    @classmethod
    def from_json(cls, content: Any, key: str = "fields") -> SideEncoder:
        """The reverse of `to_json`, with every value checked.

        Raises:
            ConfigError: a value is missing, unknown or of a wrong type; the text names it under ``key``.
        """
        if not isinstance(content, list):
            raise ConfigError(f"{key}: not a list, got {short(content)}")
        fields = tuple(FieldEncoder.from_json(entry, f"{key}[{place}]") for place, entry in enumerate(content))
        names = [field.name for field in fields]
        if len(set(names)) != len(names):
            raise ConfigError(f"{key}: a feature is named twice: {short(names)}")
        return cls(fields)


@dataclass(frozen=True)
class FeatureEncoder:
    """The encoders of both sides: what ``features.json`` holds."""

    user: SideEncoder
    item: SideEncoder

    def to_text(self) -> str:
        """The JSON text of ``features.json``; equal encoders have equal bytes."""
        content = {"format_version": FORMAT_VERSION, "user": self.user.to_json(), "item": self.item.to_json()}
        return json.dumps(content, separators=(",", ":")) + "\n"

    def save(self, path: Path) -> None:
        path.write_text(self.to_text(), encoding="ascii")

    @classmethod
    def load(cls, path: Path) -> FeatureEncoder:
        """Read and check a ``features.json``.

        Raises:
            ConfigError: it is missing, is not JSON, is of another version, or holds a wrong value.
        """
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise ConfigError(f"{path}: cannot read the feature encoder: {error}") from error
        try:
            return cls.from_json(content)
        except ConfigError as error:
            raise ConfigError(f"{path}: {error}") from error

    @classmethod
    def from_json(cls, content: Any) -> FeatureEncoder:
        """From the parsed content of a ``features.json``; raises ConfigError as `load`, without the path."""
        if not isinstance(content, dict):
            raise ConfigError(f"not a mapping, got {short(content)}")
        version = content.get("format_version")
        if version != FORMAT_VERSION or isinstance(version, bool):
            raise ConfigError(f"format_version: {FORMAT_VERSION} is read here, got {short(version)}")
        check_keys(content, ("format_version", "user", "item"), "features")
        user, item = (SideEncoder.from_json(content[side], side) for side in ("user", "item"))
        return cls(user=user, item=item)


def _check_length(length: int, num_rows: int) -> None:
    if length != num_rows:
        raise ValueError(f"{length} values for {num_rows} rows")
