"""Numbers and tables of the chapter on batch sizes, by the names that its text uses."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from nnpar_lib.analysis import regimes
from nnpar_lib.analysis.regimes import (
    definitions,
    noise_scale,
    parallel_trials,
    steps_model,
    time_to_goal,
)
from nnpar_lib.config.study import StudyConfig

FITTED = ("ends_perfect", "begins_maximal", "overhead_20", "b_crit", "q")
LOCAL_BATCH_SIZE = 16  # of the comparison with Amdahl's law
Studies = Mapping[str, tuple[StudyConfig, pd.DataFrame]]


@dataclass(frozen=True)
class HardestGoal:
    """The hardest goal of a study that every batch size reached.

    It has the error of the goal, its runs, a table with one row per batch size, and the preferred
    fit.
    """

    error: float
    runs: pd.DataFrame
    table: pd.DataFrame
    fit: pd.Series[Any]


def hardest_goal(runs: pd.DataFrame) -> HardestGoal:
    """Return the hardest goal of the runs of a study."""
    table = regimes.study(runs)
    goal = regimes.hardest_goal(table)
    rows = runs[runs["goal_error"] == goal]
    fit = regimes.fits(rows).query("preferred").iloc[0]
    return HardestGoal(goal, rows, table[table["goal_error"] == goal], fit)


def protocol(study: StudyConfig) -> str:
    """Return how a study was made, in words."""
    return (
        f"{len(study.batch_sizes)} batch sizes, {study.num_trials} learning rates and"
        f" {study.num_seeds} fresh seeds at each; one rank of one thread a run."
    )


def study_numbers(study: StudyConfig) -> dict[str, Any]:
    """Return the sizes of a study."""
    return {
        "regimes-num-sizes": len(study.batch_sizes),
        "regimes-num-trials": study.num_trials,
        "regimes-num-seeds": study.num_seeds,
        "regimes-num-finalists": study.num_finalists,
    }


def goal_numbers(hardest: HardestGoal) -> dict[str, Any]:
    """Return the goal in percent, the fit, and slopes at the smallest and largest batch."""
    numbers: dict[str, Any] = {"regimes-goal": 100 * hardest.error}
    for name in FITTED:
        for suffix in ("", "_low", "_high"):
            numbers[_name("regimes", name + suffix)] = hardest.fit[name + suffix]
    rmse = regimes.fits(hardest.runs).set_index("form")["rmse"]
    numbers["regimes-rmse-hyperbola"] = rmse.get("hyperbola")
    numbers["regimes-rmse-sharp"] = rmse.get("sharp", float("nan"))
    for place, row in (("first", hardest.table.iloc[0]), ("last", hardest.table.iloc[-1])):
        numbers[f"regimes-{place}-size"] = row["batch_size"]
        for column in ("median_steps", "slope", "slope_low", "slope_high"):
            numbers[_name(f"regimes-{place}", column)] = row[column]
    return numbers


def winners_curse(runs: pd.DataFrame, goal: float) -> dict[str, Any]:
    """Return by how many percent fresh seeds are slower than the best trial.

    The two numbers are those of the given goal and of the easiest one.
    """
    table = regimes.study(runs)
    reached = table[table["status"] == "reached"]
    curse = reached.groupby("goal_error")["winners_curse"].median()
    return {
        "regimes-curse": 100 * (curse.loc[goal] - 1),
        "regimes-curse-easiest": round(100 * (curse.iloc[-1] - 1)),
    }


@dataclass(frozen=True)
class Seconds:
    """Seconds to a goal from measured steps, from fits and from whole runs.

    `compared` has whole runs beside predictions.
    """

    table: pd.DataFrame
    predicted: pd.DataFrame
    whole: pd.DataFrame
    compared: pd.DataFrame


def seconds(hardest: HardestGoal, measured: pd.DataFrame) -> Seconds:
    """Return the seconds to the hardest goal, from the records of the notebook on regimes."""
    steps = time_to_goal.step_seconds(measured)
    predicted = time_to_goal.predicted(hardest.runs, steps)
    whole = parallel_trials.seconds_to_goal(_trials(measured, "regimes_time"))
    compared = whole.merge(predicted, on=["num_ranks", "batch_size"], suffixes=("", "_predicted"))
    compared["ratio"] = compared["seconds"] / compared["seconds_predicted"]
    return Seconds(time_to_goal.time_to_goal(hardest.runs, steps), predicted, whole, compared)


def seconds_numbers(seconds: Seconds, measured: pd.DataFrame) -> dict[str, Any]:
    """Return the best batch sizes on one rank and on all, and how far predictions are off."""
    errors = (seconds.compared["ratio"] - 1).abs()
    most_ranks = int(seconds.table["num_ranks"].max())
    numbers = {
        "regimes-ranks": most_ranks,
        "regimes-step-repeats": measured[measured["kind"] == "run"]["repeat"].nunique(),
        "regimes-worst-prediction": 100 * errors.max(),
        "regimes-median-prediction": 100 * errors.median(),
    }
    best = seconds.table[seconds.table["is_optimal"]]
    for name, num_ranks in (("one", 1), ("all", most_ranks)):
        row = best[best["num_ranks"] == num_ranks].iloc[0]
        optimal = seconds.predicted.query("num_ranks == @num_ranks")["optimal"].iloc[0]
        numbers[f"regimes-best-batch-{name}"] = row["batch_size"]
        numbers[f"regimes-best-seconds-{name}"] = row["seconds"]
        numbers[f"regimes-predicted-batch-{name}"] = optimal
    fewest = [numbers[f"regimes-best-seconds-{name}"] for name in ("one", "all")]
    return numbers | {"regimes-best-speedup": fewest[0] / fewest[1]}


def verdict_numbers(hardest: HardestGoal, measured: pd.DataFrame) -> dict[str, Any]:
    """Return how many doublings halve the steps, and the seconds on one rank and on all.

    For `steps`, `one` and `all`: `doublings-...-num` doublings, `-halves` and `-no-gain` of them
    (those that take longer included), `-undetermined`; and, in words, `-which` halve.
    """
    steps = time_to_goal.step_seconds(measured)
    doublings = time_to_goal.doublings(hardest.runs, steps)
    table = time_to_goal.verdicts(doublings)
    most_ranks = table["num_ranks"].max()
    numbers: dict[str, Any] = {}
    for name, num_ranks in (("steps", 0), ("one", 1), ("all", most_ranks)):
        row = table[table["num_ranks"] == num_ranks].iloc[0]
        numbers |= {
            f"doublings-{name}-num": row["num_doublings"],
            f"doublings-{name}-halves": row[definitions.HALVES],
            f"doublings-{name}-no-gain": row[definitions.NO_GAIN] + row[definitions.LONGER],
            f"doublings-{name}-undetermined": row[definitions.UNDETERMINED],
            f"doublings-{name}-which": _halving(doublings[doublings["num_ranks"] == num_ranks]),
        }
    return numbers


def _halving(doublings: pd.DataFrame) -> str:
    """Return the doublings that halve, in words."""
    sizes = doublings.loc[doublings["verdict"] == definitions.HALVES, "batch_size"]
    return ", ".join(f"{size} to {2 * size}" for size in sizes) or "none"


def family_numbers(studies: Studies) -> dict[str, Any]:
    """Return the evidence for the family of curves over the hyperbola alone, over all studies.

    Of the `family-goals` that have enough batch sizes to tell, the family has the smaller corrected
    criterion of Akaike at `family-ahead`, by `family-least` or more.
    """
    tables = [regimes.fits(runs).assign(study=name) for name, (_, runs) in studies.items()]
    fits = pd.concat(tables).query("form != 'none'")
    criteria = fits.pivot(index=["study", "goal_error"], columns="form", values="aicc")
    gains = (criteria["hyperbola"] - criteria[steps_model.FAMILY]).replace(-np.inf, np.nan).dropna()
    return {
        "family-goals": len(gains),
        "family-ahead": int((gains > 0).sum()),
        "family-least": gains.min(),
        "family-all-goals": len(criteria),
    }


def doublings_table(hardest: HardestGoal, measured: pd.DataFrame) -> pd.DataFrame:
    """Return in words what each doubling of the batch changes.

    One row per doubling; one column for steps and one for seconds on each number of ranks.
    """
    steps = time_to_goal.step_seconds(measured)
    rows = time_to_goal.doublings(hardest.runs, steps).to_dict("records")
    words = pd.DataFrame([{**row, **_doubling_in_words(row)} for row in rows])
    wide = words.pivot(index="batch_size", columns="what", values="ratio").reset_index()
    sizes = wide.pop("batch_size")
    wide.insert(0, "batch", [f"{size} to {2 * size}" for size in sizes])
    return wide


def _doubling_in_words(row: Mapping[Any, Any]) -> dict[str, str]:
    num_ranks = row["num_ranks"]
    quantity = row["quantity"]
    ranks = f"seconds on {num_ranks} rank{'s' * (num_ranks > 1)}"
    ratio = f"{row['ratio']:.2f} [{row['low']:.2f}, {row['high']:.2f}] {row['verdict']}"
    return {"what": quantity if quantity == "steps" else ranks, "ratio": ratio}


def equal_counts(measured: pd.DataFrame) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return how many runs take the same steps on ranks as on one, and the table in float64."""
    double = parallel_trials.equal_counts(_trials(measured, "regimes_ranks"))
    single = parallel_trials.equal_counts(_trials(measured, "regimes_time"))
    numbers = {
        "equal-runs": double["num_equal"].sum(),
        "paired-runs": double["num_pairs"].sum(),
        "equal-most-ranks": double["num_ranks"].max(),
        "equal-runs-single": single["num_equal"].sum(),
        "paired-runs-single": single["num_pairs"].sum(),
        "largest-difference-single": 100 * single["largest_difference"].max(),
    }
    return numbers, double


