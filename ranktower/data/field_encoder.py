"""One feature: from its values to integer codes, by a vocabulary or by bin edges (numpy and standard library only)."""

from __future__ import annotations

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ranktower.errors import ConfigError

KINDS = ("categorical", "continuous", "multi_categorical", "history")

Values = Sequence[Any] | NDArray[Any]


def canonical_value(value: Any) -> str | None:
    """The one string of a category: 12, 12.0 and "12" are "12"; True is "1" as in Python; None is missing.

    Raises:
        TypeError: the value is not a string, an integer, a boolean or a whole float; the text says what it is.
    """
    if isinstance(value, str):
        return str(value)
    if value is None:
        return None
    if isinstance(value, np.generic):
        value = value.item()
    if isinstance(value, int) and value.bit_length() <= 256:
        return str(int(value))
    if isinstance(value, float) and math.isfinite(value) and value.is_integer():
        return str(int(value))
    raise TypeError(f"{short(value)} is no category: a string, an integer or a boolean is")


def factorise(values: Values) -> tuple[list[str], NDArray[np.int64]]:
    """The distinct categories of a column, and for each row the index of its own, -1 where missing.

    Python code runs once a distinct value; the rows are handled by numpy (numbers) or by one C loop over a dictionary.
    NaN in a float array means missing.

    Raises:
        TypeError: a value is no category.
    """
    if isinstance(values, np.ndarray) and values.dtype.kind in "iubf":
        distinct, inverse = _distinct(values)
        index: dict[str, int] = {}
        texts = (None if value != value else canonical_value(value) for value in distinct.tolist())
        places = [-1 if text is None else index.setdefault(text, len(index)) for text in texts]
        return list(index), np.asarray(places, dtype=np.int64)[inverse]
    cells = values.tolist() if isinstance(values, np.ndarray) else values
    known = _Places()
    try:
        rows = np.fromiter(map(known.__getitem__, cells), dtype=np.int64, count=len(cells))
    except TypeError:
        unhashable = [cell for cell in cells if isinstance(cell, list | dict | set)]
        if not unhashable:
            raise
        raise TypeError(f"{short(unhashable[0])} is no category: a string, an integer or a boolean is") from None
    return list(known.texts), rows


class _Places(dict[Any, int]):
    """Index of a value's canonical text among all texts met; -1 for None. Different values may have one text."""

    def __init__(self) -> None:
        super().__init__()
        self.texts: dict[str, int] = {}

    def __missing__(self, value: Any) -> int:
        text = canonical_value(value)
        place = -1 if text is None else self.texts.setdefault(text, len(self.texts))
        self[value] = place
        return place


def _distinct(values: NDArray[Any]) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """The sorted distinct numbers and each row's place among them (NaN is one value)."""
    if values.dtype.kind in "iu" and len(values):
        least, most = int(values.min()), int(values.max())
        # Codes and ids usually lie densely: a table of the span then saves the sort.
        span = most - least + 1
        if span <= 4 * len(values) + 1024 and most < 2**63:
            offsets = values.astype(np.int64) - least
            present = np.zeros(span, dtype=bool)
            present[offsets] = True
            distinct = np.flatnonzero(present) + least
            return distinct, (np.cumsum(present) - 1)[offsets]
    distinct, inverse = np.unique(values, return_inverse=True, equal_nan=True)
    return distinct, inverse


@dataclass(frozen=True, eq=False)
class Ragged:
    """A multi-valued column: the values of all rows one after the other, and how many each row has."""

    values: Values
    lengths: NDArray[np.integer[Any]]


def ragged(rows: Values | Ragged) -> Ragged:
    """A column of lists as one flat column; None is an empty list, None inside a list is dropped.

    Raises:
        TypeError: a row is not a list.
    """
    if isinstance(rows, Ragged):
        return rows
    lists = []
    for row in rows:
        if row is not None and not isinstance(row, list | tuple | np.ndarray):
            raise TypeError(f"{short(row)} is not a list")
        lists.append([] if row is None else [value for value in row if value is not None])
    return Ragged(list(chain.from_iterable(lists)), np.fromiter(map(len, lists), dtype=np.int64, count=len(lists)))


