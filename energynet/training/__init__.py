"""Training on a data set by several rules side by side: what the command line runs."""

from energynet.training.config import Config, ConfigError, Digits, Mnist
from energynet.training.loop import Training, fingerprint, prepare
from energynet.training.report import figures, table

__all__ = [
    "Config",
    "ConfigError",
    "Digits",
    "Mnist",
    "Training",
    "figures",
    "fingerprint",
    "prepare",
    "table",
]
