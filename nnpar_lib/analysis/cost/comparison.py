"""Compare all strategies: speed, time to an accuracy, bytes, memory and accuracy."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import pandas as pd

from nnpar_lib.analysis.cost import cost_model
from nnpar_lib.analysis.cost.cost_model import Architecture, Model, architecture
from nnpar_lib.analysis.scaling.ratio import ratio_of
from nnpar_lib.analysis.scaling.speedups import RATE, runs_of
from nnpar_lib.config import RunConfig
from nnpar_lib.records.kinds import Record, RunRecord

SERIAL = "serial, one thread"


def speed(frame: pd.DataFrame) -> pd.DataFrame:
    """Return the speed of every labelled way to train, one row per model, batch size and label.

    `speedup` is over the fastest run of one process with the same model and batch, whatever its
    number of threads. `efficiency` is the rate over that of one thread, divided by the cores in
    use. Both are medians of ratios that are taken repeat by repeat.
    """
    rows = []
    by = ["model", "num_parameters", "global_batch_size"]
    for problem, same in runs_of(frame).groupby(by, sort=False):
        rates = same.pivot_table(index="repeat", columns="label", values=RATE, sort=False)
        on_one = [
            label
            for label in rates
            if (same.loc[same["label"] == label, "strategy"] == "serial").all()
        ]
        best = rates[on_one].median().idxmax()
        for label in rates:
            first = same[same["label"] == label].iloc[0]
            cores = first["num_ranks"] * first["threads_per_rank"]
            ratio = ratio_of((rates[label] / rates[best]).dropna())
            rows.append(
                {
                    **dict(zip(by, problem, strict=True)),
                    "label": label,
                    "strategy": first["strategy"],
                    "allreduce": first["allreduce"],
                    "num_ranks": first["num_ranks"],
                    "threads_per_rank": first["threads_per_rank"],
                    RATE: rates[label].median(),
                    **ratio.columns("speedup"),
                    "efficiency": (rates[label] / rates[SERIAL] / cores).median(),
                    "oversubscribed": bool(first["oversubscribed"]),
                }
            )
    return pd.DataFrame(rows)


def accuracy(frame: pd.DataFrame, goals: Mapping[str, float]) -> pd.DataFrame:
    """Return the seconds to a goal of test accuracy and the accuracy lost, one row per way.

    `goals` has one test accuracy per model. The seconds are those of the first evaluation at or
    above it, NaN if there is none. The accuracy lost is the final accuracy of the serial run with
    the same seed minus that of the run. Values are medians over seeds.
    """
    runs = runs_of(frame)
    seconds = [
        _seconds_to(history, goals[model])
        for history, model in zip(runs["history"], runs["model"], strict=True)
    ]
    serial = runs[runs["strategy"] == "serial"].set_index(["model", "seed"])["final_test_accuracy"]
    lost = [
        serial.get((model, seed), math.nan) - final
        for model, seed, final in zip(
            runs["model"], runs["seed"], runs["final_test_accuracy"], strict=True
        )
    ]
    table = runs.assign(seconds_to_goal=seconds, accuracy_lost=lost, goal=runs["model"].map(goals))
    columns = ["goal", "seconds_to_goal", "final_test_accuracy", "accuracy_lost"]
    return table.groupby(["model", "label"], sort=False)[columns].median().reset_index()


def costs(records: list[Record], models: Mapping[Architecture, Model]) -> pd.DataFrame:
    """Return the bytes exchanged in a step and the bytes of memory on the fullest rank.

    One row per way, model and batch size.
    """
    rows: dict[tuple[Any, ...], dict[str, Any]] = {}
    for run in records:
        if isinstance(run, RunRecord):
            key = {
                "model": run.model,
                "num_parameters": run.num_parameters,
                "global_batch_size": run.global_batch_size,
                "label": run.label,
            }
            config = RunConfig.from_parameters(run.config)
            memory = max((sum(rank.values()) for rank in run.memory), default=math.nan)
            rows[tuple(key.values())] = {
                **key,
                "memory_bytes": memory or math.nan,
                "exchanged_bytes": cost_model.exchanged_bytes(config, models[architecture(config)]),
            }
    return pd.DataFrame(rows.values())


def _seconds_to(history: list[dict[str, Any]], goal: float) -> float:
    return next(
        (entry["train_seconds"] for entry in history if (entry["test_accuracy"] or 0) >= goal),
        math.nan,
    )
