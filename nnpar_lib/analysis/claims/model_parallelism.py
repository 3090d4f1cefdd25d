"""Numbers and tables of the chapter on model parallelism, by the names that its text uses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd

from nnpar_lib.analysis.cost import comparison, predictions, traced_pipelines, ways
from nnpar_lib.analysis.cost import memory as memory_cost
from nnpar_lib.analysis.cost.cost_model import Machine
from nnpar_lib.analysis.cost.predictions import AssumedMachine
from nnpar_lib.records import store
from nnpar_lib.records.kinds import RunRecord

MODELS = ("mlp", "cnn")
SCHEDULES = ("gpipe", "1f1b")
WITHIN = 0.2  # of the measured seconds: what counts as a good prediction
FULL_GOALS = {"mlp": 0.97, "cnn": 0.95}
QUICK_GOALS = {"mlp": 0.85, "cnn": 0.5}  # of trainings that are too short for the full ones


def bubbles(runs: Sequence[RunRecord]) -> dict[str, Any]:
    """Return what share of their schedules pipelines reach, and their bubbles, in percent."""
    table = traced_pipelines.table(runs).set_index("label")
    share = 100 * table["share"]
    bubble = 100 * table["bubble"]
    numbers = {
        "repeats": table["num_repeats"].min(),
        "bubble": bubble["cnn, 1f1b"],
        "bubble-formula": 100 * table["bubble_formula"]["cnn, 1f1b"],
        "bubble-sequential": bubble["cnn, sequential"],
    }
    for model in MODELS:
        for schedule in SCHEDULES:
            numbers[f"share-{model}-{schedule}"] = share[f"{model}, {schedule}"]
    return numbers


def schedules_against_others(frame: pd.DataFrame) -> dict[str, Any]:
    """Return the median ratios of examples a second to PyTorch's schedules and to serial runs."""
    rates = frame.pivot_table(index="repeat", columns="label", values="samples_per_second")
    numbers = {}
    for model in MODELS:
        for schedule in SCHEDULES:
            rate = rates[f"{model}, {schedule}"]
            to_torch = rate / rates[f"{model}, {schedule}, torch"]
            to_serial = rate / rates[f"{model}, serial"]
            numbers[f"torch-{model}-{schedule}"] = to_torch.median()
            numbers[f"serial-{model}-{schedule}"] = to_serial.median()
    return numbers


def schedules_table(runs: Sequence[RunRecord]) -> pd.DataFrame:
    """Return what traced pipelines reach of their schedules, shares and bubbles in percent."""
    table = traced_pipelines.table(runs)
    percent = ["share", "bubble", "bubble_simulated", "bubble_formula"]
    table[percent] *= 100
    return table.round({"measured": 0, "allowed": 0})


def memory(records: Sequence[RunRecord]) -> dict[str, Any]:
    """Return the MB of activations on the first rank with the most micro-batches, by schedule."""
    labelled = {record.label: record for record in records if record.label}
    most = max(record.config["num_microbatches"] for record in labelled.values())
    numbers = {"microbatches-most": most}
    for schedule in SCHEDULES:
        record = labelled[f"{schedule}, {most} micro-batches"]
        numbers[f"memory-{schedule}"] = record.memory[0]["activations"] / 1e6
    return numbers


def in_parts_table(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Return what each way to train a network that does not fit on a rank takes, in MB."""
    large = [record for record in records if record.experiment == "does_not_fit"]
    table = memory_cost.of_large_models(large)
    return table.assign(mb=table["memory_bytes"] / 1e6, exchanged=table["exchanged_bytes"] / 1e6)


def fastest_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return the fastest way for each network and batch, of the rows of `ways.side_by_side`."""
    best = ways.fastest(table)
    return best.assign(
        network=_networks(best), mb=best["memory_bytes"] / 1e6, kb=best["exchanged_bytes"] / 1e3
    )


def smallest_batches_table(table: pd.DataFrame) -> pd.DataFrame:
    """Return all ways at each network's smallest batch, of the rows of `ways.side_by_side`."""
    smallest = table.groupby("num_parameters")["global_batch_size"].transform("min")
    rows = table[table["global_batch_size"] == smallest]
    return rows.assign(
        network=_networks(rows),
        samples_per_second=rows["samples_per_second"].round().astype(int),
        kb=(rows["exchanged_bytes"] / 1e3).round(),
        mb=rows["memory_bytes"] / 1e6,
        cores=rows["oversubscribed"].map({True: "no", False: "yes"}),
    )


def accuracy_table(runs: Sequence[RunRecord]) -> pd.DataFrame:
    """Return seconds to a goal and accuracies in percent, one row per model and way to train.

    The goals are those of long trainings if a serial training of the cnn has reached its own.
    """
    reached = [
        entry["test_accuracy"] or 0
        for run in runs
        for entry in run.history
        if run.strategy == "serial" and run.model == "cnn"
    ]
    goals = FULL_GOALS if max(reached, default=0) > FULL_GOALS["cnn"] else QUICK_GOALS
    table = comparison.accuracy(store.frame(runs), goals)
    return table.assign(
        seconds_to_goal=_words(table["seconds_to_goal"], "{:.2f}", "not reached"),
        goal=100 * table["goal"],
        final=100 * table["final_test_accuracy"],
        lost=100 * table["accuracy_lost"],
    )


def message(machine: Machine) -> dict[str, Any]:
    """Return the price of a message: microseconds, and GB/s."""
    price = machine.message
    return {"alpha": price.alpha * 1e6, "bandwidth": price.bandwidth / 1e9}


def prediction_errors(predicted: pd.DataFrame) -> dict[str, Any]:
    """Return how far predictions are off in percent, of the table of `predictions.compare`."""
    errors = predictions.errors(predicted).loc["all"]
    sizes = predicted.loc[~predicted["oversubscribed"], "error"].abs()
    return {
        "error": 100 * errors["median"],
        "error-worst": 100 * errors["max"],
        "configurations": errors["count"],
        "within": 100 * (sizes <= WITHIN).mean(),
    }


def swaps_table(predicted: pd.DataFrame) -> pd.DataFrame:
    """Return the batch sizes at which ways swap places, of the table of `predictions.compare`."""
    table = predictions.swaps(predicted)
    return table.assign(
        network=_networks(table),
        faster_there=table["faster_there"].str.replace("_", " "),
        measured=_words(table["measured"], "{:.0f}", "none"),
        predicted=_words(table["predicted"], "{:.0f}", "none"),
    )


def larger_table(machines: Mapping[str, AssumedMachine]) -> pd.DataFrame:
    """Return the predictions for the largest numbers of ranks, in milliseconds, MB and percent."""
    table = ways.largest_speedups(machines)
    return table.assign(
        strategy=table["strategy"].str.replace("_", " "),
        ms=table["seconds"] * 1e3,
        mb=table["memory_bytes"] / 1e6,
        bubble=100 * table["bubble"],
    )


def _networks(table: pd.DataFrame) -> pd.Series[str]:
    """Return the name of each row's network: model and millions of weights."""
    millions = (table["num_parameters"] / 1e6).map("{:.2g} M".format)
    return table["model"].str.cat(millions, sep=", ")


def _words(values: pd.Series[float], form: str, missing: str) -> list[str]:
    return [missing if pd.isna(value) else form.format(value) for value in values]
