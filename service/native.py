"""The native scorer beside ONNX Runtime: used where it is installed, and only as long as both give the same scores."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from ranktower.embedding_store.codec import RowKind, RowLayout
from ranktower.release import SCORERS, Manifest
from service.settings import EngineChoice

if TYPE_CHECKING:
    from ranktower_native import NativeScorer

logger = logging.getLogger(__name__)

Engine = Literal["onnx", "native"]
NativeRefusal = Literal["unsupported", "disagrees"]
"""Why an installed native scorer is not used: it cannot run the release's graph, or gives other scores."""
Reference = Callable[[NDArray[np.uint8], RowLayout, NDArray[np.uint8]], NDArray[np.float32]]
"""A user's row, a layout, items' rows of it, to ONNX Runtime's scores."""

TOLERANCE = 1e-4
"""Largest difference of the engines that is accepted, on the cosine-sum scale."""

# No multiple of any number of lanes.
_NUM_RANDOM = 257


class NativeScorers:
    """The native scorers of a release, by the kinds of its items' rows."""

    def __init__(self, choice: EngineChoice, folder: Path, manifest: Manifest, kinds: Iterable[RowKind]) -> None:
        """Open them; none where that is not wanted or not possible. ``try_random`` is still to come."""
        self._release, self._tau = manifest.release, manifest.tau
        self._by_kind: dict[RowKind, NativeScorer] = {}
        self.refusal: NativeRefusal | None = None
        """Set once the native scorer was installed, asked for, and refused."""
        if choice == "onnx":
            return
        if find_spec("ranktower_native") is None:
            return
        try:
            from ranktower_native import NativeError
        except ImportError as error:
            self._refuse("unsupported", f"cannot be imported: {error}")
            return
        try:
            self._by_kind = {kind: self._open(folder / SCORERS[kind], manifest, kind) for kind in set(kinds)}
        except NativeError as error:
            self._refuse("unsupported", str(error))

    def _open(self, path: Path, manifest: Manifest, kind: RowKind) -> NativeScorer:
        """The scorer of the graph in ``path``; NativeError if it is not of the release's rows."""
        from ranktower_native import NativeError, NativeScorer, ScorerShape, read_scorer

        shape, constants = read_scorer(path)
        of = manifest.shape
        sizes = (of.num_user_heads, of.num_item_heads, of.width, of.attention_width)
        rows = ScorerShape(*sizes, manifest.row_dtype == "float16", kind == "projected", shape.activation)
        if shape != rows:
            raise NativeError(f"{path}: is of {shape}, the release's rows of {rows}")
        return NativeScorer(shape, constants)

    @property
    def engine(self) -> Engine:
        """What scores the release's pairs."""
        return "native" if self._by_kind else "onnx"

    def of(self, kind: RowKind) -> NativeScorer | None:
        """The scorer of rows of a kind; None where ONNX Runtime is to score them."""
        return self._by_kind.get(kind)

    def try_random(self, users: RowLayout, items: RowLayout, reference: Reference) -> None:
        """Compare the engines on rows of every kind that nobody stores: random ones, zeros, and not finite ones."""
        for kind in tuple(self._by_kind):
            layout, random = replace(items, kind=kind), np.random.default_rng(0)
            rows = _random_rows(layout, _NUM_RANDOM, random)
            values = layout.values(rows)
            start = values.shape[1] // 2
            values[0], values[1], values[2, start], values[3, -1] = 0, 1e-7, np.nan, np.inf
            if layout.dtype == "float32":  # its square is infinite
                values[4, start] = 1e30
            user = _random_rows(users, 1, random)
            self.compare(user, layout, rows, reference(user, layout, rows))

    def compare(
        self, user: NDArray[np.uint8], layout: RowLayout, items: NDArray[np.uint8], expected: NDArray[np.float32]
    ) -> None:
        """Refuse the native scorers for good if theirs differ from ONNX Runtime's scores of these rows."""
        scorer = self._by_kind.get(layout.kind)
        if scorer is None:
            return
        found = scorer.score(user, items)
        finite = np.isfinite(expected)
        if not np.array_equal(finite, np.isfinite(found)):
            self._refuse("disagrees", "other scores than ONNX Runtime's are not finite")
            return
        difference = float(np.abs(found[finite] - expected[finite]).max(initial=0.0)) * self._tau
        if difference > TOLERANCE:
            self._refuse("disagrees", f"scores differ from ONNX Runtime's by {difference:.3g}, more than {TOLERANCE:g}")

    def _refuse(self, reason: NativeRefusal, detail: str) -> None:
        self._by_kind, self.refusal = {}, reason
        fields = {"release": self._release, "reason": reason, "detail": detail}
        logger.error("the native scorer is not used, ONNX Runtime scores", extra={"fields": fields})


def _random_rows(layout: RowLayout, num_rows: int, random: np.random.Generator) -> NDArray[np.uint8]:
    return layout.encode({name: random.standard_normal((num_rows, *layout.shape(name))) for name in layout.arrays})
