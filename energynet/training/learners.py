"""Learners: a network, the rule that it learns by, and its optimiser."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, Any, assert_never, final

import torch
from torch.nn import functional

from energynet.cost import Cost, SquaredError
from energynet.models import LayeredHopfield
from energynet.rules import (
    Backprop,
    ContrastiveHebbian,
    EquilibriumPropagation,
    ImplicitDifferentiation,
    LearningRule,
)
from energynet.settle import settle
from energynet.stopping import Stationary
from energynet.track import check_tensors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from jaxtyping import Float, Int
    from torch import Tensor, nn

    from energynet.training.config import Config, Rule

OUTPUT = "y"
_STEPS = 2000  # the most that settling takes where the configuration does not say


class Learner(ABC):
    """A network that learns one batch at a time.

    Parameters
    ----------
    name
        The rule.
    module
        What has the parameters.
    energy
        The network as an energy, whose output's domain the targets are in.
    config
        Of the run.

    Attributes
    ----------
    optimiser
        Adam.
    order
        Draws the order of the batches; the same for every learner of a run.
    """

    def __init__(self, name: Rule, module: nn.Module, energy: LayeredHopfield, config: Config) -> None:
        self.name: Rule = name
        self.ends = energy.variables[OUTPUT].low, energy.variables[OUTPUT].high
        self.module = module
        self.optimiser = torch.optim.Adam(module.parameters(), config.lr)
        self.order = torch.Generator().manual_seed(config.seed)
        self._lr, self._epochs = config.lr, config.epochs

    @abstractmethod
    def loss(self, x: Float[Tensor, "batch features"], target: Float[Tensor, "batch classes"]) -> Tensor:
        """Compute the loss whose gradient is the rule's."""

    @abstractmethod
    def output(self, x: Float[Tensor, "batch features"]) -> Float[Tensor, "batch classes"]:
        """Answer, without learning."""

    def targets(self, label: Int[Tensor, " batch"], classes: int) -> Float[Tensor, "batch classes"]:
        """Give the output's largest value at the label and its smallest elsewhere."""
        low, high = self.ends
        return low + (high - low) * functional.one_hot(label, classes).to(torch.get_default_dtype())

    def step(self, x: Tensor, target: Tensor, epoch: int) -> float:
        """Learn one batch.

        Parameters
        ----------
        x, target
            The batch.
        epoch
            From 0; the learning rate depends on it.

        Returns
        -------
        float
            The loss before the step.
        """
        for group in self.optimiser.param_groups:
            group["lr"] = self._lr * (1 - epoch / self._epochs)
        self.optimiser.zero_grad()
        loss = self.loss(x, target)
        loss.backward()
        self.optimiser.step()
        return loss.item()

    def state(self) -> dict[str, Any]:
        """Collect all that training changes."""
        return {
            "module": self.module.state_dict(),
            "optimiser": self.optimiser.state_dict(),
            "order": self.order.get_state(),
        }

    def restore(self, state: dict[str, Any], source: object) -> None:
        """Put back what `state` gave.

        Parameters
        ----------
        state
            From a learner of the same configuration.
        source
            Where it comes from, for the message of an error.

        Raises
        ------
        RunError
            If it is of another model.
        """
        check_tensors(source, self.module.state_dict(), state["module"])
        self.module.load_state_dict(state["module"])
        self.optimiser.load_state_dict(state["optimiser"])
        self.order.set_state(state["order"])


@final
class EnergyLearner(Learner):
    """A layered Hopfield network under a rule for energies.

    Parameters
    ----------
    name
        The rule.
    energy
        The network.
    config
        Of the run.

    Attributes
    ----------
    coin
        Draws what the rule draws.
    """

    def __init__(self, name: Rule, energy: LayeredHopfield, config: Config) -> None:
        super().__init__(name, energy, energy, config)
        self.energy = energy
        self.config = config
        self.coin = torch.Generator().manual_seed(config.seed)
        self.rule = energy_rule(name, energy, config, self.coin)
        # As tightly as equilibrium propagation settles by default; the answer is the largest output.
        self._until = Stationary(atol=max(abs(config.beta) / 1000, 1e-6))

    def loss(self, x: Tensor, target: Tensor) -> Tensor:
        """Compute the loss whose gradient is the rule's."""
        return apply(self.rule, x, target)

    def output(self, x: Tensor) -> Tensor:
        """Answer, without learning."""
        solution = settle(
            self.energy,
            clamp={"x": x},
            solver=self.config.make_solver(),
            max_steps=self.config.free_steps or _STEPS,
            until=self._until,
        )
        return solution.state[OUTPUT]

    def state(self) -> dict[str, Any]:
        """Collect all that training changes."""
        return {**super().state(), "coin": self.coin.get_state()}

    def restore(self, state: dict[str, Any], source: object) -> None:
        """Put back what `state` gave."""
        super().restore(state, source)
        self.coin.set_state(state["coin"])


@final
class NetworkLearner(Learner):
    """The feed-forward network of the same layers under backprop."""

    def __init__(self, energy: LayeredHopfield, config: Config) -> None:
        network = energy.network()
        super().__init__("backprop", network, energy, config)
        self.network = network
        self.rule = Backprop(network, cost())

    def loss(self, x: Tensor, target: Tensor) -> Tensor:
        """Compute the loss whose gradient is the rule's."""
        return self.rule(x=x, target=target)  # type: ignore[no-any-return]

    def output(self, x: Tensor) -> Tensor:
        """Answer, without learning."""
        with torch.no_grad():
            return self.network(x)  # type: ignore[no-any-return]


def make_learner(name: Rule, sizes: Sequence[int], config: Config) -> Learner:
    """Make the learner of a rule; all learners of a configuration start from the same weights.

    Parameters
    ----------
    name
        The rule.
    sizes
        Units of all layers, from the input to the output.
    config
        Of the run.
    """
    with torch.random.fork_rng(devices=[]):  # models draw their weights from torch's own generator
        torch.manual_seed(config.seed)
        energy = LayeredHopfield(sizes, config.activation)
    return NetworkLearner(energy, config) if name == "backprop" else EnergyLearner(name, energy, config)


def cost() -> Cost:
    """Make the cost of all learners."""
    return SquaredError(OUTPUT)


def energy_rule(
    name: Rule, energy: LayeredHopfield, config: Config, generator: torch.Generator
) -> LearningRule:
    """Make a rule for an energy.

    Parameters
    ----------
    name
        Any but ``"backprop"``, which is of feed-forward networks.
    energy
        What learns.
    config
        Of the run.
    generator
        Draws what the rule draws.
    """
    solver = config.make_solver()
    match name:
        case "ep":
            return EquilibriumPropagation(
                energy,
                cost(),
                config.beta,
                config.estimator,
                solver,
                config.free_steps,
                config.nudged_steps,
                generator=generator,
            )
        case "chl":
            return ContrastiveHebbian(energy, given=("x",), solver=solver)
        case "implicit":
            return ImplicitDifferentiation(energy, cost(), solver=solver)
        case "backprop":
            raise ValueError("backprop is a rule for feed-forward networks, not for energies")
        case _:
            assert_never(name)


def apply(rule: LearningRule, x: Tensor, target: Tensor) -> Tensor:
    """Compute the loss of a rule; contrastive Hebbian learning clamps the output, the others compare it."""
    if isinstance(rule, ContrastiveHebbian):
        return rule(x=x, **{OUTPUT: target})
    return rule(x=x, target=target)
