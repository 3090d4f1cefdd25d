"""The measurements of a GPU: the runs, their order, and the tables of their records.

A part that fails does not end the others, and records are kept as they come.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nnpar_lib.analysis.claims import gpu
from nnpar_lib.config import RunConfig
from nnpar_lib.config.network import MODELS
from nnpar_lib.config.spread import BACKEND_DEVICES
from nnpar_lib.experiments.measuring import Part, measure
from nnpar_lib.launch.engines import Engines
from nnpar_lib.records import store
from nnpar_lib.records.provenance import num_cores

FAST = {
    "mlp": {"precision": "bf16"},
    "cnn": {"precision": "bf16", "memory_format": "channels_last"},
    "resnet18": {"precision": "bf16", "memory_format": "channels_last"},
}
SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"hidden": (32, 16)},
    "cnn": {"channels": (3, 5), "hidden": (16,)},
}
SHARED_BATCH = 512  # of ranks and stages that share a GPU
Configure = Callable[..., RunConfig]


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """How much is measured, and on which machine; `examples` is by device and model."""

    examples: Mapping[str, Mapping[str, int]]
    batch_sizes: tuple[int, ...] = (64, 512, 4096)
    graph_batch_sizes: tuple[int, ...] = (64, 1024)
    rank_counts: tuple[int, ...] = (1, 2, 4)
    models: tuple[str, ...] = MODELS
    max_steps: int = 300
    num_trials: int = 64
    num_trial_steps: int = 200
    num_cores: int = 1
    num_gpus: int = 1


FULL = Sizes(
    examples={
        "cuda": {"mlp": 500_000, "cnn": 200_000, "resnet18": 60_000},
        "cpu": {"mlp": 60_000, "cnn": 8_000, "resnet18": 3_000},
    }
)


def run(arguments: argparse.Namespace) -> int:
    """Measure, append the records to a file, print their tables.

    Return the exit status, which is 0 where everything was measured.
    """
    import torch

    if store.load(arguments.out):
        raise ValueError(
            f"{arguments.out} holds the records of an earlier report; move it away, or name another"
            " file with --out"
        )
    sizes = dataclasses.replace(FULL, num_cores=num_cores(), num_gpus=torch.cuda.device_count())
    missing = measure(plan("cuda", arguments.dataset, sizes), arguments.out, 60 * arguments.minutes)
    print(gpu.text(store.frame(store.load(arguments.out))))
    print(f"the records are in {arguments.out}")
    for part in missing:
        print(f"not measured: {part}")
    return int(bool(missing))


def plan(device: str, dataset: str, sizes: Sizes) -> list[Part]:
    """Return the parts in the order of their measurement.

    The most informative come first, because time may run out.
    """
    configure = _configurer(device, dataset, sizes)
    parts = [
        _same_as_serial(device, sizes),
        _graphs(configure, device, sizes),
        _sweep_of_trials(configure, device, sizes),
        _shared_by_ranks(configure, sizes),
        _shared_by_stages(configure, sizes),
        _against_all_cores(configure, device, sizes),
        _rooflines(configure, sizes),
    ]
    if sizes.num_gpus > 1:
        parts.append(_several_gpus(configure, device, sizes))
    return parts


def _configurer(device: str, dataset: str, sizes: Sizes) -> Configure:
    """Return a function that makes a short run of a model at a batch size."""

    def configure(model: str, batch_size: int, **changes: Any) -> RunConfig:
        where = changes.get("device", device)
        num_steps = max(2, min(sizes.max_steps, sizes.examples[where][model] // batch_size))
        common = {
            "dataset": dataset,
            "device": where,
            "lr": 0.01,
            "num_epochs": 1000,
            "evaluate_every": 0,
            "num_steps": num_steps,
            "num_warmup_steps": 5 if where == "cuda" else 1,
        }
        return RunConfig(model=model, global_batch_size=batch_size, **{**common, **changes})

    return configure


def _precisions(model: str) -> dict[str, dict[str, Any]]:
    return {"": {}, ", bf16": FAST[model]}


def _graph(device: str) -> dict[str, Any]:
    return {"record": device == "cuda"}


def _same_as_serial(device: str, sizes: Sizes) -> Part:
    return Part(
        experiment="gpu-same",
        num_ranks=max(sizes.rank_counts),
        measure=Engines.compare_with_serial,
        groups=(_comparisons(device, sizes),),
    )


def _graphs(configure: Configure, device: str, sizes: Sizes) -> Part:
    return Part(
        experiment="gpu-graph",
        num_ranks=1,
        groups=tuple(
            _eager_and_graph(configure, device, model, size)
            for model in sizes.models
            for size in sizes.graph_batch_sizes
        ),
    )


def _sweep_of_trials(configure: Configure, device: str, sizes: Sizes) -> Part:
    return Part(
        experiment="gpu-sweep",
        num_ranks=1,
        measure=Engines.time_trials,
        groups=(_trials(configure, device, sizes),),
    )


def _shared_by_ranks(configure: Configure, sizes: Sizes) -> Part:
    return Part(
        experiment="gpu-ranks",
        num_ranks=max(sizes.rank_counts),
        groups=tuple(_ranks_on_one(configure, model, sizes) for model in sizes.models),
    )


def _shared_by_stages(configure: Configure, sizes: Sizes) -> Part:
    return Part(
        experiment="gpu-pipeline",
        num_ranks=2,
        groups=tuple(_stages_on_one(configure, model) for model in sizes.models),
    )


def _against_all_cores(configure: Configure, device: str, sizes: Sizes) -> Part:
    return Part(
        experiment="gpu-cores",
        num_ranks=max(sizes.num_cores, 1),
        num_repeats=2,
        groups=tuple(
            _against_cores(configure, device, model, size, sizes)
            for model in sizes.models
            for size in sizes.batch_sizes
        ),
    )


def _rooflines(configure: Configure, sizes: Sizes) -> Part:
    batch_size = max(sizes.graph_batch_sizes)
    return Part(
        experiment="gpu-roofline",
        num_ranks=1,
        measure=Engines.measure_rooflines,
        groups=(
            {
                f"{model}{suffix}": configure(model, batch_size, **precision)
                for model in sizes.models
                for suffix, precision in _precisions(model).items()
            },
        ),
    )


def _comparisons(device: str, sizes: Sizes) -> dict[str, RunConfig]:
    """Return runs that are compared with serial eager runs, in float64, with uneven parts."""
    most = max(sizes.rank_counts)
    ways: dict[str, dict[str, Any]] = {
        "serial, graph": {"strategy": "serial", **_graph(device)},
        "ranks": {"strategy": "gradient_averaging", "num_ranks": most},
        "ranks, graph": {
            "strategy": "gradient_averaging",
            "num_ranks": most,
            "allreduce": "mpi",
            **_graph(device),
        },
        "pipeline": {"strategy": "pipeline", "num_ranks": 2},
    }
    common: dict[str, Any] = {
        "device": device,
        "dtype": "float64",
        "global_batch_size": 67,
        "num_epochs": 2,
        "num_threads": 1,
        "lr": 0.05,
    }
    return {
        f"{model}, {label}": RunConfig(model=model, **changes, **common, **way)
        for model, changes in SMALL.items()
        for label, way in ways.items()
    }


def _eager_and_graph(
    configure: Configure, device: str, model: str, size: int
) -> dict[str, RunConfig]:
    ways: dict[str, dict[str, Any]] = {"eager": {}, "graph": _graph(device)}
    return {
        label + suffix: configure(model, size, num_threads=1, **way, **precision)
        for suffix, precision in _precisions(model).items()
        for label, way in ways.items()
    }


def _trials(configure: Configure, device: str, sizes: Sizes) -> dict[str, RunConfig]:
    """Return trials of the mlp whose learning rates and initial weights differ."""
    return {
        f"trial {index}": configure(
            "mlp",
            64,
            num_steps=sizes.num_trial_steps,
            num_threads=1,
            seed=index,
            lr=0.001 * 1.05**index,
            **_graph(device),
        )
        for index in range(sizes.num_trials)
    }


def _ranks_on_one(configure: Configure, model: str, sizes: Sizes) -> dict[str, RunConfig]:
    """Return gradient averaging of the same global batch on 1, 2, ... ranks, by each all-reduce."""
    return {
        f"{count} rank{'s' * (count > 1)}" + (f", {kind}" if count > 1 else ""): configure(
            model,
            SHARED_BATCH,
            strategy="gradient_averaging",
            num_ranks=count,
            allreduce=kind,
            num_threads=1,
        )
        for count in sizes.rank_counts
        for kind in (("shared", "mpi") if count > 1 else ("shared",))
    }


def _stages_on_one(configure: Configure, model: str) -> dict[str, RunConfig]:
    stages = {
        f"2 stages, {schedule}": configure(
            model, SHARED_BATCH, strategy="pipeline", num_ranks=2, num_threads=1, schedule=schedule
        )
        for schedule in ("gpipe", "1f1b")
    }
    return {"1 rank": configure(model, SHARED_BATCH, num_threads=1), **stages}


def _against_cores(
    configure: Configure, device: str, model: str, size: int, sizes: Sizes
) -> dict[str, RunConfig]:
    """Return runs on all cores, by threads and by ranks, and on the GPU, in each precision."""
    num_ranks = min(sizes.num_cores, max(1, size // 8))
    ways: dict[str, dict[str, Any]] = {
        "cores, threads": {"device": "cpu", "num_threads": sizes.num_cores},
        "cores, ranks": {
            "device": "cpu",
            "strategy": "gradient_averaging",
            "num_ranks": num_ranks,
            "num_threads": sizes.num_cores // num_ranks,
        },
        "gpu": {**_graph(device), "num_threads": 1},
    }
    return {
        label + suffix: configure(model, size, **way, **precision)
        for label, way in ways.items()
        for suffix, precision in _precisions(model).items()
    }


def _several_gpus(configure: Configure, device: str, sizes: Sizes) -> Part:
    """Return gradient averaging with a GPU for each rank, by MPI and by torch.distributed."""
    backend = next(name for name, carried in BACKEND_DEVICES.items() if carried == device)
    parallel = {
        "strategy": "gradient_averaging",
        "num_ranks": sizes.num_gpus,
        "num_threads": 1,
        "batch_norm": "local",
    }
    ways: dict[str, dict[str, Any]] = {
        "mpi": {"allreduce": "mpi"},
        backend: {"allreduce": backend},
        f"{backend}, graph": {"allreduce": backend, **_graph(device)},
    }
    return Part(
        experiment="gpu-several",
        num_ranks=sizes.num_gpus,
        groups=tuple(
            {
                "1 rank": configure(model, SHARED_BATCH, num_threads=1),
                **{
                    label: configure(model, SHARED_BATCH * sizes.num_gpus, **parallel, **way)
                    for label, way in ways.items()
                },
            }
            for model in sizes.models
        ),
    )
