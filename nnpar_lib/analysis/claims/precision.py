"""Numbers and tables of the chapter on precision, by the names that its text uses."""

from __future__ import annotations

from typing import Any

import pandas as pd

from nnpar_lib.analysis.cost import roofline
from nnpar_lib.analysis.scaling import precision

PLAIN = "float32, contiguous"
CAST = "bf16, channels last"
PRODUCTS = f"{CAST}, im2col"
FIRST_OF_LAST_BLOCKS = 7  # of ResNet-18: its last two residual blocks and what follows them
TUNED = ("precision", "memory_format", "convolution", "microbatch_size")
PERCENT = ["accuracy", "low", "high", "lost"]


def speedup(table: pd.DataFrame, model: str, label: str) -> float:
    """Return the speedup of a way to compute, of the table of `precision.speedups`."""
    rows = table[(table["model"] == model) & (table["label"] == label)]
    return float(rows["speedup"].iloc[0])


def layout_numbers(runs: pd.DataFrame) -> dict[str, Any]:
    """Return what precision and layout gain over plain float32."""
    table = precision.speedups(runs, "plain float32")
    return {
        "repeats": runs["repeat"].nunique(),
        "batch": runs["global_batch_size"].iloc[0],
        "faster-cnn": speedup(table, "cnn", CAST),
        "faster-resnet18": speedup(table, "resnet18", CAST),
        "faster-products": speedup(table, "resnet18", PRODUCTS),
        "faster-products-float32": speedup(table, "resnet18", "float32, channels last, im2col"),
    }


def roofline_numbers(records: pd.DataFrame) -> dict[str, Any]:
    """Return the ceilings of the machine, and what the last blocks take of a step."""
    table = roofline.table(records)
    plain, cast, products = (table[table["way"] == way] for way in (PLAIN, CAST, PRODUCTS))
    ceilings = records["ceiling_flop_per_second"]
    return {
        "gemm": ceilings.iloc[0] / 1e9,
        "gemm-bf16": ceilings[records["precision"] == "bf16"].iloc[0] / 1e9,
        "gemm-gain": ceilings.max() / ceilings.iloc[0],
        "copy": records["bytes_per_second"].iloc[0] / 1e9,
        "share-last": 100 * _sum_of_last(plain, "share"),
        "seconds-cast": 1e3 * _sum_of_last(cast, "seconds"),
        "seconds-products": 1e3 * _sum_of_last(products, "seconds"),
        "reached-low": plain["reached"].min(),
        "reached-high": plain["reached"].max(),
    }


def _sum_of_last(blocks: pd.DataFrame, column: str) -> float:
    return float(blocks.loc[blocks["block"] >= FIRST_OF_LAST_BLOCKS, column].sum())


def roofline_table(records: pd.DataFrame) -> pd.DataFrame:
    """Return the blocks of rooflines in GFLOP, MB and milliseconds."""
    table = roofline.table(records)
    return table.assign(
        gflop=table["flops"] / 1e9, mb=table["bytes"] / 1e6, ms=1e3 * table["seconds"]
    )


def largest_batch(runs: pd.DataFrame) -> str:
    """Return the label of the runs that compute the largest batch at once."""
    return f"batch {int(runs['global_batch_size'].max())}"


def portion_numbers(runs: pd.DataFrame) -> dict[str, Any]:
    """Return the speedup of portions over the large batch at once.

    `portions-of-best` compares it with the fastest batch size, in percent.
    """
    table = precision.speedups(runs, largest_batch(runs))
    numbers = {"large": runs["global_batch_size"].max()}
    for model, rows in table.groupby("model"):
        in_portions = rows["label"].str.contains("times")
        best = rows.loc[in_portions, "speedup"].max()
        at_once = rows.loc[~in_portions, "speedup"].max()
        numbers[f"portions-{model}"] = best
        numbers[f"portions-of-best-{model}"] = 100 * max(1.0, best) / at_once
    return numbers


def tuned_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return what tuning has chosen and what that gains over plain float32, one row per model."""
    speedups = precision.speedups(runs, "plain float32")
    last = runs[runs["label"] == "tuned"].groupby("model", sort=False).last().reset_index()
    for column in TUNED:
        last[column] = [tuning[column] for tuning in last["tuning"]]
    return last.merge(speedups[speedups["label"] == "tuned"], on="model")


def rank_numbers(runs: pd.DataFrame) -> dict[str, Any]:
    """Return the parallel efficiency of ResNet-18 with each kind of batch statistics."""
    table = precision.speedups(runs, "serial")
    num_ranks = runs["num_ranks"].max()
    numbers = {"num-ranks": num_ranks, "repeats-of-ranks": runs["repeat"].nunique()}
    for kind in ("synchronised", "local"):
        gain = speedup(table, "resnet18", f"statistics {kind}")
        numbers[f"efficiency-{kind}"] = gain / num_ranks
    return numbers


def epoch_numbers(runs: pd.DataFrame) -> dict[str, Any]:
    """Return how much faster an epoch of the cnn is than the tutorial's, at two batch sizes."""
    numbers = {"portion": runs["microbatch_size"].max()}
    batches = runs.groupby("global_batch_size")
    for name, (size, rows) in zip(("epoch", "large-epoch"), batches, strict=True):
        numbers[name] = speedup(precision.speedups(rows, "tutorial"), "cnn", "this library")
        numbers[f"{name}-batch"] = size
    return numbers


def accuracy_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return test accuracies of trainings in each precision, in percent."""
    table = precision.accuracies(runs)
    table[PERCENT] = 100 * table[PERCENT]
    return table
