"""The directed graph of the predictions in an energy."""

from __future__ import annotations

from collections.abc import Mapping

from torch import Tensor

from energynet.energy import Conditioned, Energy
from energynet.errors import StateError, TraceError
from energynet.state import State
from energynet.terms.prediction import Prediction
from energynet.trace import Program


def predicted(energy: Energy, known: Mapping[str, Tensor]) -> State:
    """What the known variables predict of the others, sweep by sweep from source to target.

    The feed-forward initialisation of predictive coding: where every variable is predicted once, the energy
    of the predictions is zero there. A variable that several terms predict takes the first that can.

    Returns
    -------
    State
        Only of variables that are not known; empty where the energy has no `Prediction`.
    """
    terms = [part for _, part in energy.parts() if isinstance(part, Prediction)]
    found: State = {}
    while terms:
        ready = [t for t in terms if t.source in known or t.source in found]
        if not ready:
            break
        for term in ready:
            if term.target not in known and term.target not in found:
                source = found[term.source] if term.source in found else known[term.source]
                found[term.target] = term.predict(source)
        terms = [t for t in terms if t not in ready]
    return found


def predictions(conditioned: Conditioned, program: Program, batch: int) -> State:
    """The same from the clamp of a conditioned energy; its forces use again what has been computed.

    Parameters
    ----------
    conditioned
        The energy.
    program
        Of its base, for the variables that are clamped and free.
    batch
        The number of samples.
    """
    base, known = conditioned.base, tuple(conditioned.clamp)
    if not any(isinstance(part, Prediction) for _, part in base.parts()):
        return {}
    try:
        traced = program.traced(
            ("predicted", known), lambda point: predicted(base, {name: point[name] for name in known})
        )
    except TraceError:
        return predicted(base, conditioned.clamp)
    environment = conditioned.environment(batch)
    return {n: environment.get(traced.builder.node(c)) for n, c in traced.outputs.items()}


def chain_to(owner: str, energy: Energy, output: str) -> list[Prediction]:
    """The terms that lead to an output, from the variable that nothing predicts.

    Parameters
    ----------
    owner
        Who asks, for errors.
    energy
        A sum of `Prediction` terms, each variable the target of at most one.
    output
        Where the chain ends.

    Raises
    ------
    StateError
        If the energy is not such a sum, nothing predicts the output, or the predictions go in a circle.
    """
    by_target: dict[str, Prediction] = {}
    for factor, part in energy.parts():
        if not isinstance(part, Prediction) or factor <= 0:
            raise StateError(
                f"{owner}: expected a sum of Prediction terms, such as models.PredictiveCoding, but it has "
                f"{part}{'' if isinstance(part, Prediction) else ', of which backprop knows nothing'}"
                f"{'' if factor > 0 else f' with the factor {factor:g}'}"
            )
        if part.target in by_target:
            raise StateError(
                f"{owner}: {part.target!r} is predicted by {by_target[part.target].source!r} and by "
                f"{part.source!r}; join them in one module, so that each variable is predicted once"
            )
        by_target[part.target] = part
    if output not in by_target:
        raise StateError(
            f"{owner}: nothing predicts {output!r}, the output of the cost; "
            f"predicted are {', '.join(map(repr, by_target))}"
        )
    chain: list[Prediction] = []
    name = output
    while name in by_target:
        term = by_target[name]
        if term in chain:
            raise StateError(f"{owner}: the predictions go in a circle through {name!r}")
        chain.insert(0, term)
        name = term.source
    return chain
