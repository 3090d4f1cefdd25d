"""The numbers of the report, computed a second time from the records, by other code.

Nothing of `nnpar_lib` is imported here: a mistake in the analysis cannot be in both. Each function
returns the numbers of one claim by name; `agrees` compares one with what is printed. Numbers of
the cost model are not computed here: its predictions are not in the records.

    python -m tests.recompute [FOLDER OF RECORDS]     prints all of them
"""

from __future__ import annotations

import json
import math
import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from scipy.optimize import minimize_scalar
from scipy.stats import binom

REPORT = Path(__file__).parents[1] / "report"
RATE = "samples_per_second"
NUM_IMAGES = {"mnist": 60_000, "fashion_mnist": 60_000, "digits": 12_000}
SHARPNESSES = np.geomspace(0.5, 8.0, 33)  # of curves: the exponents that the method tries
NUMBER = re.compile(r"(?<![\w.])[+-]?\d+(?:,\d{3})*(?:\.\d+)?(?!\w)")
RESAMPLED = 0.12  # how far two bootstraps of a few hundred resamples may be apart

Numbers = dict[str, Any]  # by name; a range where a value hangs on a bootstrap


class Records:
    """The files of records of one report: JSON lines as frames, with the config in columns."""

    def __init__(self, folder: str | Path = REPORT / "results" / "mnist-full") -> None:
        self.folder = Path(folder)

    def lines(self, name: str) -> list[dict[str, Any]]:
        """Return the records of a file as they are written."""
        text = (self.folder / f"{name}.jsonl").read_text()
        return [json.loads(line) for line in text.splitlines()]

    def frame(self, name: str, kind: str = "run") -> pd.DataFrame:
        """Return the records of one kind; what a record says twice has the record's value."""
        rows = [{**line.get("config", {}), **line} for line in self.lines(name)]
        return pd.DataFrame([row for row in rows if row["kind"] == kind])

    def study(self) -> dict[str, Any]:
        """Return the study of the mlp with SGD: that of these records, else the committed one."""
        file = self.folder / "04_mlp_sgd.json"
        committed = self.folder.parent / "regimes" / "mlp-sgd.json"
        return json.loads((file if file.exists() else committed).read_text())


def rows_with(frame: pd.DataFrame, **values: Any) -> pd.DataFrame:
    """Return the rows with these values."""
    for column, value in values.items():
        frame = frame[frame[column] == value]
    return frame


def ratios(compared: pd.DataFrame, base: pd.DataFrame, value: str = RATE) -> pd.Series:
    """Return compared / base, one for each repeat that both have."""
    above, below = (rows.groupby("repeat")[value].median() for rows in (compared, base))
    return (above / below).dropna()


def interval(values: pd.Series) -> tuple[float, float]:
    """Return the two order statistics that hold the median with at least 95 %."""
    ordered = sorted(values)
    cut = int(binom.ppf(0.025, len(ordered), 0.5))
    return (ordered[cut - 1], ordered[-cut]) if cut else (math.nan, math.nan)


def epoch_seconds(runs: pd.DataFrame) -> pd.Series:
    """Return the seconds that each run would take for an epoch."""
    num_steps = np.ceil(runs["dataset"].map(NUM_IMAGES) / runs["global_batch_size"])
    return runs["train_seconds"] / runs["num_steps"] * num_steps


def ladder(records: Records) -> Numbers:
    """Recompute the rungs: seconds an epoch over those of a tutorial's and of the best serial loop.

    Records from before a serial loop was mended have no best one.
    """
    runs = records.frame("02_ladder")
    runs = runs[runs["label"] != "control"].assign(epoch=epoch_seconds(runs))
    seconds = runs.groupby("label", sort=False)["epoch"].median()
    last = seconds.index[-1]
    numbers = {
        "first": seconds["root and workers"] / seconds["serial"],
        "last": seconds["serial"] / seconds[last],
        "ranks": runs["num_ranks"].max(),
    }
    mended = rows_with(runs, strategy="serial")
    if len(mended):
        best = mended.groupby("label")["epoch"].median().idxmin()
        over = ratios(rows_with(runs, label=best), rows_with(runs, label=last), "epoch")
        low, high = interval(over)
        numbers |= {"mended": seconds["serial"] / seconds[best], "speedup": over.median()}
        numbers |= {"low": low, "high": high}
    return numbers


