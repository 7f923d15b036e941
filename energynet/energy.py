"""Energies: scalar functions of named variables, which form a vector space."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, final

import torch
from torch import Tensor, nn

from energynet.derivation import Derivation, forces, weighted
from energynet.errors import StateError, TraceError
from energynet.link import Link
from energynet.programs import note_fallback, prepared, program_of, signature
from energynet.state import State, check_state, merged
from energynet.trace import Environment, parameters_of, versions
from energynet.variable import Variable

if TYPE_CHECKING:
    from jaxtyping import Float


class Energy(nn.Module):
    """A scalar function of named variables, one number for each sample of a batch.

    A subclass declares its variables and writes `energy`; force, settling and learning rules follow from it.

    Parameters
    ----------
    **variables
        The declaration of each argument of `energy`, by name.

    Examples
    --------
    >>> class Spring(en.Energy):
    ...     def __init__(self, n):
    ...         super().__init__(s=en.Real(n))
    ...     def energy(self, s):
    ...         return 0.5 * s.square().sum(-1)
    """

    def __init__(self, **variables: Variable) -> None:
        super().__init__()
        for name, variable in variables.items():
            if not isinstance(variable, Variable):
                raise TypeError(
                    f"{type(self).__name__}: variable {name!r} must be declared by a Variable such as "
                    f"Real(8), got {variable!r}"
                )
        self._variables = dict(variables)

    @property
    def variables(self) -> Mapping[str, Variable]:
        """The declared variables by name."""
        return MappingProxyType(self._variables)

    def energy(self, **state: Tensor) -> Float[Tensor, batch]:
        """The energy of each sample; the only method that a subclass must write.

        It must treat the samples of a batch independently: sum over units, never over the batch.
        """
        raise NotImplementedError(f"{type(self).__name__} must define energy({', '.join(self._variables)})")

    @final
    def forward(self, state: State) -> Float[Tensor, batch]:
        """Check the state, then compute the energy of each sample.

        Raises
        ------
        StateError
            If a name, shape, dtype, device or value does not fit the declared variables.
        """
        self.check(state)
        return self.energy(**state)

    def force(self, state: State, wrt: Sequence[str]) -> State:
        """The force -dE/ds on some variables, by autograd unless a subclass has a closed form.

        Parameters
        ----------
        state
            Every variable of this energy.
        wrt
            Names of the variables to differentiate by.

        Returns
        -------
        State
            Tensors shaped like the variables, without an autograd graph.
        """
        with torch.inference_mode(False), torch.enable_grad():
            leaves = {name: usable(state[name]).requires_grad_() for name in wrt}
            fixed = {name: usable(value) for name, value in state.items() if name not in leaves}
            total = self.energy(**fixed, **leaves).sum()
            slopes = torch.autograd.grad(
                total, list(leaves.values()), allow_unused=True, materialize_grads=True
            )
        return {name: -slope for name, slope in zip(leaves, slopes, strict=True)}

    @final
    def condition(self, **clamp: Tensor) -> Conditioned:
        """The same energy with some variables held at a value: partial evaluation.

        What depends on the clamped values alone is computed once, when it is first needed. The result is an
        energy of the remaining variables. It holds references to the values: do not change them in place.
        """
        return Conditioned(self, clamp)

    def terms(self, state: State) -> dict[str, Float[Tensor, batch]]:
        """The energy of each sample, split by term."""
        parts = self.parts()
        result: dict[str, Tensor] = {}
        for number, (coefficient, part) in enumerate(parts):
            name = str(part)
            value = coefficient * part.energy(**{key: state[key] for key in part.variables})
            result[name if name not in result else f"{name} #{number}"] = value
        return result

    def parts(self) -> tuple[tuple[float, Energy], ...]:
        """The energies that this one is a weighted sum of; itself where it is not a sum."""
        return ((1.0, self),)

    def derivation(self, links: Mapping[str, Link]) -> Derivation:
        """Where the force comes from, if the variables in ``links`` are given by their potentials."""
        return Derivation.AUTOGRAD if type(self).force is Energy.force else Derivation.CLOSED

    def potential_force(self, potential: Tensor, value: Tensor) -> Tensor:
        """The force on the only variable, from its potential; where `derivation` says so."""
        raise NotImplementedError(f"{type(self).__name__} has no force in terms of a potential")

    def slope(self, value: Tensor) -> Tensor:
        """A subgradient of the energy in the only variable; where `derivation` says so."""
        raise NotImplementedError(f"{type(self).__name__} has no proximal map")

    @final
    def check(self, state: Mapping[str, Tensor], *, partial: bool = False) -> None:
        """Raise `StateError` unless the state fits the declared variables.

        Parameters
        ----------
        state
            Values by name.
        partial
            Whether some variables may be missing.
        """
        reference = next((p for p in self.parameters() if p.is_floating_point()), None)
        check_state(type(self).__name__, self.variables, state, reference, partial=partial)
        self.check_values(state)

    def check_values(self, state: Mapping[str, Tensor]) -> None:
        """Checks across variables, beyond each one's own; may be extended by a subclass."""

    def __str__(self) -> str:
        return f"{type(self).__name__}({', '.join(self.variables)})"

    def __add__(self, other: Energy) -> Energy:
        return total([self, other]) if isinstance(other, Energy) else NotImplemented

    def __radd__(self, other: object) -> Energy:
        return self if isinstance(other, int) and other == 0 else NotImplemented  # lets sum([...]) work

    def __sub__(self, other: Energy) -> Energy:
        return total([self, -other]) if isinstance(other, Energy) else NotImplemented

    def __mul__(self, factor: float) -> Energy:
        return Scaled(self, factor) if isinstance(factor, (int, float)) else NotImplemented

    def __rmul__(self, factor: float) -> Energy:
        return self.__mul__(factor)

    def __truediv__(self, factor: float) -> Energy:
        return self.__mul__(1.0 / factor) if isinstance(factor, (int, float)) else NotImplemented

    def __neg__(self) -> Energy:
        return self.__mul__(-1.0)

    def __getstate__(self) -> dict[str, Any]:
        # traces are made again; they cannot be pickled
        return {k: v for k, v in self.__dict__.items() if k not in ("_programs", "_prepared", "_factorial")}

    def __deepcopy__(self, memo: dict[int, Any]) -> Energy:
        clone = type(self).__new__(type(self))
        memo[id(self)] = clone
        clone.__dict__.update({k: copy.deepcopy(v, memo) for k, v in self.__getstate__().items()})
        return clone


