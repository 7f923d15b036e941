"""A predictive coding energy as a function of its errors, from which the states follow by a forward sweep."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import final

from torch import Tensor

from energynet.energy import Energy
from energynet.errors import StateError
from energynet.state import State
from energynet.terms.prediction import Prediction
from energynet.variable import Continuous, Real, Unspecified, Variable


@final
class ErrorCoordinates(Energy):
    r"""The same energy in other coordinates: the errors of the predictions in place of what they predict.

    .. math:: z_{l+1} = \mathrm{prediction}_l(z_l) + e_{l+1}, \qquad
              E = \sum_l \frac{\pi_l}{2} |e_{l+1}|^2 + \text{the rest, at these states}

    (Goemaere et al. 2025, "ePC", arXiv:2505.20137). The change of coordinates is one to one, so the
    stationary points are those of the energy of states, at the same values. But a force on a state comes from
    its neighbours alone, and a signal loses a factor at every layer that it passes; every error feels the
    output at once. For L layers settling needs a number of steps that hardly grows with L. The curvature is
    the precision plus a matrix whose rank is that of the output, which `LBFGS` learns in a few steps.

    Every solver settles it, and samplers draw from the same law, for the change has a Jacobian of 1.

    Parameters
    ----------
    energy
        With `Prediction` terms, and any others: costs, nudges, leaks.
    states
        Names of variables to keep as they are: those that will be clamped, whole or in part. So do those that
        nothing predicts. A variable that several terms predict takes its error from the first that the sweep
        comes to.

    Attributes
    ----------
    base
        The energy of states.
    errors
        For each variable that has been replaced, the name of its error: ``e_h1`` for ``h1``.

    Raises
    ------
    StateError
        If there is no error to take: no prediction, a circle of them, or a target with bounds or a link.

    Examples
    --------
    >>> errors = en.terms.ErrorCoordinates(model, states=("x", "y"))
    >>> solution = en.settle(errors, clamp={"x": x, "y": y}, solver=en.LBFGS())
    >>> states = errors.to_states(solution.state)
    """

    def __init__(self, energy: Energy, states: Collection[str]) -> None:
        for name in states:
            if name not in energy.variables:
                raise StateError(
                    f"ErrorCoordinates: {energy} has no variable {name!r}; "
                    f"its variables are {', '.join(map(repr, energy.variables))}"
                )
        order = _sweep(energy, states)
        errors = {term.target: f"e_{term.target}" for term in order}
        variables: dict[str, Variable] = {}
        for name, variable in energy.variables.items():
            new = errors.get(name, name)
            if new != name and new in energy.variables:
                raise StateError(f"ErrorCoordinates: {new!r} is a variable already; call it otherwise")
            variables[new] = variable if new == name else _error(name, variable)
        super().__init__(**variables)
        self.base = energy
        self.errors: Mapping[str, str] = errors
        self._order = (*order,)  # a tuple, for the terms are modules of the base

    def energy(self, **state: Tensor) -> Tensor:
        states = self.to_states(state)
        total: Tensor | None = None
        for factor, part in self.base.parts():
            if any(part is term for term in self._order):
                assert isinstance(part, Prediction)
                value = part.of_error(state[self.errors[part.target]])
            else:
                value = part.energy(**{name: states[name] for name in part.variables})
            value = value if factor == 1 else factor * value
            total = value if total is None else total + value
        assert total is not None
        return total

    def to_states(self, state: Mapping[str, Tensor]) -> State:
        """The values of every variable of the energy of states, by a forward sweep."""
        kept = {name: value for name, value in state.items() if name in self.base.variables}
        found = dict(kept)
        for term in self._order:
            found[term.target] = term.predict(found[term.source]) + state[self.errors[term.target]]
        return {name: found[name] for name in self.base.variables}

    def to_errors(self, states: Mapping[str, Tensor]) -> State:
        """The inverse: from the values of every variable of the energy of states."""
        found = {name: states[name] for name in self.variables if name in states}
        for term in self._order:
            error = states[term.target] - term.predict(states[term.source])
            found[self.errors[term.target]] = error
        return {name: found[name] for name in self.variables}

    def check_values(self, state: Mapping[str, Tensor]) -> None:
        self.base.check_values({n: v for n, v in state.items() if n in self.base.variables})


def _sweep(energy: Energy, states: Collection[str]) -> list[Prediction]:
    """The terms that define an error, each after that of its source."""
    terms = [part for _, part in energy.parts() if isinstance(part, Prediction)]
    terms = [term for term in terms if term.target not in states]
    targets = {term.target for term in terms}
    if not targets:
        raise StateError(
            f"ErrorCoordinates: no Prediction term of {energy} has a target that is free, "
            "so there is no error to take"
        )
    known = set(energy.variables) - targets
    order: list[Prediction] = []
    while targets - known:
        term = next((t for t in terms if t.source in known and t.target not in known), None)
        if term is None:
            raise StateError(
                f"ErrorCoordinates: predictions go in a circle through {sorted(targets - known)}; "
                "name one of them in states, so that the sweep has a start"
            )
        order.append(term)
        known.add(term.target)
    return order


def _error(name: str, variable: Variable) -> Variable:
    if isinstance(variable, Unspecified) or not isinstance(variable, Continuous):
        raise StateError(f"ErrorCoordinates: {name!r} is {variable!r}, which has no error")
    if variable.bounded or variable.link is not None:
        raise StateError(
            f"ErrorCoordinates: {name!r} is {variable!r}, whose bounds or link the errors do not know; "
            "name it in states, or declare it Real"
        )
    return Real(*variable.shape, tau=variable.tau)
