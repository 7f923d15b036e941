"""Mean field against enumeration, its own fixed-point equations and the expansion in the couplings."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import energynet as en
from helpers.functional import Functional

F64 = torch.float64
TIGHT = en.Stationary(atol=1e-11)


def machine(scale: float, seed: int, domain: type[en.Variable] = en.Bit) -> en.Energy:
    """Five coupled units, three above them, fields on both."""
    v, h = domain(5), domain(3)
    energy = en.terms.Coupling(v=v) + en.terms.Bilinear("v", "h", v=v, h=h) + en.terms.Field(v=v)
    energy = energy + en.terms.Field(h=h)
    draw = torch.Generator().manual_seed(seed)
    for name, parameter in energy.named_parameters():
        nn.init.normal_(parameter, 0.0, 0.5 if name.endswith("bias") else scale, generator=draw)
    return energy.to(F64)


def log_partition(energy: en.Energy, order: int, temperature: float = 1.0) -> torch.Tensor:
    """-F / T where it is stationary; a spin's entropy lacks a constant of log 2."""
    found = en.settle(en.MeanField(energy, order, temperature), until=TIGHT, throw=True)
    spins = sum(v.shape[0] for v in energy.variables.values() if isinstance(v, en.Spin))
    return -found.energy / temperature + spins * torch.log(torch.tensor(2.0, dtype=F64))


@pytest.mark.parametrize("domain", [en.Bit, en.Spin])
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_it_is_exact_without_couplings(domain: type[en.Variable], temperature: float) -> None:
    energy = en.terms.Field(v=domain(4)).to(F64)
    nn.init.normal_(next(energy.parameters()), generator=torch.Generator().manual_seed(0))
    truth = en.exact.log_partition(energy, temperature=temperature)
    for order in (1, 2):
        assert torch.allclose(log_partition(energy, order, temperature), truth, rtol=0, atol=1e-10)


@pytest.mark.parametrize("domain", [en.Bit, en.Spin])
@pytest.mark.parametrize("seed", range(5))
def test_naive_mean_field_bounds_the_partition_function(domain: type[en.Variable], seed: int) -> None:
    energy = machine(0.8, seed, domain)
    gap = (en.exact.log_partition(energy) - log_partition(energy, 1)).detach()
    assert float(gap) > 1e-6


@pytest.mark.parametrize("domain", [en.Bit, en.Spin])
@pytest.mark.parametrize("temperature", [1.0, 1.7])
def test_errors_are_of_the_next_order_in_the_couplings(domain: type[en.Variable], temperature: float) -> None:
    """log Z - F is O(W^2) for naive mean field, O(W^3) with the reaction (Plefka 1982)."""
    scales = (0.04, 0.02)
    for order, least, most in ((1, 3.4, 4.6), (2, 6.5, 9.5)):
        errors = []
        for scale in scales:
            energy = machine(0.0, 1, domain)
            draw = torch.Generator().manual_seed(7)
            with torch.no_grad():
                for name, parameter in energy.named_parameters():
                    if not name.endswith("bias"):
                        parameter.copy_(scale * torch.randn(parameter.shape, dtype=F64, generator=draw))
            truth = en.exact.log_partition(energy, temperature=temperature)
            errors.append(float((truth - log_partition(energy, order, temperature)).abs().detach()))
        assert least < errors[0] / errors[1] < most, (order, errors)


def test_means_are_those_that_the_others_give() -> None:
    energy = machine(0.5, 3)
    mean = en.settle(en.MeanField(energy), until=TIGHT, throw=True).state
    terms = {type(part).__name__ + "".join(part.variables): part for _, part in energy.parts()}
    coupling, layer = terms["Couplingv"], terms["Bilinearvh"]
    fields = {"v": terms["Fieldv"], "h": terms["Fieldh"]}
    v = mean["v"] @ coupling.matrix() + mean["h"] @ layer.weight + fields["v"].bias
    h = mean["v"] @ layer.weight.t() + fields["h"].bias
    assert torch.allclose(mean["v"], v.sigmoid(), rtol=0, atol=1e-9)
    assert torch.allclose(mean["h"], h.sigmoid(), rtol=0, atol=1e-9)


