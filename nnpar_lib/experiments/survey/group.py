"""A group of a survey, and the place that is surveyed."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nnpar_lib.config import RunConfig
from nnpar_lib.config.network import MODELS
from nnpar_lib.launch.engines import Engines

NOISE = "noise"
EXCHANGE = "exchange"
BLOCKS = "blocks"
PREDICTIONS = "predictions"
SCALING = "scaling"
GPU = "gpu"
CUTS = "cuts"
CPP = "cpp"
PREDICTED = (SCALING, CUTS, CPP)
PARTS = (NOISE, EXCHANGE, BLOCKS, PREDICTIONS, SCALING, GPU, CUTS, CPP)

PILOT_STEPS = {"mlp": 20, "cnn": 4, "resnet18": 2}
Measure = Callable[[Engines, "Group", Path], None]


@dataclass(frozen=True, kw_only=True)
class Group:
    """Runs that are interleaved and compared with `base`, or what `measure` does in one go.

    `experiment` is that of the records. The number of steps of a run follows from a first, short
    run, unless they are `given_steps`. `seconds` are a guess for what is done in one go, whose
    records are `num_records`.
    """

    part: str
    experiment: str
    configs: Mapping[str, RunConfig] = field(default_factory=dict)
    base: str = ""
    given_steps: bool = False
    measure: Measure | None = None
    num_records: int = 0
    seconds: float = 5.0


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where and with what a survey measures: processors, GPUs, data and models."""

    num_cores: int  # of the machine, or of all nodes of a job
    num_node_cores: int
    num_gpus: int = 0
    dataset: str = "digits"
    models: tuple[str, ...] = MODELS
    has_compiler: bool = True

    @property
    def rank_counts(self) -> list[int]:
        """The powers of two up to the number of cores, and that number."""
        powers = [2**k for k in range(self.num_cores.bit_length())]
        return sorted({count for count in powers if count <= self.num_cores} | {self.num_cores})

    def config(self, model: str, batch_size: int, **changes: Any) -> RunConfig:
        """Return a short run of a model; on one core unless the changes say otherwise."""
        common: dict[str, Any] = {
            "dataset": self.dataset,
            "lr": 0.01,
            "num_epochs": 1000,
            "evaluate_every": 0,
            "num_threads": 1,
            "num_warmup_steps": 2,
            "num_steps": PILOT_STEPS[model],
            "batch_norm": "local",  # as DDP does by default
            "stall_seconds": 30.0,
        }
        return RunConfig(model=model, global_batch_size=batch_size, **{**common, **changes})
