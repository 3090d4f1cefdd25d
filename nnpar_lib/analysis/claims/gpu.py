"""Tables of what was measured on a GPU."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nnpar_lib.analysis.cost import roofline
from nnpar_lib.analysis.scaling.speedups import paired_ratio

# what each experiment's runs are compared with
BASES = {
    "gpu-graph": "eager",
    "gpu-ranks": "1 rank",
    "gpu-pipeline": "1 rank",
    "gpu-cores": "cores, threads",
    "gpu-several": "1 rank",
}
ALONE = "one at a time"
TOGETHER = "together"
CAPTIONS = {
    "speeds": "Samples a second, and how many times those of the run that each is compared with:",
    "sweeps": "Trials of the mlp, one after the other and as one program:",
    "ceilings": (
        "A recorded step beside the time that its operations and bytes allow at the rates of the"
        " same machine:"
    ),
    "differences": (
        "Relative difference of parallel runs from serial ones on the GPU, in float64, after 20"
        " steps:"
    ),
}
COLUMNS = {
    "speeds": {
        "experiment": "experiment",
        "model": "model",
        "batch_size": "batch",
        "label": "run",
        "samples_per_second": "samples/s",
        "speedup": "times",
        "base": "of",
        "num_repeats": "repeats",
    },
    "sweeps": {
        "label": "trials",
        "num_trials": "number",
        "num_steps": "steps",
        "trials_per_hour": "trials/h",
        "speedup": "times",
        "num_repeats": "repeats",
    },
    "ceilings": {
        "model": "model",
        "precision": "precision",
        "batch_size": "batch",
        "allowed_ms": "ms allowed",
        "step_ms": "ms a step",
        "times": "times",
    },
    "differences": {
        "strategy": "strategy",
        "model": "model",
        "num_ranks": "ranks",
        "ranks_per_gpu": "ranks a GPU",
        "record": "recorded",
        "weights": "weights",
        "loss": "loss",
    },
}


def speeds(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the median rate of each run and its ratio to the base, one row per label.

    The base has the same `batch_size`, except in `gpu-several`, where each GPU of a run has the
    batch of the base. Runs without a base in the records are left out.
    """
    rows: list[dict[str, Any]] = []
    runs = _of_kind(frame, "run")
    for experiment, base in BASES.items() if len(runs) else ():
        rows_of_experiment = runs[runs["experiment"] == experiment]
        keys = ["model"] if experiment == "gpu-several" else ["model", "global_batch_size"]
        for _, group in rows_of_experiment.groupby(keys, sort=False):
            if base in set(group["label"]):
                rows += [
                    _speed(group, experiment, base, label) for label in group["label"].unique()
                ]
    return pd.DataFrame(rows)


def sweeps(frame: pd.DataFrame) -> pd.DataFrame:
    """Return trials an hour for each way to train the trials, and the speedup over one at a time.

    `worst_loss` is the largest relative difference of the last loss of a trial from its loss when
    it is trained alone.
    """
    rows: list[dict[str, Any]] = []
    records = _of_kind(frame, "sweep")
    for label in records["label"].unique() if len(records) else ():
        runs = records[records["label"] == label]
        hours = runs["seconds"].median() / 3600
        ratio = paired_ratio(
            records.assign(rate=1 / records["seconds"]), {"label": ALONE}, {"label": label}, "rate"
        )
        rows.append(
            {
                "label": label,
                "num_trials": runs["num_trials"].iloc[0],
                "num_steps": runs["num_steps"].iloc[0],
                "trials_per_hour": runs["num_trials"].iloc[0] / hours,
                **ratio.columns("speedup"),
                "worst_loss": _worst_loss(records, label),
            }
        )
    return pd.DataFrame(rows)


