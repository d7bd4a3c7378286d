"""The pre-rankers, one a file. Every one encodes each side alone and scores pairs of encoded rows."""

from ranktower.models.arf import ARF, ARFConfig
from ranktower.models.choice import ModelConfig, build_model
from ranktower.models.cold import COLD, COLDConfig
from ranktower.models.dat import DAT, DATConfig
from ranktower.models.inttower import IntTower, IntTowerConfig
from ranktower.models.lr import LR, LRConfig
from ranktower.models.pre_ranker import EncodedLists, PreRanker
from ranktower.models.ranktower import RankTower, RankTowerConfig
from ranktower.models.two_tower import TwoTower, TwoTowerConfig

__all__ = [
    "ARF",
    "COLD",
    "DAT",
    "LR",
    "ARFConfig",
    "COLDConfig",
    "DATConfig",
    "EncodedLists",
    "IntTower",
    "IntTowerConfig",
    "LRConfig",
    "ModelConfig",
    "PreRanker",
    "RankTower",
    "RankTowerConfig",
    "TwoTower",
    "TwoTowerConfig",
    "build_model",
]
