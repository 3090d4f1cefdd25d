"""What the claims of the report rest on: each number with its interval, its control and its
records.

A row is that of `benchmarks.judged`, also for a number that is no ratio between two ways to train.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from nnpar_lib.analysis.claims import batch_sizes, benchmarks, data_parallelism
from nnpar_lib.analysis.cost import comparison, traced_pipelines
from nnpar_lib.analysis.cost.ways import PROBLEM
from nnpar_lib.analysis.scaling import speedups
from nnpar_lib.analysis.scaling.ladder import best_serial
from nnpar_lib.analysis.scaling.ratio import Ratio, ratio_of
from nnpar_lib.analysis.scaling.weak import weak_scaling
from nnpar_lib.records.kinds import CONTROL, Record, RunRecord

NONE = "none"
COMMIT_DIGITS = 8

Row = dict[str, Any]


def number(name: str, values: Iterable[float]) -> Row:
    """Return the row of the median of some numbers, which are compared with nothing."""
    return {**benchmarks.judged(name, ratio_of(list(values))), "verdict": ""}


def estimate(name: str, value: float, low: float, high: float, num_repeats: int) -> Row:
    """Return the row of a number that was fitted, with the 95 % interval of a bootstrap."""
    ratio = Ratio(value, math.nan, math.nan, low, high, num_repeats)
    return {**benchmarks.judged(name, ratio), "verdict": ""}


def ratio(
    name: str, runs: pd.DataFrame, base: Mapping[str, Any], compared: Mapping[str, Any]
) -> Row:
    """Return the row of a ratio of samples a second, beside the control of the same runs."""
    measured = runs[runs["label"] != CONTROL] if "label" in runs else runs
    paired = speedups.paired_ratio(measured, base, compared)
    return benchmarks.judged(name, paired, control=control(runs))


def control(runs: pd.DataFrame) -> Ratio | None:
    """Return the ratio of runs that were made twice, None where no run has the label `control`.

    Of several such runs, the one whose ratio strays furthest from 1 counts.
    """
    if "label" not in runs or not (runs["label"] == CONTROL).any():
        return None
    columns = [name for name in (*speedups.PROBLEM, *speedups.METHOD) if name in runs]
    named = runs.assign(same=[str(row) for row in runs[columns].to_numpy().tolist()])
    again = named[named["label"] == CONTROL]
    once = named[(named["label"] != CONTROL) & named["same"].isin(set(again["same"]))]
    ratios = [
        speedups.paired_ratio(pd.concat([once, again]), *_once_and_again(same, once))
        for same in again["same"].unique()
        if (once["same"] == same).any()
    ]
    return max(ratios, key=lambda pair: abs(math.log(pair.median)), default=None)


def _once_and_again(same: str, once: pd.DataFrame) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    label = once.loc[once["same"] == same, "label"].iloc[0]
    return {"same": same, "label": label}, {"same": same, "label": CONTROL}


def ladder(runs: pd.DataFrame) -> list[Row]:
    """Return every rung's rate over that of the fastest serial loop, in old records the only
    one."""
    base = best_serial(runs) or "serial"
    rungs = [label for label in runs["label"].unique() if label not in (base, CONTROL)]
    return [
        ratio(f"ladder, epochs a second over {base}: {rung}", runs, _label(base), _label(rung))
        for rung in rungs
    ]


def allreduce(sweep: pd.DataFrame) -> list[Row]:
    """Return the seconds of MPI's all-reduce of the mlp's gradient over those in shared memory."""
    rows = sweep[(sweep["num_elements"] == data_parallelism.GRADIENT_SIZE)].explode("seconds")
    rows = rows.assign(repeat=rows.groupby("allreduce").cumcount())
    pair = ({"allreduce": "shared"}, {"allreduce": "mpi"})
    paired = speedups.paired_ratio(rows, *pair, value="seconds")
    return [benchmarks.judged("all-reduce of the mlp's gradient, MPI over shared memory", paired)]


def efficiency(runs: pd.DataFrame) -> list[Row]:
    """Return the efficiency of gradient averaging at a fixed local batch, by model and ranks."""
    table = weak_scaling(runs)
    averaging = (table["strategy"] == "gradient_averaging") & (table["allreduce"] == "shared")
    rows = table[averaging & ~table["oversubscribed"] & (table["num_ranks"] > 1)]
    return [_efficiency(row) for row in rows.to_dict("records")]


def _efficiency(row: Mapping[Any, Any]) -> Row:
    name = (
        f"parallel efficiency of {row['num_ranks']} ranks, {row['model']},"
        f" local batch {row['local_batch_size']:.0f}"
    )
    return benchmarks.judged(name, _speedup(row).divided_by(row["num_workers"]))


def _speedup(row: Mapping[Any, Any]) -> Ratio:
    """Return the speedup that a row of a table of `scaling` or `comparison` holds."""
    names = ("speedup", "low", "high", "ci_low", "ci_high", "num_repeats")
    return Ratio(*(row[name] for name in names))


def accuracy(runs: pd.DataFrame) -> list[Row]:
    """Return the test accuracy in percent, over seeds, of each model and way to train."""
    ways = ["model", "strategy", "average_every"]
    return [
        number(f"test accuracy in percent: {_way_of(way)}", 100 * rows["final_test_accuracy"])
        for way, rows in runs.groupby(ways, sort=False, dropna=False)
    ]


def _way_of(way: Sequence[Any]) -> str:
    model, strategy, average_every = way
    every = f", every {average_every:.0f} steps" if average_every > 0 else ""
    once = ", once an epoch" if strategy == "weight_averaging" and not average_every > 0 else ""
    return f"{model}, {strategy.replace('_', ' ')}{every}{once}"


def pipeline(records: Iterable[Record], label: str = "cnn, 1f1b") -> list[Row]:
    """Return the bubble of a traced pipeline and the share of its schedule, in percent."""
    traced = [r for r in records if isinstance(r, RunRecord) and r.label == label]
    table = traced_pipelines.each_run(traced)
    return [
        number(f"bubble of the pipeline ({label}), percent", 100 * table["bubble"]),
        number(f"share of its schedule that it reaches ({label}), percent", 100 * table["share"]),
    ]


def best_way(runs: pd.DataFrame) -> list[Row]:
    """Return the speedup of the fastest way for each network and batch size, over the best run of
    one process."""
    table = comparison.speed(runs)
    on_cores = table[~table["oversubscribed"]]
    best = on_cores.loc[on_cores.groupby(PROBLEM, sort=False)["speedup"].idxmax()]
    noise = control(runs)
    return [_best_way(row, noise) for row in best.to_dict("records")]


def _best_way(row: Mapping[Any, Any], noise: Ratio | None) -> Row:
    name = (
        f"fastest for {row['model']}, {row['num_parameters'] / 1e6:.2g} M weights, batch"
        f" {row['global_batch_size']}: {row['label']}"
    )
    return benchmarks.judged(name, _speedup(row), control=noise)


def cost_model(predicted: pd.DataFrame) -> list[Row]:
    """Return the error of the cost model in percent, of the table of `predictions.compare`; its
    repeats are configurations."""
    errors = predicted.loc[~predicted["oversubscribed"], "error"].abs()
    return [number("error of the cost model over configurations, percent", 100 * errors)]


def regimes(study: str, hardest: batch_sizes.HardestGoal, num_seeds: int) -> list[Row]:
    """Return the batch sizes at which the regimes of scaling begin and end, of a study's fit."""
    names = {
        "ends_perfect": "batch up to which doubling it halves the steps",
        "b_crit": "critical batch size",
        "begins_maximal": "batch from which doubling it gains next to nothing",
    }
    goal = f"{study}, {100 * hardest.error:.3g} % error"
    fit = hardest.fit
    return [
        estimate(f"{text}, {goal}", fit[name], fit[f"{name}_low"], fit[f"{name}_high"], num_seeds)
        for name, text in names.items()
    ]


