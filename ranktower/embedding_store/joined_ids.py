"""A request's ids as one text, the form in which compiled code looks them up."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import overload

Id = str | int


class JoinedIds(Sequence[Id]):
    """Ids that become objects only where one is asked for: a thousand of them take longer to make than to find."""

    __slots__ = ("_count", "_load", "_loaded", "joined")

    def __init__(self, joined: bytes, count: int, load: Callable[[], list[Id]]) -> None:
        """Take the ids in both forms.

        Args:
            joined: UTF-8 of their canonical forms, with a NUL between each two, and none inside one.
            count: how many they are, at least one.
            load: makes the objects; called at most once.
        """
        self.joined = joined
        self._count = count
        self._load = load
        self._loaded: list[Id] | None = None

    def encoded(self) -> list[bytes]:
        """UTF-8 of each."""
        return self.joined.split(b"\0")

    def __len__(self) -> int:
        return self._count

    def __iter__(self) -> Iterator[Id]:
        return iter(self._objects())

    @overload
    def __getitem__(self, index: int) -> Id: ...

    @overload
    def __getitem__(self, index: slice) -> list[Id]: ...

    def __getitem__(self, index: int | slice) -> Id | list[Id]:
        return self._objects()[index]

    def _objects(self) -> list[Id]:
        if self._loaded is None:
            self._loaded = self._load()
        return self._loaded