def usable(value: Tensor) -> Tensor:
    """The value without its history, as a tensor that autograd takes: one of inference mode is copied."""
    return value.clone() if value.is_inference() else value.detach()


class LinkTerm(Energy):
    """A term of one variable that its link makes: its force is known from the potential, without inversion.

    Mirror flow integrates a potential u with value a = link(u). The gradient of such a term at a is written
    in u, which stays exact where the link saturates and its inverse does not.
    """

    variable: str
    link: Link | None

    def derivation(self, links: Mapping[str, Link]) -> Derivation:
        linked = self.link is not None and links.get(self.variable) == self.link
        return Derivation.POTENTIAL if linked else super().derivation(links)

    @abstractmethod
    def potential_force(self, potential: Tensor, value: Tensor) -> Tensor:
        """Minus the gradient of this term with respect to the value, from the potential."""


class ProximalTerm(LinkTerm):
    """A term of one variable, a sum over its units, whose kink is known by its proximal map."""

    convex: bool = True  # in each unit
    continuous: bool = True  # without jumps, which no force tells of

    def derivation(self, links: Mapping[str, Link]) -> Derivation:
        found = super().derivation(links)
        return found if found is Derivation.POTENTIAL else Derivation.PROXIMAL

    @abstractmethod
    def slope(self, value: Tensor) -> Tensor:
        """A subgradient in each unit; zero at a kink at zero."""

    @abstractmethod
    def proximal(self, value: Tensor, step: float | Tensor) -> Tensor:
        """Argmin over s of step * energy(s) + 1/2 |s - value|^2; a tensor step broadcasts to the value."""


class Composite(Energy):
    """An energy that is assembled from others: a subclass says which in `parts`."""

    @final
    def energy(self, **state: Tensor) -> Tensor:
        return weighted(self.parts(), state)

    def parts(self) -> tuple[tuple[float, Energy], ...]:
        """The energies that this one is a weighted sum of."""
        raise NotImplementedError(f"{type(self).__name__} must define parts()")

    def check_values(self, state: Mapping[str, Tensor]) -> None:
        for _, part in self.parts():
            part.check_values({name: state[name] for name in part.variables if name in state})


@final
class Sum(Composite):
    """The sum of energies; a variable that several of them name is one variable."""

    def __init__(self, energies: Iterable[Energy]) -> None:
        energies = list(energies)
        if any(isinstance(energy, Conditioned) for energy in energies):
            raise TypeError("Sum: add conditioned energies with +, which conditions their sum")
        super().__init__(**merged(energy.variables for energy in energies))
        self.energies = nn.ModuleList(energies)

    def parts(self) -> tuple[tuple[float, Energy], ...]:
        return tuple(pair for energy in self.energies for pair in energy.parts())  # type: ignore[operator]


