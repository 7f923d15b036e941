"""Check that a model obeys the laws of energies."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Mapping

import torch
from hypothesis import HealthCheck, Phase, Verbosity, given, settings
from hypothesis import strategies as st
from hypothesis.errors import FlakyFailure
from torch import nn

from energynet.energy import Conditioned, Energy
from energynet.testing.laws import LAWS, Law
from energynet.testing.report import ConformanceError, NotApplicable, Outcome, Report, Violation
from energynet.testing.subject import Subject
from energynet.variable import Variable

_EXAMPLES = 12


def check_energy(
    model: Energy,
    *,
    dtype: torch.dtype = torch.float64,
    examples: int = _EXAMPLES,
    laws: Iterable[str] | None = None,
    declare: Mapping[str, Variable] | None = None,
) -> Report:
    """Check the laws that every energy obeys, each on generated examples.

    The model is copied, so that its parameters, gradients and mode stay as they are; so does torch's global
    generator. The examples are the same in every run.

    Parameters
    ----------
    model
        What to check.
    dtype
        In which to compute; tolerances follow it.
    examples
        The most for each law; laws that trace or settle the energy take fewer.
    laws
        Names of the laws to check, from `energynet.testing.LAWS`; all by default.
    declare
        Declarations of variables that the model leaves unspecified, as ``{"target": en.Real(3)}``.

    Returns
    -------
    Report
        What passed and what did not apply, and why; print it for a table.

    Raises
    ------
    ConformanceError
        At the first law that does not hold, with its name, the variable and the numbers.

    Examples
    --------
    >>> print(en.testing.check_energy(model))
    """
    if not isinstance(model, Energy):
        raise TypeError(f"check_energy: expected an Energy, got {type(model).__name__}")
    if isinstance(model, Conditioned):
        raise TypeError(
            "check_energy: a conditioned energy has the batch of its clamp, so its batch cannot be varied; "
            "check the energy that was conditioned, which is its attribute base"
        )
    report = Report(f"{model} in {dtype}")
    subject = Subject.of(model, dtype, declare)
    for law in select(laws):
        outcome = check_law(model, law, dtype=dtype, examples=examples, report=report, subject=subject)
        report.outcomes.append(outcome)
    return report


def select(names: Iterable[str] | None) -> list[Law]:
    """Laws by name, in the order in which they are checked; all where there are no names."""
    if names is None:
        return list(LAWS)
    names = [names] if isinstance(names, str) else list(names)
    known = {law.name for law in LAWS}
    for name in names:
        if name not in known:
            raise ValueError(f"no law is called {name!r}; the laws are {', '.join(sorted(known))}")
    return [law for law in LAWS if law.name in names]


def check_law(
    model: Energy,
    law: Law,
    *,
    dtype: torch.dtype = torch.float64,
    examples: int = _EXAMPLES,
    declare: Mapping[str, Variable] | None = None,
    report: Report | None = None,
    subject: Subject | None = None,
) -> Outcome:
    """Check one law; the arguments are those of `check_energy`.

    ``report`` is what failures are added to, and ``subject`` a copy of the model that several laws share.
    """
    report = Report(f"{model} in {dtype}") if report is None else report
    with torch.random.fork_rng(devices=_cuda(model)):
        subject = Subject.of(model, dtype, declare) if subject is None else subject
        subject.compared = 0
        try:
            _run(law, subject, examples)
        except NotApplicable as reason:
            return Outcome(law.name, "skipped", str(reason))
        except Exception as error:  # noqa: BLE001 - whatever the model raises is reported with the law
            _fail(law, report, _described(error), error)
    if not subject.compared:
        return Outcome(law.name, "skipped", "no example had what it speaks of, such as a fixed point")
    return Outcome(law.name, "passed", f"{subject.compared} comparisons")


def _described(error: Exception) -> str:
    if isinstance(error, FlakyFailure):  # the same example failed once and not again
        first = _described(error.exceptions[0])
        return (
            f"{first}\nnote:      only at the first evaluation: the model, or what it warns of, has a memory"
        )
    if isinstance(error, Violation):
        return str(error)
    last = traceback.extract_tb(error.__traceback__)[-1]
    return f"raised {type(error).__name__}: {error}\nat:        {last.name}, line {last.lineno}"


def _run(law: Law, subject: Subject, examples: int) -> None:
    phases = [Phase.explicit, Phase.generate] + [Phase.shrink] * (not law.slow)

    @settings(
        max_examples=min(examples, law.examples),
        deadline=None,
        derandomize=True,
        database=None,
        phases=phases,
        suppress_health_check=tuple(HealthCheck),  # pyright: ignore[reportArgumentType]
        report_multiple_bugs=False,
        print_blob=False,
        verbosity=Verbosity.quiet,
    )
    @given(st.data())
    def examine(data: st.DataObject) -> None:
        law.check(subject, data)

    examine()


def _fail(law: Law, report: Report, text: str, error: Exception) -> None:
    report.outcomes.append(Outcome(law.name, "failed", text))
    lines = [f"{report.subject} breaks the law {law.name}", f"law:       {law.claim}", text]
    if report.passed:
        lines.append(f"passed:    {', '.join(report.passed)}")
    raise ConformanceError("\n".join(lines), law=law.name, report=report) from error


def _cuda(model: nn.Module) -> list[torch.device]:
    return sorted({p.device for p in model.parameters() if p.device.type == "cuda"}, key=str)
