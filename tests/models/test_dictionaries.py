"""Learning of dictionaries: the gradient, atoms on the sphere, homeostasis, true atoms found again; convolution."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import energynet as en
from energynet.terms import Prediction, Sparsity
from helpers.lasso import violation

F64 = torch.float64


def sparse_data(seed: int, rows: int, inputs: int, atoms: int) -> tuple[np.ndarray, Tensor]:
    random = np.random.default_rng(seed)
    weight = random.normal(size=(inputs, atoms))
    weight /= np.linalg.norm(weight, axis=0)
    codes = random.laplace(size=(rows, atoms)) * (random.random((rows, atoms)) < 0.2)
    return weight, torch.from_numpy(codes @ weight.T)


def test_the_gradient_of_the_dictionary_is_minus_error_times_code() -> None:
    """Olshausen and Field (1996, eq. 6), and finite differences of the least energy."""
    model = en.models.SparseCoding(5, 7, 0.2, variance=0.5, atoms="free").double()
    x = torch.randn(4, 5, dtype=F64, generator=torch.Generator().manual_seed(0))
    rule = en.MaximumAPosteriori(model)
    rule(x=x).backward()
    gradient = model.weight.grad
    assert gradient is not None
    code = model.infer(x).state["a"]
    error = x - code @ model.weight.detach().T
    assert torch.allclose(gradient, -error.T @ code / (0.5 * 4), atol=1e-8)
    step = 1e-5
    for place in ((0, 0), (3, 2), (4, 6)):
        levels = []
        for sign in (1, -1):
            with torch.no_grad():
                model.weight[place] += sign * step
                levels.append(float(model.infer(x).energy.mean()))
                model.weight[place] -= sign * step
        assert float(gradient[place]) == pytest.approx((levels[0] - levels[1]) / (2 * step), abs=1e-6)


def test_learning_finds_the_atoms_that_made_the_data() -> None:
    weight, x = sparse_data(0, 400, 8, 8)
    torch.manual_seed(0)
    model = en.models.SparseCoding(8, 8, 0.1).double()
    with torch.no_grad():
        model.weight.copy_(x[:8].T + 1e-3)
        model.project_()
    rule = en.MaximumAPosteriori(model, until=en.Stationary(atol=1e-4))
    optimiser = torch.optim.Adam(model.parameters(), 0.05)
    for step in range(80):
        optimiser.zero_grad()
        rule(x=x[(100 * step) % 400 :][:100]).backward()
        optimiser.step()
        model.project_()
        norms = model.weight.detach().norm(dim=0)
        assert torch.allclose(norms, torch.ones_like(norms))
    match = np.abs(weight.T @ model.weight.detach().numpy())
    assert (match.max(1) > 0.95).mean() >= 0.75


def test_homeostasis_follows_the_rule_of_sparsenet() -> None:
    keeper = en.models.Homeostasis(3, goal=0.5, rate=0.1, memory=0.2)
    weight = torch.nn.Parameter(torch.randn(4, 3))
    direction = weight.detach() / weight.detach().norm(dim=0)
    variance, gain = np.full(3, 0.5), np.ones(3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        codes = torch.randn(10, 3, generator=generator) * torch.tensor([0.1, 0.7, 2.0])
        keeper.adapt_(weight, codes)
        variance = 0.8 * variance + 0.2 * codes.square().mean(0).numpy()
        gain = gain * (variance / 0.5) ** 0.1
        assert weight.detach().numpy() == pytest.approx(direction.numpy() * gain, rel=1e-5)
    assert gain[0] < 0.9 < 1.1 < gain[2]
    assert set(keeper.state_dict()) == {"variance", "gain"}
    with pytest.raises(ValueError, match="rate must be a positive number, got 0"):
        en.models.Homeostasis(3, rate=0)


def test_homeostasis_brings_the_variances_together() -> None:
    _, x = sparse_data(1, 200, 6, 6)
    model = en.models.SparseCoding(6, 6, 0.1, atoms="free").double()
    with torch.no_grad():
        model.weight.mul_(torch.tensor([0.6, 0.8, 1, 1, 1.3, 1.6], dtype=F64))
    keeper = en.models.Homeostasis(6, goal=0.2, rate=0.3, memory=0.5).double()

    def spread() -> float:
        square = model.infer(x).state["a"].square().mean(0)
        return float(square.log().std())

    before = spread()
    for _ in range(15):
        keeper.adapt_(model.weight, model.infer(x).state["a"])
    assert before > 0.3
    assert spread() < 0.3 * before


def convolutional(kernels: Tensor, strength: float, size: int) -> en.Energy:
    """E = |x - sum of kernels convolved with their maps|^2 / 2 + strength |a|_1."""
    count, _, width = kernels.shape
    module = nn.ConvTranspose1d(count, 1, width, bias=False).double()
    with torch.no_grad():
        module.weight.copy_(kernels)
    a, x = en.Real(count, size - width + 1), en.Real(1, size)
    return Prediction("a", "x", module, a=a, x=x) + Sparsity(strength, a=a)


@pytest.mark.parametrize("solver", [en.Proximal(), en.ADMM(), en.CoordinateDescent(), None], ids=repr)
def test_a_convolutional_dictionary_is_the_same_energy(solver: en.Solver | None) -> None:
    """Codes meet the conditions of the lasso in the dense dictionary of all shifted kernels."""
    generator = torch.Generator().manual_seed(0)
    kernels = torch.randn(3, 1, 4, dtype=F64, generator=generator)
    x = 2 * torch.randn(2, 1, 12, dtype=F64, generator=generator)
    dense = np.zeros((12, 3 * 9))
    for kernel in range(3):
        for shift in range(9):
            dense[shift : shift + 4, 9 * kernel + shift] = kernels[kernel, 0].numpy()
    energy = convolutional(kernels, 0.3, 12)
    solution = en.settle(energy, clamp={"x": x}, solver=solver, max_steps=50_000, throw=True)
    code = solution.state["a"].flatten(1).numpy()
    assert violation(dense, x[:, 0].numpy(), code) <= 1e-8
    assert (code == 0).any()