@final
class Scaled(Composite):
    """An energy times a number."""

    def __init__(self, base: Energy, factor: float) -> None:
        super().__init__(**base.variables)
        self.base = base
        self.factor = float(factor)

    def parts(self) -> tuple[tuple[float, Energy], ...]:
        return tuple((self.factor * factor, part) for factor, part in self.base.parts())


def total(energies: Sequence[Energy]) -> Energy:
    """The sum of energies; conditioned on what any of them is conditioned on.

    Raises
    ------
    StateError
        If one of them holds a variable that is free, or held at another value, in another.
    """
    clamp: State = {}
    for energy in energies:
        if isinstance(energy, Conditioned):
            for name, value in energy.clamp.items():
                if clamp.setdefault(name, value) is not value:
                    raise StateError(f"variable {name!r}: two energies of a sum hold it at different tensors")
    for name in clamp:
        if any(name in energy.variables for energy in energies):
            raise StateError(
                f"variable {name!r}: one energy of a sum holds it, in another it is free; "
                "add the energies, then condition the sum"
            )
    bases = [energy.base if isinstance(energy, Conditioned) else energy for energy in energies]
    return Sum(bases).condition(**clamp) if clamp else Sum(bases)


@final
class Conditioned(Energy):
    """An energy with some of its variables held at a value; an energy of the others.

    Attributes
    ----------
    base
        The energy of all variables.
    clamp
        The values that are held.
    shared
        Whether what depends on parameters alone is kept with the base, until torch counts a change of one.
    """

    def __init__(self, base: Energy, clamp: Mapping[str, Tensor], parent: Conditioned | None = None) -> None:
        own = dict(clamp)
        if isinstance(base, Conditioned):
            parent, clamp, base = base, {**base.clamp, **clamp}, base.base
        base.check(own, partial=True)
        base.check_values(clamp)
        super().__init__(**{name: v for name, v in base.variables.items() if name not in clamp})
        self.base = base
        self.clamp = dict(clamp)
        self._own = own
        self._parent = parent
        self._environment: Environment | None = None
        self._versions: tuple[tuple[int, int], ...] = ()
        self.shared = False

    def energy(self, **state: Tensor) -> Tensor:
        return self.base.energy(**self.clamp, **state)

    def check_values(self, state: Mapping[str, Tensor]) -> None:
        self.base.check_values({**self.clamp, **state})

    def __mul__(self, factor: float) -> Energy:
        scaled = self.base * factor
        return scaled.condition(**self.clamp) if isinstance(scaled, Energy) else NotImplemented

    def force(self, state: State, wrt: Sequence[str]) -> State:
        """The force from the trace; from autograd where the energy cannot be traced."""
        free = tuple(self.variables)
        try:
            program = program_of(self.base, signature({**self.clamp, **state}))
            function = forces(self.base, free)
            kernel = program.kernel(("force", free), function, [f"force {name}" for name in wrt], free)
        except TraceError as error:
            note_fallback(self.base, error)
            return super().force(state, wrt)
        with torch.no_grad():
            batch = len(next(iter(state.values())))
            results = kernel.bind(self.environment(batch))(*(state[name] for name in free))
        return dict(zip(wrt, results, strict=True))

    def environment(self, batch: int, *, fresh: bool = False) -> Environment:
        """The clamped values and the parameters, and what has been computed from them.

        Made anew when a parameter has changed since, and where ``fresh``, which is how gradients flow to
        the parameters through it.
        """
        if fresh:
            return Environment({**parameters_of(self.base), **self.clamp}, batch)
        made = self._environment
        if self._parent is not None:
            parent = self._parent.environment(batch)
            if made is None or made.parent is not parent:
                self._environment = Environment(self._own, batch, parent)
        else:
            tensors = parameters_of(self.base)
            now = versions(tensors)
            if made is None or made.batch != batch or self._versions != now:
                shared = prepared(self.base, tensors, batch) if self.shared else None
                self._environment = Environment({**({} if shared else tensors), **self.clamp}, batch, shared)
                self._versions = now
        assert self._environment is not None
        return self._environment

    def rebind(self, clamp: Mapping[str, Tensor]) -> Conditioned:
        """Other values for the variables that were clamped last; they are not checked."""
        twin = object.__new__(Conditioned)
        twin.__dict__.update(self.__dict__)
        twin._own = {**self._own, **clamp}
        twin.clamp = {**self.clamp, **clamp}
        twin._environment = None
        return twin

    def check_unchanged(self) -> None:
        """Raise if a parameter has changed since the environment was made."""
        if self._parent is not None:
            self._parent.check_unchanged()
        elif self._environment is not None and self._versions != versions(parameters_of(self.base)):
            raise RuntimeError(
                "the parameters have changed since settling, so the energy and the residual of this solution "
                "are gone; read them before the optimiser's step"
            )

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_environment": None}
