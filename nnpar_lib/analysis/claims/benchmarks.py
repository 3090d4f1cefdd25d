"""Claims that the benchmarks test: a ratio each, beside its goal."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nnpar_lib.analysis.scaling.ratio import Ratio
from nnpar_lib.analysis.scaling.speedups import paired_ratio

ALLREDUCES = ("shared", "mpi", "overlapped")


@dataclass(frozen=True)
class Claim:
    """A ratio of samples a second between two ways to train.

    It is divided by `divide_by`, which is the number of ranks for an efficiency.
    """

    name: str
    experiment: str
    base: dict[str, Any]
    compared: dict[str, Any]
    goal: float
    divide_by: float = 1.0


def _serial(batch_size: int) -> dict[str, Any]:
    return {"strategy": "serial", "global_batch_size": batch_size, "threads_per_rank": 1}


def _parallel(strategy: str, batch_size: int) -> dict[str, Any]:
    return {
        "strategy": strategy,
        "global_batch_size": batch_size,
        "num_ranks": 2,
        "allreduce": "shared",
    }


def _efficiency(model: str, local: int, goal: float) -> Claim:
    return Claim(
        f"parallel efficiency of 2 ranks, {model}, local batch {local}",
        f"step-{model}",
        _serial(local),
        _parallel("gradient_averaging", 2 * local),
        goal,
        divide_by=2,
    )


def _against_ddp(model: str, local: int, goal: float) -> Claim:
    return Claim(
        f"samples/s against DDP over gloo, {model}, local batch {local}",
        f"step-{model}",
        _parallel("torch_ddp", 2 * local),
        _parallel("gradient_averaging", 2 * local),
        goal,
    )


def _against_tutorial(name: str, compared: dict[str, Any], num_threads: int, goal: float) -> Claim:
    threads = f"{num_threads} thread{'s' * (num_threads > 1)}"
    return Claim(
        f"epoch of the mlp against the tutorial's loop on {threads}: {name}",
        "epoch",
        {"strategy": "tutorial", "threads_per_rank": num_threads},
        compared,
        goal,
    )


CLAIMS = (
    _efficiency("mlp", 64, 0.95),
    _efficiency("cnn", 32, 0.97),
    _against_ddp("mlp", 16, 2.5),
    _against_ddp("mlp", 64, 2.5),
    _against_ddp("cnn", 32, 1.1),
    _against_tutorial("one rank of one thread", _serial(64), 1, 3.5),
    _against_tutorial("one rank of one thread", _serial(64), 2, 3.5),
    _against_tutorial("2 ranks", _parallel("gradient_averaging", 64), 1, 5.0),
    _against_tutorial("2 ranks", _parallel("gradient_averaging", 64), 2, 5.0),
)


def table(frame: pd.DataFrame, claims: Iterable[Claim] = CLAIMS) -> pd.DataFrame:
    """Return the median and quartiles of each claim, its goal and the verdict, one row per claim.

    `ci_low` and `ci_high` bound a 95 % interval of the median where there are at least 6 repeats. A
    claim whose runs are not in the frame is a ValueError that names them.
    """
    return pd.DataFrame([_row(claim, frame) for claim in claims])


def text(claims: pd.DataFrame) -> str:
    """Return the table for a terminal."""
    shown = claims[["claim", "measured", "low", "high", "num_repeats", "goal", "verdict"]]
    columns = {"low": "quartile 1", "high": "quartile 3", "num_repeats": "repeats"}
    return str(shown.rename(columns=columns).to_string(index=False, float_format="{:.2f}".format))


def _row(claim: Claim, frame: pd.DataFrame) -> dict[str, Any]:
    runs = frame[(frame["kind"] == "run") & (frame["experiment"] == claim.experiment)]
    ratio: Ratio = paired_ratio(runs, claim.base, claim.compared)
    numbers = {
        "measured": ratio.median,
        "low": ratio.low,
        "high": ratio.high,
        "ci_low": ratio.ci_low,
        "ci_high": ratio.ci_high,
    }
    scaled = {name: value / claim.divide_by for name, value in numbers.items()}
    verdict = "reached" if scaled["measured"] >= claim.goal else "missed"
    return {
        "claim": claim.name,
        **scaled,
        "num_repeats": ratio.num_repeats,
        "goal": claim.goal,
        "verdict": verdict,
    }
