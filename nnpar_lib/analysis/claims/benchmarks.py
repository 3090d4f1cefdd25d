"""Claims that the benchmarks test: a ratio each, beside what noise is and beside its goal."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nnpar_lib.analysis.scaling.ratio import Ratio, band, verdict
from nnpar_lib.analysis.scaling.speedups import RATE, paired_ratio
from nnpar_lib.records.kinds import CONTROL

ALLREDUCES = ("shared", "mpi", "overlapped")
MLP_GRADIENT = 235_146  # parameters of the mlp
UNCONTROLLED = "no control"

Way = Mapping[str, Any]  # columns of a record, and the values that they have


@dataclass(frozen=True)
class Claim:
    """A ratio of samples a second between two ways to train.

    Of several `bases` the fastest is taken. The ratio is divided by `divide_by`, which is the
    number of ranks for an efficiency. `control` is the way whose runs were made twice.
    """

    name: str
    experiment: str
    bases: tuple[Way, ...]
    compared: Way
    goal: float = math.nan
    divide_by: float = 1.0
    control: Way | None = None


def _serial(batch_size: int, num_threads: int = 1) -> Way:
    return {
        "strategy": "serial",
        "global_batch_size": batch_size,
        "threads_per_rank": num_threads,
    }


def _parallel(strategy: str, batch_size: int, **more: Any) -> Way:
    way = {"strategy": strategy, "global_batch_size": batch_size, "num_ranks": 2}
    return {**way, "allreduce": "shared", "record": False, **more}


def _ddp(batch_size: int, *, tuned: bool) -> Way:
    return _parallel("torch_ddp", batch_size, ddp_tuned=tuned)


@dataclass(frozen=True)
class _Steps:
    """The claims on steps of a model at a local batch size, for one way to average gradients."""

    model: str
    local: int
    suffix: str = ""
    statistics: str = "synchronised"

    def claim(self, name: str, bases: tuple[Way, ...], compared: Way, **more: Any) -> Claim:
        """Return a claim with the control that these steps have: two ranks, twice."""
        name = f"{name}, {self.model}{self.suffix}, local batch {self.local}"
        return Claim(name, f"step-{self.model}", bases, compared, control=self.averaging(), **more)

    def averaging(self, allreduce: str = "shared") -> Way:
        """Return two ranks that average gradients."""
        more = {"batch_norm": self.statistics} if self.suffix else {}
        return _parallel("gradient_averaging", 2 * self.local, **{**more, "allreduce": allreduce})

    def efficiency(self, goal: float) -> Claim:
        """Compare with one rank that has the same local batch."""
        bases = (_serial(self.local),)
        name = "parallel efficiency of 2 ranks"
        return self.claim(name, bases, self.averaging(), goal=goal, divide_by=2)

    def against_serial(self) -> Claim:
        """Compare with the best that one process does with the same global batch."""
        bases = (_serial(2 * self.local, 1), _serial(2 * self.local, 2))
        name = "2 ranks against the best of 1 process on 1 or 2 threads"
        return self.claim(name, bases, self.averaging(), goal=1.0)

    def recorded(self, goal: float) -> Claim:
        """Compare steps that are recorded with the same steps by autograd."""
        compared = {**self.averaging(), "record": True}
        return self.claim(
            "recorded steps against eager steps", (self.averaging(),), compared, goal=goal
        )

    def against_mpi(self) -> Claim:
        """Compare shared memory with MPI's all-reduce."""
        bases = (self.averaging("mpi"),)
        return self.claim("shared memory against MPI_Allreduce", bases, self.averaging())

    def against_ddp(self, goal: float) -> list[Claim]:
        """Compare with DDP as it comes, and with the faster of that and DDP tuned."""
        plain = _ddp(2 * self.local, tuned=False)
        tuned = _ddp(2 * self.local, tuned=True)
        return [
            self.claim("against DDP as it comes", (plain,), self.averaging()),
            self.claim("against the faster DDP", (plain, tuned), self.averaging(), goal=goal),
        ]


