"""How speed follows the number of ranks: medians with their spread, speedups, efficiencies, and
where the time goes.

Every function takes a frame made by `nnpar_lib.records.store.frame` and returns a new one, or takes
and returns numbers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd
from scipy.optimize import nnls

from nnpar_lib.analysis.scaling.ratio import Ratio, ratio_of
from nnpar_lib.config.network import DEFAULT_HIDDEN
from nnpar_lib.config.option import METHOD as OF_METHOD
from nnpar_lib.config.option import PROBLEM as OF_PROBLEM
from nnpar_lib.config.sections import OPTIONS, with_role
from nnpar_lib.config.training import NUM_TRAINING_EXAMPLES

RATE = "samples_per_second"
SERIAL_ONE_THREAD = {"strategy": "serial", "threads_per_rank": 1}
# Runs that differ in one of these solved another problem, or at another place: no ratio is taken
# between them.
PROBLEM = (
    "host",
    "experiment",
    "num_parameters",
    "local_batch_size",
    *with_role(OF_PROBLEM, rates_only=True),
)
# Runs that differ in one of these solved the problem in another way: that is what is compared. The
# record has the threads that a run got, where its config may leave their number to the machine.
METHOD = tuple(
    "threads_per_rank" if name == "num_threads" else name for name in with_role(OF_METHOD)
)
ALWAYS_KEPT = (
    "model",
    "global_batch_size",
    "local_batch_size",
    "strategy",
    "allreduce",
    "num_ranks",
    "threads_per_rank",
)


@dataclass(frozen=True)
class AlphaBeta:
    """Hockney's model of a message, T = alpha + num_bytes * beta, in seconds and seconds a byte."""

    alpha: float
    beta: float

    @property
    def bandwidth(self) -> float:
        """Bytes a second of an endless message; infinite where no time was found to depend on the
        size."""
        return 1 / self.beta if self.beta > 0 else math.inf

    def seconds(self, num_bytes: float) -> float:
        """Return the time that the model predicts."""
        return self.alpha + num_bytes * self.beta


def amdahl_speedup(serial_fraction: float, num_ranks: float) -> float:
    """Return 1 / (f + (1 - f) / p), the speedup of work whose fraction f stays serial (Amdahl
    1967)."""
    if not 0 <= serial_fraction <= 1:
        raise ValueError(f"serial_fraction={serial_fraction} is outside [0, 1]")
    _check_positive(num_ranks=num_ranks)
    return 1 / (serial_fraction + (1 - serial_fraction) / num_ranks)


def parallel_efficiency(speedup: float, num_ranks: float) -> float:
    """Return S / p: the share of the ideal speedup that was reached."""
    _check_positive(speedup=speedup, num_ranks=num_ranks)
    return speedup / num_ranks


def karp_flatt(speedup: float, num_ranks: float) -> float:
    """Return (1/S - 1/p) / (1 - 1/p), the serial fraction that was experienced (Karp and Flatt
    1990).

    NaN up to one rank. A fraction that grows with p points to overhead, a constant one to work that
    stayed serial, a negative one to more than linear speedup.
    """
    _check_positive(speedup=speedup, num_ranks=num_ranks)
    if num_ranks <= 1:
        return math.nan
    return (1 / speedup - 1 / num_ranks) / (1 - 1 / num_ranks)


def summarize(frame: pd.DataFrame, by: Sequence[str], value: str = RATE) -> pd.DataFrame:
    """Return median, quartiles (`low`, `high`), `min`, `max` and `num_repeats` of a column, one row
    a group.

    Groups come in the order in which they first appear; rows without a value are left out.
    """
    _check_columns(frame, [*by, value])
    rows = frame.assign(**{value: pd.to_numeric(frame[value], errors="coerce")}).dropna(
        subset=[value]
    )
    values = rows.groupby(list(by), dropna=False, sort=False)[value]
    return values.agg(
        median="median",
        low=lambda v: v.quantile(0.25),
        high=lambda v: v.quantile(0.75),
        min="min",
        max="max",
        num_repeats="count",
    ).reset_index()


