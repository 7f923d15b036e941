"""What the kit says: which law passed, which did not apply, and the numbers of the one that failed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any


class ConformanceError(AssertionError):
    """A model or a rule breaks a law.

    Attributes
    ----------
    report
        What had been found out when the law failed.
    law
        Name of the law.
    """

    def __init__(self, message: str, *, law: str, report: Any = None) -> None:
        super().__init__(message)
        self.law = law
        self.report = report


class Violation(Exception):  # noqa: N818 - it is no error of the program
    """A law does not hold; the kit turns it into a `ConformanceError`.

    Parameters
    ----------
    where
        The variable, parameter or quantity.
    expected, got
        The numbers, or words.
    tolerance
        How far they may differ.
    hint
        What to do.
    """

    def __init__(
        self, where: str, *, expected: object, got: object, tolerance: float | None = None, hint: str
    ) -> None:
        self.where, self.expected, self.got, self.tolerance, self.hint = where, expected, got, tolerance, hint
        super().__init__(str(self))

    def __str__(self) -> str:
        lines = [f"at:        {self.where}", f"expected:  {_number(self.expected)}"]
        lines.append(f"got:       {_number(self.got)}")
        if self.tolerance is not None:
            lines.append(f"tolerance: {_number(self.tolerance)}")
        lines.append(f"hint:      {self.hint}")
        return "\n".join(lines)


def _number(value: object) -> str:
    return f"{value:.12g}" if isinstance(value, float) else str(value)


class NotApplicable(Exception):  # noqa: N818 - nor is this
    """A law says nothing about this model; the message says why."""


@dataclass(frozen=True)
class Outcome:
    """What one law came to.

    Attributes
    ----------
    law
        Its name.
    status
        ``"passed"``, ``"skipped"`` or ``"failed"``.
    detail
        Why it was skipped or failed; how many comparisons were made where it passed.
    """

    law: str
    status: str
    detail: str


@dataclass
class Report:
    """The laws that were checked; print it for a table.

    Attributes
    ----------
    subject
        What was checked.
    outcomes
        One for each law, in order.
    """

    subject: str
    outcomes: list[Outcome] = field(default_factory=list)

    def names(self, status: str) -> list[str]:
        """The laws with a status."""
        return [outcome.law for outcome in self.outcomes if outcome.status == status]

    @property
    def passed(self) -> list[str]:
        return self.names("passed")

    @property
    def skipped(self) -> list[str]:
        return self.names("skipped")

    def __str__(self) -> str:
        rows = [(o.law, o.status, o.detail.splitlines()[0] if o.detail else "") for o in self.outcomes]
        return f"{self.subject}\n{table(('law', 'status', ''), rows)}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Columns of text, the first to the left."""
    widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
    lines = [head, ["-" * width for width in widths], *rows]
    padded = (zip(line, widths, strict=True) for line in lines)
    return "\n".join("  ".join(cell.ljust(width) for cell, width in line).rstrip() for line in padded)
