"""What the next steps of a rank depend on, apart from the data: what a checkpoint keeps and brings
back."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn


@dataclass
class State:
    """Parameters in a rank's own order, and the optimizer's tensors for each of them by their names
    in torch.

    `numbers` are the optimizer's numbers, such as the steps that Adam has taken; `counters` are a
    strategy's own. `running` has the running statistics of normalisations in the place of their
    weights and biases, and nothing in that of other parameters: ranks that share parameters share
    the statistics in the same way.
    """

    parameters: list[Tensor]
    optimizer: dict[str, list[Tensor]]
    numbers: dict[str, float] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    running: list[Tensor] = field(default_factory=list)


def running_statistics(model: nn.Module) -> list[Tensor]:
    """Return the running mean beside each weight, the running variance beside each bias, else an
    empty tensor."""
    statistics = {"weight": "running_mean", "bias": "running_var"}
    found = [
        (
            getattr(module, statistics[name])
            if isinstance(module, nn.BatchNorm2d)
            else parameter.detach()[:0]
        )
        for module in model.modules()
        for name, parameter in module.named_parameters(recurse=False)
    ]
    return found if any(map(torch.numel, found)) else []


def write_running_statistics(state: State, model: nn.Module) -> None:
    """Fill the running statistics of a model from a state that has some."""
    for mine, value in zip(running_statistics(model), state.running, strict=True):
        mine.copy_(value)


def read_state(parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer) -> State:
    """Return the parameters, and what their optimizer holds for them: nothing before its first
    step."""
    found = [optimizer.state.get(parameter, {}) for parameter in parameters]
    names = [name for name, value in found[0].items() if value is not None]
    tensors = {name: [one[name] for one in found] for name in names if found[0][name].dim()}
    numbers = {name: float(found[0][name]) for name in names if not found[0][name].dim()}
    return State([parameter.detach() for parameter in parameters], tensors, numbers)


@torch.no_grad()
def write_state(
    state: State, parameters: Sequence[Tensor], optimizer: torch.optim.Optimizer
) -> None:
    """Fill the parameters and their optimizer."""
    for parameter, value in zip(parameters, state.parameters, strict=True):
        parameter.copy_(value)
    loaded = (
        optimizer.state_dict()
    )  # its groups hold this run's learning rate and momentum, which stay
    loaded["state"] = {
        index: {
            **{name: torch.tensor(number) for name, number in state.numbers.items()},
            **{name: values[index].clone() for name, values in state.optimizer.items()},
        }
        for index in range(len(parameters) if state.optimizer or state.numbers else 0)
    }
    optimizer.load_state_dict(loaded)
