"""Check that a learning rule is backprop: to rounding, or in a limit at the order that theory gives."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis.strategies import SearchStrategy
from torch import Tensor

from energynet.cost import TARGET
from energynet.rules import LearningRule
from energynet.terms import Prediction
from energynet.terms.graph import chain_to
from energynet.testing.gradients import gradient_of
from energynet.testing.problems import Problem, backprop_problems
from energynet.testing.report import ConformanceError, table


class Reference(Protocol):
    """A function from a rule and a problem to a gradient by name of the rule's parameters."""

    __name__: str

    def __call__(self, rule: LearningRule, problem: Problem) -> Mapping[str, Tensor]:
        """The gradient that the rule should leave."""
        ...


_LAW = "rule_is_backprop"
_ROUNDING = {torch.float64: 1e-12, torch.float32: 1e-5}
_STRENGTHS = (0.1, 0.03, 0.01)
_SLACK = 0.3  # how far a measured order may be below its own: the next term of the expansion bends it
_NOISE = 1e-8  # an error below it is rounding, and has no order


@dataclass
class Spread:
    """One parameter over all examples, or all parameters as one vector.

    Attributes
    ----------
    name
        Of the parameter.
    examples
        In how many it was.
    error
        The largest norm of the difference over the norm of the exact gradient.
    least, most
        Ends of the norm of the rule's gradient over that of the exact one.
    order
        The least exponent with which the error falls with the strength; NaN where no limit is checked.
    """

    name: str
    examples: int = 0
    error: float = 0.0
    least: float = math.inf
    most: float = 0.0
    order: float = math.nan

    def add(self, error: float, ratio: float, order: float) -> None:
        """Note one example."""
        self.merge(Spread(self.name, 1, error, ratio, ratio, order))

    def merge(self, other: Spread) -> None:
        """Note the examples of another."""
        self.examples += other.examples
        # the other first: of two numbers that do not compare these keep the first, so that NaN is shown
        self.error = max(other.error, self.error)
        self.least, self.most = min(other.least, self.least), max(other.most, self.most)
        if not math.isnan(other.order):
            self.order = other.order if math.isnan(self.order) else min(self.order, other.order)


@dataclass
class EquivalenceReport:
    """What a rule's gradients were beside backprop's; print it for a table.

    Attributes
    ----------
    rule, reference
        What was compared with what.
    examples
        Networks that were compared.
    rtol
        The largest relative error that was allowed; None where a limit was checked.
    order
        The exponent that was asked for; None where there is no limit.
    rows
        By parameter, counted from the output, so that networks of every depth add up.
    whole
        All parameters as one vector.
    """

    rule: str
    reference: str
    rtol: float | None
    order: float | None
    examples: int = 0
    rows: dict[str, Spread] = field(default_factory=dict)
    whole: Spread = field(default_factory=lambda: Spread("(whole)"))

    def add(self, other: EquivalenceReport) -> None:
        """Note other networks."""
        self.examples += other.examples
        for name, row in other.rows.items():
            self.rows.setdefault(name, Spread(name)).merge(row)
        self.whole.merge(other.whole)

    def __str__(self) -> str:
        head = ["parameter", "networks", "relative error", "norm ratio"] + ["order"] * (
            self.order is not None
        )
        body = [
            [row.name, str(row.examples), f"{row.error:.3g}", f"{row.least:.8g} to {row.most:.8g}"]
            + [f"{row.order:.2f}"] * (self.order is not None)
            for row in (*sorted(self.rows.values(), key=_place), self.whole)
        ]
        text = f"{self.rule} against {self.reference}, {self.examples} networks"
        return f"{text}\n{table(head, body)}"


def _chain(problem: Problem) -> list[Prediction]:
    return chain_to("check_backprop_equivalence", problem.energy, problem.cost.output)


class _Unequal(Exception):  # noqa: N818 - turned into a ConformanceError
    """A gradient that is too far from backprop's, and the report of the one network."""

    def __init__(self, text: str, report: EquivalenceReport) -> None:
        super().__init__(text)
        self.report = report


