"""ARF, the adaptive neural ranking framework (Wang et al. 2023, arXiv:2310.10462): two towers, its own objective."""

from __future__ import annotations

from typing import Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from ranktower.blocks import FieldSizes
from ranktower.losses import neural_sort_loss, ranknet_loss, relaxed_recall_loss
from ranktower.models.pre_ranker import EncodedLists
from ranktower.models.two_tower import TwoTower, VectorTowersConfig


class ARFConfig(VectorTowersConfig):
    """Shape of the two towers, and options of the objective.

    Attributes:
        name: tells the models of a configuration apart.
        num_kept: m of Recall@m@k, the items of a list that the relaxed term lets pass.
        num_relevant: k of Recall@m@k, the items of a list, best by label, that should be among them.
        temperature: of NeuralSort, as a multiple of the list's length.
        global_term: what asks for the whole order: RankNet, as a mean over the list's ordered pairs, or NeuralSort's
            cross entropy, as in the authors' code.
    """

    name: Literal["arf"] = "arf"
    num_kept: int = Field(default=30, ge=1)
    num_relevant: int = Field(default=20, ge=1)
    temperature: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    global_term: Literal["ranknet", "neural_sort"] = "ranknet"


class ARF(TwoTower):
    """The two-tower model with ``L = sum_k exp(-2 s_k) / 2 L_k + s_k`` over a relaxed and a global ranking term.

    ``s_k`` is the learned logarithm of a term's uncertainty (Kendall et al. 2018), by which the training itself finds
    how much of the whole order the model can afford beside the recall of the best. It starts at 0, where both terms
    count alike, so RankNet is a mean per pair: a sum over a list's thousands of pairs would drown the recall until its
    uncertainty has grown. Both terms are over all stages. The objective is the model's ``auxiliary_loss``; the
    configured loss has ``fine_weight`` and ``coarse_weight`` of 0.
    """

    config: ARFConfig

    def __init__(self, config: ARFConfig, users: FieldSizes, items: FieldSizes) -> None:
        super().__init__(config, users, items)
        self.log_uncertainties = nn.Parameter(torch.zeros(2))

    def auxiliary_loss(self, lists: EncodedLists, scores: Tensor) -> Tensor:
        """The objective, a scalar; it can be negative, as a small L_k brings its ``s_k`` below 0."""
        terms = torch.stack([self._relaxed_term(lists, scores), self._global_term(lists, scores)])
        return ((-2 * self.log_uncertainties).exp() / 2 * terms + self.log_uncertainties).sum()

    def _relaxed_term(self, lists: EncodedLists, scores: Tensor) -> Tensor:
        return relaxed_recall_loss(
            scores,
            lists.labels,
            mask=lists.mask,
            num_kept=self.config.num_kept,
            num_relevant=self.config.num_relevant,
            temperature=self.config.temperature,
        )

    def _global_term(self, lists: EncodedLists, scores: Tensor) -> Tensor:
        if self.config.global_term == "ranknet":
            return ranknet_loss(scores, lists.labels, mask=lists.mask, per_pair=True)
        return neural_sort_loss(scores, lists.labels, mask=lists.mask, temperature=self.config.temperature)