def _against_tutorial(name: str, compared: Way, num_threads: int, goal: float) -> Claim:
    threads = f"{num_threads} thread{'s' * (num_threads > 1)}"
    return Claim(
        f"steps of the mlp against the tutorial's loop on {threads}: {name}",
        "epoch",
        ({"strategy": "tutorial", "threads_per_rank": num_threads},),
        compared,
        goal,
        control=_parallel("gradient_averaging", 64),
    )


def _against_torch_pipelining() -> Claim:
    ours = {"strategy": "pipeline", "num_ranks": 2}
    bases = ({"strategy": "torch_pipelining", "num_ranks": 2},)
    name = "pipeline of 2 stages against torch's pipelining, cnn, batch 64"
    return Claim(name, "pipeline", bases, ours, 1.0, control=ours)


def _cpp(batch_size: int, num_ranks: int, goal: float) -> Claim:
    sizes = {"global_batch_size": batch_size, "num_ranks": num_ranks}
    python = {"strategy": "serial" if num_ranks == 1 else "gradient_averaging", **sizes}
    ranks = f"{num_ranks} rank{'s' * (num_ranks > 1)}"
    name = f"C++ against PyTorch, mlp, {ranks}, batch {batch_size}"
    compared = {"strategy": "cpp", **sizes}
    return Claim(name, "cpp", (python,), compared, goal, control=compared)


def _allreduce() -> Claim:
    shared = {"allreduce": "shared", "num_elements": MLP_GRADIENT}
    bases = ({**shared, "allreduce": "mpi"},)
    name = "all-reduce of the mlp's gradient, shared memory against MPI_Allreduce"
    return Claim(name, "allreduce", bases, shared, 1.0, control=shared)


_MLP_16 = _Steps("mlp", 16)
_MLP_64 = _Steps("mlp", 64)
_CNN = _Steps("cnn", 32)
_RESNET_LOCAL = _Steps("resnet18", 16, " with local statistics", "local")
_RESNET = _Steps("resnet18", 16, " with synchronised statistics")

CLAIMS = (
    _MLP_16.efficiency(0.9),
    _MLP_64.efficiency(0.95),
    _CNN.efficiency(0.97),
    _RESNET_LOCAL.efficiency(0.95),
    _RESNET.efficiency(0.95),
    *(steps.against_serial() for steps in (_MLP_16, _MLP_64, _CNN, _RESNET_LOCAL, _RESNET)),
    *_MLP_16.against_ddp(2.5),
    *_MLP_64.against_ddp(2.5),
    *_CNN.against_ddp(1.1),
    *_RESNET_LOCAL.against_ddp(1.0),
    _MLP_16.recorded(1.25),
    _MLP_64.recorded(1.25),
    *(steps.against_mpi() for steps in (_MLP_16, _MLP_64, _CNN, _RESNET)),
    _allreduce(),
    _cpp(8, 1, 2.0),
    _cpp(32, 1, 1.5),
    _cpp(128, 2, 1.5),
    _against_torch_pipelining(),
    _against_tutorial("one rank of one thread", _serial(64), 1, 3.5),
    _against_tutorial("one rank of one thread", _serial(64), 2, 3.5),
    _against_tutorial("2 ranks", _parallel("gradient_averaging", 64), 1, 5.0),
    _against_tutorial("2 ranks", _parallel("gradient_averaging", 64), 2, 5.0),
)


def table(frame: pd.DataFrame, claims: Iterable[Claim] = CLAIMS) -> pd.DataFrame:
    """Return each claim's ratio, its spread, its control, its goal and the verdict, a row a claim.

    `measured` is the median and `low` and `high` are quartiles. `ci_low` and `ci_high` bound a 95 %
    interval of the median where there are at least 6 repeats, else they are NaN. `control_low` and
    `control_high` bound what is noise, and `verdict` names a winner only outside of it. `outcome`
    says whether the goal was reached. A claim whose runs are not in the frame is left out: older
    records lack some.
    """
    runs = pd.concat([_with_settings(frame[frame["kind"] == "run"]), _allreduces(frame)])
    rows = [_row(claim, runs[runs["experiment"] == claim.experiment]) for claim in claims]
    return pd.DataFrame([row for row in rows if row])


