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
from energynet.testing.gradients import GradientReport, check_gradient
from energynet.testing.laws import LAWS, Law
from energynet.testing.parametrize import parametrize_with_checks
from energynet.testing.report import ConformanceError, Report

__all__ = [
    "LAWS",
    "ConformanceError",
    "GradientReport",
    "Law",
    "Report",
    "check_energy",
    "check_gradient",
    "parametrize_with_checks",
    "strategies",
]