def faster(runs: pd.DataFrame, base: str, what: str) -> list[Row]:
    """Return the rate of each labelled way over that of the label `base`, by model."""
    return [
        ratio(f"{what}, {model}: {label}", rows, _label(base), _label(label))
        for model, rows in runs.groupby("model", sort=False)
        for label in rows["label"].unique()
        if label not in (base, CONTROL)
    ]


def precisions(runs: pd.DataFrame) -> list[Row]:
    """Return what each precision and layout gains over plain float32."""
    batch_size = runs["global_batch_size"].iloc[0]
    return faster(runs, "plain float32", f"over plain float32, batch {batch_size}")


def of_ranks(runs: pd.DataFrame) -> list[Row]:
    """Return the rate of ranks over that of one."""
    return faster(runs, "serial", f"{runs['num_ranks'].max()} ranks over one")


def in_cpp(runs: pd.DataFrame) -> list[Row]:
    """Return the rate of the program in C++ over PyTorch's, one thread each, by batch size."""
    one_thread = runs[runs["threads_per_rank"] == 1]
    pair = ({"strategy": "serial"}, {"strategy": "cpp"})
    return [
        ratio(f"C++ over PyTorch on one thread, batch {size}", rows, *pair)
        for size, rows in one_thread.groupby("global_batch_size")
        if {"serial", "cpp"} <= set(rows["strategy"])
    ]


def _label(label: str) -> dict[str, str]:
    return {"label": label}


def commits(provenances: Iterable[Mapping[str, Any]]) -> str:
    """Return the commits at which records were made; one whose tree was changed has a plus."""
    names = {
        f"{(origin['commit'] or 'unknown')[:COMMIT_DIGITS]}{'+' * bool(origin.get('dirty'))}"
        for origin in provenances
    }
    return ", ".join(sorted(names)) or NONE


def in_words(rows: Sequence[Row], format_number: Callable[[float], str]) -> pd.DataFrame:
    """Return rows as a table of words, with the interval behind each value.

    The interval holds the median with 95 %; quartiles are named so. A goal is followed by whether
    it was reached.
    """
    return pd.DataFrame([_in_words(row, format_number) for row in rows])


def _in_words(row: Row, format_number: Callable[[float], str]) -> Row:
    noise = [row["control_low"], row["control_high"]]
    goal = row["goal"]
    return {
        **row,
        "value": _value(row, format_number),
        "control": NONE if pd.isna(noise[0]) else " to ".join(map(format_number, noise)),
        "verdict": row["verdict"] if row["verdict"] != benchmarks.UNCONTROLLED else "",
        "goal": "" if pd.isna(goal) else f"{format_number(goal)} {row['outcome']}",
    }


def _value(row: Row, format_number: Callable[[float], str]) -> str:
    value = format_number(row["measured"])
    for names, word in ((("ci_low", "ci_high"), ""), (("low", "high"), "quartiles ")):
        ends = [row[name] for name in names]
        if not pd.isna(ends[0]) and row["num_repeats"] > 1:
            return f"{value} [{word}{', '.join(map(format_number, ends))}]"
    return value


def digits(value: float) -> str:
    """Return a number with two decimals, from 100 on with none."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.2f}"
