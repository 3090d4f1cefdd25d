"""What the next steps of a rank depend on, apart from the data: the content of a checkpoint."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass
class State:
    """A rank's parameters in its order, and for each the optimizer's tensors by their torch names.

    `numbers` are the optimizer's numbers, such as Adam's count of steps; `counters` are those of a
    strategy. `running` holds the running statistics of normalisations at the positions of their
    weights and biases, and empty tensors at those of other parameters, so that ranks share
    statistics in the same way as parameters.
    """

    parameters: list[Tensor]
    optimizer: dict[str, list[Tensor]]
    numbers: dict[str, float] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    running: list[Tensor] = field(default_factory=list)


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Return a tensor for each parameter, or an empty list where no module has running statistics.

    It is the running mean for the weight of a normalisation, the running variance for its bias, and
    an empty tensor for any other parameter.
    """
    names = {"weight": "running_mean", "bias": "running_var"}
    statistics = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if isinstance(module, nn.BatchNorm2d):
                statistics.append(getattr(module, names[name]))
            else:
                statistics.append(parameter.detach()[:0])
    return statistics if any(map(torch.numel, statistics)) else []


def write_running_statistics(state: State, model: nn.Module) -> None:
    """Fill the running statistics of a model from a state."""
    for statistic, value in zip(running_statistics(model), state.running, strict=True):
        statistic.copy_(value)


def read_state(parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> State:
    """Return the parameters and their optimizer's state, which is empty before its first step."""
    states = [optimizer.state.get(parameter, {}) for parameter in parameters]
    tensors = {}
    numbers = {}
    for name, value in states[0].items():
        if value is None:
            continue
        if value.dim():
            tensors[name] = [state[name] for state in states]
        else:
            numbers[name] = float(value)
    return State([parameter.detach() for parameter in parameters], tensors, numbers)


@torch.no_grad()
def write_state(
    state: State, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer
) -> None:
    """Fill the parameters and their optimizer's state."""
    for parameter, value in zip(parameters, state.parameters, strict=True):
        parameter.copy_(value)
    loaded = optimizer.state_dict()  # its groups keep this run's learning rate and momentum
    loaded["state"] = {}
    if state.optimizer or state.numbers:
        for index in range(len(parameters)):
            loaded["state"][index] = {
                **{name: torch.tensor(number) for name, number in state.numbers.items()},
                **{name: values[index].clone() for name, values in state.optimizer.items()},
            }
    optimizer.load_state_dict(loaded)
