"""Costs: energies of an output variable and a target, which nudge the output and measure the error."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, final

import torch
from torch import Tensor, nn
from torch.nn import functional

from energynet.energy import Energy, usable
from energynet.errors import StateError
from energynet.variable import Unspecified, Variable, rows

if TYPE_CHECKING:
    from jaxtyping import Float

TARGET = "target"


class Cost(Energy):
    """An energy of an output variable and of the variable ``target``.

    Parameters
    ----------
    output
        Name of the output variable; its shape and domain are those of the energy that the cost is added to.
    """

    def __init__(self, output: str) -> None:
        if output == TARGET:
            raise ValueError(f"{type(self).__name__}: the output cannot be called {TARGET!r}")
        super().__init__(**{output: Unspecified(), TARGET: Unspecified()})
        self.output = output

    @final
    def energy(self, **state: Tensor) -> Float[Tensor, batch]:
        output, target = state[self.output], state[TARGET]
        self._check_shape(output, target)
        return self.cost(output, target)

    @abstractmethod
    def cost(self, output: Float[Tensor, batch * shape], target: Tensor) -> Float[Tensor, batch]:
        """The cost of each sample."""

    def linearised(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor, dict[nn.Parameter, Tensor]]:
        """The mean cost of a batch, and its slopes in the output and in the parameters; no graph."""
        leaf = usable(output).requires_grad_()
        learning = [p for p in self.parameters() if p.requires_grad]
        with torch.enable_grad():
            mean = self.energy(**{self.output: leaf, TARGET: usable(target)}).mean()
            slope, *rest = torch.autograd.grad(
                mean, [leaf, *learning], allow_unused=True, materialize_grads=True
            )
        return mean.detach(), slope, {p: s.clone() for p, s in zip(learning, rest, strict=True)}

    def check_target(self, variable: Variable, target: Tensor) -> None:
        """Raise `StateError` unless a target fits an output that is declared as ``variable``."""
        if not isinstance(variable, Unspecified):
            like = torch.zeros((), dtype=torch.get_default_dtype(), device=target.device)
            self.check_values({self.output: like.expand(len(target), *variable.shape), TARGET: target})

    def _check_shape(self, output: Tensor, target: Tensor) -> None:
        if target.ndim != output.ndim or target.shape[1:] != output.shape[1:]:
            raise StateError(
                f"variable {TARGET!r}: expected shape {tuple(output.shape)} as the output {self.output!r}, "
                f"got {tuple(target.shape)}{self._hint(target)}"
            )

    def _hint(self, target: Tensor) -> str:
        if target.is_floating_point():
            return ""
        return "; turn class indices into vectors with torch.nn.functional.one_hot(...).to(dtype)"

    def check_values(self, state: Mapping[str, Tensor]) -> None:
        if self.output in state and TARGET in state:
            self._check_shape(state[self.output], state[TARGET])


@final
class SquaredError(Cost):
    """Half the sum over units of the squared difference, 1/2 |y - target|^2, for each sample."""

    def check_target(self, variable: Variable, target: Tensor) -> None:
        super().check_target(variable, target)
        variable.check_values(TARGET, target)  # a target that the output can never take is a slip of scale

    def cost(self, output: Tensor, target: Tensor) -> Tensor:
        return 0.5 * rows((output - target).square()).sum(1)

    def linearised(self, output: Tensor, target: Tensor) -> tuple[Tensor, Tensor, dict[nn.Parameter, Tensor]]:
        self._check_shape(output, target)
        with torch.no_grad():
            slope = (output - target).div_(len(output))
            mean = (0.5 * len(output)) * slope.square().sum()
        return mean, slope, {}

    def check_values(self, state: Mapping[str, Tensor]) -> None:
        super().check_values(state)
        if TARGET in state and not state[TARGET].is_floating_point():
            raise StateError(
                f"variable {TARGET!r}: SquaredError expects a floating tensor shaped like {self.output!r}, "
                f"got {state[TARGET].dtype} of shape {tuple(state[TARGET].shape)}{self._hint(state[TARGET])}"
            )


@final
class CrossEntropy(Cost):
    """Minus the log-probability of the target under the softmax of the output, for each sample.

    The target is a class index of dtype int64 and shape ``(batch,)``, or a probability for each class and the
    shape of the output. The values of the output are the logits.
    """

    def cost(self, output: Tensor, target: Tensor) -> Tensor:
        if target.is_floating_point():
            return -(target * functional.log_softmax(output, dim=1)).sum(1)
        return functional.nll_loss(functional.log_softmax(output, dim=1), target, reduction="none")

    def _check_shape(self, output: Tensor, target: Tensor) -> None:
        if output.ndim != 2:
            raise StateError(
                f"variable {self.output!r}: CrossEntropy expects shape (batch, classes), "
                f"got {tuple(output.shape)}"
            )
        if target.is_floating_point():
            super()._check_shape(output, target)
        elif target.ndim != 1:
            raise StateError(
                f"variable {TARGET!r}: expected class indices of shape (batch,), got {tuple(target.shape)}; "
                "give probabilities as a floating tensor"
            )

    def check_values(self, state: Mapping[str, Tensor]) -> None:
        super().check_values(state)
        target = state.get(TARGET)
        if target is None or target.numel() == 0 or target.is_meta:
            return
        if target.is_floating_point():
            total = target.flatten(1).sum(1)
            if bool((target < 0).any()) or bool(((total - 1).abs() > 1e-3).any()):
                raise StateError(
                    f"variable {TARGET!r}: expected probabilities that are non-negative and sum to 1 for "
                    f"each sample, got values from {target.min().item():g} and sums up to "
                    f"{total.max().item():g}"
                )
            return
        if target.dtype != torch.int64:
            raise StateError(
                f"variable {TARGET!r}: expected class indices of dtype torch.int64, got {target.dtype}"
            )
        if int(target.min()) < 0 or (
            self.output in state and int(target.max()) >= state[self.output].shape[1]
        ):
            classes = f" below {state[self.output].shape[1]}" if self.output in state else ""
            raise StateError(
                f"variable {TARGET!r}: expected class indices from 0 and{classes}, got "
                f"{int(target.min())} to {int(target.max())}"
            )
