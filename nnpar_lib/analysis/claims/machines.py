"""What surveys say of machines, side by side: scaling, ranks against threads, DDP, GPUs, epochs.

Frames have a column `machine`, which `side_by_side` adds. No ratio is taken between machines.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import pandas as pd

from nnpar_lib.analysis.claims import gpu
from nnpar_lib.analysis.scaling.ratio import UNDECIDED, Ratio, ratio_of, verdict
from nnpar_lib.analysis.scaling.speedups import RATE
from nnpar_lib.records import store
from nnpar_lib.records.kinds import (
    MachineRecord,
    Record,
    RunRecord,
)

ALONE = "1 core"
AGAIN = "1 core again"
PILOT = "pilot "
EPOCH_EXAMPLES = 60_000  # MNIST's
SHARED = "ranks, shared memory"
MPI = "ranks, MPI"
DDP = "DDP as it comes"
DDP_TUNED = "DDP, tuned"
THREADS = "threads"
RECORDED = "ranks, recorded steps"
RANKS_AND_THREADS = "ranks x threads"
NEEDED = ["machine", "experiment", "label", "model", "global_batch_size", "num_ranks", "device"]
NEEDED += ["precision", "strategy", "threads_per_rank", "num_cores", "way", RATE]
Rows = pd.DataFrame


def side_by_side(surveys: Mapping[str, Iterable[Record]]) -> pd.DataFrame:
    """Return the training runs of surveys, by the names of their machines, in one frame."""
    frames = [
        store.frame(runs).assign(machine=name)
        for name, records in surveys.items()
        if (runs := [record for record in records if _is_result(record)])
    ]
    if not frames:
        return pd.DataFrame(columns=NEEDED).astype({"experiment": str, "num_cores": int})
    frame = pd.concat(frames, ignore_index=True)
    return frame.assign(
        num_cores=frame["num_ranks"] * frame["threads_per_rank"], way=[*map(_way, _rows(frame))]
    )


def under_figures(surveys: Mapping[str, Iterable[Record]]) -> str:
    """Return the name, cores, threads a core and date of each machine, as a sentence."""
    return "; ".join(_described(name, list(records)) for name, records in surveys.items()) + "."


def noise(records: Iterable[Record]) -> dict[str, dict[str, float]]:
    """Return what the noise part of a survey found, by model; nothing where it has too few runs.

    `again_low` and `again_high` are the extremes of a run's rate over that of the same run, repeat
    by repeat; `N at once` is the rate of each of so many independent runs over that of one alone.
    """
    noisy = side_by_side({"": [r for r in records if r.experiment.startswith("noise-")]})
    findings = {}
    for _, rows in noisy.groupby("experiment", sort=False):
        finding = {}
        for label in rows["label"].unique():
            values = _values(_labelled(rows, ALONE), _labelled(rows, label))
            if label == ALONE or not values.size:
                continue
            if label == AGAIN:
                finding["again_low"] = round(float(values.min()), 4)
                finding["again_high"] = round(float(values.max()), 4)
            else:
                finding[label] = round(float(np.median(values)) / int(label.split()[0]), 4)
        findings[str(rows["model"].iloc[0])] = finding
    return findings


def ratios(frame: pd.DataFrame, *, with_noise: bool = False) -> pd.DataFrame:
    """Return each way's rate and its ratio to one core of its machine, a row a group and label.

    The base has the label "1 core" in surveys, the name that `gpu` gives it in its experiments, and
    is the fastest run on one core elsewhere; groups without one are left out.
    """
    rows: list[dict[str, Any]] = []
    keys = ["machine", "experiment", "model"]
    runs = frame if with_noise else _results(frame)
    for _, group in runs.groupby(keys, sort=False):
        by_size = group.groupby("global_batch_size", sort=False)
        is_gpu = group["experiment"].iloc[0] in gpu.BASES
        for same in [part for _, part in by_size] if is_gpu else [group]:
            base = _base(same)
            if base is not None:
                rows += [_ratio_row(same, base, label) for label in same["label"].unique()]
    return pd.DataFrame(rows)


def over_cores(frame: pd.DataFrame, model: str = "mlp") -> pd.DataFrame:
    """Return the weak efficiency of ranks against cores: the rate over that of so many times one
    core."""
    table = _of_experiment(ratios(_of_model(frame, model)), "weak-")
    if table.empty:
        return table
    table = table[table["way"].isin([SHARED, MPI, DDP, THREADS])]
    scaled = {name: table[name] / table["num_cores"] for name in ("median", "low", "high")}
    return table.assign(**scaled).sort_values(["machine", "way", "num_cores"], kind="stable")


def ranks_against_threads(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rate of ranks over that of threads, on all cores of each machine."""
    keys = ["machine", "experiment", "model", "global_batch_size", "precision"]
    return _compared(frame, keys, lambda rows: rows["way"] == THREADS, _is_ranks, on_all=True)