def noise(hardest: HardestGoal, measured: pd.DataFrame) -> tuple[dict[str, Any], pd.DataFrame]:
    """Return the gradient noise scale at both ends of a run, and its table."""
    record = measured[measured["kind"] == "norms"].iloc[-1]
    table = noise_scale.noise_scale(pd.DataFrame(record["norms"]))
    numbers = {
        "noise-batch": record["global_batch_size"],
        "noise-first": table["noise_scale"].iloc[0],
        "noise-last": table["noise_scale"].iloc[-1],
        "noise-steps": len(record["norms"]),
        "noise-over-critical": table["noise_scale"].median() / hardest.fit["b_crit"],
    }
    return numbers, table


def critical_batch_size(hardest: HardestGoal) -> regimes.Interval:
    """Return the critical batch size of the fit."""
    return regimes.Interval(
        *(hardest.fit[name] for name in ("b_crit", "b_crit_low", "b_crit_high"))
    )


def studies_table(studies: Studies) -> pd.DataFrame:
    """Return the fits of all studies, with goals in percent, protocols and curves in words.

    A `curve` is named by the sharpness q of its bend, 1 for a hyperbola, with its interval. Goals
    without a fit are left out.
    """
    table = regimes.compare({name: runs for name, (_, runs) in studies.items()})
    asked = [studies[name][0] for name in table["study"]]
    table["goal"] = 100 * table["goal_error"]
    table["protocol"] = [
        f"{len(study.batch_sizes)}, {study.num_trials}, {study.num_seeds}" for study in asked
    ]
    table = table[table["form"] != "none"]
    rows = table[["q", "q_low", "q_high"]].to_numpy()
    return table.assign(curve=[f"{q:.1f} [{low:.1f}, {high:.1f}]" for q, low, high in rows])


