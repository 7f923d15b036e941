"""The coupling of neighbours on a lattice, all alike."""

from __future__ import annotations

from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn

from energynet.energy import Energy
from energynet.one_hot import OneHot
from energynet.variable import Variable, rows

if TYPE_CHECKING:
    from jaxtyping import Float


@final
class Lattice(Energy):
    """E = -coupling * sum of s s' over the bonds of a lattice; the Ising model for spins (Ising 1925).

    Each dimension of the variable is one of the lattice: a chain, a square grid, a cubic one. The energy is a
    sum of shifted products and holds no matrix. ``Gibbs(scan="block")`` draws two-valued units by two colours
    where all lengths are even, or the ends open. Samplers of single units find out at first which units are
    coupled, in a time that grows with the square of their number; not again when the coupling changes, unless
    it has been zero. When it is learned its slope is a sum over all bonds: rates must be small, about the
    inverse of their number.

    Parameters
    ----------
    periodic
        Whether opposite ends meet, as they do by default (a torus has no boundary to correct for). Along a
        dimension of length 2 neighbours then meet twice, which is the convention of the exact solutions
        (Kaufman 1949, Phys. Rev. 76:1232); along one of length 1 there are no bonds.
    **variable
        The variable, by name: ``Lattice(s=Spin(64, 64))``.

    Attributes
    ----------
    coupling
        Parameter of shape (), zero at first; above zero spins like to be as their neighbours are, below to
        differ. At T = 1 it is their J / kT.

    Raises
    ------
    TypeError
        If there is not one variable, or it is one of categories.
    ValueError
        If it has no dimension.
    """

    def __init__(self, *, periodic: bool = True, **variable: Variable) -> None:
        if len(variable) != 1:
            raise TypeError(f"Lattice: expected one variable, got {sorted(variable)}")
        super().__init__(**variable)
        ((self.variable, declared),) = variable.items()
        if isinstance(declared, OneHot):
            raise TypeError(
                f"Lattice: expected a variable whose units are numbers, got {self.variable!r}: {declared!r}, "
                "the last dimension of which is that of categories; couple these by an energy of your own"
            )
        if not declared.shape:
            raise ValueError(
                f"Lattice: expected a variable with one dimension for each of the lattice, such as "
                f"Spin(64, 64), got {self.variable!r}: {declared!r}"
            )
        self.periodic = periodic
        self.coupling = nn.Parameter(torch.zeros(()))

    def bonds(self, s: Float[Tensor, batch * shape]) -> Float[Tensor, batch]:
        """The sum of s s' over all bonds."""
        total = torch.zeros_like(rows(s)[:, 0])
        for axis, length in enumerate(s.shape[1:], start=1):
            if length < 2:
                continue
            if self.periodic:
                total = total + rows(s * s.roll(1, axis)).sum(1)
            else:
                total = total + rows(s.narrow(axis, 1, length - 1) * s.narrow(axis, 0, length - 1)).sum(1)
        return total

    def energy(self, **state: Tensor) -> Tensor:
        return -self.coupling * self.bonds(state[self.variable])
