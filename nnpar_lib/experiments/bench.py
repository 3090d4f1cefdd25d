"""The benchmarks behind the project's claims about speed: the runs, and the table of claims."""

from __future__ import annotations

import argparse
from typing import Any

from nnpar_lib.analysis.claims import benchmarks
from nnpar_lib.config import RunConfig
from nnpar_lib.launch.engines import engines
from nnpar_lib.records import store
from nnpar_lib.records.kinds import Record

NUM_RANKS = 2
LOCAL_BATCH_SIZES = {"mlp": (16, 64), "cnn": (32,)}
NUM_STEPS = {"mlp": 600, "cnn": 30}
EPOCH_BATCH_SIZE = 64
ALLREDUCE_SIZES = (1_000, 3_000, 10_000, 30_000, 100_000, 235_146, 1_000_000, 3_000_000, 11_000_000)


def run(arguments: argparse.Namespace) -> int:
    """Measure, append the records to a file, print the table of claims; return the exit status."""
    dataset = arguments.dataset
    repeats = arguments.num_repeats
    out = arguments.out
    groups = {f"step-{model}": step_configs(model, dataset) for model in LOCAL_BATCH_SIZES}
    groups["epoch"] = epoch_configs(dataset)
    records: list[Record] = []
    with engines(NUM_RANKS) as ranks:
        for experiment, configs in groups.items():
            print(f"{experiment}: {len(configs)} ways to train, {repeats} times each", flush=True)
            records += ranks.run_interleaved(
                configs, num_repeats=repeats, experiment=experiment, results_file=out
            )
        ranks.sweep_allreduces(benchmarks.ALLREDUCES, ALLREDUCE_SIZES, results_file=out)
    print(benchmarks.text(benchmarks.table(store.frame(records))))
    print(f"the records are in {out}")
    return 0


def step_configs(model: str, dataset: str) -> list[RunConfig]:
    """Return short runs at fixed local batch sizes: serial, gradient averaging, DDP."""
    common: dict[str, Any] = {
        "model": model,
        "dataset": dataset,
        "num_threads": 1,
        "num_steps": NUM_STEPS[model],
        "num_epochs": 1000,
        "lr": 0.01,
        "evaluate_every": 0,
    }
    configs = []
    for local in LOCAL_BATCH_SIZES[model]:
        configs.append(RunConfig(strategy="serial", global_batch_size=local, **common))
        parallel = {"num_ranks": NUM_RANKS, "global_batch_size": local * NUM_RANKS, **common}
        configs += [
            RunConfig(strategy="gradient_averaging", allreduce=kind, **parallel)
            for kind in benchmarks.ALLREDUCES
        ]
        configs.append(RunConfig(strategy="torch_ddp", **parallel))
    return configs


def epoch_configs(dataset: str) -> list[RunConfig]:
    """Return an epoch of the mlp by the loop of tutorials, and by the strategies of the library."""
    common: dict[str, Any] = {
        "model": "mlp",
        "dataset": dataset,
        "global_batch_size": EPOCH_BATCH_SIZE,
        "lr": 0.01,
        "evaluate_every": 0,
    }
    return [
        RunConfig(strategy="tutorial", num_threads=1, **common),
        RunConfig(strategy="tutorial", num_threads=NUM_RANKS, **common),
        RunConfig(strategy="serial", num_threads=1, **common),
        RunConfig(strategy="gradient_averaging", num_ranks=NUM_RANKS, num_threads=1, **common),
    ]
