"""All ways to train beside each other, and predictions for larger machines."""

from __future__ import annotations

from collections.abc import Mapping

import pandas as pd

from nnpar_lib.analysis.cost import comparison, predictions
from nnpar_lib.analysis.cost.cost_model import Architecture, Machine, Model
from nnpar_lib.analysis.cost.predictions import AssumedMachine
from nnpar_lib.records import store
from nnpar_lib.records.kinds import Record

PROBLEM = ["num_parameters", "global_batch_size"]
LARGER_BATCH_SIZE = 1024
LARGER_NUM_LAYERS = 128
# of each kind of machine that is not here: the numbers of ranks, and those that tables show
LARGER_NUM_RANKS = {"cores": (1, 2, 4, 8, 16, 32, 64, 128), "gpus": (1, 2, 4, 8, 16)}
SHOWN_NUM_RANKS = {"cores": (64, 128), "gpus": (8, 16)}


def side_by_side(records: list[Record], models: Mapping[Architecture, Model]) -> pd.DataFrame:
    """Return the speed and costs of every way to train each model with each batch size."""
    speed = comparison.speed(store.frame(records))
    costs = comparison.costs(records, models)
    return speed.merge(costs, on=["model", *PROBLEM, "label"])


def fastest(table: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of `side_by_side` with the highest speedup for each model and batch size.

    Runs of more ranks than cores are left out.
    """
    on_cores = table[~table["oversubscribed"]]
    return on_cores.loc[on_cores.groupby(PROBLEM, sort=False)["speedup"].idxmax()]


def larger_machines(
    models: Mapping[Architecture, Model], machine: Machine
) -> dict[str, AssumedMachine]:
    """Return a node of cores like the measured ones, and GPUs, by kind.

    The cores are as fast as the measured one with the largest model.
    """
    largest = max(models, key=lambda architecture: models[architecture].parameter_bytes)
    return {"cores": predictions.cores_like(models[largest], machine), "gpus": predictions.V100}


def larger_speedups(machines: Mapping[str, AssumedMachine]) -> dict[str, pd.DataFrame]:
    """Return the predictions for a deep network on each kind of machine.

    One row per number of ranks and strategy.
    """
    return {
        kind: pd.concat([_on_ranks(machine, num_ranks) for num_ranks in LARGER_NUM_RANKS[kind]])
        for kind, machine in machines.items()
    }


def largest_speedups(machines: Mapping[str, AssumedMachine]) -> pd.DataFrame:
    """Return the predictions for the largest numbers of ranks, with `kind` and `machine`."""
    tables = [
        table[table["num_ranks"].isin(SHOWN_NUM_RANKS[kind])].assign(
            kind=kind, machine=machines[kind].name
        )
        for kind, table in larger_speedups(machines).items()
    ]
    return pd.concat(tables, ignore_index=True)


def larger_crossovers(machines: Mapping[str, AssumedMachine]) -> pd.Series[float]:
    """Return the smallest batch size at which gradient averaging is predicted to be fastest.

    The index names the number of ranks and the machine. NaN where it is at no batch size.
    """
    batches = {}
    for kind, machine in machines.items():
        for num_ranks in SHOWN_NUM_RANKS[kind]:
            sizes = [2**k for k in range(num_ranks.bit_length() - 1, 14)]
            batch = predictions.predicted_crossover(machine, num_ranks, sizes)
            batches[f"{num_ranks} {machine.name}"] = batch
    return pd.Series(batches)


def _on_ranks(machine: AssumedMachine, num_ranks: int) -> pd.DataFrame:
    return predictions.predict(
        machine,
        num_ranks=num_ranks,
        global_batch_size=LARGER_BATCH_SIZE,
        num_layers=LARGER_NUM_LAYERS,
    )
