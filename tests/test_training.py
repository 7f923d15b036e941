"""Training: what a run is, what it measures, and that it resumes to the bit after SIGKILL."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from energynet import data
from energynet.errors import SettlingError
from energynet.settle import settle
from energynet.track import Run, RunError
from energynet.training import ConfigError, Digits, Mnist, Training, figures, fingerprint, prepare, table
from energynet.training.config import RULES
from energynet.training.learners import EnergyLearner, NetworkLearner, make_learner
from energynet.training.loop import evaluate
from energynet.training.probe import Probe, angle

if TYPE_CHECKING:
    from collections.abc import Iterator

ROOT = Path(__file__).parents[1]
TINY: dict[str, Any] = {"hidden": (8,), "epochs": 2, "batch_size": 400, "probe_size": 8}


class Server:
    """`helpers.fork_server` in a process of its own."""

    def __init__(self, hash_seed: int) -> None:
        environment = {
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "PYTHONHASHSEED": str(hash_seed),
        }
        self.process = subprocess.Popen(
            [sys.executable, str(ROOT / "tests" / "helpers" / "fork_server.py")],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            env=environment,
            cwd=ROOT,
        )

    def run(self, *args: str, **how: float | None) -> tuple[int, float]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"args": args, **how}) + "\n")
        self.process.stdin.flush()
        status, seconds = json.loads(self.process.stdout.readline())
        return status, seconds

    def close(self) -> None:
        with self.process:
            assert self.process.stdin is not None
            self.process.stdin.close()


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    server = Server(hash_seed=2)
    yield server
    server.close()


def arguments(runs: Path, name: str) -> list[str]:
    options = (
        "--rules ep backprop --estimator random-sign --hidden 8 --epochs 2 --batch-size 400 --probe-size 8"
    )
    return ["run", "digits", *options.split(), "--runs", str(runs), "--name", name]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that nothing interrupted, in a process of its own with another order of hashing."""
    runs = tmp_path_factory.mktemp("runs")
    server = Server(hash_seed=1)
    status, length = server.run(*arguments(runs, "whole"))
    server.close()
    assert status == 0
    (runs / "length").write_text(str(length))
    return runs / "whole"


def assert_equal(mine: Any, theirs: Any) -> None:
    if isinstance(theirs, torch.Tensor):
        assert torch.equal(mine, theirs)
    elif isinstance(theirs, dict):
        assert mine.keys() == theirs.keys()
        for key in theirs:
            assert_equal(mine[key], theirs[key])
    elif isinstance(theirs, (list, tuple)):
        assert len(mine) == len(theirs)
        for one, other in zip(mine, theirs, strict=True):
            assert_equal(one, other)
    else:
        assert mine == theirs


def assert_same_run(mine: Path, theirs: Path) -> None:
    for name in ("metrics.jsonl", "config.json"):
        assert (mine / name).read_bytes() == (theirs / name).read_bytes()
    assert_equal(*(torch.load(path / "checkpoint.pt", weights_only=True) for path in (mine, theirs)))
    for figure in ("accuracy.png", "angle.png", "energy.png"):
        assert (mine / "figures" / figure).exists()


def test_killed_at_any_time(server: Server, whole: Path, tmp_path: Path) -> None:
    """Killed again and again, at times drawn from the whole length of the run and a little more."""
    command = [*arguments(tmp_path, "run"), "--resume"]
    length = float((whole.parent / "length").read_text())
    draw = random.Random(0)
    killed = 0
    for _ in range(5):
        status, _ = server.run(*command, kill_after=draw.uniform(0, 0.7 * length))
        killed += status == -9
    assert server.run(*command)[0] == 0
    assert killed > 1
    assert_same_run(tmp_path / "run", whole)


def test_killed_within_operations_on_files(server: Server, whole: Path, tmp_path: Path) -> None:
    """Killed while it writes: metrics, the checkpoint, its renaming, and what follows on resuming."""
    command = [*arguments(tmp_path, "run"), "--resume"]
    # A line of metrics, twice; after a checkpoint; within the next; before it is renamed.
    for die_at in (9, 26, 20, 15, 18):
        assert server.run(*command, die_at=die_at)[0] == -9
    assert server.run(*command)[0] == 0
    assert_same_run(tmp_path / "run", whole)


