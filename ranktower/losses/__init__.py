"""The losses of the paper and their alternatives, one a file, all with the signature of ``ListLoss``."""

from ranktower.losses.am_rankmax import am_rankmax_loss
from ranktower.losses.approx_ndcg import approx_ndcg_loss
from ranktower.losses.contrastive import contrastive_loss
from ranktower.losses.distillation import distillation_loss
from ranktower.losses.hybrid import HybridOptions, HybridParts, hybrid_loss, hybrid_parts
from ranktower.losses.neural_sort import neural_sort_loss
from ranktower.losses.pairwise import pairwise_logloss
from ranktower.losses.protocol import ListLoss
from ranktower.losses.rankmax import rankmax_loss
from ranktower.losses.ranknet import ranknet_loss
from ranktower.losses.relaxed_recall import relaxed_recall_loss
from ranktower.losses.softmax import softmax_loss
from ranktower.losses.softsort import softsort_loss
from ranktower.losses.weighted import weighted_logloss

__all__ = [
    "HybridOptions",
    "HybridParts",
    "ListLoss",
    "am_rankmax_loss",
    "approx_ndcg_loss",
    "contrastive_loss",
    "distillation_loss",
    "hybrid_loss",
    "hybrid_parts",
    "neural_sort_loss",
    "pairwise_logloss",
    "rankmax_loss",
    "ranknet_loss",
    "relaxed_recall_loss",
    "softmax_loss",
    "softsort_loss",
    "weighted_logloss",
]
