"""How many (user, item) pairs a second RankTower trains on at the reference shape, and where the time goes.

Run: ``python benchmarks/training_speed.py`` after a demo, or with ``--data`` and ``--run`` of an experiment, whose
users have histories. The configuration is the run's. The step is the trainer's, cut where its parts meet, so that each
part's backward pass is timed with it. Turns on one and on two threads alternate. Time is the wall clock's and, for one
thread, the processor's own too, which other work on the machine lengthens less.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from result_file import write_result
from torch import Tensor

from ranktower.data.dataset import PreparedDataset
from ranktower.data.sampling import ListBatch
from ranktower.losses import hybrid_parts
from ranktower.training.loop import Retrieved, Trainer, encode_lists
from ranktower.training.run import RunFolder, load_run

DEMO = Path("build/demo/kuairand")
THREADS = (1, 2)
TURN_STEPS = 5


@dataclasses.dataclass
class Spent:
    """Seconds of each part, and the real pairs scored meanwhile."""

    wall: defaultdict[str, float] = dataclasses.field(default_factory=lambda: defaultdict(float))
    processor: defaultdict[str, float] = dataclasses.field(default_factory=lambda: defaultdict(float))
    pairs: int = 0
    steps: int = 0

    @contextmanager
    def on(self, part: str) -> Iterator[None]:
        """Count what happens inside as this part's."""
        wall, processor = time.perf_counter(), time.thread_time()
        yield
        self.wall[part] += time.perf_counter() - wall
        self.processor[part] += time.thread_time() - processor

    def figures(self, *, one_thread: bool) -> dict[str, Any]:
        """Pairs a second, and each part's share of the time and milliseconds a step."""
        clocks = {"wall": self.wall} | ({"processor": self.processor} if one_thread else {})
        return {
            clock: {
                "pairs_per_s": round(self.pairs / sum(seconds.values())),
                "share": {part: round(spent / sum(seconds.values()), 3) for part, spent in seconds.items()},
                "ms_a_step": {part: round(1e3 * spent / self.steps, 2) for part, spent in seconds.items()},
            }
            for clock, seconds in clocks.items()
        }


def main() -> None:
    """Time the steps and write one result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=DEMO / "prepared", help="folder of 'ranktower prepare'")
    parser.add_argument("--run", type=Path, help="folder of a finished run; the demo's latest where left out")
    parser.add_argument("--turns", type=int, default=12, help=f"of {TURN_STEPS} steps, for each number of threads")
    options = parser.parse_args()
    dataset = PreparedDataset.load(options.data)
    run = load_run(options.run or max(DEMO.glob("run-*"), key=lambda path: path.stat().st_mtime))
    retrieved = Retrieved(run.retrieval_model(), np.load(run.folder.candidates, mmap_mode="r"))
    with TemporaryDirectory() as folder:
        trainer = Trainer(
            dataset,
            run.config,
            RunFolder(Path(folder)),
            retrieved=retrieved,
            device=torch.device("cpu"),
            progress_bar=False,
        )
        spent = _in_turns(trainer, options.turns)
    figures = {f"{threads}_threads": one.figures(one_thread=threads == 1) for threads, one in spent.items()}
    shape = {"lists": run.config.batch_lists, "pairs_a_step": round(spent[1].pairs / spent[1].steps)}
    write_result("training_speed", shape | figures, "torch", "numpy")


def _in_turns(trainer: Trainer, turns: int) -> dict[int, Spent]:
    epochs = (trainer.sampler.epoch(epoch, trainer.config.batch_lists) for epoch in itertools.count())
    batches = itertools.chain.from_iterable(epochs)
    spent = {threads: Spent() for threads in THREADS}
    for turn in range(-1, turns):  # the first turn warms up and does not count
        for threads in THREADS:
            torch.set_num_threads(threads)
            for _ in range(TURN_STEPS):
                _step(trainer, batches, spent[threads] if turn >= 0 else Spent())
    return spent


def _step(trainer: Trainer, batches: Iterator[ListBatch], spent: Spent) -> None:
    """One training step, in parts that meet in leaves: each part's gradients are handed to the one before."""
    model = trainer.model
    with spent.on("sampler"):
        batch = next(batches)
    with spent.on("towers"):
        lists = encode_lists(model, trainer.features, batch, hidden_from=trainer.histories)
    users, items = _leaves(lists.users), _leaves(lists.items)
    with spent.on("pairs"):
        scores = model.score_pairs(users, dataclasses.replace(lists, items=items).item_lists())
    (given,) = _leaves((scores,))
    with spent.on("loss"):
        teacher = torch.from_numpy(batch.teacher_scores)
        options = trainer.config.loss
        parts = hybrid_parts(
            given, lists.labels, mask=lists.mask, teacher_scores=teacher, stage=lists.stage, options=options
        )
        parts.total.backward()
    with spent.on("optimiser"):
        trainer.optimizer.zero_grad(set_to_none=True)
    with spent.on("pairs"):
        scores.backward(given.grad)
    with spent.on("towers"):
        rows = (*lists.users, *lists.items)
        torch.autograd.backward(rows, [leaf.grad for leaf in (*users, *items)])
    with spent.on("optimiser"):
        trainer.optimizer.step()
    spent.steps += 1
    spent.pairs += int(batch.mask.sum())


def _leaves(tensors: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().requires_grad_() for tensor in tensors)


if __name__ == "__main__":
    main()