def test_a_checkpoint_of_another_model(server: Server, whole: Path, tmp_path: Path) -> None:
    """One whose configuration is right, and whose weights are not."""
    assert server.run(*arguments(tmp_path, "run"))[0] == 0
    path = tmp_path / "run" / "checkpoint.pt"
    content = torch.load(path, weights_only=True)
    module = content["state"]["learners"]["ep"]["module"]
    name = next(name for name in module if name.endswith("weight"))
    module[name] = module[name][:-1]
    torch.save(content, path)
    options = {"rules": ("ep", "backprop"), "estimator": "random-sign", **TINY}
    config = Digits(name="run", runs=tmp_path, resume=True, **options)
    with pytest.raises(RunError, match=rf"expected a model with {name} \(8, 64\), got {name} \(7, 64\)"):
        start(config)


def start(config: Digits) -> Training:
    dataset = data.digits(seed=config.seed)
    identity = {**config.identity(), "data_sha256": fingerprint(dataset)}
    run = Run(config.directory, identity, resume=config.resume)
    return Training(config, prepare(dataset, config), run, progress=False)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Training:
    training = start(
        Digits(
            runs=tmp_path_factory.mktemp("trained"),
            hidden=(16,),
            epochs=4,
            lr=0.05,
            batch_size=20,
            probe_size=16,
        )
    )
    training.train()
    return training


def test_it_learns(trained: Training) -> None:
    for rule in RULES:
        own = [record for record in trained.run.metrics() if record["rule"] == rule]
        assert [record["epoch"] for record in own] == [0, 1, 2, 3, 4]
        assert own[0]["accuracy"] < 0.4
        assert own[-1]["accuracy"] > 0.7
        assert own[-1]["cost"] < own[0]["cost"]
        assert own[0]["loss"] is None
        learner = trained.learners[rule]
        accuracy, cost = evaluate(learner, trained.data.judge, 10)
        assert (accuracy, cost) == (own[-1]["accuracy"], own[-1]["cost"])
        right = learner.output(trained.data.judge.x).argmax(1) == trained.data.judge.label
        assert accuracy == pytest.approx(right.double().mean().item())


def test_angles(trained: Training) -> None:
    metrics = trained.run.metrics()
    angles = {rule: [r["angle"] for r in metrics if r["rule"] == rule] for rule in RULES}
    assert all(0 < value < 3 for value in angles["ep"])
    assert all(3 < value < 120 for value in angles["chl"][1:])
    assert angles["implicit"] == angles["backprop"] == [None] * 5


def test_angle_of_two_vectors() -> None:
    first, tiny = torch.tensor([2.0, 0.0]).double(), torch.tensor([3.0, 3e-9]).double()
    assert angle(first, tiny) == pytest.approx(5.7296e-8, rel=1e-4)  # an arc cosine would say 0
    assert angle(first, -first) == pytest.approx(180)
    assert angle(first, torch.tensor([0.0, 1.0]).double()) == pytest.approx(90)
    assert angle(first, 0 * first) is None
    assert angle(first, first * torch.nan) is None


def test_probe_leaves_the_learner_alone() -> None:
    config = Digits(estimator="random-sign", **TINY)
    learner = make_learner("ep", (64, 8, 10), config)
    assert isinstance(learner, EnergyLearner)
    x = torch.rand(5, 64, generator=torch.Generator().manual_seed(0))
    target = learner.targets(torch.arange(5), 10)
    learner.step(x, target, 0)
    before = {name: value.clone() for name, value in learner.module.state_dict().items()}
    coin = learner.coin.get_state().clone()
    probe = Probe(learner, x, target)
    assert probe.angle() == probe.angle() is not None
    assert_equal(learner.module.state_dict(), before)
    assert torch.equal(learner.coin.get_state(), coin)


def test_table_and_figures(trained: Training) -> None:
    lines = table(trained.run, trained.config.rules).splitlines()
    assert [line.split("  ")[0] for line in lines[2:]] == [
        "equilibrium propagation",
        "contrastive Hebbian",
        "exact implicit gradient",
        "backprop",
    ]
    metrics, timing = trained.run.metrics(), trained.run.timing()
    own = [record for record in metrics if record["rule"] == "chl"]
    seconds = sum(record["seconds"] for record in timing if record["rule"] == "chl")
    best = max(own, key=lambda record: record["accuracy"])
    for text in (f"{100 * own[-1]['accuracy']:.2f} %", f"({best['epoch']})", f"{seconds:.1f} s"):
        assert text in lines[3]
    assert "test accuracy" in lines[0]
    assert [path.name for path in figures(trained)] == ["accuracy.png", "angle.png", "energy.png"]


