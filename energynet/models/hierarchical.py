"""Hierarchical associative memory: neurons with Lagrangians, and bilinear synapses between their layers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import final

import torch
from torch import Tensor, nn

from energynet.energy import Composite, Energy
from energynet.flow import Clamp
from energynet.recording import Recorder
from energynet.samplers import Glauber
from energynet.settle import flow_of, relax
from energynet.solution import Solution
from energynet.solvers import Euler, Solver
from energynet.terms import Bilinear, Leak, Synapse
from energynet.variable import Continuous, Discrete, Variable


@final
class HierarchicalMemory(Composite):
    r"""Layers of neurons and the synapses between them, of any depth.

    Krotov and Hopfield 2021, ICLR; Krotov 2021, arXiv:2107.06446.

    .. math:: E = \sum_l \left( u_l \cdot a_l - L_l(u_l) \right) - \sum_{k, l} a_l \cdot S_{kl}(a_k),
              \quad a_l = \nabla L_l(u_l)

    The link of a variable is the gradient of its Lagrangian L, and u.a - L, its Legendre transform, is the
    `Leak` term; a layer of spins has none. Mirror flow is tau du/dt = -u + what the synapses bring, down the
    energy. A variable without a link has L = |u|^2 / 2; `Softmax` makes memory neurons of those of a layer.
    With layers ``s``, real, and ``h``, softmax of beta, and the patterns as weight, it is `ModernHopfield`
    with its hidden neurons kept.

    Parameters
    ----------
    variables
        The layers by name, continuous or discrete.
    synapses
        From pairs of names (source, target) to a linear map of one into the other, such as ``nn.Conv2d(...,
        bias=False)``, or None for a full matrix.

    Attributes
    ----------
    synapses
        One term for each, named like ``"s_h"``: `Bilinear`, or `Synapse` where a map was given.
    leaks
        One `Leak` term for each continuous layer.
    """

    def __init__(
        self, variables: Mapping[str, Variable], synapses: Mapping[tuple[str, str], nn.Module | None]
    ) -> None:
        super().__init__(**variables)
        self.synapses = nn.ModuleDict()
        for (source, target), module in synapses.items():
            for name in (source, target):
                if name not in variables:
                    raise ValueError(
                        f"HierarchicalMemory: synapse {(source, target)} names {name!r}; the layers are "
                        f"{', '.join(variables)}"
                    )
            both = {source: variables[source], target: variables[target]}
            self.synapses[f"{source}_{target}"] = (
                Bilinear(source, target, **both)
                if module is None
                else Synapse(source, target, module, **both)
            )
        self.leaks = nn.ModuleDict(
            {name: Leak(**{name: each}) for name, each in variables.items() if isinstance(each, Continuous)}
        )

    def parts(self) -> tuple[tuple[float, Energy], ...]:
        groups = (self.leaks, self.synapses)
        return tuple((1.0, part) for group in groups for part in group.values() if isinstance(part, Energy))

    def recall(
        self,
        *,
        clamp: Clamp | None = None,
        solver: Solver | None = None,
        max_steps: int = 5000,
        record: Recorder | None = None,
        generator: torch.Generator | None = None,
        **cues: Tensor,
    ) -> Solution:
        """Settle from cues of some layers, by mirror flow; by default by `Euler` steps of 0.1.

        Where a layer is discrete it is by `Glauber` at T = 0, under which each layer goes to its minimum in
        turn. The other layers start at zero potential, discrete ones at random. Further arguments as in
        `settle`.
        """
        if solver is None:
            discrete = any(isinstance(each, Discrete) for each in self.variables.values())
            solver = Glauber() if discrete else Euler(0.1)
        with torch.no_grad():
            flow = flow_of(self, clamp, cues, solver=solver, generator=generator)
            return relax(flow, solver=solver, max_steps=max_steps, record=record, generator=generator)
