"""The prediction term: its energy for any module and precision, its derivatives, its graph."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import energynet as en
from energynet.terms import Dense, Prediction
from energynet.terms.graph import chain_to, predicted
from energynet.terms.pullback import _Dense, linearise

F64 = torch.float64
H, Y = en.Real(4), en.Real(3)


def linear(**more: Any) -> Prediction:
    torch.manual_seed(0)
    return Prediction("h", "y", nn.Linear(4, 3), h=H, y=Y, **more).double()


def state(batch: int = 5) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {n: torch.randn(batch, size, dtype=F64, generator=generator) for n, size in (("h", 4), ("y", 3))}


DIAGONAL = torch.tensor([0.5, 2.0, 4.0], dtype=F64)


@pytest.mark.parametrize("precision", [1.0, 2.5, torch.tensor(2.5, dtype=F64), DIAGONAL])
@pytest.mark.parametrize("learn", [False, True])
def test_energy_is_minus_the_log_density_of_a_gaussian(precision: Any, learn: bool) -> None:
    term = linear(precision=precision, learn_precision=learn)
    given = state()
    error = given["y"] - given["h"] @ term.module.weight.T - term.module.bias  # type: ignore[operator, union-attr]
    p = torch.as_tensor(precision, dtype=F64).expand(3)
    normal = torch.distributions.MultivariateNormal(torch.zeros(3, dtype=F64), precision_matrix=p.diag())
    # without the normaliser, where the precision is fixed; without 3/2 log 2 pi always
    constant = 1.5 * math.log(2 * math.pi) + (0.0 if learn else -0.5 * float(p.log().sum()))
    assert torch.allclose(term(given), -normal.log_prob(error) - constant, rtol=1e-6)


@pytest.mark.parametrize("precision", [1.0, DIAGONAL])
def test_the_learned_precision_is_stationary_at_the_inverse_variance(precision: Any) -> None:
    term = linear(precision=precision, learn_precision=True)
    given = state(batch=50)
    with torch.no_grad():
        square = (given["y"] - term.predict(given["h"])).square()
        variance = square.mean() if isinstance(precision, float) else square.mean(0)
        assert term.log_precision is not None
        term.log_precision.copy_(-variance.log())
    (slope,) = torch.autograd.grad(term(given).mean(), [term.log_precision])
    assert float(slope.abs().max()) < 1e-12


def test_fixed_precision_follows_the_dtype_and_is_saved() -> None:
    term = Prediction("h", "y", nn.Linear(4, 3), precision=torch.tensor([0.5, 2.0, 4.0]), h=H, y=Y)
    assert isinstance(term.double().precision, Tensor)
    assert term.double().precision.dtype == F64  # type: ignore[union-attr]
    assert not [n for n, _ in term.named_parameters() if "precision" in n]
    assert "_diagonal" in term.state_dict()


class Residual(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(2, 2, 3, padding=1)

    def forward(self, z: Tensor) -> Tensor:
        return z + self.conv(z.tanh())


def test_convolutional_and_residual_modules_settle_and_obey_the_laws() -> None:
    torch.manual_seed(0)
    image, hidden, code = en.Real(1, 5, 5), en.Real(2, 3, 3), en.Real(2, 3, 3)
    energy = (
        Prediction("x", "a", nn.Conv2d(1, 2, 3), x=image, a=hidden)
        + Prediction("a", "b", Residual(), a=hidden, b=code, precision=0.5)
    ).double()
    x, b = torch.randn(3, 1, 5, 5, dtype=F64), torch.randn(3, 2, 3, 3, dtype=F64)
    solution = en.settle(energy, clamp={"x": x, "b": b}, max_steps=5000, throw=True)
    leaf = solution.state["a"].detach().requires_grad_()
    (slope,) = torch.autograd.grad(energy.energy(x=x, a=leaf, b=b).sum(), leaf)
    assert float(slope.abs().max()) < 1e-8
    laws = ["energies_are_independent", "terms_sum_to_the_energy", "force_is_the_gradient", "pickle_survives"]
    report = en.testing.check_energy(energy, laws=laws, examples=2)
    assert report.passed == [law for law in report.passed if law in laws]
    assert len(report.passed) == 4


# -- the transpose of the derivative

MODULES: dict[str, Any] = {
    "linear": lambda: nn.Linear(4, 4),
    "no bias": lambda: nn.Linear(4, 4, bias=False),
    **{
        f.__name__: (lambda f=f: nn.Sequential(f(), nn.Linear(4, 4)))
        for f in (nn.Identity, nn.Tanh, nn.Sigmoid, nn.ReLU)
    },
    "softplus": lambda: nn.Sequential(nn.Softplus(), nn.Linear(4, 4)),
    "after": lambda: nn.Sequential(nn.Linear(4, 4), nn.Tanh()),
    "dense": lambda: Dense(4, 4, nn.Tanh(), scale=0.3, residual=True),
    "dense no bias": lambda: Dense(4, 4, nn.Sigmoid(), scale=0.3, bias=False),
    "dense gelu": lambda: Dense(4, 4, nn.GELU()),
}
CLOSED = {"linear", "no bias", "Identity", "Tanh", "Sigmoid", "ReLU", "dense", "dense no bias"}


@pytest.mark.parametrize("name", MODULES)
def test_pull_is_autograds_product(name: str) -> None:
    torch.manual_seed(0)
    module = MODULES[name]().double()
    source, slope = torch.randn(5, 4, dtype=F64), torch.randn(5, 4, dtype=F64)
    found = linearise(module, source)
    assert isinstance(found, _Dense) == (name in CLOSED)
    leaf = source.clone().requires_grad_()
    output = module(leaf)
    assert torch.equal(found.prediction, output)
    assert not found.prediction.requires_grad
    expected = torch.autograd.grad(output, [leaf, *module.parameters()], slope)
    for _ in range(2):  # as often as one likes
        first, rest = found.pull(slope, source=True, parameters=True)
        assert first is not None
        for one, other in zip([first, *rest.values()], expected, strict=True):
            assert torch.allclose(one, other, rtol=1e-14, atol=1e-15)
        assert list(rest) == list(module.parameters())
    assert found.pull(slope, source=False, parameters=False) == (None, {})
    first, rest = found.pull(slope, source=True, parameters=False)
    assert first is not None and torch.allclose(first, expected[0], rtol=1e-14) and not rest
    module.requires_grad_(False)
    assert not linearise(module, source).pull(slope, source=True, parameters=True)[1]


@pytest.mark.parametrize("where", ["module", "activation", "linear"])
def test_a_hook_is_heard(where: str) -> None:
    module = nn.Sequential(nn.Tanh(), nn.Linear(4, 4)).double()
    part = {"module": module, "activation": module[0], "linear": module[1]}[where]
    part.register_forward_hook(lambda _, __, output: 2 * output)
    source = torch.randn(2, 4, dtype=F64)
    assert torch.equal(linearise(module, source).prediction, module(source))


@pytest.mark.parametrize("where", ["module", "activation", "linear"])
def test_a_hook_on_the_way_back_is_heard(where: str) -> None:
    module = nn.Sequential(nn.Tanh(), nn.Linear(4, 4)).double()
    part = {"module": module, "activation": module[0], "linear": module[1]}[where]
    source, slope = torch.randn(2, 4, dtype=F64), torch.randn(2, 4, dtype=F64)
    before, _ = linearise(module, source).pull(slope, source=True, parameters=False)
    part.register_full_backward_hook(lambda _, slopes, __: (2 * slopes[0],))
    after, _ = linearise(module, source).pull(slope, source=True, parameters=False)
    assert before is not None and after is not None
    assert torch.allclose(after, 2 * before, rtol=1e-14)


def test_a_linear_map_of_images_keeps_their_shape() -> None:
    module, source = nn.Linear(4, 2), torch.randn(3, 5, 4)
    found = linearise(module, source)
    assert found.prediction.shape == (3, 5, 2)
    first, rest = found.pull(torch.ones(3, 5, 2), source=True, parameters=True)
    assert first is not None and first.shape == source.shape
    assert torch.allclose(rest[module.weight], source.sum((0, 1)).expand(2, 4), atol=1e-5)


# -- the graph


def test_predicted_goes_from_what_is_known_in_any_order_of_terms() -> None:
    torch.manual_seed(0)
    a, b, c, d = (en.Real(2) for _ in range(4))
    first, second, side = nn.Linear(2, 2), nn.Linear(2, 2), nn.Linear(2, 2)
    energy = (
        Prediction("b", "c", second, b=b, c=c)
        + Prediction("a", "b", first, a=a, b=b)
        + Prediction("d", "c", side, d=d, c=c)
        + en.terms.Leak(a=a)
    )
    value = torch.randn(3, 2)
    found = predicted(energy, {"a": value})
    assert set(found) == {"b", "c"}
    assert torch.equal(found["c"], second(first(value)))
    assert set(predicted(energy, {"d": value})) == {"c"}
    assert set(predicted(energy, {"a": value, "c": value})) == {"b"}
    assert predicted(en.terms.Leak(a=a), {"a": value}) == {}
    assert [t.target for t in chain_to("rule", sum_of(energy), "c")] == ["b", "c"]


def test_any_directed_graph_even_with_a_circle_settles_where_algebra_says() -> None:
    """a -> b, a -> c, b -> d, c -> d and back, d -> a: E = 1/2 z'Hz - pull'z by rows of errors; d held."""
    torch.manual_seed(0)
    sizes = {"a": 2, "b": 3, "c": 2, "d": 3}
    variables = {name: en.Real(size) for name, size in sizes.items()}
    ends = np.cumsum([0, *sizes.values()])
    place = {name: slice(i, j) for name, i, j in zip(sizes, ends, ends[1:], strict=False)}
    terms, hessian, pull = [], np.zeros((10, 10)), np.zeros(10)
    for number, (source, target) in enumerate([("a", "b"), ("a", "c"), ("b", "d"), ("c", "d"), ("d", "a")]):
        module, precision = nn.Linear(sizes[source], sizes[target]).double(), 0.5 + number
        of = {name: variables[name] for name in (source, target)}
        terms.append(Prediction(source, target, module, precision=precision, **of))
        row = np.zeros((sizes[target], 10))  # the error is row z - bias
        row[:, place[target]] = np.eye(sizes[target])
        row[:, place[source]] = -module.weight.detach().numpy()
        hessian += precision * row.T @ row
        pull += precision * row.T @ module.bias.detach().numpy()
    d = torch.randn(4, 3, dtype=F64)
    solution = en.settle(en.Sum(terms), clamp={"d": d}, throw=True)
    free, held = slice(0, 7), place["d"]
    right = pull[free, None] - hessian[free, held] @ d.numpy().T
    expected = np.linalg.solve(hessian[free, free], right).T
    found = torch.cat([solution.state[name] for name in ("a", "b", "c")], 1).numpy()
    assert found == pytest.approx(expected, abs=1e-8)


def sum_of(energy: en.Energy) -> en.Energy:
    """The first two terms."""
    terms = [part for _, part in energy.parts()][:2]
    return terms[0] + terms[1]


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Prediction("h", "h", nn.Linear(4, 4), h=H), "declarations of these two variables"),
        (lambda: Prediction("h", "y", nn.Linear(4, 3), h=H), "declarations of these two"),
        (lambda: Prediction("h", "y", len, h=H, y=Y), "expected a torch.nn.Module"),  # type: ignore[arg-type]
        (lambda: linear(precision=-1.0), "positive and finite, got -1.0"),
        (lambda: linear(precision=math.inf), "positive and finite, got inf"),
        (lambda: linear(precision=torch.ones(2)), r"shape \(3,\), got \(2,\)"),
        (lambda: linear(precision=torch.tensor([1.0, 0.0, 1.0])), "positive and finite"),
        (lambda: Dense(3, 4, nn.Tanh(), residual=True), "as many outputs as inputs, got 3 and 4"),
    ],
)
def test_bad_arguments(make: Any, words: str) -> None:
    with pytest.raises((TypeError, ValueError), match=words):
        make()


def test_a_module_of_the_wrong_size_is_named() -> None:
    term = Prediction("h", "y", nn.Linear(4, 1), h=H, y=Y)  # would broadcast
    words = (
        r"Prediction\('h', 'y'\): the module gives samples of shape \(1,\), but 'y' is declared with \(3,\)"
    )
    with pytest.raises(en.StateError, match=words):
        term({n: v.float() for n, v in state().items()})
    with pytest.raises(en.StateError, match=words):
        en.ZIL(term, en.SquaredError("y"))(h=torch.zeros(2, 4), target=torch.zeros(2, 3))