def text(claims: pd.DataFrame) -> str:
    """Return the table for a terminal: 95 % intervals, or quartiles where they are called so."""
    has_interval = claims["ci_low"].notna()
    shown = pd.DataFrame(
        {
            "ratio of samples/s": claims["claim"],
            "median": claims["measured"],
            "from": claims["ci_low"].fillna(claims["low"]),
            "to": claims["ci_high"].fillna(claims["high"]),
            "which is": has_interval.map({True: "95 %", False: "quartiles"}),
            "noise from": claims["control_low"],
            "to ": claims["control_high"],
            "repeats": claims["num_repeats"],
            "verdict": claims["verdict"],
            "goal": claims["goal"],
            "outcome": claims["outcome"],
        }
    )
    return str(shown.to_string(index=False, float_format="{:.2f}".format, na_rep="-"))


def judged(
    name: str, ratio: Ratio, goal: float = math.nan, control: Ratio | None = None
) -> dict[str, Any]:
    """Return the row of a table of claims for a ratio that was measured."""
    noise = None if control is None else band(control)
    outcome = "reached" if ratio.median >= goal else "missed"
    return {
        "claim": name,
        **ratio.columns("measured"),
        "control_low": math.nan if noise is None else noise.low,
        "control_high": math.nan if noise is None else noise.high,
        "verdict": UNCONTROLLED if control is None else verdict(ratio, control),
        "goal": goal,
        "outcome": "" if math.isnan(goal) else outcome,
    }


def _row(claim: Claim, runs: pd.DataFrame) -> dict[str, Any] | None:
    """Return a claim's row, None where its runs are missing."""
    is_control = runs["label"] == CONTROL
    measured = runs[~is_control]
    base = _fastest(measured, claim.bases)
    if base is None or _select(measured, claim.compared).empty:
        return None
    ratio = paired_ratio(measured, base, claim.compared).divided_by(claim.divide_by)
    control = None
    if claim.control is not None and not _select(runs[is_control], claim.control).empty:
        once = {**claim.control, "label": ""}
        control = paired_ratio(runs, once, {**claim.control, "label": CONTROL})
    return judged(claim.name, ratio, claim.goal, control)


def _fastest(runs: pd.DataFrame, ways: Sequence[Way]) -> Way | None:
    """Return the way with the highest median rate, None where one of them was not measured."""
    rates = [float(_select(runs, way)[RATE].median()) for way in ways]
    if any(math.isnan(rate) for rate in rates):
        return None
    return ways[rates.index(max(rates))]


def _select(runs: pd.DataFrame, way: Way) -> pd.DataFrame:
    for column, value in way.items():
        runs = runs[runs[column] == value] if column in runs else runs.iloc[:0]
    return runs


def _with_settings(runs: pd.DataFrame) -> pd.DataFrame:
    """Return runs with the columns `ddp_tuned` and `record`, which the first records lack."""
    settings = ("ddp_tuned", "record")
    missing = {name: False for name in settings if name not in runs}
    given = {name: runs[name].eq(True) for name in settings if name in runs}
    return runs.assign(**missing, **given)


def _allreduces(frame: pd.DataFrame) -> pd.DataFrame:
    """Return all-reduces as runs: a row a repeat, with all-reduces a second as their rate."""
    records = frame[frame["kind"] == "allreduce"]
    if records.empty:
        return records
    rows = records.assign(repeat=records["seconds"].map(lambda seconds: [*range(len(seconds))]))
    rows = rows.explode(["seconds", "repeat"])
    return rows.assign(
        **{RATE: 1 / rows["seconds"].astype(float), "label": rows["label"].fillna("")}
    )