def paired_ratio(
    frame: pd.DataFrame, base: Mapping[str, Any], compared: Mapping[str, Any], value: str = RATE
) -> Ratio:
    """Return the ratio compared / base of a column, repeat by repeat.

    `base` and `compared` say which rows are meant: a column's name and the value it must have. The
    n-th repeat of one is divided by the n-th repeat of the other: they ran one after the other, so
    a drift of the machine cancels. Several rows of one repeat count as their median. Rows that are
    not there, or share no repeat, are a ValueError.
    """
    return ratio_between(
        matching(frame, base),
        matching(frame, compared),
        value,
        f"{dict(base)} and {dict(compared)}",
    )


def strong_scaling(frame: pd.DataFrame, base: Mapping[str, Any] | None = None) -> pd.DataFrame:
    """Return the speedup of every way to run at a fixed global batch size, one row per
    configuration.

    `speedup` is rate(configuration) / rate(base) over paired repeats, with quartiles and, from 6
    repeats on, a 95 % interval. `efficiency` is S/p and `karp_flatt` the serial fraction
    experienced, where p (`num_workers`) counts ranks times threads in units of the base's. `base`
    says which rows are the baseline, by default serial runs of one thread; where several
    configurations match, the fastest is taken, so that no speedup is won from a slow baseline.
    """
    return scaling_table(configurations_of(frame), base)


def time_split(frame: pd.DataFrame) -> pd.DataFrame:
    """Return which fractions of the training time went into what, one row per configuration,
    medians over repeats.

    `compute`, `communicate` and `wait` are means over ranks by the slowest rank's training time,
    `other` is the rest. `wait` is NaN where an exchange has no barrier of its own: there the
    waiting is part of `communicate`.
    """
    runs = configurations_of(frame)
    parts = ["compute", "communicate", "wait"]
    shares = {
        p: pd.to_numeric(runs[f"{p}_seconds"], errors="coerce") / runs["train_seconds"]
        for p in parts
    }
    groups = runs.assign(**shares).groupby(keys(runs), dropna=False, sort=False)
    table = groups[parts].median()
    table["other"] = (1 - table[parts].sum(axis=1)).clip(lower=0)
    table["num_repeats"] = groups.size()
    table["oversubscribed"] = groups["oversubscribed"].any()
    return table.reset_index()


def seconds_per_epoch(frame: pd.DataFrame) -> pd.Series[float]:
    """Return a run's seconds for as many steps as an epoch has."""
    steps = np.ceil(frame["dataset"].map(NUM_TRAINING_EXAMPLES) / frame["global_batch_size"])
    return frame["train_seconds"] * steps / frame["num_steps"]


def accuracy(frame: pd.DataFrame, by: Sequence[str]) -> pd.DataFrame:
    """Return median, quartiles and range of the final test accuracy, the number of seeds and of
    diverged runs.

    A run that diverged counts with the accuracy that it ended with, if it was evaluated at all.
    """
    runs = runs_of(frame)
    table = summarize(runs, by, "final_test_accuracy").rename(columns={"num_repeats": "num_runs"})
    groups = runs.groupby(list(by), dropna=False, sort=False)
    counts = groups.agg(
        num_seeds=("seed", "nunique"), num_diverged=("diverged", "sum")
    ).reset_index()
    return table.merge(counts, on=list(by))


