"""Hypothesis strategies for variables, states, energies and data: tiny, generic, float64 by default.

Tensors are drawn by a seeded generator from a seed that Hypothesis draws, so that their entries are generic
(no two alike, none at a kink) and an example is as cheap as its tensors. What Hypothesis shrinks is the
structure: batch, sizes, connections.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any

import torch
from hypothesis import strategies as st
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from energynet.cost import TARGET, Cost, SquaredError
from energynet.energy import Energy
from energynet.errors import StateError
from energynet.link import Link, Sigmoid, SoftThreshold, Tanh
from energynet.models import LayeredHopfield
from energynet.models.layered import ACTIVATIONS
from energynet.state import State
from energynet.terms import Bilinear, Field, Leak, Reconstruction, Sparsity
from energynet.variable import (
    Bit,
    Continuous,
    Discrete,
    Interval,
    NonNegative,
    Real,
    Spin,
    Unit,
    Unspecified,
    Variable,
)

LEAST_CURVATURE = {"hardsigmoid": 1.0, "tanh": 1.0, "sigmoid": 4.0}
"""The smallest second derivative of the leak of each activation, 1 over the largest slope."""


def batches(max_size: int = 4) -> SearchStrategy[int]:
    """Batch sizes."""
    return st.integers(1, max_size)


def seeds() -> SearchStrategy[int]:
    """Seeds for a generator."""
    return st.integers(0, 2**31 - 1)


def generators(device: str | torch.device = "cpu") -> SearchStrategy[torch.Generator]:
    """Seeded generators."""
    return seeds().map(lambda seed: torch.Generator(device).manual_seed(seed))


def shapes(max_dims: int = 2, max_size: int = 3) -> SearchStrategy[tuple[int, ...]]:
    """Shapes of one sample, the empty one too."""
    return st.lists(st.integers(1, max_size), max_size=max_dims).map(tuple)


def links(variable: str) -> SearchStrategy[Link | None]:
    """Links whose values are within a domain, by the name of its class; None among them."""
    fitting: dict[str, list[Link | None]] = {
        "Real": [None, Sigmoid(), Tanh(), SoftThreshold(0.3)],
        "NonNegative": [None, Sigmoid(), SoftThreshold(0.3, nonnegative=True)],
        "Unit": [None, Sigmoid()],
        "Interval": [None, Tanh()],
    }
    return st.sampled_from(fitting.get(variable, [None]))


@st.composite
def variables(
    draw: st.DrawFn, shape: SearchStrategy[tuple[int, ...]] | None = None, *, discrete: bool = True
) -> Variable:
    """Variables of every domain.

    Parameters
    ----------
    draw
        Given by Hypothesis.
    shape
        Strategy of the shape.
    discrete
        Whether `Bit` and `Spin` are among them.
    """
    size = draw(shapes() if shape is None else shape)
    kinds = ["Real", "NonNegative", "Unit", "Interval"] + ["Bit", "Spin"] * discrete
    kind = draw(st.sampled_from(kinds))
    if kind in ("Bit", "Spin"):
        return Bit(*size) if kind == "Bit" else Spin(*size)
    tau = draw(st.sampled_from([1.0, 0.5, 2.0]))
    link = draw(links(kind))
    if kind == "Interval":
        low, high = (-1.0, 1.0) if link else draw(st.sampled_from([(-1.0, 1.0), (-0.5, 2.0)]))
        return Interval(*size, low=low, high=high, tau=tau, link=link)
    return {"Real": Real, "NonNegative": NonNegative, "Unit": Unit}[kind](*size, tau=tau, link=link)


def values(
    variable: Variable,
    batch: int,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    ends: bool = False,
) -> SearchStrategy[Tensor]:
    """Batches of values of a domain.

    Parameters
    ----------
    variable
        The declaration; not an unspecified one.
    batch
        The number of samples.
    dtype, device
        Of the tensor.
    ends
        Put about a third of the entries at an end of the domain. Without it, and for variables with a link,
        all are inside.
    """
    return seeds().map(lambda seed: _value(variable, batch, dtype, device, ends, seed))


def _value(
    variable: Variable, batch: int, dtype: torch.dtype, device: torch.device | str, ends: bool, seed: int
) -> Tensor:
    if isinstance(variable, Unspecified):
        raise StateError(
            "a variable of unspecified shape has no values of its own; declare it, as in "
            "declare={'target': Real(3)}, or take the sum of the cost and an energy that declares it"
        )
    generator = torch.Generator().manual_seed(seed)
    shape = (batch, *variable.shape)
    normal = torch.randn(shape, generator=generator, dtype=torch.float64)
    uniform = torch.rand(shape, generator=generator, dtype=torch.float64)
    if isinstance(variable, Discrete):
        value = variable.project(variable.low + (variable.high - variable.low) * uniform)
    elif isinstance(variable, Continuous) and variable.link is not None:
        potential = 1.5 * normal
        if isinstance(variable.link, SoftThreshold):  # beyond the threshold, for there is a kink at zero
            size = variable.link.threshold + 0.01 + potential.abs()
            potential = size if variable.link.nonnegative else size * normal.sign()
        value = variable.link.value(potential)
    else:
        value = _inside(variable, normal, uniform)
        if ends and variable.bounded:
            value = _at_ends(variable, value, torch.rand(shape, generator=generator, dtype=torch.float64))
    return value.to(dtype=dtype, device=device)


def _inside(variable: Variable, normal: Tensor, uniform: Tensor) -> Tensor:
    low, high = variable.low, variable.high
    if not variable.bounded:
        return normal
    if low == -torch.inf:
        return high - 0.01 - normal.abs()
    if high == torch.inf:
        return low + 0.01 + normal.abs()
    return low + (high - low) * (0.01 + 0.98 * uniform)


def _at_ends(variable: Variable, value: Tensor, coin: Tensor) -> Tensor:
    low = value if variable.low == -torch.inf else torch.full_like(value, variable.low)
    high = value if variable.high == torch.inf else torch.full_like(value, variable.high)
    return torch.where(coin < 1 / 6, low, torch.where(coin > 5 / 6, high, value))


@st.composite
def states(
    draw: st.DrawFn,
    energy: Energy,
    batch: int | SearchStrategy[int] | None = None,
    *,
    dtype: torch.dtype = torch.float64,
    device: torch.device | str = "cpu",
    ends: bool = False,
    declare: Mapping[str, Variable] | None = None,
) -> State:
    """Values of every variable of an energy, inside their domains.

    Parameters
    ----------
    draw
        Given by Hypothesis.
    energy
        Its variables are drawn. The target of a cost is drawn like a probability distribution of the shape of
        the output, which every cost takes.
    batch
        The number of samples, or a strategy of it; `batches` by default.
    dtype, device, ends
        As in `values`.
    declare
        Declarations of variables that the energy leaves unspecified.
    """
    size = batch if isinstance(batch, int) else draw(batches() if batch is None else batch)
    declared = declarations(energy, declare)
    targets = target_outputs(energy)
    state: State = {}
    for name, variable in declared.items():
        given = name in (declare or {}) and isinstance(energy.variables[name], Unspecified)
        if name in targets and not given:
            output = declared[targets[name]]
            shape = Real(*output.shape)
            state[name] = draw(values(shape, size, dtype=dtype, device=device).map(_distribution))
        else:
            state[name] = draw(values(variable, size, dtype=dtype, device=device, ends=ends))
    return state


def _distribution(logits: Tensor) -> Tensor:
    return logits.flatten(1).softmax(1).reshape(logits.shape)


def target_outputs(energy: Energy) -> dict[str, str]:
    """For the target of a cost among the terms of an energy, the name of the cost's output."""
    outputs = [part.output for _, part in energy.parts() if isinstance(part, Cost)]
    return {TARGET: outputs[0]} if outputs else {}


