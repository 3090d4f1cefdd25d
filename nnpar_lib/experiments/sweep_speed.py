"""How fast a sweep is: runs an hour on one engine and on two, and what a step of a trial costs."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path

import pandas as pd

from nnpar_lib.config import RunConfig
from nnpar_lib.config.study import StudyConfig, powers_of_two
from nnpar_lib.launch.engines import Engines, engines
from nnpar_lib.launch.search.search import Search
from nnpar_lib.records import store
from nnpar_lib.records.kinds import SweepSpeedRecord, TrialStepRecord
from nnpar_lib.records.provenance import provenance

EXPERIMENT = "sweep-speed"
GOAL_ERRORS = {"digits": (0.3, 0.2)}  # by data set
OTHER_GOAL_ERRORS = (0.1, 0.07)
BATCH_SIZES = powers_of_two(16, 256)
STEP_BATCH_SIZES = (4, 64, 512)


def run(arguments: argparse.Namespace) -> int:
    """Measure in turn, append the records to a file, print its ratios; return the exit status."""
    store.load(arguments.out)  # a file of something else is refused before anything starts
    study = study_of(arguments.dataset)
    for repeat in range(arguments.num_repeats):
        for num_ranks in (1, 2):
            store.append(arguments.out, [sweep(study, num_ranks, repeat)])
        store.append(arguments.out, steps(arguments.dataset, repeat))
    for table in ratios(store.frame(store.load(arguments.out))):
        print(table.round(3).to_string())
    print(f"the records are in {arguments.out}")
    return 0


def study_of(dataset: str) -> StudyConfig:
    """Return the small study whose seconds are measured."""
    return StudyConfig(
        dataset=dataset,
        goal_errors=GOAL_ERRORS.get(dataset, OTHER_GOAL_ERRORS),
        batch_sizes=BATCH_SIZES,
        num_trials=6,
        num_finalists=2,
        num_finalist_seeds=2,
        num_seeds=4,
    )


def sweep(study: StudyConfig, num_ranks: int, repeat: int) -> SweepSpeedRecord:
    """Do a whole study on engines that have started and loaded the data; return its seconds."""
    with tempfile.TemporaryDirectory() as folder, engines(num_ranks) as ranks:
        _warm_up(ranks, study)
        search = Search(study, Path(folder) / "sweep.db")
        start = time.perf_counter()
        search.run(ranks)
        seconds = time.perf_counter() - start
    return SweepSpeedRecord(
        num_ranks=num_ranks,
        num_runs=search.num_done,
        seconds=seconds,
        engine_seconds=search.engine_seconds,
        provenance=provenance(),
        study=json.loads(study.to_json()),
        experiment=EXPERIMENT,
        repeat=repeat,
    )


def steps(dataset: str, repeat: int) -> list[TrialStepRecord]:
    """Return the seconds of a step of a trial, and of a bare serial run, at each batch size."""
    with engines(1) as ranks:
        return [_step(ranks, _step_config(dataset, size), repeat) for size in STEP_BATCH_SIZES]


def ratios(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the runs an hour on 2 engines over those on 1, a row a repeat, and a trial's step over
    a bare one, a row a batch size."""
    sweeps = frame[frame["kind"] == "sweep_speed"].assign(
        rate=lambda rows: 3600 * rows["num_runs"] / rows["seconds"]
    )
    rates = sweeps.pivot_table(index="repeat", columns="num_ranks", values="rate")
    rates["ratio"] = rates[2] / rates[1]

    rows = frame[frame["kind"] == "trial_step"]
    costs = rows.assign(
        ratio=rows["trial_seconds"] / rows["bare_seconds"],
        ratio_with_checks=rows["with_checks_seconds"] / rows["bare_seconds"],
    )
    by_size = costs.groupby("batch_size")[["ratio", "ratio_with_checks"]]
    return rates, by_size.agg(["median", "min", "max"])


def _step_config(dataset: str, batch_size: int) -> RunConfig:
    return RunConfig(
        dataset=dataset,
        optimizer="sgd",
        global_batch_size=batch_size,
        lr=1e-4,
        num_threads=1,
        num_steps=max(60, 20_000 // batch_size),
        num_epochs=1000,
        evaluate_every=0,
    )


def _step(ranks: Engines, config: RunConfig, repeat: int) -> TrialStepRecord:
    num_steps = config.total_steps
    bare = ranks.run(config)
    (trial,) = ranks.run_trial(config, [0.01], [num_steps])
    trial_seconds = trial["train_seconds"]
    return TrialStepRecord(
        batch_size=config.global_batch_size,
        bare_seconds=bare.train_seconds / num_steps,
        trial_seconds=trial_seconds / num_steps,
        with_checks_seconds=(trial_seconds + trial["check_seconds"]) / num_steps,
        provenance=provenance(),
        config=config.to_dict(),
        experiment=EXPERIMENT,
        repeat=repeat,
    )


def _warm_up(ranks: Engines, study: StudyConfig) -> None:
    """Have every engine load the data and take some steps."""
    config = study.run_config(study.batch_sizes[0], 0.1, None, 0)
    ranks.run_trial(config, [0.5], [20])