def ceilings(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the milliseconds that each roofline allows a step, beside those of a recorded step.

    Both have the same batch size. The measured step includes the update, the roofline does not.
    """
    rows: list[dict[str, Any]] = []
    records = _of_kind(frame, "roofline")
    runs = _of_kind(frame, "run")
    for _, record in records.groupby(["model", "precision"], sort=False) if len(records) else ():
        ceiling = record.iloc[0]
        is_same = (runs["experiment"] == "gpu-graph") & runs["label"].str.startswith("graph")
        for name, column in (
            ("model", "model"),
            ("precision", "precision"),
            ("global_batch_size", "batch_size"),
        ):
            is_same &= runs[name] == ceiling[column]
        allowed = roofline.table(record)["bound"].sum()
        seconds = ceiling["batch_size"] / runs[is_same]["samples_per_second"].median()
        rows.append(
            {
                "model": ceiling["model"],
                "precision": ceiling["precision"],
                "batch_size": ceiling["batch_size"],
                "allowed_ms": 1e3 * allowed,
                "step_ms": 1e3 * seconds,
                "times": seconds / allowed,
            }
        )
    return pd.DataFrame(rows)


def differences(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the relative differences of weights and loss between parallel and serial runs.

    One row per comparison.
    """
    comparisons = _of_kind(frame, "comparison")
    rows = [
        {
            **{name: record[name] for name in ("strategy", "model", "num_ranks", "record")},
            "ranks_per_gpu": record["gpu"].get("ranks_per_gpu"),
            **record["differences"],
        }
        for record in comparisons.to_dict("records")
    ]
    return pd.DataFrame(rows)


def tables(frame: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Return the tables that have rows, with readable columns, by their captions."""
    tables = {
        "speeds": speeds(frame),
        "sweeps": sweeps(frame),
        "ceilings": ceilings(frame),
        "differences": differences(frame),
    }
    return {
        CAPTIONS[name]: table[list(COLUMNS[name])].rename(columns=COLUMNS[name])
        for name, table in tables.items()
        if len(table)
    }


def text(frame: pd.DataFrame) -> str:
    """Return the tables for a terminal."""
    return "\n\n".join(
        f"{caption}\n{table.to_string(index=False, float_format='{:.4g}'.format)}"
        for caption, table in tables(frame).items()
    )


def machine(frame: pd.DataFrame) -> str:
    """Return the machine that made the records; a ValueError if none of them is from a GPU."""
    on_gpu = frame[[isinstance(device, dict) and bool(device) for device in frame["gpu"]]]
    if on_gpu.empty:
        raise ValueError(
            "none of these records was made on a GPU; make some with `python -m nnpar_lib gpu`"
        )
    origin = on_gpu["provenance"].iloc[0]
    device = on_gpu["gpu"].iloc[0]
    return (
        f"{device['name']}, {origin['num_cores']} cores of {origin['cpu']}, torch"
        f" {origin['packages']['torch']},"
        f" {'a CUDA-aware' if device['cuda_aware_mpi'] else 'no CUDA-aware'} MPI"
    )


def _speed(group: pd.DataFrame, experiment: str, base: str, label: str) -> dict[str, Any]:
    runs = group[group["label"] == label]
    ratio = paired_ratio(group, {"label": base}, {"label": label})
    return {
        "experiment": experiment,
        "model": runs["model"].iloc[0],
        "batch_size": runs["global_batch_size"].iloc[0],
        "label": label,
        "base": base,
        "samples_per_second": runs["samples_per_second"].median(),
        **ratio.columns("speedup"),
    }


def _of_kind(frame: pd.DataFrame, kind: str) -> pd.DataFrame:
    return frame[frame["kind"] == kind] if len(frame) else frame


def _worst_loss(records: pd.DataFrame, label: str) -> float:
    losses, alone = (
        records[records["label"] == name]["final_losses"].iloc[0] for name in (label, ALONE)
    )
    pairs = zip(losses, alone, strict=True)
    return float(max(abs(loss / alone_loss - 1) for loss, alone_loss in pairs))
