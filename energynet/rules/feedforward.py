"""Rules for feed-forward networks: the baselines that energy-based learning is compared with."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

from torch import Tensor, nn

from energynet.cost import TARGET, Cost

if TYPE_CHECKING:
    from jaxtyping import Float


@final
class Backprop(nn.Module):
    """The gradient of the mean cost of a network's output, by autograd.

    Parameters
    ----------
    network
        From ``x`` to the output.
    cost
        Of the output and ``target``; the name of its output is not used.

    Examples
    --------
    >>> rule = en.Backprop(nn.Sequential(nn.Linear(4, 2)), en.SquaredError("y"))
    >>> rule(x=x, target=t).backward()
    """

    def __init__(self, network: nn.Sequential, cost: Cost) -> None:
        super().__init__()
        if not isinstance(network, nn.Module):
            raise TypeError(f"Backprop: expected a torch.nn.Sequential, got {network!r}")
        if not isinstance(cost, Cost):
            raise TypeError(f'Backprop: expected a cost such as SquaredError("y"), got {cost!r}')
        self.network = network
        self.cost = cost

    def forward(self, *, x: Float[Tensor, "batch ..."], target: Tensor) -> Float[Tensor, ""]:
        """Compute the mean cost of a batch.

        Parameters
        ----------
        x
            The input.
        target
            What the cost compares the output with.

        Raises
        ------
        StateError
            If the target does not fit the output.
        """
        state = {self.cost.output: self.network(x), TARGET: target}
        self.cost.check({name: value.detach() for name, value in state.items()})
        return self.cost.energy(**state).mean()
