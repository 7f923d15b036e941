"""Restricted Boltzmann machines: a visible and a hidden layer, no couplings within either."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from energynet.energy import Energy
from energynet.models.likelihood import Machine, bits
from energynet.one_hot import OneHot
from energynet.state import State
from energynet.terms import Bilinear, Field, Leak
from energynet.variable import Bit, Continuous, Discrete, Real, TwoValued, Variable, rows

if TYPE_CHECKING:
    from jaxtyping import Float, Int

_ENTRIES = 2**22  # fields that are held at once


class _TwoLayers(Machine):
    """Layers ``v`` and ``h``, each a product of independent units given the other and the conditions."""

    def __init__(self, visible: Variable, hidden: Variable, **given: Variable) -> None:
        super().__init__(v=visible, h=hidden, **given)
        self.given = tuple(given)
        self.coupling = Bilinear("v", "h", v=visible, h=hidden)
        self.fields = nn.ModuleDict({"v": Field(v=visible), "h": Field(h=hidden)})
        layers = {"v": visible, "h": hidden}
        graded = {name: layer for name, layer in layers.items() if isinstance(layer, Continuous)}
        self.leaks = nn.ModuleDict({name: Leak(**{name: layer}) for name, layer in graded.items()})
        nn.init.normal_(self.coupling.weight, std=0.01)

    def parts(self) -> tuple[tuple[float, Energy], ...]:
        terms = (self.coupling, *self.fields.values(), *self.leaks.values())
        return tuple((1.0, term) for term in terms)  # type: ignore[misc]

    @property
    def weight(self) -> nn.Parameter:
        """W, of shape (hidden units, visible units)."""
        return self.coupling.weight

    @property
    def visible_bias(self) -> nn.Parameter:
        """b, of the shape of ``v``."""
        return self.fields["v"].bias  # type: ignore[return-value]

    @property
    def hidden_bias(self) -> nn.Parameter:
        """c, of the shape of ``h``."""
        return self.fields["h"].bias  # type: ignore[return-value]

    def field(self, name: str, state: State) -> Float[Tensor, "batch units"]:
        """The force on each unit of a layer from all that is in the rest of the state, and its bias."""
        if name == "h":
            return functional.linear(rows(state["v"]), self.weight, self.hidden_bias.reshape(-1))
        return rows(state["h"]) @ self.weight + self.visible_bias.reshape(-1)

    def free_energy(self, v: Float[Tensor, "batch ..."], **given: Tensor) -> Float[Tensor, batch]:
        return self.without("h", self.data(v, given))

    def without(self, name: str, state: State) -> Float[Tensor, batch]:
        """The free energy of a state without one layer, which is summed out."""
        variable = self.variables[name]
        other = next(iter(state.values()))
        origin = variable.low if isinstance(variable, TwoValued) else 0.0
        still = other.new_full((len(other), *variable.shape), origin)
        return self.energy(**state, **{name: still}) - _log_sums(variable, self.field(name, state))

    def summed(self) -> Energy:
        visible, hidden = (bits(self.variables[name]) for name in ("v", "h"))
        return _OneLayer(self, "v" if visible < hidden else "h")

    def independent(self) -> tuple[str, ...]:
        summable = isinstance(self.variables["h"], TwoValued) and isinstance(self.variables["v"], Discrete)
        return ("h",) if summable else ()

    def flipped(self, data: State, index: Int[Tensor, units]) -> Float[Tensor, "batch units"]:
        v, visible, hidden = rows(data["v"]), self.variables["v"], self.variables["h"]
        if not isinstance(hidden, TwoValued):
            return super().flipped(data, index)
        width = hidden.high - hidden.low
        field = width * self.field("h", data)
        low = v.new_full((len(v), *hidden.shape), hidden.low)
        change = visible.low + visible.high - 2 * v[:, index]
        energy = (
            self.energy(**data, h=low).unsqueeze(1) - change * self.field("v", {**data, "h": low})[:, index]
        )
        most = max(1, _ENTRIES // max(1, field.numel()))
        summed = [
            functional.softplus(field.unsqueeze(1) + step.unsqueeze(2) * (width * column)).sum(2)
            for step, column in zip(change.split(most, 1), self.weight.t()[index].split(most), strict=True)
        ]
        return energy - torch.cat(summed, 1)


def _log_sums(variable: Variable, field: Tensor) -> Float[Tensor, batch]:
    """Sum log sum exp(s field) over units, less that of the origin; for normal units it is the integral."""
    if isinstance(variable, TwoValued):
        return functional.softplus((variable.high - variable.low) * field).sum(1)
    if isinstance(variable, OneHot):
        return field.unflatten(1, (-1, variable.shape[-1])).logsumexp(2).sum(1)
    return (0.5 * field.square() + 0.5 * math.log(2 * math.pi)).sum(1)


@final
class _OneLayer(Energy):
    """The free energy of one layer, as an energy of it: the other is summed out."""

    def __init__(self, machine: _TwoLayers, name: str) -> None:
        super().__init__(**{n: v for n, v in machine.variables.items() if n == name or n in machine.given})
        self.machine = machine
        self._other = "h" if name == "v" else "v"

    def energy(self, **state: Tensor) -> Tensor:
        return self.machine.without(self._other, state)


@final
class RestrictedBoltzmannMachine(_TwoLayers):
    """E = -h.W v - b.v - c.h, two layers without couplings within.

    Smolensky (1986) called it harmony theory. Given one layer the units of the other are independent: `Gibbs`
    draws a layer at a time, and `ContrastiveDivergence` sums the hidden one out.

    Parameters
    ----------
    n_visible, n_hidden
        Numbers of units: of entries, where a variable has choices.
    visible, hidden
        Their declarations; bits by default. ``en.Spin(n)`` for spins, whose data are -1 and +1: a 0 is taken
        as a mean of 0. ``visible=en.Real(n)`` adds 1/2 v.v to the energy, so that visible units are normal
        with variance 1 given the hidden ones (Welling, Rosen-Zvi and Hinton 2005): standardise the data.
        ``visible=en.OneHot(movies, ratings)`` are softmax units (Salakhutdinov, Mnih and Hinton 2007),
        ``movies * ratings`` entries.

    Attributes
    ----------
    weight, visible_bias, hidden_bias
        Parameters W, (hidden, visible), from N(0, 0.01^2) as Hinton (2010, "A practical guide to training
        restricted Boltzmann machines", sec. 8) has it, and b and c, zero at first.

    Examples
    --------
    >>> rbm = en.models.RestrictedBoltzmannMachine(784, 500)
    >>> en.ContrastiveDivergence(rbm, k=1, persistent=True)(v=images).backward()
    >>> rbm.log_likelihood(images, base=rbm.base_rates(images))
    """

    def __init__(
        self,
        n_visible: int,
        n_hidden: int,
        visible: Variable | None = None,
        hidden: Variable | None = None,
    ) -> None:
        super().__init__(_declared("visible", visible, n_visible), _declared("hidden", hidden, n_hidden))


@final
class ConditionalRBM(_TwoLayers):
    """E = -h.W v - (b + A u).v - (c + B u).h, given conditions u (Taylor, Hinton and Roweis 2007, NIPS 19).

    For time series u holds the past frames: A predicts the next one by itself, B sets what the hidden units
    expect. Learn with ``ContrastiveDivergence(energy, given=("u",))``.

    Parameters
    ----------
    n_visible, n_hidden, n_condition
        Numbers of units.
    visible, hidden
        Declarations of the layers, as in `RestrictedBoltzmannMachine`; the paper has real visible units.

    Attributes
    ----------
    weight, visible_bias, hidden_bias
        As in `RestrictedBoltzmannMachine`.
    to_visible, to_hidden
        Terms whose ``weight`` are A, (visible, condition), and B, (hidden, condition), from N(0, 0.01^2).
    """

    def __init__(
        self,
        n_visible: int,
        n_hidden: int,
        n_condition: int,
        visible: Variable | None = None,
        hidden: Variable | None = None,
    ) -> None:
        condition = Real(n_condition)
        layers = _declared("visible", visible, n_visible), _declared("hidden", hidden, n_hidden)
        super().__init__(*layers, u=condition)
        self.to_visible = Bilinear("u", "v", u=condition, v=layers[0])
        self.to_hidden = Bilinear("u", "h", u=condition, h=layers[1])
        for term in (self.to_visible, self.to_hidden):
            nn.init.normal_(term.weight, std=0.01)

    def parts(self) -> tuple[tuple[float, Energy], ...]:
        return (*super().parts(), (1.0, self.to_visible), (1.0, self.to_hidden))

    def field(self, name: str, state: State) -> Tensor:
        term = self.to_hidden if name == "h" else self.to_visible
        return super().field(name, state) + functional.linear(rows(state["u"]), term.weight)


def _declared(name: str, variable: Variable | None, units: int) -> Variable:
    if variable is None:
        return Bit(units)
    normal = name == "visible" and isinstance(variable, Real) and variable.link is None
    known = normal or isinstance(variable, TwoValued | OneHot)
    if not known or math.prod(variable.shape) != units:
        raise ValueError(
            f"{name}: expected the declaration of {units} units such as Bit({units}), Spin({units}), a "
            f"OneHot of as many entries or, for visible ones, Real({units}) without a link, got {variable!r}"
        )
    return variable