def against_ddp(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rate of gradient averaging through shared memory over that of the faster DDP."""
    keys = ["machine", "experiment", "model", "global_batch_size", "num_ranks"]
    return _compared(
        frame,
        keys,
        lambda rows: rows["way"].isin([DDP, DDP_TUNED]),
        lambda rows: rows["way"] == SHARED,
    )


def of_gpus(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the rate of a GPU over that of the fastest way on all cores of the same machine."""
    rows = []
    cores = _results(frame)
    cores = cores[cores["experiment"] == "gpu-cores"]
    for _, group in cores.groupby(["machine", "model", "global_batch_size"], sort=False):
        medians = group.groupby("label")[RATE].median()
        labels = {is_gpu: _fastest(medians, is_gpu=is_gpu) for is_gpu in (True, False)}
        if None not in labels.values():
            base = _labelled(group, labels[False])
            compared = _labelled(group, labels[True])
            rows.append(_row_of(compared, base, {"base": labels[False], "label": labels[True]}))
    return pd.DataFrame(rows)


def epochs(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the seconds of 60,000 examples by the fastest way that was measured, by machine,
    model and device."""
    runs = _results(frame)
    keys = ["machine", "model", "device"]
    names = ["experiment", "label", "global_batch_size"]
    rows = []
    for _, group in runs.groupby(keys, sort=False) if len(runs) else ():
        fastest = max(
            (same for _, same in group.groupby(names)), key=lambda same: same[RATE].median()
        )
        rows.append(
            {
                **fastest.iloc[0][[*keys, *names]],
                "seconds": EPOCH_EXAMPLES / fastest[RATE].median(),
                "num_repeats": len(fastest),
            }
        )
    return pd.DataFrame(rows)


def _described(name: str, records: list[Record]) -> str:
    machines = [record for record in records if isinstance(record, MachineRecord)]
    first = records[0].provenance
    threads = machines[-1].description["threads_per_core"] if machines else None
    date = str(first["started_at"])[:10]
    older = "" if machines else ", incomplete, by commands older than the survey"
    return (
        f"{name}: {first['num_cores']} cores of an {first['cpu']}, {threads or 'unknown'}"
        f" thread{'' if threads == 1 else 's'} a core, {date}{older}"
    )


def _is_result(record: Record) -> bool:
    return isinstance(record, RunRecord) and not record.experiment.startswith(PILOT)


def _results(frame: pd.DataFrame) -> pd.DataFrame:
    return frame[~frame["experiment"].str.startswith("noise-")]


def _way(row: Mapping[str, Any]) -> str:
    if row["strategy"] == "torch_ddp":
        return DDP_TUNED if row.get("ddp_tuned") is True else DDP
    if row["strategy"] == "serial":
        return THREADS if row["threads_per_rank"] > 1 else "serial"
    if row["strategy"] == "gradient_averaging":
        if row.get("record") is True:
            return RECORDED
        if row["threads_per_rank"] > 1:
            return RANKS_AND_THREADS
        return {"shared": SHARED, "mpi": MPI}.get(row["allreduce"], str(row["allreduce"]))
    return str(row["strategy"])


def _is_ranks(rows: pd.DataFrame) -> pd.Series[bool]:
    is_cpu = rows["device"] == "cpu"
    return (rows["way"].isin([SHARED, RANKS_AND_THREADS])) & is_cpu


def _of_model(frame: pd.DataFrame, model: str) -> pd.DataFrame:
    return frame[frame["model"] == model] if "model" in frame else frame


def _of_experiment(table: pd.DataFrame, prefix: str) -> pd.DataFrame:
    return table[table["experiment"].str.startswith(prefix)] if len(table) else table


def _base(group: pd.DataFrame) -> pd.DataFrame | None:
    """Return the rows that a group's ways are compared with."""
    name = gpu.BASES.get(group["experiment"].iloc[0], ALONE)
    rows = _labelled(group, name)
    if len(rows):
        return rows
    alone = group[group["num_cores"] == 1]
    if alone.empty:
        return None
    return _labelled(alone, str(alone.groupby("label")[RATE].median().idxmax()))


def _compared(
    frame: pd.DataFrame,
    keys: list[str],
    is_base: Callable[[Rows], pd.Series[bool]],
    is_compared: Callable[[Rows], pd.Series[bool]],
    *,
    on_all: bool = False,
) -> pd.DataFrame:
    """Return ratios of rates where a group has both kinds of rows; the fastest of each kind."""
    rows = []
    controls = _controls(frame)
    runs = _results(frame)
    if on_all and len(runs):
        most = runs.groupby("machine")["num_cores"].transform("max")
        runs = runs[runs["num_cores"] == most]
    for _, group in runs.groupby(keys, sort=False) if len(runs) else ():
        base = _fastest_rows(group[is_base(group)])
        compared = _fastest_rows(group[is_compared(group)])
        if base is not None and compared is not None:
            control = controls.get((group["machine"].iloc[0], group["model"].iloc[0]))
            rows.append(_row_of(compared, base, _verdict(base, compared, control)))
    return pd.DataFrame(rows)


def _verdict(base: pd.DataFrame, compared: pd.DataFrame, control: Ratio | None) -> dict[str, str]:
    """Return who is ahead, by the control of the same machine and model."""
    names = {"base": str(base["label"].iloc[0])}
    values = _values(base, compared)
    if control is None or not values.size:
        return {**names, "verdict": UNDECIDED}
    return {**names, "verdict": verdict(ratio_of(values), control)}


def _controls(frame: pd.DataFrame) -> dict[tuple[str, str], Ratio]:
    """Return the ratio of a run to the same run, by machine and model."""
    noisy = frame[frame["experiment"].str.startswith("noise-")]
    controls = {}
    for key, rows in noisy.groupby(["machine", "model"]) if len(noisy) else ():
        values = _values(_labelled(rows, ALONE), _labelled(rows, AGAIN))
        if values.size:
            controls[str(key[0]), str(key[1])] = ratio_of(values)
    return controls


def _fastest_rows(rows: pd.DataFrame) -> pd.DataFrame | None:
    if rows.empty:
        return None
    return _labelled(rows, str(rows.groupby("label")[RATE].median().idxmax()))


def _fastest(medians: pd.Series[float], *, is_gpu: bool) -> str | None:
    kept = medians[medians.index.str.startswith("gpu") == is_gpu]
    return None if kept.empty else str(kept.idxmax())


def _ratio_row(group: pd.DataFrame, base: pd.DataFrame, label: str) -> dict[str, Any]:
    return _row_of(_labelled(group, label), base, {"base": base["label"].iloc[0]})


def _row_of(
    compared: pd.DataFrame, base: pd.DataFrame, values: Mapping[str, Any]
) -> dict[str, Any]:
    first = compared.iloc[0]
    names = ("machine", "experiment", "label", "model", "way", "global_batch_size", "precision")
    return {
        **{name: first[name] for name in names},
        "num_ranks": int(first["num_ranks"]),
        "num_cores": int(first["num_cores"]),
        "rate": float(compared[RATE].median()),
        **_columns(ratio_of(values_) if (values_ := _values(base, compared)).size else None),
        **values,
    }


def _columns(ratio: Ratio | None) -> dict[str, float]:
    names = ("median", "low", "high", "ci_low", "ci_high", "num_repeats")
    if ratio is None:
        return {**dict.fromkeys(names, float("nan")), "num_repeats": 0}
    return {name: getattr(ratio, name) for name in names}


def _values(base: pd.DataFrame, compared: pd.DataFrame) -> Any:
    """Return the ratios of rates, repeat by repeat."""
    below, above = (rows.groupby("repeat")[RATE].median() for rows in (base, compared))
    return (above / below).dropna().to_numpy(dtype=float)


def _labelled(rows: pd.DataFrame, label: str | None) -> pd.DataFrame:
    return rows[rows["label"] == label]


def _rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{str(k): v for k, v in row.items()} for row in frame.to_dict("records")]