def bandwidth(frame: pd.DataFrame) -> pd.DataFrame:
    """Return median seconds, quartiles and bytes a second of all-reduces, one row per way, ranks,
    size and dtype.

    `bandwidth` is the algorithm bandwidth: bytes of one rank's buffer by the median seconds,
    whatever crossed the wire. `bus_bandwidth` is 2(p-1)/p of it, as NCCL's tests define it: what
    each rank has to send at least, so that it can be compared with that of a message for any p.
    """
    rows = frame[frame["kind"] == "allreduce"] if "kind" in frame else frame
    if rows.empty:
        raise ValueError(
            "the frame holds no all-reduces; measure some, or look at another file of records"
        )
    by = [c for c in ("host", "experiment") if c in rows and rows[c].nunique(dropna=False) > 1]
    by += ["allreduce", "num_ranks", "num_elements", "dtype", "oversubscribed"]
    table = summarize(rows.explode("seconds"), by, "seconds").rename(columns={"median": "seconds"})
    itemsize = table["dtype"].map(lambda name: np.dtype(name).itemsize)
    table["num_bytes"] = table["num_elements"].astype(int) * itemsize
    table["bandwidth"] = table["num_bytes"] / table["seconds"]
    num_others = table["num_ranks"].astype(int) - 1
    table["bus_bandwidth"] = 2 * num_others / table["num_ranks"] * table["bandwidth"]
    return table.sort_values(["num_ranks", "num_elements"], kind="stable", ignore_index=True)


def fit_alpha_beta(num_bytes: npt.ArrayLike, seconds: npt.ArrayLike) -> AlphaBeta:
    """Fit T = alpha + n beta (Hockney 1994) to measured times, neither part below zero.

    The relative error is minimised: sizes span decades, and in seconds the largest message alone
    would decide.
    """
    n = np.asarray(num_bytes, dtype=float)
    t = np.asarray(seconds, dtype=float)
    if n.shape != t.shape or np.unique(n).size < 2:
        raise ValueError(
            f"{n.size} sizes and {t.size} times do not fix two parameters; give as many times as"
            " sizes, of at least two different sizes"
        )
    if not (t > 0).all():
        raise ValueError(f"a time of {t.min()} seconds was not measured; times must be positive")
    columns = np.column_stack([1 / t, n / t])
    scale = np.linalg.norm(
        columns, axis=0
    )  # microseconds beside picoseconds a byte: badly conditioned otherwise
    solution, _ = nnls(columns / scale, np.ones_like(t))
    alpha, beta = solution / scale
    return AlphaBeta(float(alpha), float(beta))


def keys(frame: pd.DataFrame) -> list[str]:
    """Return the columns that tell configurations apart: those of every table, and those that
    vary."""
    names = [name for name in (*PROBLEM, *METHOD) if name in frame]
    return [name for name in names if name in ALWAYS_KEPT or _varies(frame, name)]


def _varies(frame: pd.DataFrame, name: str) -> bool:
    """Return whether a column has several values; for what some models read, with one model."""
    by_model = name in OPTIONS and "model" in OPTIONS[name].read_by and "model" in frame
    if name in PROBLEM and by_model:
        return bool(frame.groupby("model")[name].nunique(dropna=False).max() > 1)
    return frame[name].nunique(dropna=False) > 1


