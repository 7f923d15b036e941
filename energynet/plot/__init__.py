"""Figures, made through matplotlib's objects alone: no global state, no window."""

from energynet.plot.canvas import BLUE, GREEN, ORANGE, PURPLE, VERMILION, save
from energynet.plot.codes import code_histogram, mosaic, posterior, reconstruction
from energynet.plot.training import Curves, accuracy, angle, settling

__all__ = [
    "BLUE",
    "GREEN",
    "ORANGE",
    "PURPLE",
    "VERMILION",
    "Curves",
    "accuracy",
    "angle",
    "code_histogram",
    "mosaic",
    "posterior",
    "reconstruction",
    "save",
    "settling",
]
