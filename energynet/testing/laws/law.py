"""A law: a claim about every energy, and the function that looks for a counterexample."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from hypothesis import strategies as st

from energynet.testing.subject import Subject

Check = Callable[[Subject, st.DataObject], None]


@dataclass(frozen=True)
class Law:
    """A claim about every energy.

    Attributes
    ----------
    name
        That of the function that checks it.
    claim
        The first line of its docstring.
    check
        Raises `Violation` on a counterexample, `NotApplicable` where the law says nothing.
    slow
        Whether it settles; then counterexamples are not shrunk.
    examples
        The most examples that it is worth, for each new trace costs a fraction of a second.
    """

    name: str
    claim: str
    check: Check
    slow: bool
    examples: int


def law(*, slow: bool = False, examples: int = 1000) -> Callable[[Check], Law]:
    """Make a function a `Law`."""

    def make(check: Check) -> Law:
        name = getattr(check, "__name__", "law")
        return Law(name, (check.__doc__ or name).strip().splitlines()[0], check, slow, examples)

    return make
