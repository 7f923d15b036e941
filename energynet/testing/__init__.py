"""The conformance kit: laws that every energy and every learning rule obeys, for your models too.

It needs hypothesis: ``pip install 'energynet[testing]'``.
"""

try:
    import hypothesis as _hypothesis  # noqa: F401
except ModuleNotFoundError as error:
    raise ImportError(
        "energynet.testing needs hypothesis, which is not installed; install it with "
        "pip install 'energynet[testing]'"
    ) from error

from energynet.testing import strategies
from energynet.testing.energies import check_energy
from energynet.testing.equivalence import EquivalenceReport, check_backprop_equivalence
from energynet.testing.gradients import GradientReport, check_gradient
from energynet.testing.laws import LAWS, Law
from energynet.testing.parametrize import parametrize_with_checks
from energynet.testing.problems import Problem, backprop_problems, predictive_networks
from energynet.testing.report import ConformanceError, Report

__all__ = [
    "LAWS",
    "ConformanceError",
    "EquivalenceReport",
    "GradientReport",
    "Law",
    "Problem",
    "Report",
    "backprop_problems",
    "check_backprop_equivalence",
    "check_energy",
    "check_gradient",
    "parametrize_with_checks",
    "predictive_networks",
    "strategies",
]
