"""What a run is asked to do: one frozen, validated set of parameters.

They come from a notebook, from papermill, from the shell or from a record.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Self

from nnpar_lib.config.option import suggestion
from nnpar_lib.config.rules import check
from nnpar_lib.config.sections import OPTIONS, Sections
from nnpar_lib.config.spread import BACKEND_DEVICES


@dataclass(frozen=True, kw_only=True)
class RunConfig(Sections):
    """The parameters of one training run, in five sections with flat names.

    The sections are `Network`, `Training`, `Spread`, `Computing` and `Keeping`. A wrong value
    raises a ValueError that names it and says what would be right, before anything is started.
    """

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self)

    def replace(self, **changes: Any) -> RunConfig:
        """Return a copy with some parameters changed.

        An unknown name is an error that suggests the nearest one. An option that the strategy does
        not read is no error, so that a sweep may change the strategy alone.
        """
        return RunConfig.from_parameters({**dataclasses.asdict(self), **changes})

    @classmethod
    def from_parameters(cls, parameters: Mapping[str, Any]) -> Self:
        """Build a config from a mapping such as papermill's parameters or a record's `config`."""
        for name in parameters:
            if name not in OPTIONS:
                raise ValueError(f"unknown parameter {name!r}; {suggestion(name, list(OPTIONS))}")
        return cls(**parameters)

    def to_dict(self) -> dict[str, Any]:
        """Return the parameters as plain values that survive a round trip through JSON."""
        values = {name: getattr(self, name) for name in OPTIONS}
        return {k: list(v) if isinstance(v, tuple) else v for k, v in values.items()}


def with_current_names(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """Return a stored config under today's names.

    Until November 2026 a parameter `communicator` named the library that sums gradients (`mpi`,
    `nccl` or `gloo`), beside `allreduce`, which said how MPI does; `record` was `cuda_graph`.
    """
    values = dict(parameters)
    if "cuda_graph" in values:
        values["record"] = values.pop("cuda_graph")
    library = values.pop("communicator", "mpi")
    if library in BACKEND_DEVICES:
        values["allreduce"] = library
    return values
