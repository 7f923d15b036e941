"""What settling returns: where each sample ended, and how."""

from __future__ import annotations

from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from energynet.diagnostics import diagnose, effective_sample_size, r_hat
from energynet.errors import SettlingError
from energynet.flow import EnergyFlow
from energynet.state import State
from energynet.stopping import Status

if TYPE_CHECKING:
    from jaxtyping import Float, Int


@dataclass(frozen=True, eq=False)
class Solution:
    """Where settling ended.

    Attributes
    ----------
    state
        Every variable, the clamped ones too, each ``(batch, *shape)``.
    steps
        Steps that each sample took, ``(batch,)``.
    status
        A `Status` for each sample, ``(batch,)``.
    trajectory
        What was recorded: a tensor ``(times, batch, ...)``, or a dict of such tensors; else None.
    flow
        The flow that was followed.
    point
        What was integrated, at the end: potentials for variables with a link, else values.
    statistics
        What the solver tells of each sample besides, such as the rate of acceptance of a sampler.
    """

    state: State
    steps: Int[Tensor, batch]
    status: Int[Tensor, batch]
    trajectory: Any
    flow: EnergyFlow
    point: State
    statistics: dict[str, Float[Tensor, batch]] = field(default_factory=dict)

    @cached_property
    def energy(self) -> Float[Tensor, batch]:
        """The energy of each sample."""
        self.flow.conditioned.check_unchanged()
        with torch.no_grad():
            return self.flow.energy(self.point)

    @cached_property
    def residual(self) -> Float[Tensor, batch]:
        """The largest entry of the projected velocity of each sample."""
        self.flow.conditioned.check_unchanged()
        with torch.no_grad():
            return self.flow.residual(self.point, self.flow.velocity(self.point))

    def effective_sample_size(self, discard: int = 0) -> Any:
        """How many independent samples the recorded chains are worth, for the mean of each recorded number.

        The samples of the batch are the chains. From ranks, over all chains (Vehtari et al. 2021, Bayesian
        Anal. 16:667, sec. 4), by arviz-stats: ``pip install 'energynet[diagnostics]'``.

        Parameters
        ----------
        discard
            Records to leave out at the start, of which the first is that of the initial state.

        Returns
        -------
        Tensor or dict
            Float64, of the shape of one sample at one time; a dict of these for a trajectory that is a dict.
            NaN where a number is not finite.

        Raises
        ------
        ValueError
            If nothing was recorded that can be judged, or fewer than 4 records are left.
        """
        return diagnose(effective_sample_size, self.trajectory, discard)

    def r_hat(self, discard: int = 0) -> Any:
        """How far the recorded chains disagree: near 1 where they follow one law, 1.01 is a usual limit.

        The samples of the batch are the chains, at least two. The rank-normalised split R-hat, the larger of
        that of the bulk and of the tails (Vehtari et al. 2021, Bayesian Anal. 16:667, sec. 4), by
        arviz-stats. NaN where a number is constant. Otherwise as `effective_sample_size`.
        """
        return diagnose(r_hat, self.trajectory, discard)


def check_finite(solution: Solution) -> None:
    """Raise `SettlingError` if a sample diverged."""
    diverged = (solution.status == Status.DIVERGED).nonzero().flatten().tolist()
    if diverged:
        sample = diverged[0]
        bad = [n for n, v in solution.point.items() if not bool(v[sample].isfinite().all())]
        raise SettlingError(
            f"settling diverged in {len(diverged)} of {len(solution.status)} samples, first in sample "
            f"{sample} by step {int(solution.steps[sample])}, where {', '.join(bad) or 'the force'} became "
            "infinite or NaN; use a smaller dt or another solver, or check that the energy is bounded below"
        )


def check_converged(solution: Solution) -> None:
    """Raise `SettlingError` if a sample diverged, came into a cycle or ran out of steps."""
    check_finite(solution)
    cycles = int((solution.status == Status.CYCLE).sum())
    if cycles:
        raise SettlingError(
            f"settling came into a cycle in {cycles} of {len(solution.status)} samples, which go to and fro "
            "for ever; update one unit after the other, by Glauber(), and the energy cannot rise"
        )
    late = (solution.status == Status.MAX_STEPS).nonzero().flatten().tolist()
    if late:
        worst = float(solution.residual[late].max())
        raise SettlingError(
            f"settling did not converge in {int(solution.steps.max())} steps in {len(late)} of "
            f"{len(solution.status)} samples (largest residual {worst:.3g}); raise max_steps, loosen until=, "
            "or use a faster solver"
        )
