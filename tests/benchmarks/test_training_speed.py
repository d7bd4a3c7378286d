"""The step that is timed in parts is the trainer's own step."""

from __future__ import annotations

from pathlib import Path

import torch
import training_speed
from tqdm import tqdm

from ranktower.data.dataset import PreparedDataset
from ranktower.training.config import TrainConfig
from ranktower.training.loop import Trainer
from ranktower.training.run import RunFolder


def test_a_step_in_parts_changes_every_parameter_as_the_trainers_does(
    simulated: PreparedDataset, small_config: TrainConfig, tmp_path: Path
) -> None:
    whole, parts = (
        Trainer(simulated, small_config, RunFolder(tmp_path), retrieved=None, device=torch.device("cpu"))
        for _ in range(2)
    )
    spent = training_speed.Spent()
    batches = list(whole.sampler.epoch(0, small_config.batch_lists))[:3]
    for batch in batches:
        whole._step(batch, tqdm(disable=True))
        training_speed._step(parts, iter([batch]), spent)
    expected = whole.model.state_dict()
    for name, tensor in parts.model.state_dict().items():
        torch.testing.assert_close(tensor, expected[name], rtol=0, atol=1e-6)
    assert (spent.steps, spent.pairs) == (3, sum(int(batch.mask.sum()) for batch in batches))


def test_shares_of_the_parts_and_pairs_a_second() -> None:
    spent = training_speed.Spent(pairs=600, steps=2)
    spent.wall.update(sampler=1.0, pairs=3.0)
    spent.processor.update(sampler=1.0, pairs=1.0)
    both = spent.figures(one_thread=True)
    assert both["wall"] == {
        "pairs_per_s": 150,
        "share": {"sampler": 0.25, "pairs": 0.75},
        "ms_a_step": {"sampler": 500.0, "pairs": 1500.0},
    }
    assert both["processor"]["pairs_per_s"] == 300
    # On two threads the main one's processor time says nothing of the other's.
    assert spent.figures(one_thread=False) == {"wall": both["wall"]}
