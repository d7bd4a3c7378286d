"""The teacher (METHOD §5): rankers trained fold by fold, and the soft labels that their weighted means give.

No training impression's soft label knows the impression's own feedback. The training impressions are split into folds;
for each fold every ranker is trained on the others, and these models alone predict it. Their weights are the fold's own
too, fitted on what they predict for the validation split. Impressions of validation and test, which no model is trained
on, get the mean over all folds.
"""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from ranktower.data.dataset import PreparedDataset
from ranktower.errors import ConfigError
from ranktower.models.ranker_choice import AnyRankerConfig, build_ranker
from ranktower.training.checkpoint import load_about, save_tensors
from ranktower.training.ranker_training import Impressions, PairFeatures, predict, train_ranker
from ranktower.training.teacher_assembly import assemble
from ranktower.training.teacher_config import TeacherConfig
from ranktower.training.teacher_folder import TeacherFolder, UnfinishedTeacherError, check_member
from ranktower.training.teacher_splits import Places, TeacherSplits


class TeacherTrainer:
    """One teacher in one folder. ``fit`` begins it, or goes on with what a killed call left.

    Each ranker of each fold is a file of its own, so a kill costs the one that is being trained. The result is the same
    to the bit on one kind of machine with one number of threads.

    Attributes:
        reused: ``fit`` found the teacher finished and whole, and made nothing.
    """

    def __init__(
        self,
        dataset: PreparedDataset,
        config: TeacherConfig,
        folder: TeacherFolder,
        *,
        device: torch.device,
        progress_bar: bool = True,
    ) -> None:
        self.dataset, self.config, self.folder, self.show_bar = dataset, config, folder, progress_bar
        self.device = device
        self.reused = False

    def fit(self) -> dict[str, Any]:
        """Train what is missing, fit the weights, write scores and report; damaged ones are written again.

        Returns:
            The report, as ``teacher.json`` holds it.

        Raises:
            ConfigError: the folder holds a teacher of another configuration or of other data, the training split
                teaches nothing, or a loss is not finite any more.
        """
        self._refuse_another()
        finished = self._finished()
        if finished is not None:
            self.reused = True
            return finished
        config = self.config
        self.splits = TeacherSplits.of(self.dataset, num_folds=config.num_folds, seed=config.seed)
        self.folder.path.mkdir(parents=True, exist_ok=True)
        config.dump(self.folder.config)
        missing = [
            (member, fold)
            for member in config.members
            for fold in range(config.num_folds)
            if not self.folder.member(member.name, fold).is_file()
        ]
        if missing:
            self._train(missing)
        scores, report = assemble(self.dataset, config, self.folder, self.splits)
        self.folder.write(scores, report)
        return report

    def _refuse_another(self) -> None:
        folder = self.folder
        if folder.config.is_file() and TeacherConfig.load(folder.config).digest() != self.config.digest():
            raise ConfigError(
                f"{folder.path}: holds a teacher of another configuration (see its config.yaml); give another --out"
            )
        for path in sorted(folder.path.glob("*.safetensors")):
            check_member(path, load_about(path), data_id=self.dataset.data_id, config=self.config)

    def _finished(self) -> dict[str, Any] | None:
        try:
            report = self.folder.read_report(self.dataset)
            self.folder.read_scores(report)
        except UnfinishedTeacherError:
            return None
        return report

    def _train(self, missing: list[tuple[AnyRankerConfig, int]]) -> None:
        self.features = PairFeatures.of(self.dataset, self.device)
        most = [self.config.max_epochs * len(self.splits.all_but(fold)) for _, fold in missing]
        to_come = sum(most)
        bar: tqdm[Any]
        with tqdm(
            total=to_come, desc="teach", unit=" pairs", unit_scale=True, disable=None if self.show_bar else True
        ) as bar:
            for (member, fold), planned in zip(missing, most, strict=True):
                bar.set_postfix_str(f"{member.name}, fold {fold + 1} of {self.config.num_folds}")
                self._train_member(member, fold, bar)
                # What early stopping spared is not to come any more.
                to_come -= planned
                bar.total = bar.n + to_come

    def _train_member(self, member: AnyRankerConfig, fold: int, bar: tqdm[Any]) -> None:
        config, features = self.config, self.features
        seeds = np.random.SeedSequence([config.seed, config.members.index(member), fold])
        torch.manual_seed(int(seeds.generate_state(1)[0]))
        ranker = build_ranker(member, features.user_sizes, features.item_sizes).to(self.device)
        started = time.monotonic()
        training = self._impressions(self.splits.all_but(fold))
        validation = self._impressions(self.splits.validation)
        validations = train_ranker(ranker, features, training, validation, config, bar)
        seconds = time.monotonic() - started
        tensors = {f"model.{name}": tensor for name, tensor in ranker.state_dict().items()}
        for name, places in self.splits.predicted(fold).items():
            of = self._impressions(places)
            found = predict(ranker, features, of.user_rows, of.item_rows, positive_weight=config.positive_weight)
            tensors[f"predictions.{name}"] = torch.from_numpy(found)
        about = {
            "data_id": self.dataset.data_id,
            "config_digest": config.digest(),
            "validations": validations,
            "num_trained": round(len(training) * (validations[-1]["epochs"] if validations else config.max_epochs)),
            "seconds": seconds,
            "num_parameters": sum(parameter.numel() for parameter in ranker.parameters()),
        }
        save_tensors(self.folder.member(member.name, fold), tensors, about)

    def _impressions(self, places: Places) -> Impressions:
        return Impressions.of(self.dataset, places, self.device)
