"""torch's optimizer for a config, and the learning rate of each step."""

from __future__ import annotations

import math
from collections.abc import Iterable

import torch
from torch import Tensor, nn

from nnpar_lib.config import RunConfig


def build_optimizer(
    parameters: Iterable[nn.Parameter],
    config: RunConfig,
    *,
    fused: bool | None = True,
    in_graph: bool = False,
) -> torch.optim.Optimizer:
    """Return torch's optimizer for this config.

    The fused form makes one pass over the buffer and is the fastest for a flat parameter; None
    leaves the choice to torch, as most programs do. A step in a CUDA graph reads a learning rate
    that changes from the device, in the type that the fused forms take.
    """
    parameters = list(parameters)
    lr: float | Tensor = config.lr
    if in_graph and config.lr_schedule != "constant":
        lr = torch.tensor(lr, dtype=torch.float32, device=config.device)
    if config.optimizer == "adam":
        return torch.optim.Adam(parameters, lr=lr, fused=fused, capturable=in_graph)
    if config.optimizer == "adagrad":
        is_fused = fused if config.device == "cpu" else None
        return torch.optim.Adagrad(parameters, lr=config.lr, fused=is_fused)
    momentum = 0.0 if config.optimizer == "sgd" else config.momentum
    nesterov = config.optimizer == "nesterov"
    return torch.optim.SGD(parameters, lr=lr, momentum=momentum, nesterov=nesterov, fused=fused)


def learning_rate(config: RunConfig, step: int) -> float:
    """Return the learning rate of a step, counted from 0.

    It is constant, or falls to zero linearly or by a cosine over the steps of the run.
    """
    done = step / config.total_steps
    factor = {
        "constant": 1.0,
        "linear": 1 - done,
        "cosine": (1 + math.cos(math.pi * done)) / 2,
    }[config.lr_schedule]
    return config.lr * factor


def set_learning_rate(optimizer: torch.optim.Optimizer, config: RunConfig, step: int) -> None:
    """Give the optimizer the learning rate of this step, counted from 0."""
    if config.lr_schedule == "constant":
        return
    for group in optimizer.param_groups:
        if isinstance(group["lr"], Tensor):
            group["lr"].fill_(learning_rate(config, step))
        else:
            group["lr"] = learning_rate(config, step)
