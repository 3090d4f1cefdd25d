"""A study's winners on several ranks: steps and seconds to the goals, gradient noise, local SGD."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from nnpar_lib.analysis import regimes
from nnpar_lib.config import RunConfig
from nnpar_lib.config.study import StudyConfig
from nnpar_lib.launch.engines import Engines
from nnpar_lib.launch.rank_output import ProgressDisplay
from nnpar_lib.records import store
from nnpar_lib.records.kinds import NormsRecord, TrialRecord
from nnpar_lib.records.provenance import provenance

SELECTION_SEED = 5_000  # the first seed of the runs of local SGD that choose a learning rate
FRESH_SEED = 6_000  # the first seed of the runs that count


def winners(
    study: StudyConfig,
    runs: pd.DataFrame,
    goal_error: float,
    batch_sizes: Iterable[int],
    num_seeds: int,
) -> list[RunConfig]:
    """Return the serial runs of the estimate at these batch sizes, on the first seeds."""
    rows = regimes.estimates(runs)
    rows = rows[(rows["goal_error"] == goal_error) & rows["batch_size"].isin(list(batch_sizes))]
    return [
        study.run_config(
            int(row["batch_size"]),
            float(row["lr"]),
            row.get("one_minus_momentum"),
            int(row["seed"]),
        )
        for _, mine in rows.groupby("batch_size")
        for _, row in mine.sort_values("seed").head(num_seeds).iterrows()
    ]


def averaged(config: RunConfig, num_ranks: int, **changes: Any) -> RunConfig:
    """Return the same run on `num_ranks` ranks that average gradients."""
    strategy = "serial" if num_ranks == 1 else "gradient_averaging"
    return config.replace(strategy=strategy, num_ranks=num_ranks, **changes)


def count_steps(
    ranks: Engines,
    study: StudyConfig,
    configs: Sequence[RunConfig],
    *,
    experiment: str,
    results_file: str | Path,
) -> list[TrialRecord]:
    """Run each config to the study's goals, in turn, and return the records.

    Each record is appended to `results_file` as soon as its run is over. Runs of one
    config with several seeds count as repeats, in the order of their seeds.
    """
    display = ProgressDisplay()
    records = []
    for number, config in enumerate(configs):
        limits = [study.step_cap(config.global_batch_size)] * len(study.goal_errors)
        outcome = ranks.run_to_goals(config, study.goal_errors, limits, progress=lambda *_: None)
        records.append(
            TrialRecord(
                goal_errors=list(study.goal_errors),
                steps=outcome["steps"],
                num_steps=outcome["num_steps"],
                train_seconds=outcome["train_seconds"],
                diverged=outcome["diverged"],
                config=config.to_dict(),
                provenance=provenance(),
                experiment=experiment,
                repeat=config.seed,
            )
        )
        store.append(results_file, records[-1:])
        display(
            (number + 1) / len(configs),
            f"batch size {config.global_batch_size}, {config.num_ranks} ranks",
        )
    display.close(f"{len(records)} runs to the goals")
    return records


def measure_norms(
    ranks: Engines, config: RunConfig, num_steps: int, results_file: str | Path
) -> NormsRecord:
    """Train in parallel; return the squared norms of the gradient before and after the sum."""
    norms = ranks.gradient_norms(config, range(num_steps))
    record = NormsRecord(
        norms=[dict(row) for row in norms],
        config=config.to_dict(),
        provenance=provenance(),
        experiment="regimes_noise",
    )
    store.append(results_file, [record])
    return record


def local_sgd(
    ranks: Engines,
    study: StudyConfig,
    config: RunConfig,
    *,
    intervals: Sequence[int],
    lr_factors: Sequence[float],
    num_selection_seeds: int,
    num_seeds: int,
    results_file: str | Path,
) -> list[TrialRecord]:
    """Average weights every few steps instead of gradients, and count the steps to the goals.

    At each interval the learning rate with the smallest median of steps is run again on fresh
    seeds. The records of these runs have the experiment "regimes_local_sgd" and are returned.
    """
    records = []
    for interval in intervals:
        base = config.replace(strategy="weight_averaging", average_every=interval)
        tried = [
            base.replace(lr=config.lr * factor, seed=SELECTION_SEED + k)
            for factor in lr_factors
            for k in range(num_selection_seeds)
        ]
        chosen = count_steps(
            ranks, study, tried, experiment="regimes_local_sgd_selection", results_file=results_file
        )
        lr = _fastest_lr(chosen)
        fresh = [base.replace(lr=lr, seed=FRESH_SEED + k) for k in range(num_seeds)]
        records += count_steps(
            ranks, study, fresh, experiment="regimes_local_sgd", results_file=results_file
        )
    return records


def _fastest_lr(records: Sequence[TrialRecord]) -> float:
    """Return the learning rate whose median run needs the fewest steps to the hardest goal."""

    def median(lr: float) -> float:
        return statistics.median(
            record.steps[-1] or math.inf for record in records if record.config["lr"] == lr
        )

    return min({float(record.config["lr"]) for record in records}, key=median)