def declarations(energy: Energy, declare: Mapping[str, Variable] | None = None) -> dict[str, Variable]:
    """The variables of an energy, with what it leaves unspecified replaced where it is known.

    Parameters
    ----------
    energy
        Whose variables.
    declare
        What to take for those that are unspecified.

    Returns
    -------
    dict
        A variable stays `Unspecified` if nothing is known of it, save that a target is real and has the shape
        of its output.
    """
    known = {**energy.variables}
    for name, variable in (declare or {}).items():
        if isinstance(known.get(name), Unspecified):
            known[name] = variable
    for target, output in target_outputs(energy).items():
        shaped = known.get(output)
        if isinstance(known.get(target), Unspecified) and shaped and not isinstance(shaped, Unspecified):
            known[target] = Real(*shaped.shape)
    return known


@st.composite
def layered_networks(
    draw: st.DrawFn,
    *,
    activations: Sequence[str] = ACTIVATIONS,
    depth: int = 3,
    width: int = 4,
    skips: bool = True,
    coupling: tuple[float, float] | None = None,
    dtype: torch.dtype = torch.float64,
) -> LayeredHopfield:
    """Layered Hopfield networks with generic weights and biases.

    Parameters
    ----------
    draw
        Given by Hypothesis.
    activations
        To choose from.
    depth
        The most layers above the input.
    width
        The most units of a layer.
    skips
        Whether some have skip connections.
    coupling
        Range of the norm of the couplings among the layers above the input, relative to the least curvature
        of the leak. Below 1 the energy is strictly convex in those layers, with a curvature of at least 1 -
        coupling times the leak's, so that there is one fixed point. None draws weights of order one, which
        may have several.
    dtype
        Of the parameters.
    """
    sizes = draw(st.lists(st.integers(1, width), min_size=2, max_size=depth + 1))
    names = ["x", *(f"h{i}" for i in range(1, len(sizes) - 1)), "y"]
    pairs = [(a, b) for (i, a), (j, b) in combinations(enumerate(names), 2) if j - i >= 2]
    chosen = draw(st.lists(st.sampled_from(pairs), unique=True, max_size=2)) if skips and pairs else []
    activation = draw(st.sampled_from(list(activations)))
    generator = draw(generators())
    strength = None if coupling is None else draw(st.floats(*coupling))
    # torch's default initialisation must not touch the global generator of a test
    with torch.random.fork_rng(devices=[]):
        network = LayeredHopfield(sizes, activation, skips=chosen).to(dtype)
    randomise(network, generator)
    if strength is not None:
        rescale(network, strength * LEAST_CURVATURE[activation])
    return network


