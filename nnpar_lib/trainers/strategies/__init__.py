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
from nnpar_lib.trainers.strategies.tensor import TensorParallel
from nnpar_lib.trainers.strategies.torch_ddp import TorchDDP
from nnpar_lib.trainers.strategies.torch_pipelining import TorchPipelining
from nnpar_lib.trainers.strategies.tutorial import Tutorial
from nnpar_lib.trainers.strategies.weight_averaging import WeightAveraging
from nnpar_lib.trainers.timeline import Timeline

STRATEGIES: dict[str, Callable[[RunConfig, Communicator, Timeline], Strategy]] = {
    "serial": Serial,
    "tutorial": Tutorial,
    "gradient_averaging": GradientAveraging,
    "weight_averaging": WeightAveraging,
    "root_worker": RootWorker,
    "torch_ddp": TorchDDP,
    "pipeline": Pipeline,
    "hybrid": Hybrid,
    "tensor": TensorParallel,
    "torch_pipelining": TorchPipelining,
}


def build(config: RunConfig, communicator: Communicator, timeline: Timeline) -> Strategy:
    """Return this rank's strategy object, on its initial weights (collective)."""
    return STRATEGIES[config.strategy](config, communicator, timeline)
