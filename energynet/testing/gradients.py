"""Check the gradient of a learning rule against an exact one."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from energynet.rules import ImplicitDifferentiation, LearningRule, Unrolled
from energynet.testing.numerical import Projected, numerical
from energynet.testing.report import ConformanceError, table

_FLOOR = 0.01
_LAW = "gradient_is_exact"
_WHOLE = "(whole)"


@dataclass(frozen=True)
class Row:
    """The gradient of one parameter beside the exact one.

    Attributes
    ----------
    name
        Of the parameter.
    error
        Norm of the difference over the norm of the exact gradient, or over a hundredth of the norm of the
        whole exact gradient where that is larger (``small``).
    cosine
        Between the two; NaN where one of them vanishes.
    ratio
        Norm of the rule's gradient over that of the exact one.
    norm
        Norm of the exact gradient.
    small
        Whether the exact gradient of this parameter is below a hundredth of the whole. Its direction is then
        not judged, for a bias that is small beside the whole may turn it anywhere.
    """

    name: str
    error: float
    cosine: float
    ratio: float
    norm: float
    small: bool


@dataclass(frozen=True)
class GradientReport:
    """A rule's gradient beside the exact one; print it for a table.

    Attributes
    ----------
    rule, reference
        What was compared with what.
    rows
        One for each parameter.
    whole
        All parameters as one vector.
    rtol, cosine
        What was asked for; None was not.
    """

    rule: str
    reference: str
    rows: tuple[Row, ...]
    whole: Row
    rtol: float | None
    cosine: float | None

    def __str__(self) -> str:
        head = ("parameter", "relative error", "cosine", "norm ratio", "exact norm")
        rows = [
            (
                row.name + " *" * row.small,
                f"{row.error:.3g}",
                "-" if row.small else f"{row.cosine:.8f}",
                f"{row.ratio:.6g}",
                f"{row.norm:.3g}",
            )
            for row in (*self.rows, self.whole)
        ]
        text = f"{self.rule} against {self.reference}\n{table(head, rows)}"
        if any(row.small for row in self.rows):
            text += f"\n* smaller than {_FLOOR:g} of the whole: its error is relative to that, not to itself"
        return text


def check_gradient(
    rule: LearningRule,
    *,
    rtol: float | None = None,
    cosine: float | None = None,
    dtype: torch.dtype = torch.float64,
    reference: LearningRule | None = None,
    **data: Tensor,
) -> GradientReport:
    """Check the gradient of a rule against an exact one, parameter by parameter.

    The exact gradient of a rule with a cost is that at the free fixed point, by implicit differentiation.
    That of a rule without a cost, and of the exact rules themselves, is the numerical derivative of the
    rule's own value: central differences in float64, along random directions of each parameter.

    Parameters
    ----------
    rule
        It is copied, so that parameters, gradients and generators stay as they are.
    rtol
        The largest relative error, for each parameter and for all as one vector. Where neither it nor
        ``cosine`` is given, by default in float64: 1e-3 for a centered nudge of 0.01 or less and growing as
        beta^2 above; 5e-2 for a one-sided or random-sign nudge of 0.01 or less and growing as beta above;
        1e-4 where the reference is numerical; 1e-3 for other rules. In float32 never below 1e-2. They hold
        for a well conditioned fixed point: the error goes with beta over the smallest curvature of the
        energy there.
    cosine
        The smallest cosine. Where only one of the two is given only that is asked for.
    dtype
        In which the rule is computed; the reference always is in float64.
    reference
        A rule of the same energy to compare with instead.
    **data
        What the rule is called with.

    Returns
    -------
    GradientReport
        Relative error, cosine and norm ratio of each parameter.

    Raises
    ------
    ConformanceError
        If the rule's gradient is too far from the exact one, with the parameter and the numbers.
    ValueError
        If the exact gradient vanishes, so that there is nothing to compare.
    """
    if not isinstance(rule, LearningRule):
        raise TypeError(f"check_gradient: expected a LearningRule, got {type(rule).__name__}")
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        found = gradient_of(_copied(rule, dtype), _converted(data, dtype))
        exact = _copied(rule, torch.float64)
        wide = _converted(data, torch.float64)
        if reference is not None or _has_cost(rule):
            other = _implicit(exact) if reference is None else _exact(exact, reference)
            name, pairs = type(other).__name__, _paired(found, _by_name(other, exact, wide))
        else:
            name, pairs = "central differences of its value", _projected(numerical(exact, wide, found))
    if rtol is None and cosine is None:
        rtol = default_rtol(rule, dtype)
    report = _report(rule, name, pairs, rtol, cosine)
    _judge(report)
    return report


def default_rtol(rule: LearningRule, dtype: torch.dtype) -> float:
    """The tolerance of `check_gradient` for a rule."""
    least = 0.0 if dtype == torch.float64 else 1e-2
    if not _has_cost(rule):
        return max(1e-4, least)
    beta, estimator = getattr(rule, "beta", None), getattr(rule, "estimator", "centered")
    if not isinstance(beta, float):
        return max(1e-3, least)
    growth = max(1.0, abs(beta) / 0.01)
    return max(1e-3 * growth**2 if estimator == "centered" else 5e-2 * growth, least)


def gradient_of(rule: LearningRule, data: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What ``rule(**data).backward()`` leaves, by name of the parameter; zero where it leaves nothing."""
    for parameter in rule.parameters():
        parameter.grad = None
    rule(**data).backward()
    return {
        name: torch.zeros_like(p) if p.grad is None else p.grad
        for name, p in rule.named_parameters()
        if p.requires_grad
    }