def studies_numbers(studies: Studies) -> dict[str, Any]:
    """Return the number of studies and the channels of those of the cnn."""
    channels = [
        f"{' and '.join(map(str, study.channels))} ({name})"
        for name, (study, _) in studies.items()
        if study.model == "cnn"
    ]
    return {"num-studies": len(studies), "cnn-channels": ", ".join(channels)}


def runs_at_hardest(studies: Studies) -> dict[str, pd.DataFrame]:
    """Return the runs of each study to its hardest goal, by the name of the study."""
    return {
        name: runs[runs["goal_error"] == runs["goal_error"].min()]
        for name, (_, runs) in studies.items()
    }


def named_by_goal(runs: Mapping[str, pd.DataFrame]) -> dict[str, pd.DataFrame]:
    """Return the runs of `runs_at_hardest` by study and goal in words."""
    return {
        f"{name}, {100 * rows['goal_error'].iloc[0]:.3g} % error": rows
        for name, rows in runs.items()
    }


def momentum(studies: Studies) -> dict[str, Any]:
    """Return how momentum changes the steps and the end of perfect scaling."""
    hardest = runs_at_hardest(studies)
    ratios = regimes.steps_ratio(hardest["mlp-sgd"], hardest["mlp-momentum"])
    numbers: dict[str, Any] = {}
    for name, row in (("small", ratios.iloc[0]), ("large", ratios.iloc[-1])):
        numbers[f"momentum-{name}-batch"] = row["batch_size"]
        numbers |= {f"momentum-{name}-{column}": row[column] for column in ("ratio", "low", "high")}
    table = studies_table(studies)
    goal = hardest["mlp-sgd"]["goal_error"].iloc[0]
    fits = table[table["goal_error"] == goal].set_index("study")
    for study in ("mlp-sgd", "mlp-momentum"):
        for column in ("ends_perfect", "b_crit"):
            for suffix in ("", "_low", "_high"):
                numbers[_name(study, column + suffix)] = fits.loc[study, column + suffix]
    return numbers | {"momentum-extends": _reach(fits.loc["mlp-sgd"], fits.loc["mlp-momentum"])}


