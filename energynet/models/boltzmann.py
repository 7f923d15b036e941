"""Boltzmann machines on any graph."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self, final

import torch
from torch import Tensor, nn

from energynet.energy import Energy
from energynet.models.likelihood import Machine
from energynet.terms import Coupling, Field
from energynet.variable import Bit, Spin

if TYPE_CHECKING:
    from jaxtyping import Bool


@final
class BoltzmannMachine(Machine):
    """E = -1/2 s . W s - b . s of s = (v, h), W symmetric with zero diagonal.

    Ackley, Hinton and Sejnowski (1985), Cogn. Sci. 9:147.

    Parameters
    ----------
    n_visible, n_hidden
        Numbers of units of ``v`` and ``h``; without hidden units there is no ``h``.
    mask
        Symmetric boolean matrix of the couplings that are there, visible units first; None, the default, for
        all. Hidden units without couplings among them are summed out in learning.
    spins
        Values -1 and +1 in place of 0 and 1.

    Attributes
    ----------
    weight
        Parameter W, of shape (units, units), zero at first; see `terms.Coupling`.
    visible_bias, hidden_bias
        Parameters: the parts of b, zero at first; ``hidden_bias`` where there are hidden units.

    Examples
    --------
    >>> machine = en.models.BoltzmannMachine(8)
    >>> en.MaximumLikelihood(machine)(v=data).backward()  # exact, by enumeration
    """

    def __init__(
        self,
        n_visible: int,
        n_hidden: int = 0,
        *,
        mask: Bool[Tensor, "units units"] | None = None,
        spins: bool = False,
    ) -> None:
        kind = Spin if spins else Bit
        variables = {"v": kind(n_visible)}
        if n_hidden:
            variables["h"] = kind(n_hidden)
        super().__init__(**variables)
        self.coupling = Coupling(mask, **variables)
        self.fields = nn.ModuleDict({name: Field(**{name: v}) for name, v in variables.items()})

    @classmethod
    def grid(cls, height: int, width: int, *, periodic: bool = False, spins: bool = False) -> Self:
        """A grid of visible units, each coupled to its four neighbours.

        Its two colours are found by ``Gibbs(scan="block")``, which draws each at once.

        Parameters
        ----------
        height, width
            Of the grid; unit ``row * width + column`` is at a row and a column.
        periodic
            Whether opposite edges meet; two colours are then enough where both lengths are even.
        spins
            As above.
        """
        place = torch.arange(height * width).reshape(height, width)
        mask = torch.zeros(height * width, height * width, dtype=torch.bool)
        for axis, length in ((0, height), (1, width)):
            pairs = torch.stack([place, place.roll(-1, axis)], -1)
            if not periodic or length < 2:
                pairs = pairs.narrow(axis, 0, length - 1)
            first, second = pairs.reshape(-1, 2).unbind(1)
            mask[first, second] = mask[second, first] = True
        return cls(height * width, mask=mask, spins=spins)

    def parts(self) -> tuple[tuple[float, Energy], ...]:
        return tuple((1.0, part) for part in (self.coupling, *self.fields.values()))  # type: ignore[misc]

    @property
    def weight(self) -> nn.Parameter:
        """W, of shape (units, units), visible units first."""
        return self.coupling.weight

    @property
    def visible_bias(self) -> nn.Parameter:
        """The b of the visible units."""
        return self.fields["v"].bias  # type: ignore[return-value]

    @property
    def hidden_bias(self) -> nn.Parameter:
        """The b of the hidden units."""
        return self.fields["h"].bias  # type: ignore[return-value]