def backprop(rule: LearningRule, problem: Problem) -> dict[str, Tensor]:
    """The gradient of the mean cost of the feed-forward network, by autograd through all its layers."""
    for parameter in rule.parameters():
        parameter.grad = None
    cost: Any = problem.cost
    chain = _chain(problem)
    value = problem.data[chain[0].source]
    for term in chain:
        value = term.module(value)
    named = {name: p for name, p in rule.named_parameters() if p.requires_grad}
    mean = cost.energy(**{cost.output: value, TARGET: problem.data[TARGET]}).mean()
    slopes = torch.autograd.grad(mean, list(named.values()), allow_unused=True, materialize_grads=True)
    return dict(zip(named, slopes, strict=True))


def check_backprop_equivalence(
    rule: Callable[..., LearningRule],
    *,
    order: float | None = None,
    strengths: Sequence[float] = _STRENGTHS,
    rtol: float | None = None,
    dtype: torch.dtype = torch.float64,
    examples: int | None = None,
    problems: SearchStrategy[Problem] | None = None,
    reference: Reference = backprop,
) -> EquivalenceReport:
    """Check that a rule leaves the gradient of backprop, on generated networks.

    Depth, widths, activation, direction, residual connections, precision, cost, batch and weights are drawn
    by Hypothesis; a failure is shrunk to a small network. Every parameter is judged by itself, by its
    relative error, because a cosine hides a layer whose gradient has vanished.

    Parameters
    ----------
    rule
        A rule's class or a function, from an energy and a cost to the rule; where ``order`` is given, from an
        energy, a cost and a strength.
    order
        For a rule that is backprop in the limit of a weak strength: the exponent at which its error has to
        fall. None asks for equality at once.
    strengths
        At which the error is measured, from strong to weak.
    rtol
        The largest relative error of each parameter. By default 1e-12 in float64 and 1e-5 in float32, which
        is rounding: a sum over a few units or samples may cancel one or two digits.
    dtype
        Of the networks and the data. Backprop is computed in it as well.
    examples
        Networks to draw; 50 by default, and 5 for a limit, which settles each of them.
    problems
        Networks, costs and data to draw from instead of `energynet.testing.problems.backprop_problems`.
    reference
        What to compare with instead of backprop, from the rule and the problem to a gradient by name of the
        rule's parameters.

    Returns
    -------
    EquivalenceReport
        The worst of each parameter.

    Raises
    ------
    ConformanceError
        If a gradient is not backprop's, with the network, the parameter and the numbers.

    Examples
    --------
    >>> print(en.testing.check_backprop_equivalence(en.FixedPrediction))
    >>> nudged = lambda energy, cost, beta: en.EquilibriumPropagation(energy, cost, beta)
    >>> print(en.testing.check_backprop_equivalence(nudged, order=2))
    """
    if order is None:
        rtol = _ROUNDING.get(dtype, 1e-2) if rtol is None else rtol
    count = (50 if order is None else 5) if examples is None else examples
    if problems is None:
        problems = backprop_problems(dtype=dtype) if order is None else _gentle(dtype)
    report = EquivalenceReport("", reference.__name__, rtol, order)

    def examine(problem: Problem) -> None:
        one = EquivalenceReport("", reference.__name__, rtol, order, 1)
        rules = [rule(problem.energy, problem.cost, s) for s in strengths if order is not None]
        rules = rules or [rule(problem.energy, problem.cost)]
        one.rule = report.rule = type(rules[0]).__name__
        _measure(rules, problem, reference, one, strengths)
        report.add(one)

    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        try:
            _run(examine, problems, count)
        except _Unequal as error:
            found = error.report
            text = f"the gradient of {found.rule} is not that of {found.reference}\n{error}\n{found}"
            raise ConformanceError(text, law=_LAW, report=found) from None
    return report


def _gentle(dtype: torch.dtype) -> SearchStrategy[Problem]:
    """Smooth shallow networks, whose energies are curved enough for a nudge of 0.1 to be a weak one."""
    smooth = ("tanh", "sigmoid", "linear")
    return backprop_problems(depth=(1, 3), width=3, activations=smooth, batch=2, gain=0.7, dtype=dtype)


def _run(examine: Callable[[Problem], None], problems: SearchStrategy[Problem], count: int) -> None:
    @settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=tuple(HealthCheck),  # pyright: ignore[reportArgumentType]
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=Verbosity.quiet,
    )
    @given(problems)
    def each(problem: Problem) -> None:
        examine(problem)

    each()


