"""The sentences and tables of the chapter on machines, each with the machine that it is about."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import pandas as pd

from nnpar_lib.analysis.claims import machines
from nnpar_lib.analysis.cost import blind, waiting
from nnpar_lib.records.kinds import Record

BLIND_COLUMNS = ["machine", "strategy", "num_ranks", "without_waiting", "median_error"]
BLIND_COLUMNS += ["largest_error", "count"]
NOT_MEASURED = "Not measured on any machine yet."


def numbers(frame: pd.DataFrame, surveys: Mapping[str, Iterable[Record]]) -> dict[str, object]:
    """Return the sentences of the chapter by their names."""
    return {
        "machines-cores-sentence": _cores(frame),
        "machines-threads-sentence": _threads(frame),
        "machines-ddp-sentence": _ddp(frame),
        "machines-gpus-sentence": _gpus(frame),
        "machines-blind-sentence": _blind(surveys),
        "machines-waiting-sentence": _waiting(frame),
    }


def verdicts(frame: pd.DataFrame) -> pd.DataFrame:
    """Return who is ahead on the most cores of each machine that has a control: ranks against
    threads, and gradient averaging against DDP."""
    tables = [machines.ranks_against_threads(frame), machines.against_ddp(frame)]
    table = pd.concat([table for table in tables if len(table)] or tables, ignore_index=True)
    columns = ["machine", "experiment", "label", "base", "median", "ci_low", "ci_high"]
    columns += ["num_repeats", "verdict"]
    if table.empty:
        return pd.DataFrame(columns=columns)
    most = table.groupby("machine")["num_cores"].transform("max")
    return table[(table["num_cores"] == most) & (table["ci_low"].notna())][columns]


def blind_table(surveys: Mapping[str, Iterable[Record]]) -> pd.DataFrame:
    """Return the error of predictions by machine, strategy and ranks, of the cost model alone."""
    rows = []
    for name, table in _predictions(surveys).items():
        for key, group in table.groupby(["strategy", "num_ranks"], sort=True):
            sizes = group["error"].abs()
            without = group["error_without_waiting"].abs().median()
            rows.append([name, *key, without, sizes.median(), sizes.max(), len(group)])
    return pd.DataFrame(rows, columns=BLIND_COLUMNS)


def waiting_table(frame: pd.DataFrame) -> pd.DataFrame:
    """Return `waiting.extrapolated`, of the machines that have four cores or more."""
    columns = ["machine", "model", "allreduce", "num_ranks", "measured_ms", "predicted_ms"]
    columns += ["error", "waited_ms", "waiting_ms", "error_with_waiting"]
    table = waiting.extrapolated(frame) if len(frame) else pd.DataFrame()
    return table if len(table) else pd.DataFrame(columns=columns)


def _cores(frame: pd.DataFrame) -> str:
    table = machines.over_cores(frame)
    if table.empty:
        return NOT_MEASURED
    parts = [
        f"{row['median']:.0%} of its rate on {row['num_cores']} cores of {row['machine']}"
        for row in _largest(table[table["way"] == machines.SHARED], "num_cores")
    ]
    return f"With the same work for each, a core keeps {_listed(parts)}."


def _threads(frame: pd.DataFrame) -> str:
    return _ranges(machines.ranks_against_threads(frame), "ranks have", "threads", 2)


def _ddp(frame: pd.DataFrame) -> str:
    table = machines.against_ddp(frame)
    table = table[table["experiment"].str.startswith("weak-mlp")] if len(table) else table
    if table.empty:
        return NOT_MEASURED
    last = _largest(table, "num_ranks")
    parts = [
        f"{row['median']:.1f} times the rate of DDP on {row['num_ranks']} ranks of {row['machine']}"
        for row in last
    ]
    return f"Gradient averaging through shared memory has {_listed(parts)}."


def _gpus(frame: pd.DataFrame) -> str:
    return _ranges(machines.of_gpus(frame), "one GPU has", "all cores", 0)


def _ranges(table: pd.DataFrame, subject: str, base: str, num_decimals: int) -> str:
    """Return the range of the ratios to a base, of each machine."""
    if table.empty:
        return NOT_MEASURED
    parts = [
        f"{_range(rows, num_decimals)} times the rate of {base} on {name}"
        for name, rows in table.groupby("machine")
    ]
    return f"Depending on the network and the batch, {subject} {_listed(parts)}."


def _blind(surveys: Mapping[str, Iterable[Record]]) -> str:
    parts = []
    for name, table in _predictions(surveys).items():
        sizes = table["error"].abs()
        num_blind = int(table["is_blind"].sum())
        parts.append(
            f"on {name} the error is {sizes.median():.0%} in the median and {sizes.max():.0%} at"
            f" most, over {len(table)} configurations ({num_blind} of them predicted before their"
            " first run)"
        )
    if not parts:
        return "No machine was surveyed yet."
    return f"Of what the cost model covers, {_listed(parts)}."


def _waiting(frame: pd.DataFrame) -> str:
    table = waiting_table(frame)
    if table.empty:
        return NOT_MEASURED
    sentences = [_waiting_on(str(name), rows) for name, rows in table.groupby("machine")]
    longer = "Measured steps are longer, the more so the more ranks there are."
    return " ".join([longer, *sentences])


def _waiting_on(name: str, table: pd.DataFrame) -> str:
    """Return how long the ranks of a machine wait, and what that explains."""
    shared = table[(table["allreduce"] == "shared") & (table["model"] == table["model"].iloc[0])]
    shared = shared.sort_values("num_ranks")
    waits = [f"{row['waited_ms']:.2f} ms on {row['num_ranks']}" for _, row in shared.iterrows()]
    sizes = table.assign(
        before=table["error"].abs(), with_waiting=table["error_with_waiting"].abs()
    )
    medians = sizes.groupby("allreduce")[["before", "with_waiting"]].median()
    parts = [
        f"from {row['before']:.0%} to {row['with_waiting']:.0%} for {way}"
        for way, row in medians.iterrows()
    ]
    return (
        f"On {name}, ranks of the {table['model'].iloc[0]} that share memory wait for the last of"
        f" them {_listed(waits)} ranks. With a term for it the median error goes {_listed(parts)}."
    )


def _predictions(surveys: Mapping[str, Iterable[Record]]) -> dict[str, pd.DataFrame]:
    """Return what the cost model predicted of runs that were made, by machine."""
    tables: dict[str, pd.DataFrame] = {}
    for name, records in surveys.items():
        table = blind.errors(records)
        if len(table):
            tables[name] = table[table["basis"] == blind.MODEL]
    return tables


def _range(rows: pd.DataFrame, digits: int) -> str:
    """Return the smallest and the largest median, such as "0.6 to 2.3"."""
    return f"{rows['median'].min():.{digits}f} to {rows['median'].max():.{digits}f}"


def _largest(table: pd.DataFrame, column: str) -> list[pd.Series[Any]]:
    """Return the row of each machine that has the largest value of a column."""
    return [rows.sort_values(column).iloc[-1] for _, rows in table.groupby("machine")]


def _listed(parts: Iterable[Any]) -> str:
    *first, last = parts
    return f"{', '.join(first)} and {last}" if first else str(last)
