"""How a training step is spread over ranks: a file for each strategy, and a line here."""

from __future__ import annotations

from collections.abc import Callable

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.strategies.base import Strategy
from nnpar_lib.trainers.strategies.gradient_averaging import GradientAveraging
from nnpar_lib.trainers.strategies.hybrid import Hybrid
from nnpar_lib.trainers.strategies.pipeline import Pipeline
from nnpar_lib.trainers.strategies.root_worker import RootWorker
from nnpar_lib.trainers.strategies.serial import Serial
from nnpar_lib.trainers.strategies.sharded import Sharded
from nnpar_lib.trainers.strategies.tensor import TensorParallel
from nnpar_lib.trainers.strategies.torch_ddp import TorchDDP
from nnpar_lib.trainers.strategies.torch_pipelining import TorchPipelining
from nnpar_lib.trainers.strategies.tutorial import Tutorial
from nnpar_lib.trainers.strategies.weight_averaging import WeightAveraging
from nnpar_lib.trainers.timeline import Timeline


def _torch_fsdp(config: RunConfig, communicator: Communicator, timeline: Timeline) -> Strategy:
    """Import what takes about a second only for a config that asks for it."""
    from nnpar_lib.trainers.strategies.torch_fsdp import TorchFSDP

    return TorchFSDP(config, communicator, timeline)


STRATEGIES: dict[str, Callable[[RunConfig, Communicator, Timeline], Strategy]] = {
    "serial": Serial,
    "tutorial": Tutorial,
    "gradient_averaging": GradientAveraging,
    "weight_averaging": WeightAveraging,
    "root_worker": RootWorker,
    "sharded": Sharded,
    "torch_ddp": TorchDDP,
    "torch_fsdp": _torch_fsdp,
    "pipeline": Pipeline,
    "hybrid": Hybrid,
    "tensor": TensorParallel,
    "torch_pipelining": TorchPipelining,
}


def build(config: RunConfig, communicator: Communicator, timeline: Timeline) -> Strategy:
    """Return this rank's strategy object, on its initial weights (collective)."""
    return STRATEGIES[config.strategy](config, communicator, timeline)
