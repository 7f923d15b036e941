"""Learning at settled states and on the way to them: algebra, loops by hand, and limits."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

import energynet as en
from energynet.testing import check_backprop_equivalence
from helpers.networks import difference, gradient
from helpers.predictive import Chain, autograd, network, supervised

TIGHT = en.Stationary(atol=1e-13)
COST = en.SquaredError("y")
F64 = torch.float64


def clamped(model: en.models.PredictiveCoding) -> dict[str, Tensor]:
    data = supervised(model)
    return {"x": data["x"], "y": data["target"]}


def test_map_is_hebbian_in_the_errors_at_the_settled_state() -> None:
    """dE/dW_l = -precision * e_(l+1) z_l', at the closed form of the fixed point of a linear network."""
    model = network(3, 4, 5, 2, activation="linear", precision=[2.0, 1.0, 0.5])
    chain, data = Chain(model), clamped(model)
    found = gradient(en.MaximumAPosteriori(model, max_steps=20_000, until=TIGHT), **data)
    whole = chain.join({**model.feedforward(data["x"]), **data})
    fixed = torch.zeros(whole.shape[1], dtype=torch.bool)
    fixed[chain.indices(["x", "y"])] = True
    z = chain.settled(whole, fixed)
    for l, (source, target) in enumerate(zip(chain.names, chain.names[1:], strict=False)):  # noqa: E741
        before, after = z[:, chain.place[source]], z[:, chain.place[target]]
        error = (after - before @ chain.weights[l].T - chain.biases[l]) * chain.precisions[l]
        name = f"energy.predictions.{source}_{target}.module"
        assert torch.allclose(found[f"{name}.weight"], -error.T @ before / 5, atol=1e-9)
        assert torch.allclose(found[f"{name}.bias"], -error.mean(0), atol=1e-9)
    rule = en.MaximumAPosteriori(model, max_steps=20_000, until=TIGHT)
    with torch.no_grad():
        assert float(rule(**data)) == pytest.approx(float(chain.energy(z).mean()), rel=1e-9)


def test_map_is_the_gradient_of_its_value_learned_precisions_too() -> None:
    model = network(3, 4, 2, learn_precision=True)
    rule = en.MaximumAPosteriori(model, max_steps=20_000, until=en.Stationary(atol=1e-11))
    en.testing.check_gradient(rule, rtol=1e-5, **clamped(model))


@pytest.mark.parametrize("coordinates", ["states", "errors"])
def test_map_with_everything_clamped_is_the_energy_of_the_data(coordinates: str) -> None:
    model = network(3, 2)
    data = clamped(model)
    rule = en.MaximumAPosteriori(model, coordinates=coordinates)
    found = gradient(rule, **data)
    slopes = torch.autograd.grad(model(data).mean(), list(model.parameters()))
    for (name, _), slope in zip(model.named_parameters(), slopes, strict=True):
        assert torch.allclose(found[f"energy.{name}"], slope, rtol=1e-12)
    assert float(rule(**data).detach()) == pytest.approx(float(model(data).detach().mean()))


def test_map_is_the_rule_of_sparse_coding_and_takes_a_cost() -> None:
    """Olshausen and Field (1996, eq. 6): the residual times the code, at the code."""
    torch.manual_seed(0)
    a, x = en.Real(5, link=en.SoftThreshold(0.1)), en.Real(4)
    energy = (en.terms.Reconstruction("a", "x", a=a, x=x) + en.terms.Sparsity(0.1, a=a)).double()
    value = torch.randn(6, 4, dtype=F64)
    rule = en.MaximumAPosteriori(
        energy, solver=en.Euler(0.1), max_steps=5000, until=en.Stationary(atol=1e-10)
    )
    (phase,) = rule.phases(x=value)
    code = phase.solution.state["a"]
    assert 0 < int((code == 0).sum()) < code.numel()
    (weight,) = energy.parameters()
    (found,) = gradient(rule, x=value).values()
    assert torch.allclose(found, -(value - code @ weight.T).T @ code / 6, atol=1e-9)
    model = network(3, 4, 2)
    data = supervised(model)
    costly = en.MaximumAPosteriori(model + COST, max_steps=5000, until=TIGHT)
    doubled = network(3, 4, 2)  # y between its prediction and the target: two springs in a row
    doubled.load_state_dict(model.state_dict())
    twin = en.MaximumAPosteriori(doubled, max_steps=5000, until=TIGHT)
    (phase,) = costly.phases(**data)
    y = phase.solution.state["y"]
    assert float((y - data["target"]).abs().max()) > 0.01
    expected = gradient(twin, x=data["x"], y=y)
    found = gradient(costly, **data)
    assert (
        difference({n: found[n.replace("energy.", "energy.energies.0.")] for n in expected}, expected) < 1e-8
    )


class Encoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.up = nn.Linear(3, 4, dtype=F64)

    def forward(self, x: Tensor, y: Tensor) -> dict[str, Tensor]:
        return {"h1": self.up(x)}


def test_amortised_inference_starts_there_and_learns_where_it_ended() -> None:
    model, data = network(3, 4, 2), {}
    data = clamped(model)
    torch.manual_seed(1)
    encoder = Encoder()
    rule = en.MaximumAPosteriori(model, start=encoder, max_steps=3)
    (phase,) = rule.phases(**data)
    by_hand = en.settle(model, {"h1": encoder.up(data["x"]).detach()}, clamp=data, max_steps=3).state["h1"]
    assert torch.equal(phase.solution.state["h1"], by_hand)
    distance = 0.5 * (encoder.up(data["x"]) - by_hand).square().sum(1).mean()
    slopes = torch.autograd.grad(distance, list(encoder.parameters()))
    found = gradient(rule, **data)
    assert torch.allclose(found["start.up.weight"], slopes[0], rtol=1e-12)
    assert torch.allclose(found["start.up.bias"], slopes[1], rtol=1e-12)
    plain = gradient(en.MaximumAPosteriori(model, start=encoder.forward, max_steps=3), **data)
    assert difference({n: found[n] for n in plain}, plain) == 0


def test_a_start_means_the_same_in_states_and_in_errors() -> None:
    """Without a step: what is given, what that predicts, else zero; and what is clamped at the data."""
    net = network(3, 4, 5, 2)
    model = net + 0.5 * en.terms.Leak(x=en.Real(3))
    data, h1 = clamped(net), torch.randn(5, 4, dtype=F64)
    x, h2 = data["x"], net.get_submodule("predictions.h1_h2.module")(h1).detach()
    cases: list[tuple[dict[str, Tensor], dict[str, Tensor]]] = [
        ({"y": data["y"]}, {"h1": h1}),
        (data, {"h1": h1, "x": x + 1}),
    ]
    for given, start in cases:
        state = {"x": torch.zeros(5, 3, dtype=F64), "h1": h1, "h2": h2, **given}
        for coordinates in ("states", "errors"):
            rule = en.MaximumAPosteriori(
                model, start=lambda start=start, **_: start, coordinates=coordinates, max_steps=0
            )
            (phase,) = rule.phases(**given)
            for name, value in state.items():
                assert torch.allclose(phase.solution.state[name], value, atol=1e-14), (coordinates, name)


class Tied(nn.Module):
    """An encoder by the weights of the model itself."""

    def __init__(self, weight: nn.Parameter) -> None:
        super().__init__()
        self.weight = weight

    def forward(self, x: Tensor) -> dict[str, Tensor]:
        return {"a": x @ self.weight}


def test_weights_that_an_encoder_shares_with_the_model_learn_by_both() -> None:
    torch.manual_seed(0)
    model = en.models.SparseCoding(3, 4).double()
    x = torch.randn(5, 3, dtype=F64)
    found = gradient(en.MaximumAPosteriori(model, start=Tied(model.weight)), x=x)
    code = en.settle(model, {"a": (x @ model.weight).detach()}, clamp={"x": x}).state["a"]
    distance = 0.5 * (x @ model.weight - code).square().sum(1)
    total = (model({"x": x, "a": code}) + distance).mean()
    (expected,) = torch.autograd.grad(total, [model.weight])
    assert torch.allclose(found["energy.reconstruction.weight"], expected, rtol=1e-9, atol=1e-12)


def test_incremental_is_the_loop_by_hand() -> None:
    """Weights and states move together, each by the gradient at the same point."""
    model, rate, dt = network(3, 4, 4, 2), 0.05, 0.1
    data = clamped(model)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    rule = en.IncrementalPC(model, rate, steps=7)
    found = gradient(rule, **data)
    value = float(rule(**data).detach())
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())
    hand = network(3, 4, 4, 2)
    state = hand.feedforward(data["x"])
    h = {n: state[n] for n in ("h1", "h2")}
    for _ in range(7):
        leaves = {n: v.detach().requires_grad_() for n, v in h.items()}
        each = hand.energy(**data, **leaves)
        forces = torch.autograd.grad(each.sum(), list(leaves.values()), retain_graph=True)
        slopes = torch.autograd.grad(each.mean(), list(hand.parameters()))
        h = {n: v.detach() - dt * f for (n, v), f in zip(leaves.items(), forces, strict=True)}
        with torch.no_grad():
            for p, slope in zip(hand.parameters(), slopes, strict=True):
                p -= rate * slope
    end = dict(hand.named_parameters())
    moved = {f"energy.{n}": (before[n] - end[n].detach()) / rate for n in before}
    assert difference(found, moved) < 1e-11
    assert value == pytest.approx(float(hand(data | h).detach().mean()), rel=1e-12)
    torch.optim.SGD(model.parameters(), lr=rate).step()
    assert all(torch.allclose(p, end[n], rtol=1e-12, atol=1e-14) for n, p in model.named_parameters())


