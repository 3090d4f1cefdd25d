"""What a survey prints: a line for each result as it comes, and its tables at the end."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pandas as pd

from nnpar_lib.analysis.claims import machines
from nnpar_lib.analysis.cost import blind
from nnpar_lib.records.kinds import (
    AllreduceRecord,
    BarrierRecord,
    MessageRecord,
    ProfileRecord,
    Record,
)

RATIO_COLUMNS = ["experiment", "label", "rate", "median", "low", "high", "num_repeats"]
PAIR_COLUMNS = ["experiment", "label", "base", "median", "low", "high", "num_repeats", "verdict"]
GPU_COLUMNS = ["model", "global_batch_size", "label", "base", "median", "low", "high"]
EPOCH_COLUMNS = ["model", "device", "seconds", "experiment", "label", "num_repeats"]
ERROR_COLUMNS = ["experiment", "label", "predicted_ms", "measured_ms", "error", "is_blind"]


def text(records: Iterable[Record]) -> str:
    """Return the tables of one survey, for a terminal."""
    records = list(records)
    frame = machines.side_by_side({"": records})
    predicted = blind.errors(records)
    tables = {
        "Rates and their ratios to one core": _shown(machines.ratios(frame), RATIO_COLUMNS),
        "Ranks over threads, on all cores": _shown(
            machines.ranks_against_threads(frame), PAIR_COLUMNS
        ),
        "Shared memory over DDP": _shown(machines.against_ddp(frame), PAIR_COLUMNS),
        "A GPU over all cores": _shown(machines.of_gpus(frame), GPU_COLUMNS),
        "Seconds of 60,000 examples, the fastest way": _shown(
            machines.epochs(frame), EPOCH_COLUMNS
        ),
        "Predicted and measured": _shown(predicted, ERROR_COLUMNS),
    }
    parts = [f"{title}:\n{table}" for title, table in tables.items() if table]
    if not predicted.empty:
        parts.append(_summary(predicted))
    return "\n\n".join(parts)


def result_lines(records: Iterable[Record], experiment: str) -> list[str]:
    """Return a line for each way of an experiment: its rate, and its ratio to one core."""
    frame = machines.side_by_side({"": [r for r in records if r.experiment == experiment]})
    table = machines.ratios(frame, with_noise=True)
    return [
        f"  {row['label']}: {row['rate']:,.0f} examples/s, {row['median']:.2f} x"
        f" ({row['low']:.2f} to {row['high']:.2f}, {row['num_repeats']} repeats)"
        for row in table.to_dict("records")
    ]


def sweep_lines(records: Iterable[Record]) -> list[str]:
    """Return a line for each record of messages, exchanges and blocks."""
    lines = []
    for record in records:
        if isinstance(record, (AllreduceRecord, MessageRecord, BarrierRecord)):
            microseconds = 1e6 * float(np.median(record.seconds))
            lines.append(f"  {_exchange(record)}: {microseconds:.3g} us")
        elif isinstance(record, ProfileRecord):
            seconds = sum(record.forward_seconds) + sum(record.backward_seconds)
            lines.append(
                f"  {len(record.splits)} blocks of the {record.model}, {record.batch_size}"
                f" examples, on {record.num_ranks} core(s): {1e3 * seconds:.3g} ms"
            )
    return lines


def _exchange(record: AllreduceRecord | MessageRecord | BarrierRecord) -> str:
    if isinstance(record, AllreduceRecord):
        size = f"{record.num_elements:,} numbers"
        return f"all-reduce of {size} by {record.allreduce}, {record.num_ranks} ranks"
    if isinstance(record, MessageRecord):
        return f"message of {record.num_bytes:,} bytes"
    return f"barrier of {record.num_ranks} ranks"


def _summary(predicted: pd.DataFrame) -> str:
    modelled = predicted[predicted["basis"] == blind.MODEL]
    errors = modelled["error"].abs()
    return (
        f"The cost model's error: median {errors.median():.1%}, largest {errors.max():.1%}, over"
        f" {len(errors)} configurations"
    )


def _shown(table: pd.DataFrame, columns: list[str]) -> str:
    if table.empty:
        return ""
    return str(table[columns].to_string(index=False, float_format="{:.4g}".format))
