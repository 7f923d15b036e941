"""The training loop: every rule in turn, a checkpoint after every epoch."""

from __future__ import annotations

import hashlib
import math
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import torch
from tqdm import tqdm

from energynet.data import Dataset, Split
from energynet.errors import SettlingError
from energynet.training.config import Config, ConfigError, Rule
from energynet.training.learners import EnergyLearner, Learner, cost, make_learner
from energynet.training.probe import Probe

if TYPE_CHECKING:
    from collections.abc import Iterator

    from jaxtyping import Float, Int
    from torch import Tensor

    from energynet.track import Run

_EVALUATED = 1000  # examples at a time
_STATE = "learners"


@dataclass(frozen=True, eq=False)
class Data:
    """What a run learns and what it is judged by.

    Attributes
    ----------
    x, label
        To learn.
    judge
        Examples to measure the accuracy on.
    judged_on
        Whether those are the ``"test"`` data or a part of the training data, held out: ``"validation"``.
    classes
        How many there are.
    """

    x: Float[Tensor, "n features"]
    label: Int[Tensor, " n"]
    judge: Split
    judged_on: str
    classes: int


def prepare(dataset: Dataset, config: Config) -> Data:
    """Choose what to learn from a data set, and what to be judged by.

    Raises
    ------
    ConfigError
        If nothing is left to learn from, or to be judged by.
    """
    train = dataset.train
    if not config.validation:
        return Data(train.x, train.label, dataset.test, "test", dataset.classes)
    count = round(config.validation * len(train))
    if not 0 < count < len(train):
        raise ConfigError(
            f"--validation: expected a part of the {len(train)} training examples that is neither none nor "
            f"all of them, got {config.validation:g}, which is {count}"
        )
    # Not the run's seed: runs that differ in it are compared on the same examples.
    order = torch.randperm(len(train), generator=torch.Generator().manual_seed(0))
    held, kept = order[:count], order[count:]
    judge = Split(train.x[held], train.label[held])
    return Data(train.x[kept], train.label[kept], judge, "validation", dataset.classes)


def fingerprint(dataset: Dataset) -> str:
    """Give the SHA-256 sum of a data set, so that a run does not resume on another."""
    digest = hashlib.sha256()
    for split in (dataset.train, dataset.test):
        for tensor in (split.x, split.label):
            digest.update(str(tuple(tensor.shape)).encode())
            digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


@final
class Training:
    """Trains one learner after the other; goes on where the run's checkpoint ends.

    Parameters
    ----------
    config
        What to do.
    data
        What to do it on.
    run
        Where it is logged, and resumed from.
    progress
        Show a bar for every rule.

    Attributes
    ----------
    learners
        By rule; trained once `train` returns.
    """

    def __init__(self, config: Config, data: Data, run: Run, *, progress: bool = True) -> None:
        self.config = config
        self.data = data
        self.run = run
        self.progress = progress
        sizes = (data.x.shape[1], *config.hidden, data.classes)
        self.learners: dict[Rule, Learner] = {
            name: make_learner(name, sizes, config) for name in config.rules
        }
        self._done: dict[
            str, int
        ] = {}  # epochs of each learner that has begun; 0 is its measurement at first
        if run.state is not None:
            self._restore(run.state)

    def train(self) -> None:
        """Train every learner to its last epoch.

        Raises
        ------
        SettlingError
            If a network does not settle, or its loss is not finite.
        """
        for learner in self.learners.values():
            self._train(learner)

    def probe_batch(self, learner: Learner, size: int) -> tuple[Tensor, Tensor]:
        """Give a fixed few training examples and their targets."""
        order = torch.randperm(len(self.data.x), generator=torch.Generator().manual_seed(self.config.seed))
        chosen = order[:size]
        return self.data.x[chosen], learner.targets(self.data.label[chosen], self.data.classes)

    def _train(self, learner: Learner) -> None:
        epochs, begun = self.config.epochs, self._done.get(learner.name, -1)
        batches = math.ceil(len(self.data.x) / self.config.batch_size)
        probe = self._probe(learner) if begun < epochs else None
        with tqdm(
            desc=f"{learner.name:>8}",
            total=epochs * batches,
            initial=max(begun, 0) * batches,
            unit="batch",
            disable=not self.progress,
        ) as bar:
            if begun < 0:
                self._finish(learner, probe, bar, epoch=0, loss=None, seconds=0.0)
            for epoch in range(max(begun, 0), epochs):
                start, total = time.perf_counter(), 0.0
                for x, target in self._batches(learner):
                    total += self._step(learner, x, target, epoch)
                    bar.update()
                seconds = time.perf_counter() - start
                self._finish(learner, probe, bar, epoch=epoch + 1, loss=total / batches, seconds=seconds)

    def _step(self, learner: Learner, x: Tensor, target: Tensor, epoch: int) -> float:
        loss = learner.step(x, target, epoch)
        if not math.isfinite(loss):
            raise SettlingError(
                f"{learner.name}: the loss of a batch in epoch {epoch + 1} is {loss}; use a smaller "
                "--lr, with an ODE solver a smaller --dt, or another --solver"
            )
        return loss

    def _batches(self, learner: Learner) -> Iterator[tuple[Tensor, Tensor]]:
        order = torch.randperm(len(self.data.x), generator=learner.order)
        for chosen in order.split(self.config.batch_size):
            yield self.data.x[chosen], learner.targets(self.data.label[chosen], self.data.classes)

    def _probe(self, learner: Learner) -> Probe | None:
        # The exact gradient makes no angle with itself, and backprop's is of another function.
        if not self.config.probe_size or not isinstance(learner, EnergyLearner) or learner.name == "implicit":
            return None
        return Probe(learner, *self.probe_batch(learner, self.config.probe_size))

    def _finish(
        self,
        learner: Learner,
        probe: Probe | None,
        bar: tqdm[Any],
        *,
        epoch: int,
        loss: float | None,
        seconds: float,
    ) -> None:
        """Measure, log and save the end of an epoch."""
        accuracy, mean_cost = evaluate(learner, self.data.judge, self.data.classes)
        record = {
            "rule": learner.name,
            "epoch": epoch,
            "loss": loss,
            "judged_on": self.data.judged_on,
            "accuracy": accuracy,
            "cost": mean_cost,
            "angle": None if probe is None else probe.angle(),
        }
        self.run.log(record, seconds=seconds)
        self._done[learner.name] = epoch
        begun = [(name, one) for name, one in self.learners.items() if name in self._done]
        states = {name: {"epoch": self._done[name], **one.state()} for name, one in begun}
        self.run.save({_STATE: states})
        bar.set_postfix_str(f"{self.data.judged_on} accuracy {100 * accuracy:.1f} %")

    def _restore(self, state: dict[str, Any]) -> None:
        for name, learner in self.learners.items():
            kept = state[_STATE].get(name)
            if kept is not None:
                learner.restore(kept, self.run.checkpoint_path)
                self._done[name] = kept["epoch"]


def evaluate(learner: Learner, split: Split, classes: int) -> tuple[float, float]:
    """Measure a learner on some examples.

    Returns
    -------
    accuracy : float
        The part whose largest output is at the label.
    cost : float
        The mean cost.
    """
    right, total = 0, 0.0
    for x, label in zip(split.x.split(_EVALUATED), split.label.split(_EVALUATED), strict=True):
        output = learner.output(x)
        right += int((output.argmax(1) == label).sum())
        total += float(cost().energy(y=output, target=learner.targets(label, classes)).sum())
    return right / len(split), total / len(split)