def test_the_given_units_stay_and_each_sample_has_its_own() -> None:
    energy = machine(0.6, 4)
    v = torch.tensor([[1, 0, 1, 0, 1], [0, 0, 1, 1, 0]], dtype=F64)
    found = en.settle(en.MeanField(energy), clamp={"v": v}, until=TIGHT)
    truth = en.exact.log_partition(energy, clamp={"v": v})  # given v the units of h are independent
    assert torch.allclose(-found.energy, truth, rtol=0, atol=1e-9)
    assert torch.allclose(found.state["h"], en.exact.moments(energy, clamp={"v": v}).mean["h"], atol=1e-9)


def test_the_gradient_of_the_bound_needs_no_gradient_of_the_means() -> None:
    """Where F is stationary dF/dW is that of E at the means; against finite differences of the settled F."""
    energy = machine(0.5, 5)
    weight = next(p for n, p in energy.named_parameters() if p.ndim == 2 and p.shape == (3, 5))
    found = en.settle(en.MeanField(energy), until=TIGHT)
    (slope,) = torch.autograd.grad(
        energy.energy(**{n: m.detach() for n, m in found.state.items()}).sum(), weight
    )
    step = 1e-5
    values = []
    for sign in (1, -1):
        with torch.no_grad():
            weight[1, 2] += sign * step
        values.append(float(en.settle(en.MeanField(energy), until=TIGHT).energy))
        with torch.no_grad():
            weight[1, 2] -= sign * step
    assert float(slope[1, 2]) == pytest.approx((values[0] - values[1]) / (2 * step), abs=1e-7)


def test_what_it_cannot_do_is_said() -> None:
    cubic = Functional(lambda _, s: -(s[:, 0] * s[:, 1] * s[:, 2]), s=en.Bit(3))
    assert float(en.settle(en.MeanField(cubic), {"s": torch.full((1, 3), 0.5)}).energy) < 0
    with pytest.raises(en.StateError, match="order 2 knows the couplings of Bilinear"):
        en.MeanField(cubic, order=2)
    with pytest.raises(en.StateError, match="no discrete variable"):
        en.MeanField(en.terms.Leak(s=en.Real(2)))
    with pytest.raises(ValueError, match="order must be 1 or 2"):
        en.MeanField(machine(0.1, 0), order=3)
    with pytest.raises(ValueError, match="temperature is a positive number"):
        en.MeanField(machine(0.1, 0), temperature=0.0)
    with pytest.raises(TypeError, match="then condition it"):
        en.MeanField(machine(0.1, 0).condition(v=torch.zeros(1, 5, dtype=F64)))


def test_couplings_of_several_terms_are_squared_as_a_sum() -> None:
    v, h = en.Bit(3), en.Bit(2)
    draw = torch.Generator().manual_seed(2)
    up, down, whole = (
        en.terms.Bilinear("v", "h", v=v, h=h),
        en.terms.Bilinear("h", "v", v=v, h=h),
        en.terms.Bilinear("v", "h", v=v, h=h),
    )
    among, more = en.terms.Coupling(v=v), en.terms.Coupling(v=v, h=h)
    for term in (up, down, among, more):
        nn.init.normal_(term.weight, generator=draw)
    with torch.no_grad():
        whole.weight.copy_(up.weight + 2 * down.weight.t() + more.matrix()[3:, :3])
    inner, outer = en.terms.Coupling(v=v), en.terms.Coupling(h=h)
    with torch.no_grad():
        inner.weight.copy_(among.matrix() + more.matrix()[:3, :3])
        outer.weight.copy_(more.matrix()[3:, 3:])
    means = {"v": torch.rand(4, 3, generator=draw), "h": torch.rand(4, 2, generator=draw)}
    found = en.MeanField(up + 2.0 * down + among + more, 2).energy(**means)
    expected = en.MeanField(whole + inner + outer, 2).energy(**means)
    assert torch.allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize("given", [en.Real(3), en.Unit(3), en.NonNegative(3)], ids=repr)
def test_what_is_continuous_and_given_has_no_reaction(given: en.Variable) -> None:
    h = en.Bit(2)
    energy = (en.terms.Bilinear("x", "h", x=given, h=h) + en.terms.Field(h=h)).to(F64)
    x = torch.rand(4, 3, dtype=F64, generator=torch.Generator().manual_seed(0))
    found = en.settle(en.MeanField(energy, 2), clamp={"x": x}, until=TIGHT)
    truth = en.exact.log_partition(energy, clamp={"x": x})  # the units are independent
    assert torch.allclose(-found.energy, truth, rtol=0, atol=1e-9)
