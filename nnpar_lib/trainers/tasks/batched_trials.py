"""Many trials of a metaparameter as one program: each operation works on their stacked weights.

A small model leaves most of a GPU idle; many together fill it. torch.func.vmap turns the step of a
trial into that of all, which a GPU may record and replay.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn import functional

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.data.batches import Batch
from nnpar_lib.trainers.models import networks
from nnpar_lib.trainers.step import cuda_graph
from nnpar_lib.trainers.step.build import build_batches
from nnpar_lib.trainers.step.cuda_graph import StaticBatch
from nnpar_lib.trainers.step.optimizer import learning_rate
from nnpar_lib.trainers.step.recording import Recorded

OPTIMIZERS = ("sgd", "momentum", "nesterov")


@dataclass(frozen=True)
class Outcomes:
    """The mean loss of each step [num_steps, num_trials], and the stacked weights by parameter."""

    losses: Tensor
    weights: dict[str, Tensor]


def train_together(configs: Sequence[RunConfig]) -> Outcomes:
    """Train trials that differ only in learning rate, momentum and the seed of their weights.

    All are trained on the batches of the first. Each ends with the weights that it has when it is
    trained alone on them, up to the rounding of batched products. Trials that differ in another
    option, have batch normalisation, or an optimizer without a batched form are a ValueError.
    """
    _check(configs)
    first = configs[0]
    trials = _Trials(configs)
    source = build_batches(first, 1, 0)
    losses = [trials.step(source.batch(step), step) for step in range(first.total_steps)]
    return Outcomes(torch.stack(losses), trials.weights)


class _Trials:
    """The stacked weights and velocities of trials, and the step that all take at once."""

    def __init__(self, configs: Sequence[RunConfig]) -> None:
        first = configs[0]
        models: list[nn.Module] = [networks.build(config) for config in configs]
        stacked, _ = stack_module_state(models)
        self.weights = {name: value.detach() for name, value in stacked.items()}
        self._velocity = {name: torch.zeros_like(value) for name, value in self.weights.items()}
        self._step_of_all: Callable[..., tuple[dict[str, Tensor], Tensor]] = vmap(
            grad_and_value(_loss_of(networks.build(first).to("meta"))), in_dims=(0, None, None)
        )
        like = next(iter(self.weights.values()))
        steps = range(first.total_steps)
        self._all_rates = like.new_tensor(
            [[learning_rate(config, step) for config in configs] for step in steps]
        )
        has_momentum = first.optimizer != "sgd"
        self._momenta = like.new_tensor([has_momentum * config.momentum for config in configs])
        self._rates = torch.empty_like(self._momenta)
        self._losses = torch.empty_like(self._momenta)
        self._is_nesterov = first.optimizer == "nesterov"
        self._batch: Batch | None = None
        self._recorded = Recorded(cuda_graph.recorder(first), self._take_step, self._tensors)

    def step(self, batch: Batch, step: int) -> Tensor:
        """Take step number `step` with a batch; return the mean loss of each trial [num_trials]."""
        self._batch = batch
        self._rates.copy_(self._all_rates[step])
        if isinstance(batch, StaticBatch):
            self._recorded()
        else:
            self._take_step()
        return self._losses.clone()

    @torch.no_grad()
    def _take_step(self) -> None:
        """Take torch's SGD step for every trial, each with its own learning rate and momentum."""
        assert self._batch is not None
        gradients, losses = self._step_of_all(self.weights, self._batch.images, self._batch.labels)
        self._losses.copy_(losses)
        for name, gradient in gradients.items():
            shape = (-1, *[1] * (gradient.dim() - 1))
            rates = self._rates.view(shape)
            momenta = self._momenta.view(shape)
            velocity = self._velocity[name]
            velocity.mul_(momenta).add_(gradient)
            direction = gradient + momenta * velocity if self._is_nesterov else velocity
            self.weights[name].sub_(rates * direction)

    def _tensors(self) -> Iterable[Tensor]:
        assert self._batch is not None
        return self._batch.images, self._batch.labels, *self.weights.values()


def _loss_of(skeleton: nn.Module) -> Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]:
    def loss(weights: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(skeleton, weights, (images,)), labels)

    return loss


def _check(configs: Sequence[RunConfig]) -> None:
    first = configs[0]
    if first.optimizer not in OPTIMIZERS:
        raise ValueError(
            f"optimizer={first.optimizer!r} has no batched form; choose from"
            f" {', '.join(OPTIMIZERS)}"
        )
    if first.model == "resnet18":
        raise ValueError(
            "model='resnet18' has running statistics, not stacked with the weights; choose mlp"
            " or cnn"
        )
    for config in configs:
        if config.replace(lr=first.lr, momentum=first.momentum, seed=first.seed) != first:
            raise ValueError(
                "trials trained together may differ in lr, momentum and seed only; train the rest"
                " separately"
            )