def allreduce(records: Records) -> Numbers:
    """Recompute the all-reduce of the gradient of the mlp: MPI over shared memory."""
    sweep = records.frame("00_allreduce", "allreduce")
    rows = rows_with(sweep, num_elements=235_146).explode("seconds")
    medians = rows.groupby("allreduce")["seconds"].median()
    return {"factor": medians["mpi"] / medians["shared"]}


def efficiency(records: Records) -> Numbers:
    """Recompute the efficiencies over serial runs of the local batch and of the global one."""
    runs = records.frame("02_weak_scaling")
    runs = runs.assign(local=runs["global_batch_size"] / runs["num_ranks"])
    averaging = rows_with(runs, strategy="gradient_averaging", allreduce="shared")
    ranks = averaging["num_ranks"].max()
    numbers = {"ranks": ranks}
    for model in ("mlp", "cnn"):
        compared = rows_with(averaging, model=model, num_ranks=ranks)
        serial = rows_with(runs, model=model, strategy="serial", threads_per_rank=1)
        local = compared["local"].iloc[0]
        numbers[model] = ratios(compared, rows_with(serial, local=local)).median() / ranks
        whole = rows_with(serial, local=local * ranks)
        if len(whole):
            numbers[f"{model}-whole"] = ratios(compared, whole).median() / ranks
    return numbers


def accuracy(records: Records) -> Numbers:
    """Recompute the test accuracy of serial trainings, in percent."""
    runs = records.frame("01_accuracy").set_index("model")
    numbers = {f"epochs-{model}": runs["num_epochs"][model] for model in runs.index}
    return numbers | {f"{m}-percent": 100 * runs["final_test_accuracy"][m] for m in runs.index}


def averaging(records: Records) -> Numbers:
    """Recompute by how many points averaging ends from serial training, medians over seeds."""
    runs = rows_with(records.frame("02_averaging"), model="mlp")
    weights = rows_with(runs, strategy="weight_averaging", average_every=0)
    ways = {name: rows_with(runs, strategy=name) for name in ("serial", "gradient_averaging")}
    medians = {
        name: 100 * rows["final_test_accuracy"].median()
        for name, rows in {**ways, "epoch": weights}.items()
    }
    return {name: medians[name] - medians["serial"] for name in ("gradient_averaging", "epoch")}


def pipeline(records: Records) -> Numbers:
    """Recompute the bubble of a pipeline of the cnn and the share of its schedule, in percent."""
    runs = [line for line in records.lines("03_schedules") if line["label"] == "cnn, 1f1b"]
    shares = [run[RATE] * replayed(passes_of(run)) / run["global_batch_size"] for run in runs]
    bubbles = [
        np.median([idle(step) for _, step in passes_of(run).groupby("step")]) for run in runs
    ]
    return {"bubble": 100 * np.median(bubbles), "share": 100 * np.median(shares)}


def passes_of(run: dict[str, Any]) -> pd.DataFrame:
    """Return the forward and backward passes of a traced run, with ranks and steps."""
    rows = []
    for rank, events in enumerate(run["events"]):
        step = 0
        for what, stage, microbatch, start, end in events:
            step += what == "load"
            if what in ("forward", "backward"):
                rows.append((rank, step, what, stage, microbatch, start, end))
    names = ["rank", "step", "what", "stage", "microbatch", "start", "end"]
    return pd.DataFrame(rows, columns=names)


def idle(step: pd.DataFrame) -> float:
    """Return the share of a step, from its first pass to its last, without a pass on a rank."""
    span = step["end"].max() - step["start"].min()
    return 1 - (step["end"] - step["start"]).sum() / (span * step["rank"].nunique())