def runs_of(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of training runs; none at all is a ValueError."""
    runs = frame[frame["kind"] == "run"] if "kind" in frame else frame
    if runs.empty:
        raise ValueError(
            "the frame holds no training runs; run some, or look at another file of records"
        )
    return runs


def configurations_of(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rows of training runs, without the values of options that they do not read.

    They have NaN there, or the common value where the option does not vary, so that runs which
    differ in nothing else are repeats of one configuration. A record from before an option was
    there has its default. Columns that every table shows stay as they are.
    """
    runs = runs_of(frame)
    names = [name for name in (*PROBLEM, *METHOD) if name in OPTIONS and name in runs]
    return runs.assign(**{n: _read_values(runs, n) for n in names if n not in ALWAYS_KEPT})


def _read_values(runs: pd.DataFrame, name: str) -> pd.Series[Any]:
    """Return a column of an option, without the values that runs did not read."""
    option = OPTIONS[name]
    values = _with_defaults(runs, name, option.default)
    is_read = pd.Series(True, index=runs.index)
    for reader, read_values in option.read_by.items():
        if reader in runs:
            is_read &= runs[reader].isin(read_values)
    if is_read.all() or values[is_read].nunique(dropna=False) > 1:
        return values.where(is_read)
    common = values[is_read].iloc[0] if is_read.any() else option.default
    return values.map(lambda _: common)


def _with_defaults(runs: pd.DataFrame, name: str, default: Any) -> pd.Series[Any]:
    """Return a column with the default of an option where a record says nothing."""
    is_missing = runs[name].isna()
    if not is_missing.any():
        return runs[name]
    defaults = [default] * len(runs)
    if name == "hidden" and "model" in runs:
        defaults = [DEFAULT_HIDDEN[model] for model in runs["model"]]
    pairs = zip(is_missing, defaults, runs[name], strict=True)
    values = [default if missing else value for missing, default, value in pairs]
    return pd.Series(values, index=runs.index)


def scaling_table(runs: pd.DataFrame, base: Mapping[str, Any] | None) -> pd.DataFrame:
    """Return the rows of `strong_scaling` for configurations that the columns of `runs` tell
    apart."""
    problem = [c for c in keys(runs) if c in PROBLEM]
    rows = []
    for _, same_problem in runs.groupby(problem, dropna=False, sort=False):
        base_rows = fastest(matching(same_problem, base or SERIAL_ONE_THREAD))
        by = keys(runs)
        for _, group in same_problem.groupby(by, dropna=False, sort=False):
            rows.append({**group.iloc[0][by], **_scaling_of(group, base_rows)})
    return pd.DataFrame(rows).sort_values(
        ["num_ranks", "threads_per_rank"], kind="stable", ignore_index=True
    )


def _scaling_of(group: pd.DataFrame, base_rows: pd.DataFrame) -> dict[str, Any]:
    what = f"{dict(group.iloc[0][keys(group)])} and its base"
    ratio = ratio_between(base_rows, group, RATE, what)
    num_workers = num_workers_of(group) / num_workers_of(base_rows)
    return {
        "num_workers": num_workers,
        RATE: float(group[RATE].median()),
        **ratio.columns("speedup"),
        "efficiency": parallel_efficiency(ratio.median, num_workers),
        "karp_flatt": karp_flatt(ratio.median, num_workers),
        "oversubscribed": bool(group["oversubscribed"].any()),
    }


def num_workers_of(rows: pd.DataFrame) -> float:
    """Return ranks times threads of the runs of one configuration."""
    return float(rows["num_ranks"].iloc[0] * rows["threads_per_rank"].iloc[0])


def fastest(rows: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of the configuration with the highest median rate."""
    groups = [group for _, group in rows.groupby(keys(rows), dropna=False, sort=False)]
    return max(groups, key=lambda group: float(group[RATE].median()))


def matching(frame: pd.DataFrame, filters: Mapping[str, Any]) -> pd.DataFrame:
    """Return the rows with these values; none at all is a ValueError that says what is there."""
    _check_columns(frame, filters)
    rows = frame
    for column, wanted in filters.items():
        seen = ", ".join(map(str, rows[column].unique()))
        rows = rows[rows[column].isna() if wanted is None else rows[column] == wanted]
        if rows.empty:
            where = {
                c: frame[c].iloc[0]
                for c in PROBLEM
                if c in frame and frame[c].nunique(dropna=False) == 1
            }
            raise ValueError(
                f"no rows with {dict(filters)} where {where}: {column} is {seen or 'nothing'} there"
            )
    return rows


def ratio_between(base: pd.DataFrame, compared: pd.DataFrame, value: str, what: str) -> Ratio:
    """Return compared / base of a column, repeat by repeat; `what` names both in an error."""
    _check_columns(base, [value, "repeat"])
    below, above = (rows.groupby("repeat")[value].median().dropna() for rows in (base, compared))
    ratios = (above / below).dropna().to_numpy(dtype=float)
    if ratios.size == 0:
        raise ValueError(
            f"{what} share no repeat with a {value}: run them interleaved, in one experiment"
        )
    return ratio_of(ratios)


def _check_positive(**values: float) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name}={value} is not positive")


def _check_columns(frame: pd.DataFrame, names: Sequence[str] | Mapping[str, Any]) -> None:
    for name in names:
        if name not in frame:
            raise ValueError(
                f"the frame has no column {name!r}; it has {', '.join(map(str, frame.columns))}"
            )
