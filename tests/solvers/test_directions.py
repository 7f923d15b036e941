"""What the safeguarded minimisers propose, against dense formulas and finite differences."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

import energynet as en
from energynet.solvers.chart import Chart
from energynet.solvers.here import Here
from energynet.solvers.newton import curvature_product
from energynet.terms import Leak
from helpers.functional import Functional, autograd_force
from helpers.guarded import F64, normal, stiff


def surroundings(kind: str) -> tuple[en.Energy, dict[str, Any], Here]:
    """A point of a network of which two units are held, at random potentials."""
    energy, *_ = stiff(kind)
    mask = torch.tensor([True, False, False, True])
    clamp = {"x": normal(2, 3, seed=1), "y": en.Partial(torch.full((2, 4), 0.5, dtype=F64), mask)}
    flow = en.LBFGS().flow(energy, clamp)
    chart = Chart(flow, flow.start)
    start = chart.join(flow.start)
    point = torch.where(start == 0, normal(2, 16, seed=2), start)
    if kind == "sigmoid":
        point[:, [12, 15]] = 0.0  # the potential of 1/2
    one = torch.ones(2, dtype=F64)
    with torch.no_grad():
        _, force = chart.evaluate(point)
    here = Here.at(chart, point, force, chart.slope(point), 2.0 * one, math.inf * one)
    assert here.free.sum() == 2 * 14
    return energy, clamp, here


def test_the_direction_of_bfgs_is_that_of_the_dense_update() -> None:
    """H <- (I - r s y'W) H (I - r y s'W) + r s s'W (Nocedal and Wright 2006, eq. 6.17), W the metric."""
    *_, here = surroundings("sigmoid")
    steps = normal(2, 3, 16, seed=4)
    changes = steps + 0.3 * normal(2, 3, 16, seed=5)
    changes[0, 1] = -changes[0, 1]  # not convex along it: left out
    positive = (here.weight.unsqueeze(1) * steps * changes).sum(2) > 0
    assert positive.tolist() == [[True, False, True], [True, True, True]]
    positive[1, 0] = False  # as after it was forgotten
    found = en.LBFGS(history=3).combine(here, *(t.unbind(1) for t in (steps, changes, positive)))
    for i in range(2):
        metric, free = np.diag(here.weight[i].numpy()), here.free[i].numpy()
        inverse = np.diag(here.scaled(torch.ones_like(here.point))[i].numpy())
        for s, y, good in zip(steps[i].numpy(), changes[i].numpy(), positive[i].tolist(), strict=True):
            if good:
                r = 1 / (s @ metric @ y)
                left = np.eye(16) - r * np.outer(s, y) @ metric
                right = np.eye(16) - r * np.outer(y, s) @ metric
                inverse = left @ inverse @ right + r * np.outer(s, s) @ metric
        expected = inverse @ here.force[i].numpy()
        assert found[i].numpy()[free] == pytest.approx(expected[free], abs=1e-12)


def test_the_direction_of_anderson_leaves_the_least_force() -> None:
    """Least squares by numpy, of the two steps along which the energy is convex, on units that can move."""
    *_, here = surroundings("sigmoid")
    steps = normal(2, 3, 16, seed=4)
    changes = steps + 0.3 * normal(2, 3, 16, seed=5)
    changes[:, 1] = -changes[:, 1]
    known = torch.tensor([[True, False, True]] * 2)
    found = en.Anderson(history=3).combine(here, *(t.unbind(1) for t in (steps, changes, known)))
    rate = here.scaled(torch.ones_like(here.point)).numpy()
    for i in range(2):
        free = here.free[i].numpy()
        force, s, y = (t[i].numpy()[..., free] for t in (here.force, steps, changes))
        s, y = s[[0, 2]], y[[0, 2]]
        part = np.linalg.lstsq(y.T, force, rcond=None)[0]
        expected = rate[i][free] * (force - part @ y) + part @ s
        assert found[i].numpy()[free] == pytest.approx(expected, abs=1e-9)


def test_curvatures_are_those_of_the_energy_of_values() -> None:
    """The force -u - 7 a falls by 1 + 7 / 4 a unit of the potential at the slope 1/4 of the link."""
    variable = en.Unit(3, link=en.Sigmoid())
    energy = Functional(lambda e, s: 3.5 * s.square().sum(1), s=variable) + Leak(s=variable)
    flow = en.LBFGS().flow(energy, state={"s": torch.tensor([[0.2, 0.5, 0.6]])})
    chart = Chart(flow, flow.start)
    point = chart.join(flow.start)
    _, force = chart.evaluate(point)
    one = torch.ones(1)
    here = Here.at(chart, point, force, chart.slope(point), one, math.inf * one)
    step = torch.tensor([[0.0, 1e-2, 0.0]])
    _, after = chart.evaluate(point + step)
    here, positive = here.after(step, force - after, torch.tensor([True]))
    assert positive.tolist() == [True]
    gain, curvature = float(here.gain[0, 1]), float(here.curvature)
    assert 1 - gain + gain * curvature == pytest.approx(1 + 7 / 4, rel=1e-3)
    assert float(here.scaled(here.force)[0, 1] / here.force[0, 1]) == pytest.approx(4 / 11, rel=1e-3)


@pytest.mark.parametrize("kind", ["sigmoid", "tanh"])
def test_the_operator_of_newton_is_the_derivative_of_the_force(kind: str) -> None:
    energy, clamp, here = surroundings(kind)
    chart, point, flow = here.chart, here.point, here.chart.flow
    direction = torch.where(here.free, normal(2, 16, seed=3), 0.0)

    def forces(at: Tensor) -> Tensor:
        state = {"x": clamp["x"], **flow.values(chart.split(at))}
        return chart.join(autograd_force(energy, state, flow.names))

    step = 1e-5
    change = (forces(point + step * direction) - forces(point - step * direction)) / (2 * step)
    expected = torch.where(here.free, -change, 0.0)
    found = curvature_product(here, direction, here.free)
    assert torch.allclose(found, expected, atol=1e-7)
