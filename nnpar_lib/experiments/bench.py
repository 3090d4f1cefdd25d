"""The benchmarks behind the project's claims about speed: the runs, and the table of claims.

Each group of runs is interleaved and holds a control: two ranks that average gradients, twice.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from nnpar_lib.analysis.claims import benchmarks
from nnpar_lib.config import RunConfig
from nnpar_lib.launch import native
from nnpar_lib.launch.engines import Engines, engines
from nnpar_lib.records import store
from nnpar_lib.records.kinds import CONTROL, Record

NUM_RANKS = 2
LOCAL_BATCH_SIZES = {"mlp": (16, 64), "cnn": (32,), "resnet18": (16,)}
NUM_STEPS = {"mlp": 250, "cnn": 12, "resnet18": 5}  # about half a second on two cores
NUM_LOOP_STEPS = 120
EPOCH_BATCH_SIZE = 64
CPP_BATCH_SIZES = (8, 32)
ALLREDUCES = ("shared", "shared", "mpi", "overlapped")  # the second of a kind is a control
ALLREDUCE_SIZES = (1_000, 3_000, 10_000, 30_000, 100_000, 235_146, 1_000_000, 3_000_000, 11_000_000)


def run(arguments: argparse.Namespace) -> int:
    """Measure, append the records to a file, print the table of claims; return the exit status."""
    records: list[Record] = []
    with engines(NUM_RANKS) as ranks:
        for experiment, configs in groups(arguments.dataset).items():
            _announce(experiment, configs, arguments.num_repeats)
            records += ranks.run_interleaved(
                configs,
                num_repeats=arguments.num_repeats,
                experiment=experiment,
                labels=labels(configs),
                results_file=arguments.out,
            )
        records += ranks.sweep_allreduces(
            ALLREDUCES,
            ALLREDUCE_SIZES,
            num_repeats=arguments.num_repeats,
            results_file=arguments.out,
        )
        records += _run_cpp(ranks, arguments.dataset, arguments.num_repeats, arguments.out)
    print(benchmarks.text(benchmarks.table(store.frame(records))))
    print(f"the records are in {arguments.out}")
    return 0


def groups(dataset: str) -> dict[str, list[RunConfig]]:
    """Return the runs on engines by experiment."""
    steps = {f"step-{model}": step_configs(model, dataset) for model in LOCAL_BATCH_SIZES}
    return {
        **steps,
        "pipeline": pipeline_configs(dataset),
        "epoch": loop_configs(dataset),
    }


def labels(configs: list[RunConfig]) -> list[str]:
    """Return a label for each config: that of a control where an earlier one is the same."""
    return [CONTROL if config in configs[:place] else "" for place, config in enumerate(configs)]


def step_configs(model: str, dataset: str) -> list[RunConfig]:
    """Return short runs at fixed local batch sizes: one process, gradient averaging, DDP."""
    common: dict[str, Any] = {
        "model": model,
        "dataset": dataset,
        "num_steps": NUM_STEPS[model],
        "num_epochs": 1000,
        "lr": 0.01,
        "evaluate_every": 0,
    }
    if model == "resnet18":
        common["stem"] = "imagenet"
    configs = []
    for local in LOCAL_BATCH_SIZES[model]:
        configs += _serial_configs(local, common)
        parallel = {"num_ranks": NUM_RANKS, "global_batch_size": local * NUM_RANKS, **common}
        configs += _parallel_configs({**parallel, "num_threads": 1})
    return configs


def _serial_configs(local: int, common: dict[str, Any]) -> list[RunConfig]:
    """Return runs of one process: with a rank's batch, and with that of all ranks."""
    all_ranks = local * NUM_RANKS
    return [
        RunConfig(global_batch_size=local, num_threads=1, **common),
        RunConfig(global_batch_size=all_ranks, num_threads=1, **common),
        RunConfig(global_batch_size=all_ranks, num_threads=NUM_RANKS, **common),
    ]


def _parallel_configs(common: dict[str, Any]) -> list[RunConfig]:
    averaging = RunConfig(strategy="gradient_averaging", **common)
    ddp = RunConfig(strategy="torch_ddp", **common)
    if common["model"] == "resnet18":
        local = averaging.replace(batch_norm="local")
        ddp = ddp.replace(batch_norm="local")
        compared = [local, averaging, averaging.replace(allreduce="mpi"), local, averaging]
    else:
        compared = [averaging, averaging.replace(allreduce="mpi"), averaging]
    if common["model"] == "mlp":  # the one whose steps are recorded on a CPU
        compared.append(averaging.replace(record=True))
    return [*compared, ddp, ddp.replace(ddp_tuned=True)]


def pipeline_configs(dataset: str) -> list[RunConfig]:
    """Return the same pipeline by the library, twice, and by torch."""
    ours = RunConfig(
        model="cnn",
        dataset=dataset,
        strategy="pipeline",
        num_ranks=NUM_RANKS,
        num_threads=1,
        num_steps=NUM_STEPS["cnn"],
        num_epochs=1000,
        lr=0.01,
        evaluate_every=0,
    )
    return [ours, ours.replace(strategy="torch_pipelining"), ours]


def loop_configs(dataset: str) -> list[RunConfig]:
    """Return steps of the mlp by the loop of tutorials, and by the strategies of the library."""
    common: dict[str, Any] = {
        "model": "mlp",
        "dataset": dataset,
        "global_batch_size": EPOCH_BATCH_SIZE,
        "num_steps": NUM_LOOP_STEPS,
        "num_epochs": 1000,
        "lr": 0.01,
        "evaluate_every": 0,
    }
    two_ranks = RunConfig(
        strategy="gradient_averaging", num_ranks=NUM_RANKS, num_threads=1, **common
    )
    return [
        RunConfig(strategy="tutorial", num_threads=1, **common),
        RunConfig(strategy="tutorial", num_threads=NUM_RANKS, **common),
        RunConfig(strategy="serial", num_threads=1, **common),
        two_ranks,
        two_ranks,
    ]


def cpp_configs(dataset: str) -> list[RunConfig]:
    """Return steps of the mlp in C++, twice each, and in PyTorch."""
    common: dict[str, Any] = {
        "dataset": dataset,
        "num_threads": 1,
        "num_steps": NUM_STEPS["mlp"],
        "num_epochs": 1000,
        "lr": 0.01,
        "evaluate_every": 0,
    }
    in_python = [RunConfig(global_batch_size=size, **common) for size in CPP_BATCH_SIZES]
    parallel = {"num_ranks": NUM_RANKS, "global_batch_size": 64 * NUM_RANKS, **common}
    in_python.append(RunConfig(strategy="gradient_averaging", **parallel))
    configs = []
    for python in in_python:
        in_cpp = python.replace(strategy="cpp")
        configs += [in_cpp, python, in_cpp]
    return configs


def _run_cpp(ranks: Engines, dataset: str, num_repeats: int, out: Path) -> list[Record]:
    """Measure the program in C++ beside PyTorch; say so where it cannot be built."""
    configs = cpp_configs(dataset)
    try:
        native.build()
    except ValueError as error:
        print(f"not measured: C++ ({str(error).splitlines()[0]})", flush=True)
        return []
    _announce("cpp", configs, num_repeats)
    runs = native.run_interleaved(
        configs,
        num_repeats=num_repeats,
        experiment="cpp",
        labels=labels(configs),
        results_file=out,
        ranks=ranks,
    )
    return list(runs)


def _announce(experiment: str, configs: list[RunConfig], num_repeats: int) -> None:
    print(f"{experiment}: {len(configs)} ways to train, {num_repeats} times each", flush=True)
