"""The building blocks of the RankTower paper, one a file.

Axes, one legend for the whole code base: ``B`` users, ``L`` items of one user's list, ``N`` candidates of one request,
``Hu``/``Hi`` user/item sub-spaces, ``D`` size of one sub-space embedding, ``A`` attention width, ``F`` feature fields.
"""

from ranktower.blocks.field_embedding import FieldEmbedding, FieldSizes, SideFeatures, embedding_width
from ranktower.blocks.gated_attention_unit import GatedAttentionUnit
from ranktower.blocks.gated_cross_attention_network import GatedCrossAttentionNetwork, ProjectedRows
from ranktower.blocks.maximum_similarity import MaximumSimilarity
from ranktower.blocks.multi_head_gated_network import MultiHeadGatedNetwork
from ranktower.blocks.multi_layer_perceptron import MultiLayerPerceptron

__all__ = [
    "FieldEmbedding",
    "FieldSizes",
    "GatedAttentionUnit",
    "GatedCrossAttentionNetwork",
    "MaximumSimilarity",
    "MultiHeadGatedNetwork",
    "MultiLayerPerceptron",
    "ProjectedRows",
    "SideFeatures",
    "embedding_width",
]
