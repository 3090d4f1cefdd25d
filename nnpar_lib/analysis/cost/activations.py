"""Peak activations and seconds of runs that keep or recompute activations, beside predictions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import pandas as pd

from nnpar_lib import schedules
from nnpar_lib.analysis.cost import cost_model
from nnpar_lib.analysis.cost.cost_model import Architecture, Machine, Model, architecture
from nnpar_lib.config import RunConfig
from nnpar_lib.config.network import IMAGE_SIZE
from nnpar_lib.config.spread import PIPELINES
from nnpar_lib.records.kinds import RunRecord


def table(
    records: Sequence[RunRecord], models: Mapping[Architecture, Model], machine: Machine
) -> pd.DataFrame:
    """Return measured and predicted MB of activations and seconds of a step, one row per label.

    The bytes are those of the fullest rank at their peak; the seconds are medians over repeats. The
    prediction takes each block to keep its output alone, as those of the mlp do.
    """
    labels: dict[str, list[RunRecord]] = {}
    for record in records:
        labels.setdefault(record.label, []).append(record)
    return pd.DataFrame([_row(label, runs, models, machine) for label, runs in labels.items()])


def _row(
    label: str,
    runs: Sequence[RunRecord],
    models: Mapping[Architecture, Model],
    machine: Machine,
) -> dict[str, float | str]:
    config = RunConfig.from_parameters(runs[0].config)
    model = models[architecture(config)]
    seconds = pd.Series([run.train_seconds / run.num_steps for run in runs])
    return {
        "label": label,
        "activations (MB)": max(rank["activations"] for rank in runs[0].memory) / 1e6,
        "predicted (MB)": max(peak_bytes(config, model)) / 1e6,
        "step (ms)": 1e3 * float(seconds.median()),
        "predicted (ms)": 1e3 * cost_model.step_seconds(config, model, machine),
    }


def peak_bytes(config: RunConfig, model: Model) -> list[float]:
    """Return the most bytes of activations, images included, that each rank keeps at a time.

    A rank of a pipeline holds one stage.
    """
    size = config.global_batch_size / config.num_data_ranks
    image_bytes = IMAGE_SIZE**2 * (8 if config.dtype == "float64" else 4)
    if config.strategy not in PIPELINES:
        whole = slice(0, len(model.blocks))
        kept = cost_model.activation_bytes(config, model, whole, size)
        return [kept + size * image_bytes] * config.num_ranks
    pipeline = config.pipeline
    size /= pipeline.num_microbatches
    peaks = []
    for rank, bounds in enumerate(cost_model.stage_bounds(config, model)[: pipeline.num_ranks]):
        num_live = schedules.peak_live_microbatches(config.schedule, pipeline, rank)
        kept = cost_model.activation_bytes(config, model, bounds, size, num_live)
        peaks.append(kept + (num_live * size * image_bytes if rank == 0 else 0.0))
    return peaks