def _measure(
    rules: Sequence[LearningRule],
    problem: Problem,
    reference: Reference,
    report: EquivalenceReport,
    strengths: Sequence[float],
) -> None:
    """Compare one rule, or one for each strength, on one network; the last is what is reported."""
    errors: dict[str, list[float]] = {}
    ratios: dict[str, float] = {}
    for rule in rules:
        for name, pair in _pairs(rule, problem, reference).items():
            error, ratios[name] = _compare(*pair)
            errors.setdefault(name, []).append(error)
    failure: tuple[str, str] | None = None
    for name, measured in errors.items():
        fall = math.nan if report.order is None else _order(strengths, measured)
        _spread(report, problem, rules[-1], name).add(measured[-1], ratios[name], fall)
        wrong = _wrong(report, strengths, measured, fall)
        if wrong and failure is None:
            failure = name, wrong
    if failure is not None:
        name, wrong = failure
        raise _Unequal(_described(problem, name, errors[name][-1], ratios[name], wrong), report)


def _wrong(
    report: EquivalenceReport, strengths: Sequence[float], errors: Sequence[float], fall: float
) -> str | None:
    """What is expected of the error of a parameter where it is not so."""
    if report.order is None:
        assert report.rtol is not None
        return None if errors[-1] <= report.rtol else f"of at most {report.rtol:.3g}"
    if not fall < report.order - _SLACK and errors[-1] < 1:
        return None
    shown = ", ".join(f"{e:.3g} at {s:g}" for s, e in zip(strengths, errors, strict=True))
    return f"that falls as the power {report.order:g} of the strength, but it falls as {fall:.2f}: {shown}"


def _order(strengths: Sequence[float], errors: Sequence[float]) -> float:
    """The slope of the straight line through the errors, in logarithms; NaN where they are rounding."""
    if errors[-1] < _NOISE:
        return math.nan
    xs = [math.log(s) for s in strengths]
    ys = [math.log(max(e, _NOISE)) if e == e else math.nan for e in errors]
    x, y = sum(xs) / len(xs), sum(ys) / len(ys)
    slope = sum((a - x) * (b - y) for a, b in zip(xs, ys, strict=True)) / sum((a - x) ** 2 for a in xs)
    return slope if slope == slope else -math.inf


_WHOLE = "(whole)"


def _pairs(rule: LearningRule, problem: Problem, reference: Reference) -> dict[str, tuple[Tensor, Tensor]]:
    """The gradients of each parameter, and of all of them as one vector, by the rule and by the reference."""
    found = {n: g.clone() for n, g in gradient_of(rule, problem.data).items()}
    exact = reference(rule, problem)
    pairs = {n: (found[n].double().flatten(), exact[n].double().flatten()) for n in exact}
    joined = [torch.cat([pair[i] for pair in pairs.values()]) for i in (0, 1)]
    return {**pairs, _WHOLE: (joined[0], joined[1])}


def _compare(found: Tensor, exact: Tensor) -> tuple[float, float]:
    """The relative error and the norm ratio; 0 and 1 where both vanish."""
    size, norm = float(found.norm()), float(exact.norm())
    if norm == 0:
        return (0.0, 1.0) if size == 0 else (math.inf, math.inf)
    return float((found - exact).norm()) / norm, size / norm


def _spread(report: EquivalenceReport, problem: Problem, rule: LearningRule, name: str) -> Spread:
    if name == _WHOLE:
        return report.whole
    parameter = rule.get_parameter(name)
    label = name
    for below, term in enumerate(reversed(_chain(problem))):
        for own, candidate in term.named_parameters():
            if candidate is parameter:
                label = f"{own.removeprefix('module.')}, {below} below the last"
    return report.rows.setdefault(label, Spread(label))


def _described(problem: Problem, name: str, error: float, ratio: float, expected: str) -> str:
    hint = "derive the rule again: it is only nearly backprop"
    if ratio == 0:
        hint = "nothing has reached this layer: it takes one step for each hidden layer above it"
    elif error <= 1e-3:
        hint = "it is close, so settle further, or keep errors instead of differences of states"
    return "\n".join(
        [
            f"at:        {'all parameters as one vector' if name == _WHOLE else f'parameter {name!r}'}",
            f"network:   {problem.name}",
            f"expected:  a relative error {expected}",
            f"got:       {error:.6g} (norm ratio {ratio:.6g})",
            f"hint:      {hint}",
        ]
    )


def _place(row: Spread) -> tuple[int, str]:
    """Rows from the output down."""
    digits = "".join(c for c in row.name.rpartition(",")[2] if c.isdigit())
    return int(digits or 0), row.name