def randomise(module: torch.nn.Module, generator: torch.Generator, scale: float = 1.0) -> None:
    """Give every parameter normal entries, divided by the root of its number of columns."""
    with torch.no_grad():
        for parameter in module.parameters():
            columns = parameter.shape[-1] if parameter.ndim > 1 else 1
            fresh = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.copy_(fresh * (scale * columns**-0.5))


def coupling_norm(network: LayeredHopfield) -> float:
    """The spectral norm of the symmetric matrix of couplings among the layers above the input."""
    names = [name for name in network.variables if name != "x"]
    sizes = [network.variables[name].shape[0] for name in names]
    start = dict(zip(names, torch.tensor([0, *sizes]).cumsum(0).tolist(), strict=False))
    matrix = torch.zeros(sum(sizes), sum(sizes), dtype=torch.float64)
    for term in network.couplings.values():
        assert isinstance(term, Bilinear)
        if term.source == "x":
            continue
        weight = term.weight.detach().double().cpu()
        rows, columns = start[term.target], start[term.source]
        matrix[rows : rows + weight.shape[0], columns : columns + weight.shape[1]] += weight
    return float(torch.linalg.matrix_norm(matrix + matrix.T, 2))


def rescale(network: LayeredHopfield, norm: float) -> None:
    """Scale the couplings among the layers above the input to a norm; with none there is nothing to do."""
    now = coupling_norm(network)
    if now == 0:
        return
    with torch.no_grad():
        for term in network.couplings.values():
            if isinstance(term, Bilinear) and term.source != "x":
                term.weight.mul_(norm / now)


@st.composite
def term_sums(draw: st.DrawFn, *, dtype: torch.dtype = torch.float64) -> Energy:
    """Weighted sums of leaks, fields and couplings of two to three variables of any domain.

    Some variables have a `Sparsity` term: those with the link that fits it, and others where none has a link.
    """
    names = ["a", "b", "c"][: draw(st.integers(2, 3))]
    declared: dict[str, Any] = {name: draw(variables()) for name in names}
    total: Energy | None = None
    with torch.random.fork_rng(devices=[]):
        terms: list[Energy] = [Field(**{name: v}) for name, v in declared.items()]
        terms += [Leak(**{name: v}) for name, v in declared.items() if isinstance(v, Continuous)]
        pairs = draw(st.lists(st.sampled_from(list(combinations(names, 2))), unique=True, min_size=1))
        for a, b in pairs:
            coupling = draw(st.sampled_from([Bilinear, Reconstruction]))
            terms.append(coupling(a, b, **{a: declared[a], b: declared[b]}))
        continuous = {name: v for name, v in declared.items() if isinstance(v, Continuous)}
        unlinked = not any(v.link for v in continuous.values())
        for name, v in continuous.items():
            if isinstance(v.link, SoftThreshold):
                terms.append(Sparsity(v.link.threshold, "laplace", learn_strength=False, **{name: v}))
            elif unlinked and draw(st.booleans()):
                terms.append(Sparsity(0.4, "laplace", learn_strength=False, **{name: v}))
    for term in terms:
        # positive factors: a leak with a negative one has no minimum, and a field's sign is drawn anyway
        factor = draw(st.sampled_from([1.0, 0.5, 2.0]))
        part = term if factor == 1 else term * factor
        total = part if total is None else total + part
    assert total is not None
    total = total.to(dtype)
    randomise(total, draw(generators()), scale=0.5)
    return total


@st.composite
def nudged(draw: st.DrawFn, *, dtype: torch.dtype = torch.float64) -> Energy:
    """Layered networks with a multiple of a squared error on their output."""
    beta = draw(st.sampled_from([0.1, 1.0, -0.1]))
    return draw(layered_networks(dtype=dtype)) + beta * SquaredError("y")


def energies(*, dtype: torch.dtype = torch.float64) -> SearchStrategy[Energy]:
    """Energies that obey every law: layered networks, sums of terms, networks with a nudge."""
    return st.one_of(layered_networks(dtype=dtype), term_sums(dtype=dtype), nudged(dtype=dtype))


@st.composite
def supervised(
    draw: st.DrawFn,
    energy: Energy,
    *,
    given: Sequence[str] = ("x",),
    output: str = "y",
    batch: int | SearchStrategy[int] | None = None,
    dtype: torch.dtype = torch.float64,
) -> State:
    """Data for a rule with a cost: the given variables, and a target inside the domain of the output."""
    size = batch if isinstance(batch, int) else draw(batches() if batch is None else batch)
    data = {name: draw(values(energy.variables[name], size, dtype=dtype)) for name in given}
    return {**data, TARGET: draw(values(energy.variables[output], size, dtype=dtype))}
