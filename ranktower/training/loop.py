"""The training loop: hybrid loss, early stopping on validation NDCG, resumable after a kill."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
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
from ranktower.errors import ConfigError, DivergedError
from ranktower.losses import hybrid_parts
from ranktower.models import EncodedLists, PreRanker, TwoTower, build_model
from ranktower.training.checkpoint import Progress, load_checkpoint, save_checkpoint, save_tensors
from ranktower.training.config import TrainConfig
from ranktower.training.curve import LOSS_PARTS
from ranktower.training.evaluation import EvaluationOptions, ModelScorer, evaluate
from ranktower.training.optimizer import build_optimizer, rate_share
from ranktower.training.run import RunFolder
from ranktower.training.tensors import History, hide_items, histories, side_features, side_sizes, take, to_device


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


def encode_lists(
    model: PreRanker, features: DeviceFeatures, batch: ListBatch, *, hidden_from: Sequence[History] = ()
) -> EncodedLists:
    """A batch of lists through the towers, each distinct item once.

    ``hidden_from`` are the histories of which entries are hidden from this step.
    """
    device = features.users.codes.device
    items = np.where(batch.mask, batch.item_rows, batch.item_rows[0, 0])
    distinct, places = np.unique(items, return_inverse=True)
    item_features = take(features.items, torch.from_numpy(distinct.astype(np.int64)).to(device))
    user_features = take(features.users, torch.from_numpy(batch.user_rows.astype(np.int64)).to(device))
    user_features = hide_items(user_features, hidden_from)
    return EncodedLists(
        users=model.encode_users(user_features),
        items=model.encode_items(item_features),
        user_features=user_features,
        item_features=item_features,
        places=torch.from_numpy(places.reshape(items.shape)).to(device),
        labels=torch.from_numpy(batch.labels).to(device),
        stage=torch.from_numpy(batch.stage.astype(np.int64)).to(device),
        mask=torch.from_numpy(batch.mask).to(device),
    )


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
        on_validation: Callable[[Progress], None] | None = None,
    ) -> None:
        """``retrieved`` gives candidates where the data set has no logged ones, and the warm start.

        ``on_validation`` is called after each validation with the progress so far; what it raises ends the run.

        Raises:
            ConfigError: the folder holds a checkpoint of another configuration, other data or another teacher.
        """
        self.dataset, self.config, self.folder, self.show_bar = dataset, config, folder, progress_bar
        self.on_validation = on_validation or (lambda progress: None)
        self.features = DeviceFeatures(
            to_device(side_features(dataset.users.features), device),
            to_device(side_features(dataset.items.features), device),
        )
        self.sampler = FullStageSampler(dataset, config.sampling, retrieved.candidates if retrieved else None)
        torch.manual_seed(config.seed)
        sizes = side_sizes(dataset.encoder, config.embedding_widths)
        self.model = build_model(config.model, *sizes).to(device)
        if config.warm_start and retrieved:
            _warm_start(self.model, retrieved.model)
        self.optimizer = build_optimizer(self.model, config.optimizer, learning_rate=config.learning_rate)
        self.rates = [group["lr"] for group in self.optimizer.param_groups]
        self.num_steps = self.sampler.num_batches(config.batch_lists) * config.max_epochs
        self.histories = histories(dataset, config.history_dropout, device)
        self.best: dict[str, Tensor] = {}
        self.progress = Progress(config.digest(), dataset.data_id, dataset.teacher_id)
        self.started = time.monotonic()
        if folder.checkpoint.is_file():
            self.progress, self.best = load_checkpoint(
                folder.checkpoint,
                self.model,
                self.optimizer,
                config_digest=config.digest(),
                data_id=dataset.data_id,
                teacher_id=dataset.teacher_id,
            )
            self.started -= self.progress.seconds

    def fit(self) -> Progress:
        """Train to the end and write the best model; the steps already done are not done again.

        Without a user who has a positive in the validation split there is no best model: the last one is written.

        Raises:
            DivergedError: the loss is not finite any more.
        """
        per_epoch = self.sampler.num_batches(self.config.batch_lists)
        bar: tqdm[Any]
        with tqdm(
            total=self.num_steps,
            initial=self.progress.step,
            desc="train",
            unit="step",
            disable=None if self.show_bar else True,
        ) as bar:
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
        progress = self.progress
        progress.step += 1
        # What a step draws (dropout, hidden history) depends on its number alone, so a resumed run draws the same.
        torch.manual_seed(_seed_of(self.config.seed, progress.step))
        lists = encode_lists(self.model, self.features, batch, hidden_from=self.histories)
        scores = self.model.score_pairs(lists.users, lists.item_lists())
        parts = hybrid_parts(
            scores,
            lists.labels,
            mask=lists.mask,
            teacher_scores=torch.from_numpy(batch.teacher_scores).to(scores.device),
            stage=lists.stage,
            options=self.config.loss,
        )
        auxiliary = self.model.auxiliary_loss(lists, scores)
        total = parts.total + auxiliary
        self._set_rates()
        self.optimizer.zero_grad(set_to_none=True)
        total.backward()  # type: ignore[no-untyped-call]
        self.optimizer.step()
        values = [parts.distillation.item(), parts.fine.item(), parts.coarse.item(), auxiliary.item()]
        if not math.isfinite(sum(values)):
            told = ", ".join(f"{part} {value}" for part, value in zip(LOSS_PARTS, values, strict=True))
            raise DivergedError(
                f"the loss of step {progress.step} is not finite ({told}); "
                f"learning_rate is {self.config.learning_rate}, a lower one may help"
            )
        sums = progress.pending or [0.0] * (1 + len(values))
        progress.pending = [a + b for a, b in zip(sums, [1.0, *values], strict=True)]
        bar.update()
        if progress.step % 10 == 0:
            bar.set_postfix_str(f"loss {total.item():.2f}, best NDCG {max(progress.best_ndcg, 0):.4f}")

    def _set_rates(self) -> None:
        share = rate_share(self.config.optimizer, self.progress.step, self.num_steps)
        for group, rate in zip(self.optimizer.param_groups, self.rates, strict=True):
            group["lr"] = rate * share

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
        self.on_validation(progress)

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


def _seed_of(seed: int, step: int) -> int:
    """Of a step's draws; mixed to 32 bits, because torch's generator on the CPU reads no more of a seed."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1)[0])


def _warm_start(model: PreRanker, retrieval: TwoTower) -> None:
    """Take over the retrieval model's field embeddings."""
    layers = model.field_embeddings()
    if layers is None:
        raise ConfigError(f"warm_start: a model of class {type(model).__name__} has no field embeddings")
    for layer, learned in zip(layers, retrieval.field_embeddings(), strict=True):
        layer.load_state_dict(learned.state_dict())
