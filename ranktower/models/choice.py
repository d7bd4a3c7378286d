"""Every pre-ranker by the ``name`` of its configuration: the one place that lists them all."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Discriminator, Tag

from ranktower.blocks import FieldSizes
from ranktower.models.arf import ARF, ARFConfig
from ranktower.models.cold import COLD, COLDConfig
from ranktower.models.dat import DAT, DATConfig
from ranktower.models.inttower import IntTower, IntTowerConfig
from ranktower.models.lr import LR, LRConfig
from ranktower.models.pre_ranker import PreRanker
from ranktower.models.ranktower import RankTower, RankTowerConfig
from ranktower.models.two_tower import TwoTower, TwoTowerConfig

_MODELS: dict[type[Any], Any] = {
    RankTowerConfig: RankTower,
    LRConfig: LR,
    TwoTowerConfig: TwoTower,
    DATConfig: DAT,
    COLDConfig: COLD,
    IntTowerConfig: IntTower,
    ARFConfig: ARF,
}


def _name(content: Any) -> Any:
    """A configuration that names no model means RankTower."""
    return content.get("name", "ranktower") if isinstance(content, dict) else getattr(content, "name", None)


ModelConfig = Annotated[
    Annotated[RankTowerConfig, Tag("ranktower")]
    | Annotated[LRConfig, Tag("lr")]
    | Annotated[TwoTowerConfig, Tag("two_tower")]
    | Annotated[DATConfig, Tag("dat")]
    | Annotated[COLDConfig, Tag("cold")]
    | Annotated[IntTowerConfig, Tag("inttower")]
    | Annotated[ARFConfig, Tag("arf")],
    Discriminator(_name),
]


def build_model(config: ModelConfig, users: FieldSizes, items: FieldSizes) -> PreRanker:
    """The model of a configuration, with random weights, over fields of the given sizes.

    Raises:
        ConfigError: the model needs a field that the sizes lack.
    """
    model: PreRanker = _MODELS[type(config)](config, users, items)
    return model
