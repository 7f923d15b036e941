"""The example of the design document runs as it is written there."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLE = '''\
import torch, energynet as en
from torch import nn

class Tiny(en.Energy):
    """E = |h|^2/2 + |y|^2/2 - rho(h).W1 x - rho(y).W2 rho(h), rho = tanh."""
    def __init__(self, n_in, n_hidden, n_out):
        super().__init__(x=en.Real(n_in), h=en.Real(n_hidden), y=en.Real(n_out))
        self.first, self.second = nn.Linear(n_in, n_hidden), nn.Linear(n_hidden, n_out)
    def energy(self, x, h, y):
        leak = 0.5 * h.square().sum(-1) + 0.5 * y.square().sum(-1)
        return leak - (h.tanh() * self.first(x)).sum(-1) - (y.tanh() * self.second(h.tanh())).sum(-1)

model = Tiny(4, 8, 2)
x, t = torch.randn(16, 4), torch.randn(16, 2)
free = en.settle(model, clamp={"x": x}, solver=en.Euler(dt=0.2), record="energy")
rule = en.EquilibriumPropagation(model, cost=en.SquaredError("y"), beta=0.01)
loss = rule(x=x, target=t)                # value: the mean cost; gradient: the rule's
loss.backward(); torch.optim.SGD(model.parameters(), 0.1).step()
en.testing.check_energy(model)            # laws every energy obeys
en.testing.check_gradient(rule, x=x, target=t)   # against the exact implicit gradient
'''

# What the example promises, asked of the names that it leaves behind.
ASSERTIONS = """
assert bool((free.status == en.Status.CONVERGED).all())
assert bool((free.trajectory[1:] <= free.trajectory[:-1] + 1e-5).all())
assert loss.shape == () and loss.item() > 0
assert all(p.grad is not None and p.grad.abs().sum() > 0 for p in model.parameters())
print("ran to the end")
"""


def run(code: str) -> subprocess.CompletedProcess[str]:
    """In an interpreter of its own, as a user would, with only torch's seed fixed."""
    seeded = "import torch; torch.set_num_threads(1); torch.manual_seed(0)\n" + code
    root = str(Path(__file__).parents[1])
    start = f"import sys; sys.path.insert(0, {root!r})\n"
    return subprocess.run(
        [sys.executable, "-W", "error::UserWarning", "-c", start + seeded],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def test_example_runs_as_written() -> None:
    done = run(EXAMPLE + ASSERTIONS)
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "ran to the end"


def test_package_does_not_need_hypothesis_until_the_kit_is_used() -> None:
    code = """
import sys
sys.modules["hypothesis"] = None  # as if it were not installed
import energynet as en
assert not any(name.startswith("energynet.testing") for name in sys.modules)
try:
    en.testing
except ImportError as error:
    print(error)
"""
    done = run(code)
    assert done.returncode == 0, done.stderr
    assert "energynet[testing]" in done.stdout


def test_kit_is_an_attribute_of_the_package_and_other_names_are_not() -> None:
    code = """
import energynet as en
from energynet import testing
assert en.testing is testing
assert not hasattr(en, "no_such_name")
print("fine")
"""
    done = run(code)
    assert done.stdout == "fine\n", done.stderr
