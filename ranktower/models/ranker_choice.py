"""Every ranker of the teacher by the ``name`` of its configuration: the one place that lists them all."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field

from ranktower.blocks import FieldSizes
from ranktower.models.dcn_v2 import DCNV2, DCNV2Config
from ranktower.models.deep_crossing import DeepCrossing, DeepCrossingConfig
from ranktower.models.deepfm import DeepFM, DeepFMConfig
from ranktower.models.ranker import Ranker
from ranktower.models.xdeepint import XDeepInt, XDeepIntConfig

AnyRankerConfig = Annotated[
    DeepFMConfig | DeepCrossingConfig | DCNV2Config | XDeepIntConfig, Field(discriminator="name")
]

_RANKERS: dict[type, Any] = {
    DeepFMConfig: DeepFM,
    DeepCrossingConfig: DeepCrossing,
    DCNV2Config: DCNV2,
    XDeepIntConfig: XDeepInt,
}


def build_ranker(config: AnyRankerConfig, users: FieldSizes, items: FieldSizes) -> Ranker:
    """The ranker of a configuration, with random weights, over fields of the given sizes."""
    ranker: Ranker = _RANKERS[type(config)](config, users, items)
    return ranker
