"""Errors that energynet raises: each says what was expected, what came, and what to do."""

from __future__ import annotations


class StateError(ValueError):
    """A state, clamp or target does not fit the energy it was given to."""


class SettlingError(RuntimeError):
    """Settling failed: it diverged, or it could not start."""


class TraceError(RuntimeError):
    """A function could not be traced, for instance because its Python flow depends on tensor values."""


class CompileError(TraceError):
    """Steps of a solver could not be compiled, for instance because there is no compiler."""


class EagerFallback(UserWarning):
    """An energy could not be traced, or steps not be compiled: what is done instead is right, but slower."""