@dataclass(frozen=True)
class FieldEncoder:
    """One feature: its kind and its vocabulary (code 1 + index) or its bin edges (increasing)."""

    name: str
    kind: str
    vocabulary: tuple[str, ...] = ()
    edges: tuple[float, ...] = ()
    max_length: int = 0

    @property
    def is_bag(self) -> bool:
        return self.kind in ("multi_categorical", "history")

    @property
    def cardinality(self) -> int:
        """Number of codes, the 0 included."""
        return len(self.edges) + 2 if self.kind == "continuous" else len(self.vocabulary) + 1

    @cached_property
    def _index(self) -> dict[str, int]:
        return {text: code for code, text in enumerate(self.vocabulary, start=1)}

    @cached_property
    def _edges(self) -> NDArray[np.float64]:
        return np.asarray(self.edges, dtype=np.float64)

    def codes(self, values: Values) -> NDArray[np.int32]:
        """Codes int32 [n] of a flat column."""
        if self.kind == "continuous":
            numbers = np.asarray(values, dtype=np.float64)
            bins = 1 + np.searchsorted(self._edges, numbers, side="right")
            return np.where(np.isnan(numbers), 0, bins).astype(np.int32)
        texts, inverse = factorise(values)
        codes = np.fromiter((self._index.get(text, 0) for text in texts), dtype=np.int32, count=len(texts))
        # The appended 0 is where index -1 (missing) points.
        return np.append(codes, np.int32(0))[inverse]

    def bag(self, column: Ragged) -> tuple[NDArray[np.int32], NDArray[np.int32]]:
        """The first ``max_length`` codes of each row: int32 [n, max_length] and lengths int32 [n]."""
        lengths = np.asarray(column.lengths, dtype=np.int64)
        rows = np.repeat(np.arange(len(lengths)), lengths)
        places = np.arange(len(rows)) - np.repeat(np.cumsum(lengths) - lengths, lengths)
        kept = places < self.max_length
        bag = np.zeros((len(lengths), self.max_length), dtype=np.int32)
        bag[rows[kept], places[kept]] = self.codes(column.values)[kept]
        return bag, np.minimum(lengths, self.max_length).astype(np.int32)

    def code_one(self, value: Any) -> int:
        """The code of one JSON value.

        Raises:
            TypeError: the value is of a wrong type; the text says what it is.
        """
        if self.kind == "continuous":
            return _bin_one(value, self.edges)
        text = canonical_value(value)
        return 0 if text is None else self._index.get(text, 0)

    def bag_one(self, value: Any) -> list[int]:
        """At most ``max_length`` codes of one JSON list, nulls dropped."""
        if value is None:
            return []
        if not isinstance(value, list | tuple):
            raise TypeError(f"{short(value)} is not a list")
        return [self.code_one(entry) for entry in value if entry is not None][: self.max_length]

    def to_json(self) -> dict[str, Any]:
        """The field as JSON values."""
        content: dict[str, Any] = {"name": self.name, "kind": self.kind}
        if self.kind == "continuous":
            return {**content, "edges": list(self.edges)}
        if self.is_bag:
            content["max_length"] = self.max_length
        return {**content, "vocabulary": list(self.vocabulary)}

    @classmethod
    def from_json(cls, content: Any, key: str = "field") -> FieldEncoder:
        """The reverse of `to_json`, with every value checked.

        Raises:
            ConfigError: a value is missing, unknown or wrong; the text names it under ``key``.
        """
        check_keys(content, ("name", "kind"), key, extra=True)
        name, kind = content["name"], content["kind"]
        if not isinstance(name, str) or not name:
            raise ConfigError(f"{key}.name: not a name, got {short(name)}")
        if kind not in KINDS:
            raise ConfigError(f"{key}.kind: one of {', '.join(KINDS)}, got {short(kind)}")
        if kind == "continuous":
            check_keys(content, ("name", "kind", "edges"), key)
            return cls(name=name, kind=kind, edges=_checked_edges(content["edges"], f"{key}.edges"))
        bag = kind != "categorical"
        check_keys(content, ("name", "kind", "vocabulary", *(("max_length",) if bag else ())), key)
        max_length = content.get("max_length", 0)
        if bag and (not isinstance(max_length, int) or isinstance(max_length, bool) or max_length < 1):
            raise ConfigError(f"{key}.max_length: not a positive integer, got {short(max_length)}")
        vocabulary = _checked_vocabulary(content["vocabulary"], f"{key}.vocabulary")
        return cls(name=name, kind=kind, vocabulary=vocabulary, max_length=max_length)


def _bin_one(value: Any, edges: tuple[float, ...]) -> int:
    if value is None:
        return 0
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{short(value)} is not a number")
    # NaN and infinities are not comparable to edges; an integer too large for a float is.
    if isinstance(value, float) and not math.isfinite(value):
        raise TypeError(f"{value} is not a finite number")
    return 1 + bisect_right(edges, value)


def check_keys(content: Any, expected: Sequence[str], key: str, *, extra: bool = False) -> None:
    """Raise ConfigError unless ``content`` is a mapping with the expected keys, and no other if not ``extra``."""
    if not isinstance(content, dict):
        raise ConfigError(f"{key}: not a mapping, got {short(content)}")
    for name in expected:
        if name not in content:
            raise ConfigError(f"{key}.{name}: missing")
    unknown = [name for name in content if name not in expected]
    if unknown and not extra:
        raise ConfigError(f"{key}.{unknown[0]}: unknown key, got {short(content[unknown[0]])}")


def _checked_edges(edges: Any, key: str) -> tuple[float, ...]:
    if not isinstance(edges, list):
        raise ConfigError(f"{key}: not a list, got {short(edges)}")
    for place, edge in enumerate(edges):
        if isinstance(edge, bool) or not isinstance(edge, int | float) or not math.isfinite(edge):
            raise ConfigError(f"{key}[{place}]: not a finite number, got {short(edge)}")
        if place and edge <= edges[place - 1]:
            raise ConfigError(f"{key}[{place}]: the edges do not increase, got {edge} after {edges[place - 1]}")
    return tuple(float(edge) for edge in edges)


def _checked_vocabulary(vocabulary: Any, key: str) -> tuple[str, ...]:
    if not isinstance(vocabulary, list):
        raise ConfigError(f"{key}: not a list, got {short(vocabulary)}")
    seen: set[str] = set()
    for place, text in enumerate(vocabulary):
        if not isinstance(text, str):
            raise ConfigError(f"{key}[{place}]: not a string, got {short(text)}")
        if text in seen:
            raise ConfigError(f"{key}[{place}]: stands there twice, got {short(text)}")
        seen.add(text)
    return tuple(vocabulary)


def short(value: Any, limit: int = 80) -> str:
    """A value as an error text shows it."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value[:limit] if isinstance(value, str | list | tuple) else value)
    return text if len(text) <= limit else f"{text[:limit]}..."