def _copied(rule: LearningRule, dtype: torch.dtype) -> LearningRule:
    return copy.deepcopy(rule).to(dtype)


def _converted(data: Mapping[str, Tensor], dtype: torch.dtype) -> dict[str, Tensor]:
    return {n: v.detach().to(dtype) if v.is_floating_point() else v for n, v in data.items()}


def _has_cost(rule: LearningRule) -> bool:
    return not isinstance(rule, (ImplicitDifferentiation, Unrolled)) and hasattr(rule, "cost")


def _implicit(rule: LearningRule) -> LearningRule:
    cost: Any = rule.cost
    return ImplicitDifferentiation(rule.energy, cost, solver=getattr(rule, "solver", None))


def _exact(rule: LearningRule, reference: LearningRule) -> LearningRule:
    """The reference, of the energy of the copied rule."""
    copied = _copied(reference, torch.float64)
    copied.energy.load_state_dict(rule.energy.state_dict())
    return copied


def _by_name(reference: LearningRule, rule: LearningRule, data: dict[str, Tensor]) -> dict[str, Tensor]:
    """The reference's gradient under the names that the rule gives the same parameters.

    The reference holds the rule's own energy, or a copy whose parameters have the same names within it.
    """
    gradient = gradient_of(reference, data)
    by_parameter = {id(p): gradient[n] for n, p in reference.named_parameters() if n in gradient}
    return {
        name: by_parameter.get(id(p), gradient.get(name, torch.zeros_like(p)))
        for name, p in rule.named_parameters()
        if p.requires_grad
    }


Pairs = dict[str, tuple[Tensor, Tensor]]


def _paired(found: dict[str, Tensor], exact: dict[str, Tensor]) -> Pairs:
    return {n: (found[n].double().flatten().cpu(), exact[n].flatten().cpu()) for n in exact}


def _projected(measured: Mapping[str, Projected]) -> Pairs:
    return {name: (p.given, p.measured) for name, p in measured.items()}


def _report(
    rule: LearningRule, reference: str, pairs: Pairs, rtol: float | None, cosine: float | None
) -> GradientReport:
    everything = tuple(torch.cat([pair[i] for pair in pairs.values()]) for i in (0, 1))
    total = float(everything[1].norm())
    if not total > 0:
        raise ValueError(
            f"check_gradient: the exact gradient ({reference}) vanishes or is NaN, so there is nothing to "
            "compare; give data that the model does not fit yet"
        )
    rows = [_row(name, *pair, _FLOOR * total) for name, pair in pairs.items()]
    whole = _row(_WHOLE, everything[0], everything[1], 0.0)
    return GradientReport(type(rule).__name__, reference, tuple(rows), whole, rtol, cosine)


def _row(name: str, found: Tensor, exact: Tensor, floor: float) -> Row:
    size, norm = float(found.norm()), float(exact.norm())
    return Row(
        name,
        error=float((found - exact).norm()) / max(norm, floor),
        cosine=float(found @ exact) / (size * norm) if size * norm > 0 else float("nan"),
        ratio=size / norm if norm > 0 else float("nan"),
        norm=norm,
        small=norm < floor,
    )


def _judge(report: GradientReport) -> None:
    for row in (*report.rows, report.whole):
        if report.rtol is not None and not row.error <= report.rtol:
            _fail(report, row, f"a relative error of at most {report.rtol:.3g}", f"{row.error:.6g}")
        if report.cosine is not None and not row.small and not row.cosine >= report.cosine:
            _fail(report, row, f"a cosine of at least {report.cosine:.6g}", f"{row.cosine:.6g}")


def _fail(report: GradientReport, row: Row, expected: str, got: str) -> None:
    where = "all parameters as one vector" if row.name == _WHOLE else f"parameter {row.name!r}"
    lines = [
        f"the gradient of {report.rule} is not that of {report.reference}",
        f"at:        {where}",
        f"expected:  {expected}",
        f"got:       {got} (cosine {row.cosine:.6g}, norm ratio {row.ratio:.6g})",
        f"hint:      {_hint(row)}",
        str(report),
    ]
    raise ConformanceError("\n".join(lines), law=_LAW, report=report)


def _hint(row: Row) -> str:
    if row.cosine < -0.9:
        return "the sign is wrong: backward() must leave what an optimiser descends"
    if row.cosine > 0.999:
        return f"the direction is right and the size is not: it is {row.ratio:.4g} times what it should be"
    return "settle further (until=), or nudge less (beta=), if it is an estimate; else derive the rule again"
