"""Centring against the gradient of the centred energy itself, told in the parameters of the other."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.func import functional_call, jvp

import energynet as en
from energynet.rules.centring import Centring
from energynet.terms import Bilinear, Field
from helpers.machines import F64, randomised, restricted, states

MASK = torch.tensor([[i != j and (i + j) % 3 != 0 for j in range(5)] for i in range(5)])


def weighted() -> en.Energy:
    """Terms with factors, and a variable without a field."""
    bits = {"v": en.Bit(3), "h": en.Bit(2), "g": en.Bit(2)}
    return (
        2.0 * Bilinear("v", "h", v=bits["v"], h=bits["h"])
        + 0.5 * Field(v=bits["v"])
        + Field(h=bits["h"])
        + Bilinear("h", "g", h=bits["h"], g=bits["g"])
    )


MACHINES: dict[str, Callable[[], en.Energy]] = {
    "restricted": lambda: restricted(3, 2),
    "full": lambda: en.models.BoltzmannMachine(3, 2),
    "masked spins": lambda: en.models.BoltzmannMachine(3, 2, mask=MASK, spins=True),
    "weighted": weighted,
}


def shifted(energy: en.Energy, state: dict[str, Tensor], offsets: dict[str, Tensor]) -> Tensor:
    """The energy whose pairs are of s - offset: pairs at the shifted state, fields at the state itself.

    A pair of which one variable has no field, whose bias would make up for the offset of the other, stays.
    """
    fields = {part.variable for _, part in energy.parts() if isinstance(part, Field)}
    total = torch.zeros(len(next(iter(state.values()))), dtype=F64)
    for factor, part in energy.parts():
        still = isinstance(part, Field) or not fields >= set(part.variables)
        moved = {n: state[n] - (0.0 if still else offsets[n]) for n in part.variables}
        total = total + factor * part.energy(**moved)
    return total


def plain(energy: en.Energy, centred: dict[str, Tensor], offsets: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parameters with which the plain energy is the centred one, up to a number: forces at zero tell."""
    zero = {n: torch.zeros(1, *v.shape, dtype=F64, requires_grad=True) for n, v in energy.variables.items()}
    fields = {part.variable: (f, part) for f, part in energy.parts() if isinstance(part, Field)}
    found = dict(centred)
    names = {id(p): n for n, p in energy.named_parameters()}

    class Shift(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.energy = energy

        def forward(self) -> Tensor:
            return shifted(energy, zero, offsets).sum()

    value = functional_call(Shift(), {f"energy.{n}": p for n, p in centred.items()})
    slopes = torch.autograd.grad(value, list(zero.values()), create_graph=True)
    for name, slope in zip(zero, slopes, strict=True):
        if name in fields:
            factor, part = fields[name]
            found[names[id(part.bias)]] = -slope[0] / factor
    return found


@pytest.mark.parametrize("machine", list(MACHINES))
def test_it_is_the_gradient_of_the_centred_energy(machine: str) -> None:
    energy = randomised(MACHINES[machine]())
    spins = machine == "masked spins"
    rows = states(sum(v.shape[0] for v in energy.variables.values()), (-1.0, 1.0) if spins else (0.0, 1.0))
    sizes = [v.shape[0] for v in energy.variables.values()]
    one, other = (
        dict(zip(energy.variables, rows[pick].split(sizes, 1), strict=True))
        for pick in torch.randint(len(rows), (2, 7), generator=torch.Generator().manual_seed(3))
    )
    centring = Centring(energy, 0.5)
    parameters = {n: p.detach().clone() for n, p in energy.named_parameters()}

    def contrast(values: dict[str, Tensor], offsets: dict[str, Tensor] | None) -> Tensor:
        class Contrast(torch.nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.energy = energy

            def forward(self) -> Tensor:
                if offsets is None:
                    return energy.energy(**one).mean() - energy.energy(**other).mean()
                return shifted(energy, one, offsets).mean() - shifted(energy, other, offsets).mean()

        return functional_call(Contrast(), {f"energy.{n}": p for n, p in values.items()})

    leaves = {n: p.clone().requires_grad_() for n, p in parameters.items()}
    slopes = torch.autograd.grad(contrast(leaves, None), list(leaves.values()))
    found = dict(zip(leaves, slopes, strict=True))
    centring(found, one)
    offsets = {n: one[n].mean(0) if n in centring.offsets.get() else torch.zeros(sizes[i], dtype=F64)
               for i, n in enumerate(energy.variables)}  # fmt: skip
    # the centred gradient; how it moves the parameters of the plain energy is the derivative of the change
    slopes = torch.autograd.grad(contrast(leaves, offsets), list(leaves.values()))
    tangent = dict(zip(leaves, slopes, strict=True))
    _, expected = jvp(lambda p: plain(energy, p, offsets), (parameters,), (tangent,))
    for name, value in found.items():
        assert torch.allclose(value, expected[name], atol=1e-12), name
    assert any(not torch.allclose(found[n], s) for n, s in zip(leaves, slopes, strict=True))


def test_offsets_follow_the_means_of_the_clamped_phase() -> None:
    rbm = restricted(3, 2)
    rule = en.ContrastiveDivergence(rbm, centring=0.25, generator=torch.Generator().manual_seed(0))
    first, second = states(3)[[1, 3]], states(3)[[6, 7]]
    rule(v=first)
    assert torch.equal(rule.get_buffer("centring.offsets.v"), first.mean(0))
    rule(v=second)
    offsets = rule.get_submodule("centring.offsets")
    assert torch.allclose(offsets.get_buffer("v"), 0.75 * first.mean(0) + 0.25 * second.mean(0))
    hidden = [torch.sigmoid(v @ rbm.weight.T + rbm.hidden_bias).mean(0) for v in (first, second)]
    assert torch.allclose(offsets.get_buffer("h"), 0.75 * hidden[0] + 0.25 * hidden[1])


def test_flipping_bits_of_the_data_flips_what_is_learned() -> None:
    """With offsets at the mean of the phase the step is the same machine, seen through flipped units."""
    rbm = restricted(3, 2)
    v, flip = states(3)[[1, 3, 4]], torch.tensor([1.0, 0.0, 1.0], dtype=F64)
    sign = 1 - 2 * flip
    mirror = restricted(3, 2)
    with torch.no_grad():  # v -> flip + sign v
        mirror.weight.copy_(rbm.weight * sign)
        mirror.hidden_bias.copy_(rbm.hidden_bias + rbm.weight @ flip)
        mirror.visible_bias.copy_(rbm.visible_bias * sign)
    samples = states(3)[[0, 5, 6]]

    def step(machine: en.models.RestrictedBoltzmannMachine, data: Tensor, free: Tensor) -> list[Tensor]:
        value = machine.free_energy(data).mean() - machine.free_energy(free).mean()
        found = dict(zip([n for n, _ in machine.named_parameters()],
                         torch.autograd.grad(value, list(machine.parameters())), strict=True))  # fmt: skip
        hidden = torch.sigmoid(data @ machine.weight.detach().T + machine.hidden_bias.detach())
        Centring(machine, 1.0)(found, {"v": data, "h": hidden})
        return [p.detach() - 0.1 * found[n] for n, p in machine.named_parameters()]

    names = [n for n, _ in rbm.named_parameters()]
    ours = dict(zip(names, step(rbm, v, samples), strict=True))
    theirs = dict(zip(names, step(mirror, flip + sign * v, flip + sign * samples), strict=True))
    weight, visible, hidden = (
        next(n for n in names if n.endswith(end))
        for end in ("coupling.weight", "fields.v.bias", "fields.h.bias")
    )
    assert torch.allclose(theirs[weight], ours[weight] * sign, atol=1e-12)
    assert torch.allclose(theirs[visible], ours[visible] * sign, atol=1e-12)
    assert torch.allclose(theirs[hidden], ours[hidden] + ours[weight] @ flip, atol=1e-12)


def test_what_cannot_be_centred_is_refused() -> None:
    bare = Bilinear("v", "h", v=en.Bit(2), h=en.Bit(2))
    with pytest.raises(ValueError, match="no variable of such a term has a Field"):
        Centring(bare, 0.1)