def replayed(passes: pd.DataFrame) -> float:
    """Return the seconds of a step whose ranks pass micro-batches on at once.

    Each rank computes in the order that was recorded; a pass takes the median of its stage.
    """
    durations = (passes["end"] - passes["start"]).groupby([passes["what"], passes["stage"]])
    medians = durations.median()
    order = rows_with(passes, step=passes["step"].max()).sort_values("end")
    last_stage = passes["stage"].max()
    free: dict[int, float] = {}
    done: dict[tuple[str, int, int], float] = {}
    for row in order.itertuples():
        before = (row.what, row.stage + (-1 if row.what == "forward" else 1), row.microbatch)
        if row.what == "backward" and row.stage == last_stage:
            before = ("forward", row.stage, row.microbatch)
        start = max(free.get(row.rank, 0.0), done.get(before, 0.0))
        free[row.rank] = start + medians[row.what, row.stage]
        done[row.what, row.stage, row.microbatch] = free[row.rank]
    return max(free.values())


def best_way(records: Records) -> Numbers:
    """Count how often each way is the fastest, over networks and batches."""
    runs = records.frame("05_grid")
    wins: dict[str, float] = {}
    problems = runs.groupby(["model", "num_parameters", "global_batch_size"])
    for _, rows in problems:
        name = fastest_way(rows)
        wins[name] = wins.get(name, 0) + 1
    return {**wins, "problems": len(problems), "ranks": runs["num_ranks"].max(), **_ranks(runs)}


def _ranks(runs: pd.DataFrame) -> Numbers:
    return {f"{count} ranks": count for count in runs["num_ranks"].unique()}


def fastest_way(rows: pd.DataFrame) -> str:
    """Return the label with the highest ratio to the best run of one process."""
    rates = rows.pivot_table(index="repeat", columns="label", values=RATE)
    labels = rows.groupby("label").first()
    serial = [label for label in rates if labels["strategy"][label] == "serial"]
    best = rates[serial].median().idxmax()
    speedups = rates.div(rates[best], axis=0).median()
    return str(speedups[~labels["oversubscribed"].astype(bool)].idxmax())


def hardest_goal(records: Records) -> tuple[float, dict[int, np.ndarray]]:
    """Return the hardest goal that every batch size of the study reached, and the steps of its
    runs by batch size."""
    runs = pd.DataFrame(records.study()["runs"])
    runs = rows_with(runs, stage="estimate").fillna({"steps": math.inf})
    medians = runs.groupby(["goal_error", "batch_size"])["steps"].median().unstack()
    reached = np.isfinite(medians).all(axis=1)
    goal = min(reached[reached].index)
    by_size = rows_with(runs, goal_error=goal).groupby("batch_size")["steps"]
    return goal, {size: steps.to_numpy() for size, steps in by_size}


def regimes(records: Records) -> Numbers:
    """Fit the curve to the steps to the hardest goal of the study of the mlp."""
    goal, by_size = hardest_goal(records)
    steps = list(by_size.values())
    sizes = np.array(list(by_size), dtype=float)
    medians = np.array(list(map(np.median, steps)))
    numbers = {"goal": 100 * goal, **curve(sizes, medians, SHARPNESSES)}
    generator = np.random.default_rng(2026)
    resampled = [
        curve(sizes, np.array([np.median(generator.choice(s, len(s))) for s in steps]), SHARPNESSES)
        for _ in range(200)
    ]
    for name in ("b_crit", "ends_perfect", "begins_maximal"):
        ends = np.quantile([row[name] for row in resampled], [0.025, 0.975])
        numbers |= {f"{name}~low": ends[0], f"{name}~high": ends[1]}
    return numbers


