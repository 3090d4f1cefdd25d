"""The numbers of the abstract, by stable names, each a number itself; sentences are made elsewhere.

A speedup is over the best that one process does with the same batch, on one thread or on all
cores.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from nnpar_lib.analysis.claims import gpu, machines
from nnpar_lib.analysis.cost import predictions, waiting, ways
from nnpar_lib.analysis.cost.predictions import AssumedMachine
from nnpar_lib.analysis.regimes.definitions import HALVES, LONGER, NO_GAIN
from nnpar_lib.analysis.scaling.ratio import Ratio
from nnpar_lib.analysis.scaling.speedups import RATE, paired_ratio, time_split

Numbers = dict[str, Any]
WAYS = {"data": "gradient_averaging", "pipeline": "pipeline", "tensor": "tensor"}
PARTS = ("compute", "communicate", "wait")
DIFFERENT = ("weight averaging", "local SGD")  # ways that do not take the steps of a serial run
SHOWN = {"cores": (64,), "gpus": (8, 16)}


def doublings(table: pd.DataFrame) -> Numbers:
    """Count the doublings of the batch, of the rows of `time_to_goal.doublings` to one goal.

    Of the steps, of the seconds on one rank and of those on the most ranks: how many there are, how
    many halve it, up to which batch, and how many gain nothing or take longer, from which batch on.
    """
    steps = table["quantity"] == "steps"
    most = table.loc[~steps, "num_ranks"].max()
    chosen = {
        "steps": steps,
        "seconds-one": ~steps & (table["num_ranks"] == 1),
        "seconds-all": ~steps & (table["num_ranks"] == most),
    }
    numbers: Numbers = {"abstract-ranks": most}
    for name, rows in chosen.items():
        numbers |= _doublings_of(name, table[rows].sort_values("batch_size"))
    return numbers


def _doublings_of(name: str, rows: pd.DataFrame) -> Numbers:
    halved = rows.loc[rows["verdict"] == HALVES, "batch_size"]
    no_gain = rows.loc[rows["verdict"].isin([NO_GAIN, LONGER]), "batch_size"]
    return {
        f"abstract-doublings-{name}": len(rows),
        f"abstract-halved-{name}": len(halved),
        f"abstract-halved-to-{name}": 2 * halved.max() if len(halved) else math.nan,
        f"abstract-no-gain-{name}": len(no_gain),
        f"abstract-no-gain-from-{name}": no_gain.min() if len(no_gain) else math.nan,
    }


def ranks_of_ways(table: pd.DataFrame) -> Numbers:
    """Return the least and the largest speedup of each kind of parallelism over the networks and
    batches of `ways.side_by_side`, and in how many of them it is ahead of the best serial run.

    Data parallelism sums gradients in shared memory; of the schedules of a pipeline the fastest
    counts. Runs of more ranks than cores are left out.
    """
    rows = table[~table["oversubscribed"] & (table["num_ranks"] > 1)]
    numbers: Numbers = {"abstract-problems": table.groupby(ways.PROBLEM).ngroups}
    for name, strategy in WAYS.items():
        same = rows[rows["strategy"] == strategy]
        if strategy == "gradient_averaging":
            same = same[same["allreduce"] == "shared"]
        best = same.groupby(ways.PROBLEM)["speedup"].max()
        numbers |= {
            f"abstract-{name}-low": best.min(),
            f"abstract-{name}-high": best.max(),
            f"abstract-{name}-ahead": int((best > 1).sum()),
        }
    return numbers


def small_batches(threads_against_ranks: pd.DataFrame) -> Numbers:
    """Return what all ranks gain over the best serial run at the smallest batch, and from which
    batch on they gain in three of four repeats; NaN where they never do.

    The frame has serial runs on one thread and on all cores, and ranks on all cores.
    """
    gains = _gains(threads_against_ranks)
    paying = [size for size in gains if all(gains[s].low > 1 for s in gains if s >= size)]
    smallest = min(gains)
    return {
        "abstract-smallest-batch": smallest,
        "abstract-smallest-gain": gains[smallest].median,
        "abstract-pays-from": min(paying, default=math.nan),
    }


def _gains(threads_against_ranks: pd.DataFrame) -> dict[int, Ratio]:
    """Return the rate of ranks over that of the best serial run, by batch."""
    gains: dict[int, Ratio] = {}
    for size in sorted(threads_against_ranks["global_batch_size"].unique()):
        rows = threads_against_ranks[threads_against_ranks["global_batch_size"] == size]
        rates = rows[rows["strategy"] == "serial"].groupby("threads_per_rank")[RATE].median()
        serial = {"strategy": "serial", "threads_per_rank": rates.idxmax()}
        gains[int(size)] = paired_ratio(rows, serial, {"strategy": "gradient_averaging"})
    return gains


def accuracy_lost(table: pd.DataFrame) -> Numbers:
    """Return the points of accuracy that ways lose, of the rows of `comparison.accuracy`.

    `abstract-lost-exact` has the largest difference of ways that take the steps of a serial run,
    and `abstract-lost-averaging` the most that averaging weights loses.
    """
    differs = table["label"].str.startswith(DIFFERENT)
    is_serial = table["label"].str.startswith("serial")
    lost = 100 * table["accuracy_lost"]
    return {
        "abstract-lost-exact": lost[~differs & ~is_serial].abs().max(),
        "abstract-lost-averaging": lost[differs].max(),
    }


def shares(prefix: str, runs: pd.DataFrame) -> Numbers:
    """Return the percent of a step of the most ranks that computing, communicating and waiting
    take, where gradients are summed in shared memory."""
    split = time_split(runs)
    kept = split[(split["strategy"] == "gradient_averaging") & (split["allreduce"] == "shared")]
    row = kept.sort_values("num_ranks").iloc[-1]
    return {f"{prefix}-{part}": 100 * row[part] for part in PARTS}


def prediction_error(predicted: pd.DataFrame) -> Numbers:
    """Return how far predictions are off in percent, of the rows of `predictions.compare`."""
    errors = predictions.errors(predicted).loc["all"]
    return {
        "abstract-model-error": 100 * errors["median"],
        "abstract-model-worst": 100 * errors["max"],
        "abstract-configurations": errors["count"],
    }


def predicted(assumed: Mapping[str, AssumedMachine]) -> Numbers:
    """Return the largest predicted speedup of each larger machine, and the way that has it."""
    table = ways.largest_speedups(assumed)
    numbers: Numbers = {}
    for kind, counts in SHOWN.items():
        for count in counts:
            rows = table[(table["kind"] == kind) & (table["num_ranks"] == count)]
            best = rows.sort_values("speedup").iloc[-1]
            numbers[f"abstract-{kind}-{count}"] = best["speedup"]
            numbers[f"abstract-{kind}-{count}-way"] = best["strategy"].replace("_", " ")
    return numbers


def many_cores(frame: pd.DataFrame) -> Numbers:
    """Return what ranks give on the surveyed machine with the most cores; nothing where no machine
    has more than two.

    `frame` is that of `machines.side_by_side`.
    """
    scaled = machines.over_cores(frame) if len(frame) else frame
    scaled = scaled[scaled["way"] == machines.SHARED] if len(scaled) else scaled
    if scaled.empty or scaled["num_cores"].max() <= 2:
        return {}
    row = scaled.sort_values("num_cores", kind="stable").iloc[-1]
    name = row["machine"]
    here = frame[frame["machine"] == name]
    threads = machines.ranks_against_threads(here)["median"]
    ddp = machines.against_ddp(here[here["experiment"] == row["experiment"]])
    ddp = ddp[ddp["num_ranks"] == row["num_ranks"]]["median"]
    same = here[(here["experiment"] == row["experiment"]) & (here["device"] == "cpu")]
    numbers = {
        "abstract-cores-machine": name,
        "abstract-cores": row["num_cores"],
        "abstract-cores-efficiency": 100 * row["median"],
        "abstract-cores-threads-low": threads.min(),
        "abstract-cores-threads-high": threads.max(),
        "abstract-cores-ddp": ddp.iloc[0] if len(ddp) else math.nan,
    }
    return numbers | shares("abstract-cores", same) | _extrapolated(here)


def _extrapolated(frame: pd.DataFrame) -> Numbers:
    """Return the error in percent of what one and two ranks say of the most ranks."""
    table = waiting.extrapolated(frame)
    if table.empty:
        return {}
    most = table[table["num_ranks"] == table["num_ranks"].max()]
    return {
        "abstract-cores-error": 100 * most["error"].abs().median(),
        "abstract-cores-error-waiting": 100 * most["error_with_waiting"].abs().median(),
    }


def gpus(frame: pd.DataFrame) -> Numbers:
    """Return what a GPU gives over all cores of its own machine, and what ranks and stages give
    that share it; of the machine with the most such records, nothing where there is none."""
    table = machines.of_gpus(frame) if len(frame) else frame
    if table.empty:
        return {}
    name = table["machine"].value_counts().idxmax()
    ratios = table.loc[table["machine"] == name, "median"]
    speeds = gpu.speeds(frame[frame["machine"] == name])
    numbers = {
        "abstract-gpu-machine": name,
        "abstract-gpu-low": ratios.min(),
        "abstract-gpu-high": ratios.max(),
    }
    for key, experiment in (("ranks", "gpu-ranks"), ("stages", "gpu-pipeline")):
        rows = speeds[(speeds["experiment"] == experiment) & (speeds["label"] != speeds["base"])]
        numbers[f"abstract-gpu-{key}-low"] = rows["speedup"].min()
        numbers[f"abstract-gpu-{key}-high"] = rows["speedup"].max()
    return numbers


def pipelines_in_words(numbers: Numbers) -> str:
    """Return what `ranks_of_ways` says of pipelines, as a sentence."""
    ahead = numbers["abstract-pipeline-ahead"]
    low = numbers["abstract-pipeline-low"]
    high = numbers["abstract-pipeline-high"]
    verdict = "bubbles and messages cost these networks more than the second core gives"
    if ahead:
        verdict = "where stages are long enough, the second core gives more than a bubble costs"
    return (
        f"Pipelines are ahead of the best serial run in {ahead} of {numbers['abstract-problems']}"
        f" cases and have {low:.2f} to {high:.2f} times its rate: {verdict}."
    )


def small_batches_in_words(threads_against_ranks: pd.DataFrame) -> str:
    """Return what ranks gain over the best serial run at each batch, as a sentence."""
    gains = _gains(threads_against_ranks)
    parts = [f"{gain.median:.2f} at a batch of {size:,}" for size, gain in gains.items()]
    pays_from = small_batches(threads_against_ranks)["abstract-pays-from"]
    verdict = "at no batch that was measured do they gain in three of four repeats"
    if not math.isnan(pays_from):
        verdict = f"they gain in three of four repeats from {pays_from:,.0f} on"
    return (
        "relative to the best serial run, with one thread or with all, ranks have a rate of"
        f" {', '.join(parts)}; {verdict}."
    )
