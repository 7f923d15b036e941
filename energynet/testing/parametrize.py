"""Each law as a test of its own, under pytest."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch

from energynet.energy import Energy
from energynet.testing.energies import check_law, select
from energynet.testing.laws import Law
from energynet.variable import Variable

if TYPE_CHECKING:
    import pytest

Model = Energy | Callable[[], Energy]


def parametrize_with_checks(
    models: Iterable[Model] | Mapping[str, Model],
    *,
    dtype: torch.dtype = torch.float64,
    examples: int = 12,
    laws: Iterable[str] | None = None,
    declare: Mapping[str, Variable] | None = None,
) -> pytest.MarkDecorator:
    """A pytest decorator that runs each law on each model as its own test.

    The test takes two arguments, ``model`` and ``check``. A law that does not apply is skipped, and the
    reason is said.

    Parameters
    ----------
    models
        Energies, or functions without arguments that make one, so that nothing is built while tests are
        collected; or a dict of them by the name that the tests shall have.
    dtype, examples, laws, declare
        As in `check_energy`.

    Examples
    --------
    >>> @en.testing.parametrize_with_checks([MyEnergy(3)])
    ... def test_laws(model, check):
    ...     check(model)
    """
    import pytest

    chosen = select(laws)
    named = models if isinstance(models, Mapping) else _named(models)
    cases: list[Any] = []
    for name, model in named.items():
        for law in chosen:
            check = partial(_check, law=law, dtype=dtype, examples=examples, declare=declare)
            cases.append(pytest.param(model, check, id=f"{name}-{law.name}"))
    return pytest.mark.parametrize(("model", "check"), cases)


def _named(models: Iterable[Model]) -> dict[str, Model]:
    named: dict[str, Model] = {}
    for model in models:
        name = type(model).__name__ if isinstance(model, Energy) else getattr(model, "__name__", "model")
        named[name if name not in named else f"{name}{len(named)}"] = model
    return named


def _check(model: Model, *, law: Law, **options: Any) -> None:
    import pytest

    energy = model if isinstance(model, Energy) else model()
    outcome = check_law(energy, law, **options)
    if outcome.status == "skipped":
        pytest.skip(outcome.detail)
