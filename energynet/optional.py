"""Optional dependencies, imported where they are needed."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from types import ModuleType


def require(module: str, extra: str, purpose: str) -> ModuleType:
    """Import an optional dependency.

    Parameters
    ----------
    module : str
        The module to import, such as ``"sklearn.datasets"``.
    extra : str
        The extra of energynet that installs it.
    purpose : str
        What needs it, to open the error message with.

    Returns
    -------
    ModuleType
        The module.

    Raises
    ------
    ModuleNotFoundError
        If the dependency is not installed. One that is installed but broken raises its own error.
    """
    package = module.partition(".")[0]
    try:
        return importlib.import_module(module)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] != package:
            raise
        raise ModuleNotFoundError(
            f"{purpose} needs the package {package!r}, which is not installed; "
            f"install it with: pip install 'energynet[{extra}]'",
            name=error.name,
        ) from error
