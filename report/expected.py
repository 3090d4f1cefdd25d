"""The results that a teacher may expect, from the records, for the page that is for teachers."""

from __future__ import annotations

import math
from collections.abc import Mapping

import pandas as pd
from chapter import Chapter, machines_of

from nnpar_lib.analysis.claims import cpp, data_parallelism
from nnpar_lib.records import store

MANY_CORES = "machines/xeon-16-cores-h200/weak_scaling_mlp.jsonl"
LOCAL_BATCH_SIZE = 64
NUM_RANKS = (1, 2, 8, 16)
AVERAGING = "gradient_averaging"
WAYS = {AVERAGING: "gradient averaging, shared memory", "torch_ddp": "PyTorch's DDP as it comes"}
RATES = """\
**Weak scaling of the mlp on MNIST with 64 examples a rank**, examples a second, medians:

| machine | way | 1 rank | 2 ranks | 8 ranks | 16 ranks |
|---|---|---|---|---|---|"""
NO_RATES = "| a machine of 8 cores | any | not measured | not measured | not measured | no cores |"


def results(chapter: Chapter) -> str:
    """Return two tables in Markdown: rates of examples, and what single notebooks say."""
    weak = chapter.frame("02_weak_scaling")
    many = store.frame(store.load(chapter.results_folder.parent / MANY_CORES))
    rows = [row for frame in (weak, many) for row in _rows_of(frame)]
    title = f"**On {_machine_of(weak)}, MNIST, preset `full`**:"
    head = ["| notebook | result |", "|---|---|"]
    return "\n".join([RATES, *rows, NO_RATES, "", title, "", *head, *_sentences(chapter), ""])


def _machine_of(frame: pd.DataFrame) -> str:
    return " and ".join(sorted(machines_of(frame["provenance"])))


def _rows_of(frame: pd.DataFrame) -> list[str]:
    """Return a row of the table of rates for each way to exchange gradients on a machine."""
    local = frame["global_batch_size"] / frame["num_ranks"]
    is_shown = (frame["model"] == "mlp") & (frame["allreduce"] == "shared")
    runs = frame[is_shown & (local == LOCAL_BATCH_SIZE)]
    rates = runs.groupby(["strategy", "num_ranks"])["samples_per_second"].median().to_dict()
    is_serial = (AVERAGING, 1) not in rates
    if is_serial:
        rates[AVERAGING, 1] = rates.get(("serial", 1), math.nan)
    num_cores = frame["provenance"].iloc[0]["num_cores"]
    rows = []
    for strategy, way in WAYS.items():
        words = f"{way}; serial for 1 rank" if is_serial and strategy == AVERAGING else way
        cells = [_cell(rates, strategy, count, num_cores) for count in NUM_RANKS]
        rows.append(" | ".join([f"| {_machine_of(frame)}", words, *cells]) + " |")
    return rows


def _cell(
    rates: Mapping[tuple[str, int], float], strategy: str, num_ranks: int, num_cores: int
) -> str:
    rate = rates.get((strategy, num_ranks), math.nan)
    if num_ranks > num_cores:
        return "no cores"
    return "not measured" if math.isnan(rate) else f"{rate:,.0f}"


def _sentences(chapter: Chapter) -> list[str]:
    """Return the rows of the table of what notebooks say."""
    accuracy = data_parallelism.serial_accuracies(chapter.frame("01_accuracy"))
    ladder = data_parallelism.ladder(chapter.frame("02_ladder"))
    framework = cpp.framework_numbers(chapter.frame("07_framework"))
    over_serial = ""
    if not math.isnan(ladder["ladder-speedup"]):
        over_serial = f"; over the best serial loop its speedup is {ladder['ladder-speedup']:.2f}"
    return [
        f"| `01` | the mlp reads {accuracy['accuracy-mlp']:.2f} % of the test images, the cnn"
        f" {accuracy['accuracy-cnn']:.2f} % |",
        f"| `02` | the first attempt takes {ladder['ladder-first']:.1f} times as long as the"
        f" serial loop of a tutorial, the last rung {ladder['ladder-last']:.1f} times less"
        f"{over_serial} |",
        f"| `07` | C++ is {framework['cpp-ahead-8']:.1f} times as fast as PyTorch at a batch of 8,"
        f" {framework['cpp-ahead-1024']:.1f} times at 1024 |",
    ]
