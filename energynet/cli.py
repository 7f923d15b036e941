"""The command line: ``energynet run digits``, ``energynet run mnist``."""

from __future__ import annotations

import platform
import sys
from typing import TYPE_CHECKING, Annotated, Any

import torch

import energynet
from energynet.data import DataError, load
from energynet.errors import SettlingError, StateError
from energynet.optional import require
from energynet.track import Run, RunError
from energynet.training import (
    Config,
    ConfigError,
    Digits,
    Mnist,
    Training,
    figures,
    fingerprint,
    prepare,
    table,
)

if TYPE_CHECKING:
    from collections.abc import Sequence

_EXPECTED = (ConfigError, DataError, ModuleNotFoundError, RunError, SettlingError, StateError)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Parameters
    ----------
    arguments
        In place of those that the program was started with.

    Returns
    -------
    int
        The exit status: 0, 1 after an error that a user can mend, 130 when interrupted.
    """
    try:
        config = parse(arguments)
        return run(config)
    except _EXPECTED as error:
        print(f"energynet: error: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("\nenergynet: interrupted; the same command with --resume goes on", file=sys.stderr)
        return 130


def parse(arguments: Sequence[str] | None = None) -> Config:
    """Read the arguments; exits with the usage where they are wrong."""
    tyro: Any = require("tyro", extra="cli", purpose="the command line")
    choice = (
        Annotated[Digits, tyro.conf.subcommand("digits")] | Annotated[Mnist, tyro.conf.subcommand("mnist")]
    )

    def command(config: Any) -> Config:
        """Train networks by several learning rules on a data set and compare them.

        It leaves the configuration, the metrics, a checkpoint and figures in runs/NAME, and a run that was
        stopped goes on with --resume.

        Args:
            config: The data set; 'energynet run digits --help' lists the options.
        """
        return config  # type: ignore[no-any-return]

    # The annotation is of a package that is only imported here.
    command.__annotations__["config"] = Annotated[choice, tyro.conf.arg(name="")]
    return tyro.extras.subcommand_cli_from_dict(
        {"run": command},
        args=arguments,
        prog="energynet",
        description="Energy-based models in PyTorch. See 'energynet run --help'.",
        config=(tyro.conf.FlagCreatePairsOff,),
    )


def run(config: Config) -> int:
    """Train as a configuration says; draw figures and print a table."""
    dataset = load(config.dataset, config.source, config.seed)
    data = prepare(dataset, config)
    tracked = Run(
        config.directory,
        {**config.identity(), "data_sha256": fingerprint(dataset)},
        resume=config.resume,
        overwrite=config.overwrite,
        notes={
            "software": {
                "energynet": energynet.__version__,
                "torch": torch.__version__,
                "python": platform.python_version(),
            }
        },
    )
    training = Training(config, data, tracked, progress=True)
    training.train()
    drawn = figures(training)
    print()
    print(table(tracked, config.rules))
    print()
    left = [tracked.config_path, tracked.metrics_path, tracked.timing_path, tracked.checkpoint_path, *drawn]
    for path in left:
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
