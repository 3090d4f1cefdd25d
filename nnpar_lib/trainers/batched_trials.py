"""Many trials of a metaparameter as one program: their weights are stacked, and each operation works on all of them.

On a GPU small models one at a time leave most of it idle; together they fill it. torch.func.vmap turns the step of one
trial into that of all.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad_and_value, stack_module_state, vmap
from torch.nn import functional

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers import models
from nnpar_lib.trainers.data import BatchSource, load
from nnpar_lib.trainers.replica import learning_rate

OPTIMIZERS = ("sgd", "momentum", "nesterov")


@dataclass(frozen=True)
class Outcomes:
    """What the trials came to: mean loss of each step [num_steps, num_trials] and stacked weights by parameter."""

    losses: Tensor
    weights: dict[str, Tensor]


def train_together(configs: Sequence[RunConfig]) -> Outcomes:
    """Train trials that differ in learning rate, momentum and seed of the weights only, all on the first one's batches.

    Each ends where it ends alone on these batches, to the rounding of batched products. Raises a ValueError where the
    trials differ in anything else, have batch normalisation, or an optimizer without a batched form.
    """
    first = configs[0]
    _check(configs)
    trials = [models.build(config) for config in configs]
    weights, _ = stack_module_state(list[nn.Module](trials))
    skeleton = models.build(first).to("meta")
    differentiate = grad_and_value(_loss_of(skeleton))
    step_of_all: Callable[..., tuple[dict[str, Tensor], Tensor]] = vmap(differentiate, in_dims=(0, None, None))
    velocity = {name: torch.zeros_like(value) for name, value in weights.items()}
    source = BatchSource(load(first.dataset), first, size=1, rank=0)
    losses = []
    for step in range(first.total_steps):
        batch = source.batch(step)
        gradients, loss = step_of_all(weights, batch.images, batch.labels)
        losses.append(loss)
        _update(weights, gradients, velocity, configs, step)
    return Outcomes(torch.stack(losses), {name: value.detach() for name, value in weights.items()})


def _loss_of(skeleton: nn.Module) -> Callable[[dict[str, Tensor], Tensor, Tensor], Tensor]:
    def loss(weights: dict[str, Tensor], images: Tensor, labels: Tensor) -> Tensor:
        return functional.cross_entropy(functional_call(skeleton, weights, (images,)), labels)
    return loss


@torch.no_grad()
def _update(weights: dict[str, Tensor], gradients: dict[str, Tensor], velocity: dict[str, Tensor],
            configs: Sequence[RunConfig], step: int) -> None:
    """Take torch's SGD step for every trial, each with its own learning rate and momentum."""
    plain, nesterov = configs[0].optimizer == "sgd", configs[0].optimizer == "nesterov"
    for name, gradient in gradients.items():
        shape = (-1, *[1] * (gradient.dim() - 1))
        rates = gradient.new_tensor([learning_rate(config, step) for config in configs]).view(shape)
        momenta = gradient.new_tensor([0.0 if plain else config.momentum for config in configs]).view(shape)
        velocity[name].mul_(momenta).add_(gradient)
        direction = gradient + momenta * velocity[name] if nesterov else velocity[name]
        weights[name].sub_(rates * direction)


def _check(configs: Sequence[RunConfig]) -> None:
    first = configs[0]
    if first.optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer={first.optimizer!r} has no batched form; choose from {', '.join(OPTIMIZERS)}")
    if first.model == "resnet18":
        raise ValueError("model='resnet18' has running statistics, not stacked with the weights; choose mlp or cnn")
    for config in configs:
        if config.replace(lr=first.lr, momentum=first.momentum, seed=first.seed) != first:
            raise ValueError("trials trained together may differ in lr, momentum and seed only; train the others apart")
