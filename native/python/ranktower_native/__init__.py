"""Compiled parts of RankTower: the fused scorer and the lookup of ids. Needs NumPy and protobuf."""

from ranktower_native.ids import Found, JoinedArray, NativeIds, join_ids
from ranktower_native.library import NativeError, paths
from ranktower_native.onnx_file import read_scorer
from ranktower_native.scorer import NativeScorer, ScorerShape

__version__ = "0.1.0"
__all__ = [
    "Found", "JoinedArray", "NativeError", "NativeIds", "NativeScorer", "ScorerShape", "join_ids", "paths",
    "read_scorer",
]  # fmt: skip
