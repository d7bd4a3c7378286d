"""The training loop: hybrid loss, Adam, early stopping on validation NDCG, resumable after a kill."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from tqdm import tqdm

from ranktower.blocks import SideFeatures
from ranktower.data.dataset import PreparedDataset
from ranktower.data.sampling import FullStageSampler, ListBatch
from ranktower.errors import ConfigError
from ranktower.losses import hybrid_parts
from ranktower.models import PreRanker, RankTower, TwoTower
from ranktower.training.checkpoint import Progress, load_checkpoint, save_checkpoint, save_tensors
from ranktower.training.config import TrainConfig
from ranktower.training.curve import LOSS_PARTS
from ranktower.training.evaluation import EvaluationOptions, ModelScorer, evaluate
from ranktower.training.run import RunFolder
from ranktower.training.tensors import field_sizes, side_features, take, to_device


@dataclass(frozen=True)
class Retrieved:
    """The retrieval model, and the item rows ``[num_users, C]`` that it found for every user, best first."""

    model: TwoTower
    candidates: NDArray[np.int32]


@dataclass(frozen=True)
class DeviceFeatures:
    """Features of all users and items on the training device."""

    users: SideFeatures
    items: SideFeatures


def score_lists(model: PreRanker, features: DeviceFeatures, batch: ListBatch) -> Tensor:
    """Logits ``[B, L]`` of a batch of lists.

    A list's items repeat within a batch, so the item tower runs once a distinct item and its rows are looked up.
    """
    device = features.users.codes.device
    items = np.where(batch.mask, batch.item_rows, batch.item_rows[0, 0])
    distinct, places = np.unique(items, return_inverse=True)
    rows = model.encode_items(take(features.items, torch.from_numpy(distinct.astype(np.int64)).to(device)))
    lists = tuple(_look_up(array, torch.from_numpy(places.reshape(items.shape)).to(device)) for array in rows)
    users = model.encode_users(take(features.users, torch.from_numpy(batch.user_rows.astype(np.int64)).to(device)))
    return model.score_pairs(users, lists)


def _look_up(array: Tensor, places: Tensor) -> Tensor:
    """``[n, ...]`` at ``places [B, L]`` to ``[B, L, ...]``; unlike indexing, its backward is deterministic."""
    flat = torch.nn.functional.embedding(places, array.flatten(1))
    return flat.reshape(*places.shape, *array.shape[1:])


class Trainer:
    """One training run in one folder. ``fit`` begins it, or goes on where a killed run's checkpoint stands.

    The result is the same to the bit, killed or not, on one kind of machine with one number of threads
    (``OMP_NUM_THREADS``): sums over several threads are rounded in another order.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        config: TrainConfig,
        folder: RunFolder,
        *,
        retrieved: Retrieved | None,
        device: torch.device,
        progress_bar: bool = True,
    ) -> None:
        """``retrieved`` gives candidates where the data set has no logged ones, and the warm start.

        Raises:
            ConfigError: the folder holds a checkpoint of another configuration or other data.
        """
        self.dataset, self.config, self.folder, self.show_bar = dataset, config, folder, progress_bar
        self.features = DeviceFeatures(
            to_device(side_features(dataset.users.features), device),
            to_device(side_features(dataset.items.features), device),
        )
        self.sampler = FullStageSampler(dataset, config.sampling, retrieved.candidates if retrieved else None)
        torch.manual_seed(config.seed)
        sizes = field_sizes(dataset.encoder.user), field_sizes(dataset.encoder.item)
        self.model = RankTower(config.model, *sizes).to(device)
        if config.warm_start and retrieved:
            for tower, learned in (
                (self.model.user_tower, retrieved.model.user_tower),
                (self.model.item_tower, retrieved.model.item_tower),
            ):
                tower.embedding.load_state_dict(learned.embedding.state_dict())
        self.optimizer = torch.optim.Adam(self.model.parameters(), lr=config.learning_rate)
        self.best: dict[str, Tensor] = {}
        self.progress = Progress(config_digest=config.digest(), data_id=dataset.data_id)
        self.started = time.monotonic()
        if folder.checkpoint.is_file():
            self.progress, self.best = load_checkpoint(
                folder.checkpoint,
                self.model,
                self.optimizer,
                config_digest=config.digest(),
                data_id=dataset.data_id,
            )
            self.started -= self.progress.seconds

    def fit(self) -> Progress:
        """Train to the end and write the best model; the steps already done are not done again.

        Without a user who has a positive in the validation split there is no best model: the last one is written.

        Raises:
            ConfigError: the loss is not finite any more.
        """
        per_epoch = self.sampler.num_batches(self.config.batch_lists)
        total, done = per_epoch * self.config.max_epochs, self.progress.step
        bar: tqdm[Any]
        with tqdm(total=total, initial=done, desc="train", unit="step", disable=None if self.show_bar else True) as bar:
            while not self.progress.finished:
                self._epoch(per_epoch, bar)
        save_tensors(self.folder.model, self.best, {"data_id": self.dataset.data_id, "step": self.progress.best_step})
        return self.progress

    def _epoch(self, per_epoch: int, bar: tqdm[Any]) -> None:
        progress = self.progress
        for batch in self.sampler.epoch(progress.epoch, self.config.batch_lists, first_batch=progress.batch):
            self._step(batch, bar)
            progress.batch += 1
            last = progress.batch == per_epoch
            every = self.config.validation.every_steps
            if last or (every < per_epoch and progress.step % every == 0):
                self._validate(bar)
            if last:
                progress.epoch, progress.batch = progress.epoch + 1, 0
            out_of_epochs = progress.epoch == self.config.max_epochs
            progress.finished = out_of_epochs or progress.stale >= self.config.validation.patience
            if progress.finished or progress.step % self.config.checkpoint_every_steps == 0:
                self._checkpoint()
            if progress.finished:
                return

    def _step(self, batch: ListBatch, bar: tqdm[Any]) -> None:
        device = self.features.users.codes.device
        parts = hybrid_parts(
            score_lists(self.model, self.features, batch),
            torch.from_numpy(batch.labels).to(device),
            mask=torch.from_numpy(batch.mask).to(device),
            teacher_scores=torch.from_numpy(batch.teacher_scores).to(device),
            stage=torch.from_numpy(batch.stage.astype(np.int64)).to(device),
            options=self.config.loss,
        )
        self.optimizer.zero_grad(set_to_none=True)
        parts.total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        progress = self.progress
        progress.step += 1
        values = [1.0, *(getattr(parts, part).item() for part in LOSS_PARTS)]
        if not math.isfinite(sum(values)):
            told = ", ".join(f"{part} {value}" for part, value in zip(LOSS_PARTS, values[1:], strict=True))
            raise ConfigError(
                f"the loss of step {progress.step} is not finite ({told}); "
                f"learning_rate is {self.config.learning_rate}, a lower one may help"
            )
        progress.pending = [a + b for a, b in zip(progress.pending or [0.0] * len(values), values, strict=True)]
        bar.update()
        if progress.step % 10 == 0:
            bar.set_postfix_str(f"loss {parts.total.item():.2f}, best NDCG {max(progress.best_ndcg, 0):.4f}")

    def _validate(self, bar: tqdm[Any]) -> None:
        settings, progress = self.config.validation, self.progress
        self.model.eval()
        options = EvaluationOptions(
            split="validation", pool=settings.pool, k=settings.k, max_users=settings.num_users, seed=self.config.seed
        )
        result = evaluate(ModelScorer.encode(self.model, self.dataset), self.dataset, options)
        self.model.train()
        if result.num_users == 0:
            # No figure to go by: every epoch is trained, and the last model is the one that is kept.
            self._keep()
            return
        progress.validations.append({"step": progress.step, "recall": result.recall, "ndcg": result.ndcg})
        if result.ndcg > progress.best_ndcg:
            progress.best_ndcg, progress.stale = result.ndcg, 0
            self._keep()
        else:
            progress.stale += 1
        bar.write(
            f"  step {progress.step}: validation NDCG@{settings.k} {result.ndcg:.4f}, "
            f"Recall@{settings.k} {result.recall:.4f} ({settings.pool}, {result.num_users} users)"
        )

    def _keep(self) -> None:
        self.progress.best_step = self.progress.step
        self.best = {name: tensor.detach().clone() for name, tensor in self.model.state_dict().items()}

    def _checkpoint(self) -> None:
        progress = self.progress
        if progress.pending:
            count, *sums = progress.pending
            means = {part: value / count for part, value in zip(LOSS_PARTS, sums, strict=True)}
            progress.losses.append({"step": progress.step, **means})
            progress.pending = []
        progress.seconds = time.monotonic() - self.started
        save_checkpoint(self.folder.checkpoint, self.model, self.best, self.optimizer, progress)
