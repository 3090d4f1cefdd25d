"""Fit the cost model to measurements: messages, all-reduces and profiles of blocks."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from nnpar_lib.analysis import scaling
from nnpar_lib.analysis.cost import allreduce_algorithms
from nnpar_lib.analysis.cost.cost_model import (
    NOTHING,
    Architecture,
    Block,
    Machine,
    Model,
    architecture,
)
from nnpar_lib.analysis.scaling.speedups import AlphaBeta, fit_alpha_beta
from nnpar_lib.config import RunConfig
from nnpar_lib.records import store
from nnpar_lib.records.kinds import ProfileRecord, Record

ITEMSIZE = {"float32": 4, "float64": 8}


def machine(records: Iterable[Record]) -> Machine:
    """Return the prices of a message and of each kind of all-reduce, fitted to measurements.

    The alpha and beta of an all-reduce are those of the messages of a ring that takes as long.
    """
    records = list(records)
    frame = store.frame(records)
    messages = frame[frame["kind"] == "message"].explode("seconds")
    seconds = messages.groupby("num_bytes")["seconds"].median()
    sweeps = scaling.bandwidth(frame)
    fits = {
        str(kind): _as_ring(
            fit_alpha_beta(rows["num_bytes"], rows["seconds"]), int(rows["num_ranks"].iloc[0])
        )
        for kind, rows in sweeps.groupby("allreduce")
    }
    return Machine(
        message=fit_alpha_beta(seconds.index.to_numpy(float), seconds.to_numpy(float)),
        allreduces=fits,
        addition=_addition(records),
    )


def models(records: Iterable[Record], num_ranks: int) -> dict[Architecture, Model]:
    """Return the costs of each architecture that was profiled while `num_ranks` ranks computed."""
    profiles: dict[Architecture, list[Record]] = {}
    for record in records:
        if isinstance(record, ProfileRecord) and record.num_ranks == num_ranks:
            profiles.setdefault(architecture(RunConfig.from_parameters(record.config)), []).append(
                record
            )
    if not profiles:
        raise ValueError(
            f"there is no profile on {num_ranks} ranks among the records; measure one with"
            " profile_blocks"
        )
    return {key: _model(store.frame(same)) for key, same in profiles.items()}


def _addition(records: Iterable[Record]) -> AlphaBeta:
    """Return the seconds of an addition of bytes; none where an older sweep did not time it."""
    try:
        return allreduce_algorithms.prices(records).addition
    except ValueError:
        return NOTHING


def _as_ring(total: AlphaBeta, num_ranks: int) -> AlphaBeta:
    num_messages = 2 * (num_ranks - 1)
    return AlphaBeta(total.alpha / num_messages, total.beta * num_ranks / num_messages)


def _model(rows: pd.DataFrame) -> Model:
    first = rows.iloc[0]
    sizes = rows["batch_size"]
    itemsize = ITEMSIZE[first["dtype"]]
    blocks = [
        Block(
            forward=_fit(sizes, _of_block(rows["forward_seconds"], i)),
            backward=_fit(sizes, _of_block(rows["backward_seconds"], i)),
            parameter_bytes=itemsize * first["num_parameters"][i],
            output_bytes_per_example=itemsize * first["num_output_elements"][i],
            layer_bytes_per_example=itemsize * first["num_layer_elements"][i],
            split=first["splits"][i],
        )
        for i in range(len(first["num_parameters"]))
    ]
    num_bytes = itemsize * sum(first["num_parameters"])
    return Model(
        blocks=blocks,
        load=_fit(sizes, rows["load_seconds"]),
        update=AlphaBeta(0, float(rows["update_seconds"].median()) / num_bytes),
        clear=AlphaBeta(0, float(rows["clear_seconds"].median()) / num_bytes),
    )


def _of_block(seconds: pd.Series[list[float]], block: int) -> pd.Series[float]:  # type: ignore[type-var]
    return pd.Series([blocks[block] for blocks in seconds], index=seconds.index, dtype=float)


def _fit(batch_sizes: pd.Series[int], seconds: pd.Series[float]) -> AlphaBeta:
    """Return the fixed seconds and the seconds per example.

    One batch size cannot separate them: then all seconds count as per example.
    """
    medians = seconds.astype(float).groupby(batch_sizes).median().clip(lower=1e-9)
    if len(medians) == 1:
        return AlphaBeta(0.0, float(medians.iloc[0] / medians.index[0]))
    return fit_alpha_beta(medians.index.to_numpy(dtype=float), medians.to_numpy(dtype=float))
