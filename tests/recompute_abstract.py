"""The numbers of the abstract, computed a second time: see `tests/recompute.py`, whose rules hold.

Names are those under which the abstract places its numbers. A value that hangs on a bootstrap is a
range, which holds what any generator of random numbers gives.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pandas as pd

from tests.recompute import (
    RATE,
    Numbers,
    Records,
    efficiency,
    hardest_goal,
    ratios,
    regimes,
    rows_with,
)

HALF = 2**-0.8  # a ratio below halves, by the method's definition of perfect scaling
ALL = 2**-0.2  # a ratio above is no gain
MARGIN = 0.03  # of a bootstrap's ends
NUM_RESAMPLES = 1000
PARTS = ("compute", "communicate", "wait")
PREDICTED = ("serial", "sharded", "gradient_averaging", "pipeline", "tensor", "hybrid")
WAYS = {"data": "gradient_averaging", "pipeline": "pipeline", "tensor": "tensor"}


def abstract(records: Records) -> Numbers:
    """Return the numbers of the abstract but those of the cost model."""
    parts = (doublings, of_ways, num_predicted, small_batches, accuracy_lost, in_cpp, step_shares)
    numbers: Numbers = {}
    for part in parts:
        numbers |= part(records)
    fit = regimes(records)
    weak = efficiency(records)
    machines = surveys(records.folder.parent / "machines")
    numbers |= {f"abstract-efficiency-{model}": 100 * weak[model] for model in ("mlp", "cnn")}
    numbers |= {"abstract-critical": fit["b_crit"], "abstract-goal": fit["goal"]}
    return {**numbers, **many_cores(machines), **of_gpus(machines)}


def doublings(records: Records) -> Numbers:
    """Recompute which doublings of the batch halve the steps and the seconds to the goal."""
    _, steps = hardest_goal(records)
    timed = records.frame("04_runs").assign(
        seconds=lambda runs: runs["train_seconds"] / runs["num_steps"]
    )
    most = timed["num_ranks"].max()
    numbers: Numbers = {
        "abstract-ranks": most,
        "abstract-smallest-doubled": min(steps),
        "abstract-largest-batch": max(steps),
        **_counts("steps", steps, None),
    }
    for name, num_ranks in (("one", 1), ("all", most)):
        by_size = rows_with(timed, num_ranks=num_ranks).groupby("global_batch_size")["seconds"]
        seconds = {size: values.to_numpy() for size, values in by_size}
        numbers |= _counts(f"seconds-{name}", steps, seconds)
        totals = {
            size: np.median(steps[size]) * np.median(seconds[size])
            for size in set(steps) & set(seconds)
        }
        numbers[f"abstract-best-batch-{name}"] = min(totals, key=lambda size: totals[size])
    return numbers


def _counts(name: str, steps: dict[int, np.ndarray], seconds: dict | None) -> Numbers:
    generator = np.random.default_rng(7)
    sizes = [size for size in sorted(steps) if seconds is None or size in seconds]
    drawn = {size: _medians(steps[size], generator) for size in sizes}
    if seconds is not None:
        drawn = {size: drawn[size] * _medians(seconds[size], generator) for size in sizes}
    pairs = [size for size in sizes if 2 * size in drawn]
    ends = {size: np.quantile(drawn[2 * size] / drawn[size], [0.025, 0.975]) for size in pairs}
    near = (1 - MARGIN, 1 + MARGIN)
    halved = [[size for size in pairs if ends[size][1] < HALF * by] for by in near]
    lost = [[size for size in pairs if ends[size][0] > ALL * by] for by in reversed(near)]
    return {
        f"abstract-doublings-{name}": len(pairs),
        f"abstract-halved-{name}": tuple(map(len, halved)),
        f"abstract-halved-to-{name}": tuple(2 * max(kept, default=0) for kept in halved),
        f"abstract-no-gain-{name}": tuple(map(len, lost)),
        f"abstract-no-gain-from-{name}": tuple(
            min(kept, default=math.inf) for kept in reversed(lost)
        ),
    }


def _medians(values: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return np.median(generator.choice(values, size=(NUM_RESAMPLES, len(values))), axis=1)


def of_ways(records: Records) -> Numbers:
    """Recompute the speedups of each kind of parallelism over the best run of one process."""
    runs = records.frame("05_grid")
    runs = runs.assign(oversubscribed=runs["oversubscribed"].astype(bool))
    best: dict[str, list[float]] = {name: [] for name in WAYS}
    problems = runs.groupby(["num_parameters", "global_batch_size"])
    for _, rows in problems:
        rates = rows.pivot_table(index="repeat", columns="label", values=RATE)
        serial = rows_with(rows, strategy="serial")["label"].unique()
        speedups = rates.div(rates[rates[serial].median().idxmax()], axis=0).median()
        on_ranks = rows_with(rows[rows["num_ranks"] > 1], oversubscribed=False)
        for name, strategy in WAYS.items():
            same = rows_with(on_ranks, strategy=strategy)
            same = rows_with(same, allreduce="shared") if name == "data" else same
            if len(same):
                best[name].append(speedups[same["label"].unique()].max())
    numbers: Numbers = {"abstract-problems": problems.ngroups}
    for name, values in best.items():
        numbers |= {f"abstract-{name}-low": min(values), f"abstract-{name}-high": max(values)}
        numbers[f"abstract-{name}-ahead"] = sum(value > 1 for value in values)
    return numbers


def num_predicted(records: Records) -> Numbers:
    """Count the configurations with which the cost model is compared; it does not say its error."""
    runs = rows_with(records.frame("05_grid"), threads_per_rank=1)
    runs = runs[runs["strategy"].isin(PREDICTED) & ~runs["oversubscribed"].astype(bool)]
    return {"abstract-configurations": runs["config"].astype(str).nunique()}


def small_batches(records: Records) -> Numbers:
    """Recompute what ranks gain over threads, and from which batch on."""
    runs = records.frame("02_threads_against_ranks")
    gains = {}
    for size, rows in runs.groupby("global_batch_size"):
        serial = rows_with(rows, strategy="serial")
        threads = serial.groupby("threads_per_rank")[RATE].median().idxmax()
        ranks = rows_with(rows, strategy="gradient_averaging")
        gains[size] = ratios(ranks, rows_with(serial, threads_per_rank=threads))
    lower = {size: gains[size].quantile(0.25) for size in sorted(gains)}
    paying = [size for size in lower if min(lower[s] for s in lower if s >= size) > 1]
    return {
        "abstract-smallest-batch": min(gains),
        "abstract-smallest-gain": gains[min(gains)].median(),
        "abstract-pays-from": min(paying, default=math.nan),
    }


def accuracy_lost(records: Records) -> Numbers:
    """Recompute the points of test accuracy that each way loses, medians over seeds."""
    runs = records.frame("05_accuracy")
    lost: dict[str, list[float]] = {"exact": [], "averaging": []}
    for (model, label), rows in runs.groupby(["model", "label"]):
        serial = rows_with(runs, model=model, strategy="serial").set_index("seed")
        accuracies = rows.set_index("seed")["final_test_accuracy"]
        points = 100 * (serial["final_test_accuracy"] - accuracies).median()
        if label.startswith(("weight averaging", "local SGD")):
            lost["averaging"].append(points)
        elif not label.startswith("serial"):
            lost["exact"].append(abs(points))
    return {f"abstract-lost-{name}": max(values) for name, values in lost.items()}


def in_cpp(records: Records) -> Numbers:
    """Recompute what C++ gains, and the efficiency of two ranks in both programs."""
    runs = rows_with(records.frame("07_framework"), threads_per_rank=1)
    numbers = {}
    for size in (8, 1024):
        rows = rows_with(runs, global_batch_size=size)
        pair = (rows_with(rows, strategy=name) for name in ("cpp", "serial"))
        numbers[f"abstract-cpp-{size}"] = ratios(*pair).median()
    messages = records.frame("07_messages")
    for name, parallel, alone in (
        ("cpp", "cpp", "cpp"),
        ("torch", "gradient_averaging", "serial"),
    ):
        two = rows_with(messages, strategy=parallel, num_ranks=2, allreduce="shared")
        one = rows_with(messages, strategy=alone, num_ranks=1)
        numbers[f"abstract-{name}-efficiency"] = 100 * ratios(two, one).median() / 2
    return numbers


def step_shares(records: Records) -> Numbers:
    """Recompute into what the time of a step of the mlp goes, on the most ranks."""
    return _shares("abstract", rows_with(records.frame("02_weak_scaling"), model="mlp"))


def _shares(prefix: str, runs: pd.DataFrame) -> Numbers:
    rows = rows_with(runs, strategy="gradient_averaging", allreduce="shared")
    rows = rows_with(rows, num_ranks=rows["num_ranks"].max())
    seconds = {part: rows[f"{part}_seconds"].astype(float) for part in PARTS}
    return {
        f"{prefix}-{part}": 100 * (seconds[part] / rows["train_seconds"]).median() for part in PARTS
    }


def surveys(folder: Path) -> dict[str, pd.DataFrame]:
    """Return the runs of each surveyed machine, trial runs left out."""
    machines = {}
    for place in sorted(path for path in folder.iterdir() if path.is_dir()):
        frames = [Records(place).frame(file.stem) for file in sorted(place.glob("*.jsonl"))]
        runs = pd.concat([frame for frame in frames if len(frame)], ignore_index=True)
        runs = runs[~runs["experiment"].str.startswith(("pilot ", "noise-"))]
        flags = {name: runs.get(name, pd.Series(False, runs.index)) for name in ("record",)}
        runs = runs.assign(**{name: values.eq(True) for name, values in flags.items()})
        machines[place.name] = runs.assign(cores=runs["num_ranks"] * runs["threads_per_rank"])
    return machines


def many_cores(machines: dict[str, pd.DataFrame]) -> Numbers:
    """Recompute what the machine with the most cores in its records of the mlp gives."""
    weak = {
        name: runs[runs["experiment"].str.startswith("weak-") & (runs["model"] == "mlp")]
        for name, runs in machines.items()
    }
    shared = {name: _by_shared_memory(runs) for name, runs in weak.items()}
    name = max(shared, key=lambda machine: shared[machine]["cores"].max())
    rows = rows_with(shared[name], cores=shared[name]["cores"].max())
    experiment = rows["experiment"].iloc[0]
    group = rows_with(weak[name], experiment=experiment)
    rows = rows_with(rows, experiment=experiment)
    ratio = ratios(rows, _one_core(group)).median()
    cores = rows["cores"].iloc[0]
    threads = _over_threads(machines[name])
    ddp = rows_with(group, strategy="torch_ddp", num_ranks=cores)
    return {
        "abstract-cores-machine": name,
        "abstract-cores": cores,
        "abstract-cores-efficiency": 100 * ratio / cores,
        "abstract-cores-threads-low": min(threads, default=math.nan),
        "abstract-cores-threads-high": max(threads, default=math.nan),
        "abstract-cores-ddp": ratios(rows, _fastest(ddp)).median() if len(ddp) else math.nan,
        **_shares("abstract-cores", group),
        **_extrapolation(machines[name]),
    }


def _by_shared_memory(runs: pd.DataFrame) -> pd.DataFrame:
    ways = {"strategy": "gradient_averaging", "allreduce": "shared", "threads_per_rank": 1}
    return rows_with(runs, **ways, record=False)


def _fastest(rows: pd.DataFrame) -> pd.DataFrame:
    return rows_with(rows, label=rows.groupby("label")[RATE].median().idxmax())


def _one_core(group: pd.DataFrame) -> pd.DataFrame:
    named = rows_with(group, label="1 core")
    return named if len(named) else _fastest(rows_with(group, cores=1))


def _over_threads(runs: pd.DataFrame) -> list[float]:
    """Return the rate of ranks over that of threads, both on all cores, for each comparison."""
    values = []
    on_all = rows_with(rows_with(runs, device="cpu"), cores=runs["cores"].max())
    for _, rows in on_all.groupby(["experiment", "model", "global_batch_size", "precision"]):
        threads = rows_with(rows[rows["threads_per_rank"] > 1], strategy="serial")
        ranks = rows_with(rows, strategy="gradient_averaging", allreduce="shared", record=False)
        if len(threads) and len(ranks):
            values.append(ratios(_fastest(ranks), _fastest(threads)).median())
    return values


def _extrapolation(runs: pd.DataFrame) -> Numbers:
    """Recompute how far what one and two ranks say is from the steps of the most ranks."""
    weak = rows_with(runs[runs["experiment"].str.startswith("weak-")], threads_per_rank=1)
    weak = weak.assign(ms=1e3 * weak["train_seconds"] / weak["num_steps"])
    errors = []
    for _, rows in weak.groupby("model"):
        averaging = rows_with(rows, strategy="gradient_averaging")
        two = rows_with(averaging, num_ranks=2, allreduce="shared")
        late = 2 * (two["wait_seconds"].astype(float) / two["num_steps"]).median() * 1e3
        for _, same in averaging.groupby("allreduce"):
            errors += _errors_of(same, rows_with(rows, strategy="serial"), late)
    most = max((row[0] for row in errors), default=0)
    last = np.abs([row[1:] for row in errors if row[0] == most])
    if not len(last):
        return {}
    names = ("abstract-cores-error", "abstract-cores-error-waiting")
    return dict(zip(names, 100 * np.median(last, axis=0), strict=True))


def _errors_of(
    same: pd.DataFrame, serial: pd.DataFrame, late: float
) -> list[tuple[int, float, float]]:
    alone = pd.concat([serial, rows_with(same, num_ranks=1)])["ms"].median()
    two = rows_with(same, num_ranks=2)
    exchange = 1e3 * (two["communicate_seconds"].astype(float) / two["num_steps"]).median()
    errors = []
    for p in sorted(set(same["num_ranks"])):
        if p >= 4 and len(two) and not math.isnan(alone):
            measured = rows_with(same, num_ranks=p)["ms"].median()
            predicted = alone + exchange * 2 * (p - 1) / p
            waits = late * sum(1 / k for k in range(2, p + 1))
            errors.append((p, predicted / measured - 1, (predicted + waits) / measured - 1))
    return errors


def of_gpus(machines: dict[str, pd.DataFrame]) -> Numbers:
    """Recompute what a GPU gives over the cores of its machine, and ranks and stages on it."""
    tables = {name: _over_cores(runs) for name, runs in machines.items()}
    name = max(tables, key=lambda machine: len(tables[machine]))
    if not tables[name]:
        return {}
    numbers = {
        "abstract-gpu-machine": name,
        "abstract-gpu-low": min(tables[name]),
        "abstract-gpu-high": max(tables[name]),
    }
    for key, experiment in (("ranks", "gpu-ranks"), ("stages", "gpu-pipeline")):
        values = _over_one_rank(rows_with(machines[name], experiment=experiment))
        numbers[f"abstract-gpu-{key}-low"] = min(values, default=math.nan)
        numbers[f"abstract-gpu-{key}-high"] = max(values, default=math.nan)
    return numbers


def _over_cores(runs: pd.DataFrame) -> list[float]:
    values = []
    compared = rows_with(runs, experiment="gpu-cores")
    for _, rows in compared.groupby(["model", "global_batch_size"]):
        is_gpu = rows["label"].str.startswith("gpu")
        if is_gpu.any() and not is_gpu.all():
            values.append(ratios(_fastest(rows[is_gpu]), _fastest(rows[~is_gpu])).median())
    return values


def _over_one_rank(runs: pd.DataFrame) -> list[float]:
    values = []
    for _, rows in runs.groupby(["model", "global_batch_size"]):
        base = rows_with(rows, label="1 rank")
        others = set(rows["label"]) - {"1 rank"} if len(base) else set()
        values += [ratios(rows_with(rows, label=label), base).median() for label in others]
    return values