def curve(sizes: np.ndarray, steps: np.ndarray, exponents: np.ndarray) -> Numbers:
    """Fit S^q = S_min^q (1 + (B_crit / B)^q) to logarithms of steps, by least squares."""
    fits = []
    for q in exponents:
        grid = np.geomspace(sizes[0] / 64, sizes[-1] * 64, 200)
        shapes = np.log1p((grid[:, None] / sizes) ** q) / q
        best = int(np.var(np.log(steps) - shapes, axis=1).argmin())
        ends = np.log(grid[[max(0, best - 1), min(199, best + 1)]])
        fit = minimize_scalar(_variance, bounds=ends, args=(q, sizes, steps), method="bounded")
        fits.append((fit.fun * len(sizes), math.exp(fit.x), q))
    rss, b_crit, q = min(fits)
    return {
        "rss": rss,
        "b_crit": b_crit,
        "q": q,
        "ends_perfect": b_crit * (1 / 0.8 - 1) ** (1 / q),
        "begins_maximal": b_crit * (1 / 0.2 - 1) ** (1 / q),
    }


def _variance(knee: float, q: float, sizes: np.ndarray, steps: np.ndarray) -> float:
    return float(np.var(np.log(steps) - np.log1p((math.exp(knee) / sizes) ** q) / q))


def resnet(records: Records) -> Numbers:
    """Recompute what precision and layout gain, and the efficiency of ranks on ResNet-18."""
    runs = records.frame("06_precision")
    numbers = {}
    for model, label in (("cnn", ""), ("resnet18", ", im2col")):
        rows = rows_with(runs, model=model)
        cast = rows_with(rows, label=f"bf16, channels last{label}")
        numbers[model] = ratios(cast, rows_with(rows, label="plain float32")).median()
    ranks = records.frame("06_ranks")
    numbers["ranks"] = ranks["num_ranks"].max()
    for kind in ("local", "synchronised"):
        compared = rows_with(ranks, label=f"statistics {kind}")
        ratio = ratios(compared, rows_with(ranks, label="serial"))
        numbers[kind] = ratio.median() / numbers["ranks"]
    return numbers


def cpp(records: Records) -> Numbers:
    """Recompute how far C++ is ahead of PyTorch on one thread, by batch size."""
    runs = rows_with(records.frame("07_framework"), threads_per_rank=1)
    numbers = {}
    for size in (8, 32, 1024):
        rows = rows_with(runs, global_batch_size=size)
        in_cpp = rows_with(rows, strategy="cpp")
        numbers[f"ahead-{size}"] = ratios(in_cpp, rows_with(rows, strategy="serial")).median()
        numbers[f"batch-{size}"] = size
    return numbers


CLAIMS: dict[str, Callable[[Records], Numbers]] = {
    "ladder": ladder,
    "allreduce": allreduce,
    "efficiency": efficiency,
    "accuracy": accuracy,
    "averaging": averaging,
    "pipeline": pipeline,
    "best-way": best_way,
    "regimes": regimes,
    "resnet": resnet,
    "cpp": cpp,
}


def printed(text: str) -> Iterator[str]:
    """Return the numbers of a text as they are printed; names such as ResNet-18 are none."""
    text = re.sub(r"ResNet-18|bfloat16|`[^`]*`", "", text)
    return (match[0] for match in NUMBER.finditer(text))


def agrees(number: str, name: str, value: float) -> bool:
    """Return whether a printed number is the recomputed one, to the digits printed.

    Ends of bootstraps, whose names have a tilde, may differ by `RESAMPLED`.
    """
    shown = float(number.replace(",", ""))
    if isinstance(value, tuple):
        return value[0] <= shown <= value[1]
    if "~" in name:
        return abs(shown - value) <= RESAMPLED * abs(value) + 0.5
    num_digits = len(number.partition(".")[2])
    return abs(shown - value) <= 0.5001 * 10**-num_digits


def unexplained(text: str, numbers: Numbers) -> list[str]:
    """Return the numbers of a text that none of the recomputed ones agrees with."""
    return [
        number
        for number in printed(text)
        if not any(agrees(number, name, value) for name, value in numbers.items())
    ]


def main() -> None:
    """Print all numbers."""
    records = Records(*sys.argv[1:2])
    for claim, numbers_of in CLAIMS.items():
        for name, value in numbers_of(records).items():
            print(f"{claim:12} {name:34} {value:12.4f}")


if __name__ == "__main__":
    main()
