"""Compiled parts of RankTower: the fused scorer and the lookup of ids. Needs NumPy alone."""

from ranktower_native.library import NativeError, paths
from ranktower_native.scorer import NativeScorer

__version__ = "0.1.0"
__all__ = ["NativeError", "NativeScorer", "paths"]
