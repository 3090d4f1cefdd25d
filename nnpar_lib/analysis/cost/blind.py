"""Predictions of runs that nobody has seen, and how far off they were when the runs were made.

The costs of a block were measured on one core and on all cores at once. On p of P cores they are
taken to lie between, linearly in p: what cores share (memory, cache, frequency) is shared by more
of them. Ranks that sum gradients also wait for the last of them (`waiting`): how late a rank is, as
a share of its computing, was measured on two ranks with a batch of no other run.
"""

from __future__ import annotations

import dataclasses
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import pandas as pd

from nnpar_lib.analysis.cost import calibration, cost_model
from nnpar_lib.analysis.cost.cost_model import Block, Machine, Model, architecture
from nnpar_lib.analysis.cost.waiting import waiting_seconds
from nnpar_lib.analysis.scaling.speedups import AlphaBeta
from nnpar_lib.config import RunConfig
from nnpar_lib.records.kinds import (
    AllreduceRecord,
    MessageRecord,
    PredictionRecord,
    ProfileRecord,
    Record,
    RunRecord,
)

TWO_RANKS = "2 ranks"  # the label of the runs that show how late ranks are
WAITING = ("gradient_averaging", "sharded")
MODEL = "cost model"
NO_MODEL = "no model"
AS_AVERAGING = "as gradient averaging by MPI"
DIVIDED = "the work of one thread, divided by the threads"


@dataclass(frozen=True)
class Prediction:
    """The seconds of a step, None where there is no model, and what they were computed from.

    `waiting_seconds` are a part of them.
    """

    seconds: float | None
    basis: str
    waiting_seconds: float = 0.0


class Costs:
    """What was measured before any of the runs: blocks, messages and all-reduces."""

    def __init__(self, records: Iterable[Record]) -> None:
        records = list(records)
        self._runs = [r for r in records if isinstance(r, RunRecord) and r.label == TWO_RANKS]
        kinds = (AllreduceRecord, MessageRecord, ProfileRecord)
        self._records = [record for record in records if isinstance(record, kinds)]
        counts = [r.num_ranks for r in self._records if isinstance(r, ProfileRecord)]
        self._most = max(counts, default=1)

    def model(self, config: RunConfig, num_busy: int) -> Model | None:
        """Return a network's costs while so many cores are busy; None where it has no profile."""
        profiles = [r for r in self._records if isinstance(r, ProfileRecord)]
        key = architecture(config)
        ends = []
        for count in (1, self._most):
            if not any(record.num_ranks == count for record in profiles):
                return None
            ends.append(calibration.models(profiles, count).get(key))
        if ends[0] is None or ends[1] is None:
            return None
        share = (num_busy - 1) / max(1, self._most - 1)
        return _between(ends[0], ends[1], min(1.0, share))

    def delay_share(self, model: str) -> float:
        """Return how late a rank is on average, as a share of its computing; 0 if not measured."""
        shares = [
            run.wait_seconds / run.compute_seconds
            for run in self._runs
            if run.model == model and run.wait_seconds is not None
        ]
        return statistics.median(shares) / waiting_seconds(1.0, 2) if shares else 0.0

    def machine(self, num_ranks: int) -> Machine | None:
        """Return the prices of messages and of all-reduces of so many ranks; None without any."""
        if num_ranks == 1:
            return Machine(message=cost_model.NOTHING, allreduces={})
        kept = [
            record
            for record in self._records
            if isinstance(record, MessageRecord)
            or (isinstance(record, AllreduceRecord) and record.num_ranks == num_ranks)
        ]
        kinds = {type(record) for record in kept}
        return calibration.machine(kept) if len(kinds) == 2 else None


def predict(config: RunConfig, costs: Costs) -> Prediction:
    """Return the seconds of a step of a config, before it has run."""
    num_threads = max(1, config.num_threads)
    model = costs.model(config, config.num_ranks * num_threads)
    machine = costs.machine(config.num_ranks)
    if model is None or machine is None or config.is_native or config.record:
        return Prediction(None, NO_MODEL)
    basis = MODEL
    if config.strategy == "torch_ddp":
        config = config.replace(strategy="gradient_averaging", allreduce="mpi")
        basis = AS_AVERAGING
    if num_threads > 1:
        model = _divided(model, num_threads)
        basis = DIVIDED
    try:
        seconds = cost_model.step_seconds(config, model, machine)
    except ValueError:
        return Prediction(None, NO_MODEL)
    waiting = 0.0
    if config.strategy in WAITING:
        computing = model.passes(config.global_batch_size / config.num_ranks)
        waiting = waiting_seconds(costs.delay_share(config.model) * computing, config.num_ranks)
    return Prediction(seconds + waiting, basis, waiting)


def errors(records: Iterable[Record]) -> pd.DataFrame:
    """Return predicted and measured milliseconds of a step, one row a config that was predicted.

    The measured ones are medians over repeats; `error` is predicted / measured - 1, and
    `error_without_waiting` that of the prediction before waiting was added to it. `is_blind` says
    that the prediction was written before the first of the runs began.
    """
    records = list(records)
    runs: dict[tuple[str, str], list[RunRecord]] = {}
    for record in records:
        if isinstance(record, RunRecord):
            runs.setdefault((record.experiment, record.label), []).append(record)
    rows = []
    for record in records:
        same = runs.get((record.experiment, getattr(record, "label", "")))
        if isinstance(record, PredictionRecord) and same:
            rows.append(_row(record, same))
    return pd.DataFrame(rows)


def _row(prediction: PredictionRecord, runs: Sequence[RunRecord]) -> dict[str, Any]:
    first = runs[0]
    measured = float(pd.Series([run.train_seconds / run.num_steps for run in runs]).median())
    predicted = prediction.predicted_seconds
    return {
        "experiment": prediction.experiment,
        "label": prediction.label,
        "model": first.model,
        "strategy": first.strategy,
        "num_ranks": first.num_ranks,
        "threads_per_rank": first.threads_per_rank,
        "predicted_ms": None if predicted is None else 1e3 * predicted,
        "measured_ms": 1e3 * measured,
        "error": None if predicted is None else predicted / measured - 1,
        "error_without_waiting": (
            None if predicted is None else (predicted - prediction.waiting_seconds) / measured - 1
        ),
        "num_repeats": len(runs),
        "basis": prediction.basis,
        "is_blind": prediction.provenance["started_at"]
        <= min(run.provenance["started_at"] for run in runs),
    }


def _between(low: Model, high: Model, share: float) -> Model:
    blocks = [
        dataclasses.replace(
            first,
            forward=_mixed(first.forward, last.forward, share),
            backward=_mixed(first.backward, last.backward, share),
        )
        for first, last in zip(low.blocks, high.blocks, strict=True)
    ]
    return Model(
        blocks=blocks,
        load=_mixed(low.load, high.load, share),
        update=_mixed(low.update, high.update, share),
        clear=_mixed(low.clear, high.clear, share),
    )


def _mixed(low: AlphaBeta, high: AlphaBeta, share: float) -> AlphaBeta:
    return AlphaBeta(
        low.alpha + share * (high.alpha - low.alpha), low.beta + share * (high.beta - low.beta)
    )


def _divided(model: Model, num_threads: int) -> Model:
    """Return the costs of a model whose work per example is shared by threads."""

    def share(block: Block) -> Block:
        return dataclasses.replace(
            block,
            forward=AlphaBeta(block.forward.alpha, block.forward.beta / num_threads),
            backward=AlphaBeta(block.backward.alpha, block.backward.beta / num_threads),
        )

    return dataclasses.replace(model, blocks=[share(block) for block in model.blocks])