def test_incremental_without_a_rate_sums_the_gradients_on_the_way() -> None:
    model = network(3, 4, 2)
    data = clamped(model)
    states = en.settle(
        model,
        model.feedforward(data["x"]),
        clamp=data,
        solver=en.Euler(0.1),
        max_steps=4,
        until=en.Never(),
        record="state",
    ).trajectory
    total = sum(model.energy(**data, h1=states["h1"][i]).mean() for i in range(4))
    assert isinstance(total, Tensor)
    slopes = torch.autograd.grad(total, list(model.parameters()))
    named = {f"energy.{n}": s for (n, _), s in zip(model.named_parameters(), slopes, strict=True)}
    assert difference(gradient(en.IncrementalPC(model, 0.0, steps=4), **data), named) < 1e-12


SPARSE = (en.CoordinateDescent(), en.ADMM(), en.Proximal())
SMOOTH = (en.Momentum(0.1), en.LBFGS(), en.NewtonKrylov(), en.BlockDescent())


@pytest.mark.parametrize("solver", [*SPARSE, *SMOOTH], ids=repr)
def test_incremental_steps_go_down_the_energy_of_the_weights_as_they_are(solver: en.Solver) -> None:
    """Each as if settling for one step with these weights: no force and no curvature of earlier ones."""
    torch.manual_seed(0)
    sparse = solver in SPARSE
    model: en.Energy = en.models.SparseCoding(3, 4).double() if sparse else network(3, 4, 2)
    data = {"x": torch.randn(5, 3, dtype=F64)} if sparse else clamped(network(3, 4, 2))
    with torch.no_grad():
        found = float(en.IncrementalPC(model, 0.3, steps=4, solver=solver)(**data))
        predicted = {} if sparse else network(3, 4, 2).feedforward(data["x"])
    free = {n: v for n, v in model.variables.items() if n not in data}
    state = {n: predicted.get(n, torch.zeros(5, *v.shape, dtype=F64)) for n, v in free.items()}
    for _ in range(4):
        slopes = torch.autograd.grad(model({**data, **state}).mean(), list(model.parameters()))
        whole = en.settle(model, state, clamp=data, solver=solver, max_steps=1, until=en.Never()).state
        state = {n: whole[n] for n in free}
        with torch.no_grad():
            for p, slope in zip(model.parameters(), slopes, strict=True):
                p -= 0.3 * slope
    assert found == pytest.approx(float(model({**data, **state}).mean().detach()), rel=1e-10)


def test_incremental_puts_the_weights_back_when_it_diverges() -> None:
    model = network(3, 4, 2)
    before = {n: p.detach().clone() for n, p in model.named_parameters()}
    with pytest.raises(en.SettlingError, match="diverged"):
        en.IncrementalPC(model, 1e200, steps=20)(**clamped(model))
    assert all(torch.equal(p, before[n]) for n, p in model.named_parameters())


@pytest.mark.parametrize(("estimator", "order"), [("centered", 2.0), ("one-sided", 1.0)])
def test_nudged_predictive_coding_is_backprop_in_the_weak_limit(estimator: str, order: float) -> None:
    def rule(energy: en.Energy, cost: en.Cost, beta: float) -> en.LearningRule:
        return en.EquilibriumPropagation(energy, cost, beta, estimator)

    report = check_backprop_equivalence(rule, order=order, examples=3)
    assert report.whole.order == pytest.approx(order, abs=0.2)


def test_the_free_phase_of_a_nudge_starts_where_it_ends() -> None:
    model = network(4, 6, 5, 3)
    data = supervised(model)
    free, *_ = en.EquilibriumPropagation(model, COST, 0.01).phases(**data)
    assert int(free.solution.steps.max()) <= 5  # the first look
    assert torch.allclose(free.solution.state["y"], model.network()(data["x"]), atol=1e-12)
    exact = gradient(en.ImplicitDifferentiation(model, COST), **data)
    assert difference({n: exact[n] for n in exact}, autograd(model, COST, data)) < 1e-10
