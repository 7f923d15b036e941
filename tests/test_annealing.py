"""Annealed importance sampling against closed forms, quadrature and enumeration."""

from __future__ import annotations

import itertools
import math
from typing import Any

import pytest
import torch
from scipy import integrate
from torch import Tensor

import energynet as en
from energynet.annealing import Standard
from helpers.functional import Functional

F64 = torch.float64
SIGMAS = 5.5  # two-sided normal: a false alarm in 4e-8


def generator(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def gaussian(e: Any, s: Tensor, f: Tensor) -> Tensor:
    return 0.5 * torch.einsum("bi,ij,bj->b", s, e.H, s) - (s * f).sum(1)


def double_well(e: Any, s: Tensor) -> Tensor:
    return (3 * (s.square() - 1).square() + e.b * s).sum(1)


def log_integral(function: Any, low: float, high: float) -> float:
    """By adaptive quadrature, of one unit."""
    value, _ = integrate.quad(lambda x: math.exp(-function(x)), low, high, limit=500, epsabs=0, epsrel=1e-11)
    return math.log(value)


def close(found: en.PartitionEstimate, truth: Tensor, error: float) -> None:
    """Within 5 standard errors, and these are small."""
    assert found.log_partition.shape == found.standard_error.shape == truth.shape
    assert found.log_partition.dtype == F64
    assert float(found.standard_error.max()) < error
    assert ((found.log_partition - truth).abs() < 5 * found.standard_error).all(), (
        found.log_partition,
        truth,
        found.standard_error,
    )


HESSIAN = torch.tensor([[2.0, 0.6, 0.0], [0.6, 1.0, -0.3], [0.0, -0.3, 0.5]], dtype=F64)
GAUSSIAN = Functional(gaussian, {"H": HESSIAN}, s=en.Real(3), f=en.Real(3))
FIELDS = torch.tensor([[0.0, 0.0, 0.0], [1.0, -1.0, 0.5]], dtype=F64)


def gaussian_log_partition(fields: Tensor, hessian: Tensor = HESSIAN) -> Tensor:
    mean = torch.linalg.solve(hessian, fields.T).T
    n = fields.shape[1]
    return 0.5 * (n * math.log(2 * math.pi) - torch.logdet(hessian) + (fields * mean).sum(1))


@pytest.mark.parametrize(
    "sampler", [None, en.MALA(0.2), en.HamiltonianMonteCarlo(0.4, 3)], ids=["default", "mala", "hmc"]
)
def test_a_gaussian_in_closed_form_for_each_sample_of_a_clamp(sampler: Any) -> None:
    ais = en.AnnealedImportanceSampling(GAUSSIAN, sampler=sampler, steps=60, chains=300)
    found = ais.estimate({"f": FIELDS}, generator=generator())
    close(found, gaussian_log_partition(FIELDS), 0.1)
    assert found.log_weights.shape == (2, 300)
    assert found.state["s"].shape == (2, 300, 3)
    acceptance = found.statistics["acceptance"]
    assert acceptance.shape == (2, 300)
    assert float(acceptance.max()) <= 1
    assert float(acceptance.mean()) > 0.8


def test_weighted_ends_are_samples_of_the_law() -> None:
    found = en.AnnealedImportanceSampling(GAUSSIAN, sampler=en.MALA(0.2), steps=60, chains=3000).estimate(
        {"f": FIELDS}, generator=generator()
    )
    weights = found.log_weights.softmax(1).unsqueeze(2)
    mean = (weights * found.state["s"]).sum(1)
    expected = torch.linalg.solve(HESSIAN, FIELDS.T).T
    spread = torch.linalg.inv(HESSIAN).diagonal().sqrt()
    assert ((mean - expected).abs() < SIGMAS * spread / found.effective_sample_size.sqrt().unsqueeze(1)).all()


DOMAINS = {
    "real": (en.Real(2), -math.inf, math.inf),
    "above": (en.NonNegative(2), 0.0, math.inf),
    "unit": (en.Unit(2), 0.0, 1.0),
    "box": (en.Interval(2, low=-1.5, high=0.5), -1.5, 0.5),
    "half": (en.Interval(2, low=-1.0, high=math.inf), -1.0, math.inf),
    "below": (en.Interval(2, low=-math.inf, high=0.5), -math.inf, 0.5),
    "sigmoid": (en.Unit(2, link=en.Sigmoid()), 0.0, 1.0),
    "tanh": (en.Real(2, link=en.Tanh()), -1.0, 1.0),
}


def test_every_domain_by_quadrature() -> None:
    def wells(e: Any, **state: Tensor) -> Tensor:
        total: Any = sum(double_well(e, value) for value in state.values())
        return total

    variables = {name: variable for name, (variable, _, _) in DOMAINS.items()}
    energy = Functional(wells, {"b": torch.tensor(0.5, dtype=F64)}, **variables)
    truth = 0.0
    for _, low, high in DOMAINS.values():
        truth += 2 * log_integral(lambda x: 3 * (x * x - 1) ** 2 + 0.5 * x, max(low, -6.0), min(high, 6.0))
    ais = en.AnnealedImportanceSampling(energy, sampler=en.MALA(0.03), steps=200, chains=1000)
    close(ais.estimate(generator=generator()), torch.tensor([truth], dtype=F64), 0.15)


@pytest.mark.parametrize("name", DOMAINS)
def test_the_standard_law_of_a_domain_by_quadrature(name: str) -> None:
    variable, low, high = DOMAINS[name]
    base, like = Standard({"s": variable}), torch.zeros(2, dtype=F64)

    def density(x: float) -> float:
        return math.exp(-float(base.energy(s=torch.full((1, 2), x, dtype=F64))) / 2)

    def mass(low: float, high: float) -> float:
        return integrate.quad(density, max(low, -12.0), min(high, 12.0), epsabs=0, epsrel=1e-9)[0]

    whole = mass(low, high)
    assert base.log_partition({}, like).tolist() == pytest.approx([2 * math.log(whole)] * 2)
    held = en.Partial(torch.tensor([[0.3, 9.0], [9.0, 0.2]], dtype=F64), torch.eye(2) > 0)
    expected = [math.log(whole * density(0.3)), math.log(whole * density(0.2))]
    assert base.log_partition({"s": held}, like).tolist() == pytest.approx(expected)
    draws = base.draw({}, torch.zeros(2000, dtype=F64), generator())["s"]
    variable.check("s", draws)
    points = torch.linspace(max(low, -2.0), min(high, 2.0), 9).tolist()
    inside = [float(((draws > a) & (draws <= b)).to(F64).mean()) for a, b in itertools.pairwise(points)]
    for share, (a, b) in zip(inside, itertools.pairwise(points), strict=True):
        truth = mass(a, b) / whole
        assert abs(share - truth) < SIGMAS * math.sqrt(truth * (1 - truth) / 4000)


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_mean_weight_is_the_ratio_of_partition_functions_at_any_number_of_steps(steps: int) -> None:
    """E[w] = Z / Z_base exactly; the second moment is finite here, for the base is the wider law."""
    hessian = torch.tensor([[1.5, 0.3], [0.3, 1.2]], dtype=F64)
    energy = Functional(gaussian, {"H": hessian}, s=en.Real(2), f=en.Real(2))
    fields = torch.tensor([[0.4, -0.3]], dtype=F64)
    chains = 40_000
    found = en.AnnealedImportanceSampling(energy, sampler=en.MALA(0.3), steps=steps, chains=chains).estimate(
        {"f": fields}, generator=generator()
    )
    weights = found.log_weights[0].exp()
    ratio = math.exp(float(gaussian_log_partition(fields, hessian)) - math.log(2 * math.pi))
    error = float(weights.std()) / math.sqrt(chains)
    assert error < 0.01 * ratio
    assert abs(float(weights.mean()) - ratio) < SIGMAS * error
    assert float(found.log_base) == pytest.approx(math.log(2 * math.pi))


def test_forward_and_reverse_bracket_the_truth() -> None:
    """By Jensen's inequality; with few steps the gap is many standard errors wide on either side."""
    truth = gaussian_log_partition(FIELDS)
    chains = 2000
    mean = torch.linalg.solve(HESSIAN, FIELDS.T).T
    root = torch.linalg.cholesky(torch.linalg.inv(HESSIAN))
    noise = torch.randn(2, chains, 3, dtype=F64, generator=generator(1))
    exact = (mean.unsqueeze(1) + noise @ root.T).reshape(-1, 3)
    gaps = []
    for steps in (10, 50):
        ais = en.AnnealedImportanceSampling(GAUSSIAN, sampler=en.MALA(0.2), steps=steps, chains=chains)
        forward = ais.estimate({"f": FIELDS}, generator=generator())
        reverse = ais.reverse({"s": exact}, {"f": FIELDS}, generator=generator(2))
        below = forward.log_base + forward.log_weights.mean(1)
        above = reverse.log_base - reverse.log_weights.mean(1)
        error = (forward.log_weights.std(1) + reverse.log_weights.std(1)) / math.sqrt(chains)
        margin = SIGMAS * error * (1 if steps == 10 else -1)
        assert (below + margin < truth).all()
        assert (above - margin > truth).all()
        assert not forward.reverse
        assert reverse.reverse
        close(reverse, truth, 0.3)  # the mean of weights has no bias in this direction either
        gaps.append(above - below)
    assert (gaps[1] < 0.5 * gaps[0]).all()


def test_what_a_part_of_a_variable_is_clamped_to() -> None:
    """The integral over the rest: a Gaussian of the free rows, whose field holds the coupling to the others."""
    value = torch.tensor([[0.7, 0.0, 0.0], [-1.2, 0.0, 0.3]], dtype=F64)
    mask = torch.tensor([[True, False, False], [True, False, True]])
    truth = []
    for sample in range(2):
        held, free = mask[sample], ~mask[sample]
        fixed = value[sample][held]
        own = 0.5 * fixed @ HESSIAN[held][:, held] @ fixed - FIELDS[sample][held] @ fixed
        field = FIELDS[sample][free] - HESSIAN[free][:, held] @ fixed
        truth.append(gaussian_log_partition(field.unsqueeze(0), HESSIAN[free][:, free])[0] - own)
    ais = en.AnnealedImportanceSampling(GAUSSIAN, sampler=en.MALA(0.2), steps=60, chains=300)
    found = ais.estimate({"f": FIELDS, "s": en.Partial(value, mask)}, generator=generator())
    close(found, torch.stack(truth), 0.1)
    ends = found.state["s"]
    assert torch.equal(ends[mask.unsqueeze(1).expand_as(ends)].reshape(-1).unique(), value[mask].unique())


class Wide(en.annealing.Tractable):
    """A normal law of another width."""

    def __init__(self, deviation: float) -> None:
        super().__init__(s=en.Real(3))
        self.deviation = deviation

    def energy(self, s: Tensor) -> Tensor:
        return 0.5 * s.square().sum(1) / self.deviation**2

    def log_partition(self, clamp: Any, like: Tensor) -> Tensor:
        return torch.full_like(like, 3 * math.log(self.deviation * math.sqrt(2 * math.pi)))

    def draw(self, clamp: Any, like: Tensor, generator: Any) -> Any:
        return {"s": self.deviation * torch.randn(len(like), 3, generator=generator, dtype=like.dtype)}


def test_a_base_of_ones_own() -> None:
    ais = en.AnnealedImportanceSampling(
        GAUSSIAN, base=Wide(1.6), sampler=en.MALA(0.2), betas=[0, 0.1, 0.3, 0.6, 1.0], chains=2000
    )
    found = ais.estimate({"f": FIELDS}, generator=generator())
    close(found, gaussian_log_partition(FIELDS), 0.1)
    assert found.log_base.tolist() == pytest.approx([3 * math.log(1.6 * math.sqrt(2 * math.pi))] * 2)


def test_a_conditioned_energy_is_one_of_its_free_variables() -> None:
    seeded = [
        en.AnnealedImportanceSampling(energy, sampler=en.MALA(0.2), steps=10, chains=5).estimate(
            clamp, generator=generator()
        )
        for energy, clamp in ((GAUSSIAN.condition(f=FIELDS), None), (GAUSSIAN, {"f": FIELDS}))
    ]
    assert torch.equal(seeded[0].log_weights, seeded[1].log_weights)


def test_errors_and_effective_sizes_of_known_weights() -> None:
    weights = torch.tensor([[1.0, 3.0], [2.0, 2.0], [1e-9, 1.0]], dtype=F64)
    made = en.PartitionEstimate(
        log_weights=weights.log() + 900.0,  # exp(900) overflows
        log_base=torch.tensor([1.0, 2.0, 3.0], dtype=F64),
        reverse=False,
        state={},
        statistics={},
    )
    assert made.log_partition.tolist() == pytest.approx(
        [901 + math.log(2), 902 + math.log(2), 903 - math.log(2)]
    )
    assert made.standard_error.tolist() == pytest.approx([0.5, 0.0, 1.0])  # sqrt(2) / 2 / sqrt(2)
    assert made.effective_sample_size.tolist() == pytest.approx([16 / 10, 2.0, 1.0])
    back = en.PartitionEstimate(made.log_weights, made.log_base, True, {}, {})
    assert back.log_partition[0].item() == pytest.approx(1 - 900 - math.log(2))
    alone = en.PartitionEstimate(made.log_weights[:, :1], made.log_base, False, {}, {})
    assert alone.standard_error.isnan().all()


def test_float32_weights_gather_in_float64() -> None:
    energy = Functional(gaussian, {"H": HESSIAN.float()}, s=en.Real(3), f=en.Real(3))
    ais = en.AnnealedImportanceSampling(energy, sampler=en.MALA(0.2), steps=60, chains=300)
    found = ais.estimate({"f": FIELDS.float()}, generator=generator())
    assert found.log_weights.dtype == F64
    assert found.state["s"].dtype == torch.float32
    close(found, gaussian_log_partition(FIELDS), 0.1)


def test_the_same_seed_gives_the_same_weights_and_the_trace_is_kept() -> None:
    ais = en.AnnealedImportanceSampling(GAUSSIAN, sampler=en.MALA(0.2), steps=5, chains=4)
    first, second = (ais.estimate({"f": FIELDS}, generator=generator(3)).log_weights for _ in range(2))
    assert torch.equal(first, second)
    assert len(ais._paths) == 1


def test_every_move_starts_from_what_is_true_at_its_place_on_the_path() -> None:
    """What a sampler remembers is of the energy at this b; at b = 0 it need not move; the law's T is 1."""
    seen: list[tuple[float, float]] = []

    class Witness(en.Sampler):
        def init(self, flow: Any, state: Any) -> Any:
            return {"energy": flow.energy(state)}

        def flow(self, *args: Any, **kwargs: Any) -> Any:
            return en.LiftedFlow(*args, **kwargs)

        def sample(self, flow: Any, state: Any, carry: Any, generator: Any, temperature: Any) -> Any:
            assert torch.equal(carry["energy"], flow.energy(state))
            value = state["s"]
            base = 0.5 * value.square().sum(1)
            target = GAUSSIAN.energy(s=value, f=FIELDS[:1].expand(len(value), -1)).detach()
            beta = ((carry["energy"] - base) / (target - base)).median()
            seen.append((round(float(beta), 9), temperature))
            return {"s": value + 0.1}, carry, carry["energy"] * 0

    betas = [0.0, 0.0, 0.25, 0.25, 0.75, 1.0]
    ais = en.AnnealedImportanceSampling(GAUSSIAN, sampler=Witness(3.0), betas=betas, chains=5)
    found = ais.estimate({"f": FIELDS[:1]}, generator=generator())
    assert seen == [(0.25, 1.0), (0.25, 1.0), (0.75, 1.0)]
    assert found.statistics == {}


def test_what_cannot_be_annealed_is_refused() -> None:
    for name in ("steps", "chains"):
        with pytest.raises(ValueError, match=f"{name} must be a whole number above 0, got 0"):
            en.AnnealedImportanceSampling(GAUSSIAN, **{name: 0})
    for betas in ([0.0], [0.1, 1.0], [0.0, 0.9], [0.0, 0.5, 0.4, 1.0], [0.0, math.nan, 1.0]):
        with pytest.raises(ValueError, match="betas must grow from 0 to 1"):
            en.AnnealedImportanceSampling(GAUSSIAN, betas=betas)
    with pytest.raises(TypeError, match="expected a sampler such as Gibbs or MALA"):
        en.AnnealedImportanceSampling(GAUSSIAN, sampler=en.Euler(0.1))  # type: ignore[arg-type]
    ais = en.AnnealedImportanceSampling(GAUSSIAN, sampler=en.MALA(0.2))
    with pytest.raises(en.SettlingError, match="nothing to sum over; leave one free"):
        ais.estimate({"s": FIELDS, "f": FIELDS})
    for samples in ({"s": torch.zeros(3, 3, dtype=F64)}, {}, {"q": torch.zeros(2, 3, dtype=F64)}):
        with pytest.raises(en.StateError, match="reverse: expected values of s, as many for each of the 2"):
            ais.reverse(samples, {"f": FIELDS})
    with pytest.raises(en.StateError, match=r"'s': a base that is no Tractable has discrete free variables"):
        en.AnnealedImportanceSampling(
            GAUSSIAN, base=en.terms.Leak(s=en.Real(3)), sampler=en.MALA(0.2)
        ).estimate({"f": FIELDS})
    with pytest.raises(
        ValueError, match="expected a base of the free variables s, f within s, f, got one of s"
    ):
        en.AnnealedImportanceSampling(GAUSSIAN, base=Wide(1.0), sampler=en.MALA(0.2)).estimate()
    named = Functional(lambda e, mixture: mixture.sum(1), mixture=en.Real(2))
    with pytest.raises(ValueError, match="call the variable otherwise"):
        en.AnnealedImportanceSampling(named, sampler=en.MALA(0.2)).estimate()
    mixed = Functional(lambda e, s, b: s.pow(4).sum(1) + b.sum(1), s=en.Real(2), b=en.Bit(2))
    with pytest.raises(en.SettlingError, match="does not show that the energy is quadratic in 's'"):
        en.AnnealedImportanceSampling(mixed).estimate()
