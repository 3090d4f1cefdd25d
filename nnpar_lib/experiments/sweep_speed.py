"""How fast a sweep is: runs an hour on one engine and on several, and what a trial's step costs
beside a bare one.

python -m nnpar_lib.experiments.sweep_speed --dataset mnist --out
report/results/regimes/sweep-speed.jsonl
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from pathlib import Path
from typing import Any

import pandas as pd

from nnpar_lib.config import RunConfig
from nnpar_lib.config.study import StudyConfig, powers_of_two
from nnpar_lib.launch.engines import Engines, engines
from nnpar_lib.launch.search.search import TRIAL, Search
from nnpar_lib.records.provenance import provenance

BATCH_SIZES = powers_of_two(16, 256)
STEP_BATCH_SIZES = (4, 64, 512)


def main() -> None:
    """Measure sweeps on 1 and 2 engines, and steps, in turn; append a line a measurement, print the
    ratios."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--dataset", default="digits", help="the data set (default: %(default)s)")
    parser.add_argument(
        "--num-repeats", type=int, default=5, help="sweeps of each kind (default: %(default)s)"
    )
    parser.add_argument(
        "--out", type=Path, default=Path("sweep-speed.jsonl"), help="where lines are appended"
    )
    arguments = parser.parse_args()
    goals = (0.3, 0.2) if arguments.dataset == "digits" else (0.1, 0.07)
    study = StudyConfig(
        dataset=arguments.dataset,
        goal_errors=goals,
        batch_sizes=BATCH_SIZES,
        num_trials=6,
        num_finalists=2,
        num_finalist_seeds=2,
        num_seeds=4,
    )
    for repeat in range(arguments.num_repeats):
        for num_ranks in (1, 2):
            _append(arguments.out, {"repeat": repeat, **sweep(study, num_ranks)})
        for row in steps(arguments.dataset):
            _append(arguments.out, {"repeat": repeat, **row})
    for table in ratios(pd.read_json(arguments.out, lines=True)):
        print(table.round(3).to_string())


def sweep(study: StudyConfig, num_ranks: int) -> dict[str, Any]:
    """Do a whole study with engines that have started and loaded the data; return its runs and
    seconds.

    `engine_seconds` is the sum of what runs spent on training and on checks: the rest of the
    engines' time is waiting.
    """
    with tempfile.TemporaryDirectory() as folder, engines(num_ranks) as ranks:
        _warm_up(ranks, study)
        search = Search(study, Path(folder) / "sweep.db")
        start = time.perf_counter()
        search.run(ranks)
        seconds = time.perf_counter() - start
        return {
            "kind": "sweep",
            "num_ranks": num_ranks,
            "num_runs": search.num_done,
            "seconds": seconds,
            "engine_seconds": search.engine_seconds,
        }


def steps(dataset: str) -> list[dict[str, Any]]:
    """Return seconds of a step of a trial, without and with its checks, and of a bare serial run,
    by batch size."""
    found = []
    with engines(1) as ranks:
        for size in STEP_BATCH_SIZES:
            num_steps = max(60, 20_000 // size)
            config = RunConfig(
                dataset=dataset,
                optimizer="sgd",
                global_batch_size=size,
                lr=1e-4,
                num_threads=1,
                num_steps=num_steps,
                num_epochs=1000,
                evaluate_every=0,
            )
            bare = ranks.run(config)
            trial = ranks.call(TRIAL, config.to_dict(), [0.01], [num_steps])[0]
            found.append(
                {
                    "kind": "step",
                    "batch_size": size,
                    "bare_seconds": bare.train_seconds / num_steps,
                    "trial_seconds": trial["train_seconds"] / num_steps,
                    "with_checks_seconds": (
                        (trial["train_seconds"] + trial["check_seconds"]) / num_steps
                    ),
                }
            )
    return found


def ratios(frame: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return the runs an hour on 2 engines over those on 1, a row a repeat, and a trial's step over
    a bare one."""
    sweeps = frame[frame["kind"] == "sweep"].assign(
        rate=lambda rows: 3600 * rows["num_runs"] / rows["seconds"]
    )
    rates = sweeps.pivot_table(index="repeat", columns="num_ranks", values="rate")
    rates["ratio"] = rates[2] / rates[1]
    rows = frame[frame["kind"] == "step"]
    costs = rows.assign(
        ratio=rows["trial_seconds"] / rows["bare_seconds"],
        ratio_with_checks=rows["with_checks_seconds"] / rows["bare_seconds"],
    )
    by_size = costs.groupby("batch_size")[["ratio", "ratio_with_checks"]]
    return rates, by_size.agg(["median", "min", "max"])


def _warm_up(ranks: Engines, study: StudyConfig) -> None:
    config = study.run_config(study.batch_sizes[0], 0.1, None, 0)
    ranks.call(TRIAL, config.to_dict(), [0.5], [20])


def _append(path: Path, row: dict[str, Any]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        file.write(json.dumps({**row, "provenance": provenance()}) + "\n")


if __name__ == "__main__":
    main()
