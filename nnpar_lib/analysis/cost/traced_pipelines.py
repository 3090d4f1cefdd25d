"""Events of pipelines: measured steps and simulated schedules as frames of one form."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

import pandas as pd

from nnpar_lib import schedules
from nnpar_lib.analysis.cost import cost_model
from nnpar_lib.analysis.cost.cost_model import Architecture, Machine, Model
from nnpar_lib.config import RunConfig
from nnpar_lib.records.kinds import RunRecord
from nnpar_lib.schedules import FORWARD, PASSES, Event, Instruction, Pipeline

COLUMNS = ["activity", "stage", "microbatch", "start", "end"]


def steps(events: Sequence[Sequence[Sequence[Any]]]) -> pd.DataFrame:
    """Return the events of all traced steps.

    Columns: step, rank, activity, stage, microbatch, start, end. A step begins where a batch is
    loaded; the last one is step 0, and earlier ones have negative numbers.
    """
    frames = []
    for rank, events_of_rank in enumerate(events):
        frame = pd.DataFrame([list(event) for event in events_of_rank], columns=COLUMNS)
        num_loads = (frame["activity"] == "load").astype(int).cumsum()
        frames.append(frame.assign(rank=rank, step=num_loads - num_loads.max()))
    return pd.concat(frames, ignore_index=True)


def last_step(events: Sequence[Sequence[Sequence[Any]]]) -> pd.DataFrame:
    """Return the events of the last step; seconds count from its first forward pass on any rank."""
    frame = steps(events)
    last: pd.DataFrame = frame[frame["step"] == 0].reset_index(drop=True)
    origin = last.loc[last["activity"] == FORWARD, "start"].min()
    return last.assign(start=last["start"] - origin, end=last["end"] - origin)


def predicted(
    schedule: str, pipeline: Pipeline, measured: pd.DataFrame, message_seconds: float = 0.0
) -> pd.DataFrame:
    """Return the simulated schedule with the median seconds of each measured pass."""
    passes = measured[measured["activity"].isin(PASSES)]
    medians = (
        (passes["end"] - passes["start"]).groupby([passes["activity"], passes["stage"]]).median()
    )

    def seconds(instruction: Instruction) -> float:
        return float(medians[instruction.action, instruction.stage])

    return simulated(schedules.simulate(schedule, pipeline, seconds, lambda _: message_seconds))


def simulated(events: Sequence[Event]) -> pd.DataFrame:
    """Return simulated passes as a frame like that of measured events."""
    return pd.DataFrame(
        [
            (event.rank, event.action, event.stage, event.microbatch, event.start, event.end)
            for event in events
        ],
        columns=["rank", *COLUMNS],
    )


def table(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Return the share of their schedule that traced pipelines reach, one row per label.

    Values are medians over steps and repeats. `allowed` is the rate (examples/s) of the schedule,
    simulated with the median seconds of each pass of the run, with free messages and updates;
    `share` is the measured rate over it. `bubble` is the measured fraction, `bubble_simulated` that
    of the simulation, and `bubble_formula` is (p - 1) / (m + p - 1).
    """
    labels = each_run(records).groupby("label", sort=False)
    return labels.median(numeric_only=True).assign(num_repeats=labels.size()).reset_index()


def each_run(records: Sequence[RunRecord]) -> pd.DataFrame:
    """Return the columns of `table` for each traced run, medians over its steps."""
    return pd.DataFrame([_row(record) for record in records if any(record.events)])


def _row(record: RunRecord) -> dict[str, Any]:
    config = RunConfig.from_parameters(record.config)
    measured = steps(record.events)
    simulation = predicted(config.schedule, config.pipeline, measured)
    allowed = config.global_batch_size / float(simulation["end"].max())
    bubbles = [bubble_fraction(rows) for _, rows in measured.groupby("step")]
    pipeline = config.pipeline
    return {
        "label": record.label,
        "measured": record.samples_per_second,
        "allowed": allowed,
        "share": record.samples_per_second / allowed,
        "bubble": median(bubbles),
        "bubble_simulated": bubble_fraction(simulation),
        "bubble_formula": schedules.ideal_bubble_fraction(
            pipeline.num_ranks, pipeline.num_microbatches
        ),
    }


def bubble_fraction(frame: pd.DataFrame) -> float:
    """Return the fraction of time, from the first pass to the last, that ranks are in no pass."""
    passes = frame[frame["activity"].isin(PASSES)]
    span = passes["end"].max() - passes["start"].min()
    return float(1 - (passes["end"] - passes["start"]).sum() / (span * frame["rank"].nunique()))


def charts(
    records: Sequence[RunRecord],
    models: Mapping[Architecture, Model],
    machine: Machine,
    model: str,
) -> dict[str, tuple[pd.DataFrame, pd.DataFrame]]:
    """Return the predicted and the measured passes of a step, by label, for a model.

    The last run with each label is taken.
    """
    last = {record.label: record for record in records if any(record.events)}
    return {
        str(label): (_simulated_step(record, models, machine), last_step(record.events))
        for label, record in last.items()
        if record.model == model
    }


def _simulated_step(
    record: RunRecord, models: Mapping[Architecture, Model], machine: Machine
) -> pd.DataFrame:
    config = RunConfig.from_parameters(record.config)
    model = models[cost_model.architecture(config)]
    return simulated(cost_model.simulate(config, model, machine))
