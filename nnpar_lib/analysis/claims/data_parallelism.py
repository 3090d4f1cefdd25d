"""Numbers and tables of the chapter on data parallelism, by the names that its text uses."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import pandas as pd

from nnpar_lib.analysis import scaling
from nnpar_lib.analysis.cost import allreduce_algorithms
from nnpar_lib.analysis.scaling import ladder as rungs
from nnpar_lib.records.kinds import Record

GRADIENT_SIZE = 235_146  # numbers in the gradient of the mlp
MODELS = ("mlp", "cnn")
NONE_SLOWER = "No rung is slower than the one that it changes."
WHO_SUMS = {
    "mpi": "MPI's own all-reduce",
    "ring": "the ring",
    "recursive_doubling": "recursive doubling",
    "rabenseifner": "Rabenseifner's algorithm",
    "tree": "the tree",
}


def ladder(runs: pd.DataFrame) -> dict[str, Any]:
    """Return what the first and the last rung take, relative to serial loops.

    `ladder-speedup` with its 95 % interval is that of the last rung over the fastest serial rung;
    it is NaN in records from before a serial rung was mended.
    """
    table = rungs.gains(runs).set_index("label")
    seconds = table["seconds"]
    last = table.iloc[-1]
    best_serial = rungs.best_serial(runs)
    return {
        "ladder-first": seconds["root and workers"] / seconds["serial"],
        "ladder-last": seconds["serial"] / last["seconds"],
        "ladder-last-rung": table.index[-1],
        "ladder-best-serial": best_serial or "absent",
        "ladder-mended": seconds["serial"] / seconds.get(best_serial, math.nan),
        "ladder-speedup": last["over_serial"],
        "ladder-speedup-low": last["over_serial_low"],
        "ladder-speedup-high": last["over_serial_high"],
        "ladder-slower": " ".join(rungs.slower_in_words(table.reset_index())) or NONE_SLOWER,
        "num-ranks": runs["num_ranks"].max(),
        "ladder-repeats": runs["repeat"].nunique(),
    }


def ladder_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return what each rung mends and gains, the table of `ladder.gains`, with words for a reader.

    `kind` says whether a rung is parallelism.
    """
    table = rungs.gains(runs)
    kinds = table["is_parallelism"].map({True: "parallelism", False: "serial code"})
    return table.assign(kind=kinds)


def allreduce(sweep: pd.DataFrame) -> dict[str, Any]:
    """Return the microseconds of summing the gradient of the mlp by MPI and in shared memory."""
    table = scaling.bandwidth(sweep)
    seconds = table[table["num_elements"] == GRADIENT_SIZE].set_index("allreduce")["seconds"]
    shared, mpi = (float(seconds[kind]) for kind in ("shared", "mpi"))
    return {"shared-us": 1e6 * shared, "mpi-us": 1e6 * mpi, "shared-factor": mpi / shared}


def algorithms(records: Sequence[Record]) -> dict[str, Any]:
    """Return which all-reduce that sends messages is the fastest for the fewest and for the most
    numbers, on as many ranks as cores, and how far its formulas are off."""
    prices = allreduce_algorithms.prices(records)
    table = allreduce_algorithms.compare(records, prices)
    table = table[~table["oversubscribed"].astype(bool) & (table["allreduce"] != "shared")]
    fastest = allreduce_algorithms.fastest(table)
    few = fastest.iloc[0]
    many = fastest.iloc[-1]
    error = 100 * table["error"].abs()
    return {
        "fastest-few": WHO_SUMS[few["allreduce"]],
        "num-few": few["num_elements"],
        "fastest-many": WHO_SUMS[many["allreduce"]],
        "num-many": many["num_elements"],
        "alpha-us": 1e6 * prices.message.alpha,
        "message-gb": prices.message.bandwidth / 1e9,
        "addition-gb": prices.addition.bandwidth / 1e9,
        "algorithms-error": error.median(),
        "algorithms-worst": error.max(),
    }


def efficiencies(weak: pd.DataFrame) -> dict[str, Any]:
    """Return the two efficiencies of `scaling.weak_scaling` in percent of the most ranks, by model.

    `efficiency-...` is the scaled one, over a serial run of the local batch; `same-batch-...` is
    over a serial run of the global batch, NaN where there is none. Both have quartiles.
    """
    table = scaling.weak_scaling(weak)
    shared = table[
        (table["strategy"] == "gradient_averaging") & (table["allreduce"] == "shared")
    ].sort_values("num_ranks")
    numbers: dict[str, Any] = {"weak-repeats": int(table["num_repeats"].min())}
    for model in MODELS:
        row = shared[shared["model"] == model].iloc[-1]
        numbers[f"efficiency-{model}"] = 100 * row["efficiency"]
        numbers[f"efficiency-{model}-low"] = 100 * row["low"] / row["num_workers"]
        numbers[f"efficiency-{model}-high"] = 100 * row["high"] / row["num_workers"]
        numbers[f"efficiency-{model}-ranks"] = row["num_ranks"]
        numbers[f"efficiency-{model}-batch"] = row["local_batch_size"]
        numbers[f"same-batch-{model}"] = 100 * row["same_batch_efficiency"]
        numbers[f"same-batch-{model}-low"] = 100 * row["same_batch_low"]
        numbers[f"same-batch-{model}-high"] = 100 * row["same_batch_high"]
        numbers[f"same-batch-{model}-batch"] = row["local_batch_size"] * row["num_ranks"]
    return numbers


def serial_accuracies(runs: pd.DataFrame) -> dict[str, Any]:
    """Return the final test accuracy in percent and the epochs of each serial training."""
    rows = runs.set_index("model")
    accuracies = {f"accuracy-{m}": 100 * rows["final_test_accuracy"][m] for m in MODELS}
    return accuracies | {f"epochs-{m}": rows["num_epochs"][m] for m in MODELS}


def averaging(runs: pd.DataFrame) -> dict[str, Any]:
    """Return the median test accuracy in percent of the mlp for each way to average."""
    mlp = runs[runs["model"] == "mlp"]
    table = _accuracies(mlp, ["strategy", "average_every"])
    median = table.set_index(["strategy", "average_every"])["median"]
    return {
        "averaging-serial": 100 * median["serial", 0],
        "averaging-gradients": 100 * median["gradient_averaging", 0],
        "averaging-ten": 100 * median["weight_averaging", 10],
        "averaging-epoch": 100 * median["weight_averaging", 0],
        "num-seeds": mlp["seed"].nunique(),
    }


def accuracy_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the median and range of the test accuracy in percent.

    One row per model, strategy and averaging interval.
    """
    table = _accuracies(runs, ["model", "strategy", "average_every"])
    percent = ["median", "min", "max"]
    table[percent] *= 100
    return table


def _accuracies(runs: pd.DataFrame, by: list[str]) -> pd.DataFrame:
    """Return `scaling.accuracy`; a strategy that does not read the averaging interval has 0."""
    table = scaling.accuracy(runs, by)
    return table.assign(average_every=table["average_every"].fillna(0).astype(int))


def efficiency_table(weak: pd.DataFrame) -> pd.DataFrame:
    """Return the table of `scaling.weak_scaling`, with whole samples a second.

    The columns of `scaling.spread_columns` bound the efficiency instead of the speedup.
    """
    table = scaling.weak_scaling(weak)
    for column in scaling.spread_columns(table):
        table[column] /= table["num_workers"]
    return table.assign(samples_per_second=table["samples_per_second"].astype(int))
