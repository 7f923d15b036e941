"""Energy-based models: one scalar energy, settled, and the learning rules that follow from it."""

__version__ = "0.1.0"

__all__ = ["__version__"]