def _reach(plain: pd.Series[Any], momentum: pd.Series[Any]) -> str:
    if momentum["ends_perfect_low"] > plain["ends_perfect_high"]:
        return "further"
    if momentum["ends_perfect_high"] < plain["ends_perfect_low"]:
        return "less far"
    return "no further that these intervals could show"


def local_sgd_numbers(table: pd.DataFrame) -> dict[str, Any]:
    """Return what the longest averaging interval costs and saves.

    `table` is that of `parallel_trials.local_sgd`.
    """
    longest = table.iloc[-1]
    return {
        "local-ranks": longest["num_ranks"],
        "local-interval": longest["average_every"],
        "local-samples": longest["samples_ratio"],
        "local-samples-low": longest["samples_low"],
        "local-samples-high": longest["samples_high"],
        "local-exchanges": 1 / longest["exchanges_ratio"],
    }


def sweep_numbers(rates: pd.DataFrame, costs: pd.DataFrame) -> dict[str, Any]:
    """Return the speed of sweeps and the costs of a trial step.

    `rates` are runs an hour by number of engines, `costs` are relative to a bare serial step.
    """
    ratio = rates["ratio"]
    return {
        "sweep-ratio": ratio.median(),
        "sweep-ratio-low": ratio.min(),
        "sweep-ratio-high": ratio.max(),
        "sweep-rate": rates[2].median(),
        "sweep-repeats": len(rates),
        "trial-step": costs["ratio", "median"].max(),
        "trial-step-checked": costs["ratio_with_checks", "median"].max(),
    }


def _trials(measured: pd.DataFrame, experiment: str) -> pd.DataFrame:
    return measured[(measured["kind"] == "trial") & (measured["experiment"] == experiment)]


def _name(prefix: str, column: str) -> str:
    return f"{prefix}-{column.replace('_', '-')}"
