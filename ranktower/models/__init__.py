"""The pre-rankers, one a file. Every one encodes each side alone and scores pairs of encoded rows."""

from ranktower.models.pre_ranker import PreRanker
from ranktower.models.ranktower import RankTower, RankTowerConfig
from ranktower.models.two_tower import TwoTower, TwoTowerConfig

__all__ = ["PreRanker", "RankTower", "RankTowerConfig", "TwoTower", "TwoTowerConfig"]