@pytest.mark.parametrize("activation", ["sigmoid", "hardsigmoid", "tanh"])
def test_learners_start_alike(activation: Any) -> None:
    config = Digits(activation=activation, **TINY)
    one, other = make_learner("ep", (64, 8, 10), config), make_learner("chl", (64, 8, 10), config)
    network = make_learner("backprop", (64, 8, 10), config)
    assert_equal(one.module.state_dict(), other.module.state_dict())
    assert isinstance(network, NetworkLearner)
    assert isinstance(one, EnergyLearner)
    assert torch.equal(network.network[0].weight, one.energy.couplings["x_h1"].weight)
    assert not torch.equal(
        network.network[0].weight, make_learner("backprop", (64, 8, 10), Digits(seed=1)).network[0].weight
    )
    low = -1 if activation == "tanh" else 0
    assert one.targets(torch.tensor([1]), 3).tolist() == [[low, 1, low]]


@pytest.mark.parametrize("solver", ["block", "block-momentum", "euler", "heun", "rk4"])
def test_solvers_agree(solver: Any) -> None:
    config = Digits(solver=solver, dt=0.5, beta=0.01, **TINY)
    learner = make_learner("ep", (64, 8, 10), config)
    x = torch.rand(4, 64, generator=torch.Generator().manual_seed(0))
    assert isinstance(learner, EnergyLearner)
    assert type(config.make_solver()).__name__.lower()[:4] == {"rk4": "rung"}.get(solver, solver[:4])
    assert torch.allclose(learner.output(x), settle(learner.energy, clamp={"x": x}).state["y"], atol=1e-3)


def test_validation_holds_out_training_data() -> None:
    dataset = data.digits()
    held = prepare(dataset, Digits(validation=0.25))
    assert held.judged_on == "validation"
    assert len(held.judge) == round(0.25 * len(dataset.train))
    together = torch.cat([held.x, held.judge.x])
    assert sorted(together.tolist()) == sorted(dataset.train.x.tolist())
    tested = prepare(dataset, Digits())
    assert tested.judged_on == "test"
    assert torch.equal(tested.judge.x, dataset.test.x)
    with pytest.raises(ConfigError, match="neither none nor all"):
        prepare(dataset, Digits(validation=1e-5))


def test_fingerprint_knows_a_label() -> None:
    one, other = data.digits(), data.digits()
    assert fingerprint(one) == fingerprint(other)
    other.train.label[0] += 1
    assert fingerprint(one) != fingerprint(other)


def test_loss_that_is_not_finite(tmp_path: Path) -> None:
    training = start(Digits(runs=tmp_path, rules=("backprop",), **TINY))
    with torch.no_grad():
        training.learners["backprop"].module[0].weight.fill_(torch.nan)
    with pytest.raises((SettlingError, ValueError), match=r"nan|finite|JSON"):
        training.train()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"epochs": 0}, "--epochs: expected a whole number from 1 up, got 0"),
        ({"batch_size": 0}, "--batch-size"),
        ({"lr": float("nan")}, "--lr: expected a number above 0, got nan"),
        ({"beta": 0.0}, "--beta: expected a finite number other than 0"),
        ({"hidden": (8, 0)}, "--hidden"),
        ({"hidden": ()}, "--hidden: expected a layer for the rule chl"),
        ({"rules": ()}, "--rules: expected at least one of ep, chl"),
        ({"rules": ("ep", "ep")}, "every rule at most once"),
        ({"validation": 1.0}, "--validation"),
        ({"free_steps": 0}, "--free-steps"),
        ({"name": "../up"}, "--name: expected the name of one directory"),
        ({"resume": True, "overwrite": True}, "--resume: expected no --overwrite"),
    ],
)
def test_bad_options(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Digits(**options)


def test_identity_is_what_matters() -> None:
    one = Digits(name="one", resume=True)
    assert one.identity() == Digits(name="two", runs=Path("elsewhere"), overwrite=True).identity()
    assert one.identity() != Digits(beta=0.2).identity()
    assert one.identity() != Mnist().identity()
    assert json.loads(json.dumps(one.identity())) == one.identity()
