"""What somebody's own step is tried with: examples, models, batches and numbers of ranks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from nnpar_lib.trainers.tasks.example_weights import LossSum

NUM_EXAMPLES = 48
NUM_FEATURES = 6
NUM_CLASSES = 3
LR = 0.1
MOMENTUM = 0.9


@dataclass(frozen=True)
class Part:
    """Some examples of a batch: `inputs` [n, ...] and `targets` [n]; n may be 0.

    `num_global_examples` is the size of the whole batch, over all ranks.
    """

    inputs: Tensor
    targets: Tensor
    num_global_examples: int


@dataclass(frozen=True)
class Case:
    """Some steps of a number of ranks: the sizes of their batches, and whether they are resumed.

    `resume_before` is the number of the step before which all is saved and read back.
    """

    name: str
    num_ranks: int
    batch_sizes: tuple[int, ...]
    resume_before: int | None = None


def cases(num_ranks: int) -> list[Case]:
    """Return what is tried with `num_ranks` ranks: parts that are even, uneven and empty."""
    p = num_ranks
    tried = [
        Case("even parts", p, (4 * p, 4 * p)),
        Case("uneven parts", p, (4 * p - 1, 4 * p + 1)),
        Case("short last batch", p, (4 * p, 4 * p, p + 1)),
    ]
    if p > 1:
        tried.append(Case("empty parts", p, (4 * p, p - 1)))
    tried.append(Case("resume", p, (4 * p + 1, 4 * p - 1, 4 * p + 1), resume_before=2))
    return tried


@dataclass(frozen=True)
class Subject:
    """What is verified: the step, and the model, examples, loss and optimizer it is tried with."""

    step: Any
    model: Any = None
    examples: Any = None
    loss: Any = None
    optimizer: Any = None
    save: Any = None
    load: Any = None
    over: str = "mpi4py"
    dtype: str = "float64"
    bound: float = 1e-12
    seconds: float = 20.0

    def data(self) -> tuple[Tensor, Tensor]:
        """Return the examples, inputs in the type that is computed in."""
        if self.examples is not None:
            inputs, targets = self.examples
        else:
            generator = torch.Generator().manual_seed(1)
            inputs = torch.randn(
                NUM_EXAMPLES, NUM_FEATURES, generator=generator, dtype=torch.float64
            )
            targets = torch.randint(NUM_CLASSES, (NUM_EXAMPLES,), generator=generator)
        return inputs.to(getattr(torch, self.dtype)), targets

    def loss_sum(self) -> LossSum:
        """Return the function of outputs and targets that sums the examples' losses."""
        return self.loss or _cross_entropy

    def build(self) -> tuple[nn.Module, Any]:
        """Return a new model, the same at every call and on every rank, and its optimizer."""
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            model = self.model() if self.model is not None else _small_model()
        model = model.to(getattr(torch, self.dtype)).train()
        if self.optimizer is not None:
            return model, self.optimizer(model)
        return model, Momentum(model)


class Momentum:
    """SGD with momentum, v <- 0.9 v + g, w <- w - 0.1 v; torch imports modules for a second for
    its."""

    def __init__(self, model: nn.Module) -> None:
        self._parameters = list(model.parameters())
        self._velocities = [torch.zeros_like(parameter) for parameter in self._parameters]

    def zero_grad(self) -> None:
        """Forget all gradients."""
        for parameter in self._parameters:
            parameter.grad = None

    @torch.no_grad()
    def step(self) -> None:
        """Take a step along the gradients that are there."""
        for parameter, velocity in zip(self._parameters, self._velocities, strict=True):
            if parameter.grad is not None:
                velocity.mul_(MOMENTUM).add_(parameter.grad)
                parameter.sub_(LR * velocity)

    def state_dict(self) -> list[Tensor]:
        """Return the momenta."""
        return self._velocities

    def load_state_dict(self, velocities: list[Tensor]) -> None:
        """Go on with these momenta."""
        self._velocities = velocities


def _small_model() -> nn.Module:
    """Return a network without kinks, so that rounding stays rounding."""
    return nn.Sequential(nn.Linear(NUM_FEATURES, 8), nn.Tanh(), nn.Linear(8, NUM_CLASSES))


def _cross_entropy(outputs: Any, targets: Tensor) -> Tensor:
    return nn.functional.cross_entropy(outputs, targets, reduction="sum")


def save_all(model: nn.Module, optimizer: Any) -> Any:
    """Return all that the next step depends on."""
    return model.state_dict(), optimizer.state_dict()


def load_all(saved: Any, model: nn.Module, optimizer: Any) -> None:
    """Go on from there."""
    model.load_state_dict(saved[0])
    optimizer.load_state_dict(saved[1])
