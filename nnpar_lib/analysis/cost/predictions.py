"""Predictions of the cost model: beside measurements, and for machines that were not measured."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from nnpar_lib import schedules
from nnpar_lib.analysis.cost import cost_model, memory
from nnpar_lib.analysis.cost.cost_model import Architecture, Block, Machine, Model, architecture
from nnpar_lib.analysis.scaling.speedups import AlphaBeta
from nnpar_lib.config import RunConfig
from nnpar_lib.datasets.files import NUM_CLASSES
from nnpar_lib.records.kinds import BY_INPUT, BY_OUTPUT, Record, RunRecord

MAX_MICROBATCHES = 128
STRATEGIES = ("gradient_averaging", "pipeline", "tensor", "hybrid")
COMPARED = ("serial", "sharded", *STRATEGIES)


@dataclass(frozen=True, kw_only=True)
class AssumedMachine:
    """A machine that was not measured: what is assumed of its ranks and messages, with the
    source."""

    name: str
    flops_per_second: float
    fixed_seconds: float
    message: AlphaBeta
    source: str

    @property
    def prices(self) -> Machine:
        """What messages cost; an all-reduce is a ring of them."""
        return Machine(message=self.message, allreduces={})


# Peak and NVLink as Bridges-2's system configuration states them; half the peak, 20 microseconds a
# pass and 10 a message are assumptions of their order, not measurements.
V100 = AssumedMachine(
    name="V100 GPUs on NVLink",
    flops_per_second=0.5 * 15.7e12,
    fixed_seconds=20e-6,
    message=AlphaBeta(10e-6, 1 / 150e9),
    source=(
        "15.7 TFLOP/s and 2 x 150 GB/s a GPU: Pittsburgh Supercomputing Center (2021); the rest is"
        " assumed"
    ),
)
T4 = AssumedMachine(  # one alone: it exchanges nothing
    name="T4 GPU",
    flops_per_second=0.5 * 8.1e12,
    fixed_seconds=20e-6,
    message=cost_model.NOTHING,
    source=(
        "8.1 TFLOP/s in single precision: 2,560 units that multiply and add at 1.59 GHz; the rest"
        " is assumed as for the V100"
    ),
)


def compare(
    records: Iterable[Record], models: Mapping[Architecture, Model], machine: Machine
) -> pd.DataFrame:
    """Return measured and predicted seconds of a step and the error, one row per configuration.

    The measured seconds are the median over repeats; `error` is predicted / measured - 1.
    Strategies without a cost model are left out.
    """
    runs: dict[str, list[RunRecord]] = {}
    for record in records:
        if (
            isinstance(record, RunRecord)
            and record.strategy in COMPARED
            and record.threads_per_rank == 1
        ):
            runs.setdefault(str(record.config), []).append(record)
    return pd.DataFrame([_compare(same, models, machine) for same in runs.values()])


def _compare(
    runs: Sequence[RunRecord], models: Mapping[Architecture, Model], machine: Machine
) -> dict[str, Any]:
    config = RunConfig.from_parameters(runs[0].config)
    first = runs[0]
    measured = float(pd.Series([run.train_seconds / run.num_steps for run in runs]).median())
    predicted = cost_model.step_seconds(config, models[architecture(config)], machine)
    return {
        "label": first.label,
        "num_parameters": first.num_parameters,
        "model": first.model,
        "strategy": config.strategy,
        "allreduce": config.allreduce,
        "schedule": config.schedule if config.num_stage_ranks > 1 else "",
        "num_microbatches": config.pipeline.num_microbatches if config.num_stage_ranks > 1 else 1,
        "num_ranks": config.num_ranks,
        "global_batch_size": config.global_batch_size,
        "measured_seconds": measured,
        "predicted_seconds": predicted,
        "error": predicted / measured - 1,
        "num_repeats": len(runs),
        "oversubscribed": first.oversubscribed,
    }


def median_error(table: pd.DataFrame) -> float:
    """Return the median of |error| over the configurations that had a core a rank."""
    return float(table.loc[~table["oversubscribed"], "error"].abs().median())


def errors(table: pd.DataFrame) -> pd.DataFrame:
    """Return median, max and count of |error| by strategy, and of all as `all`.

    Configurations of more ranks than cores are left out.
    """
    on_cores = table[~table["oversubscribed"]]
    sizes = on_cores["error"].abs()
    rows = sizes.groupby(on_cores["strategy"], sort=False).agg(["median", "max", "count"])
    rows.loc["all"] = [sizes.median(), sizes.max(), len(sizes)]
    return rows


def swaps(table: pd.DataFrame) -> pd.DataFrame:
    """Return the crossovers of gradient averaging with each `strategy` that cuts the model."""
    tables = [
        crossovers(table, "gradient_averaging", strategy).assign(strategy=strategy)
        for strategy in ("tensor", "pipeline")
    ]
    return pd.concat(tables, ignore_index=True)


def crossovers(table: pd.DataFrame, first: str, second: str) -> pd.DataFrame:
    """Return, model by model, the first batch size at which the faster of two strategies changes.

    `measured` and `predicted` are None where one of the two is the faster at every batch size of
    the table.
    """
    parallel = table[table["num_ranks"] > 1].groupby("num_parameters", sort=False)
    return pd.DataFrame([_crossover(rows, first, second) for _, rows in parallel])


def _crossover(rows: pd.DataFrame, first: str, second: str) -> dict[str, Any]:
    """Return a row of `crossovers` from the rows of one model."""
    columns = ["measured_seconds", "predicted_seconds"]
    best = rows.groupby(["strategy", "global_batch_size"])[columns].min()
    seconds = {name: best.loc[name] for name in (first, second)}
    batches = sorted(set(rows["global_batch_size"]))
    swaps = {
        column.removesuffix("_seconds"): cost_model.crossover_batch(
            seconds[first][column].to_dict().__getitem__,
            seconds[second][column].to_dict().__getitem__,
            batches,
        )
        for column in columns
    }
    at_smallest = {name: seconds[name].loc[batches[0], "measured_seconds"] for name in seconds}
    return {
        "num_parameters": rows["num_parameters"].iloc[0],
        "model": rows["model"].iloc[0],
        "smallest_batch": batches[0],
        "faster_there": first if at_smallest[first] < at_smallest[second] else second,
        "largest_batch": batches[-1],
        **swaps,
    }


def flops_per_second(model: Model) -> float:
    """Return the rate of a rank at large batches.

    An example needs 2 operations per weight forward and 4 backward.
    """
    seconds = sum(block.forward.beta + block.backward.beta for block in model.blocks)
    return 6 * model.parameter_bytes / 4 / seconds


def cores_like(model: Model, machine: Machine) -> AssumedMachine:
    """Return a machine of many cores, each as fast as the measured one, with the same messages.

    It assumes that the memory feeds all cores at once, which flatters the machine.
    """
    fixed = [cost.alpha for block in model.blocks for cost in (block.forward, block.backward)]
    return AssumedMachine(
        name="cores of one node",
        flops_per_second=flops_per_second(model),
        fixed_seconds=float(np.median(fixed)),
        message=machine.message,
        source=(
            "measured here on two cores; a node of Bridges-2 has 128 (Pittsburgh "
            "Supercomputing Center 2021), and that its memory feeds them all is assumed"
        ),
    )


def assumptions(machines: Iterable[AssumedMachine]) -> pd.DataFrame:
    """Return what is assumed of machines that were not measured, one row per machine."""
    return pd.DataFrame(
        [
            {
                "machine": machine.name,
                "GFLOP/s a rank": machine.flops_per_second / 1e9,
                "fixed microseconds a pass": machine.fixed_seconds * 1e6,
                "alpha (microseconds)": machine.message.alpha * 1e6,
                "1/beta (GB/s)": machine.message.bandwidth / 1e9,
                "source": machine.source,
            }
            for machine in machines
        ]
    )


def predicted_crossover(
    machine: AssumedMachine, num_ranks: int, batches: Sequence[int], num_layers: int = 128
) -> int | None:
    """Return the first batch size at which gradient averaging beats all ways to cut the model.

    None if there is no such batch size.
    """
    for batch in batches:
        table = predict(
            machine, num_ranks=num_ranks, global_batch_size=batch, num_layers=num_layers
        )
        seconds = table.set_index("strategy")["seconds"]
        if seconds.idxmin() == "gradient_averaging":
            return batch
    return None


def deep_model(num_layers: int, width: int, machine: AssumedMachine) -> Model:
    """Return a network of equal, square, fully connected float32 layers on an assumed machine."""
    forward = 2 * width**2 / machine.flops_per_second
    blocks = [
        Block(
            forward=AlphaBeta(machine.fixed_seconds, forward),
            backward=AlphaBeta(machine.fixed_seconds, 2 * forward),
            parameter_bytes=4 * width * (width + 1),
            output_bytes_per_example=4 * width,
            layer_bytes_per_example=4 * width,
            split=BY_INPUT if layer % 2 else BY_OUTPUT,
        )
        for layer in range(num_layers)
    ]
    return Model(blocks=blocks)


def moved(config: RunConfig, model: Model, machine: AssumedMachine) -> Model:
    """Return the costs of a profiled mlp or cnn on an assumed machine.

    A pass takes the fixed seconds of the machine, plus its operations at the rate of the machine: 2
    per example, weight and position of the output of the layer, and twice as many backward. Loading
    and updating count as a pass without operations. Any other model is a ValueError.
    """
    if config.model not in ("mlp", "cnn"):
        raise ValueError(
            f"the operations of model {config.model!r} are not known here; take mlp or cnn"
        )
    widths = (
        *(config.channels if config.model == "cnn" else ()),
        *config.hidden_widths,
        NUM_CLASSES,
    )
    blocks = []
    for block, width in zip(model.blocks, widths, strict=True):
        num_positions = block.layer_bytes_per_example / 4 / width
        forward = 2 * block.parameter_bytes / 4 * num_positions / machine.flops_per_second
        blocks.append(
            replace(
                block,
                forward=AlphaBeta(machine.fixed_seconds, forward),
                backward=AlphaBeta(machine.fixed_seconds, 2 * forward),
            )
        )
    fixed = AlphaBeta(machine.fixed_seconds, 0)
    return Model(blocks=blocks, load=fixed, update=fixed)


def predict(
    machine: AssumedMachine,
    *,
    num_ranks: int,
    global_batch_size: int,
    num_layers: int,
    width: int = 1024,
) -> pd.DataFrame:
    """Return the predicted seconds, bubble and memory of a step of a deep model.

    One row per strategy. `speedup` is over one such rank with the same batch. A pipeline runs 1F1B
    with four micro-batches per rank, at most 128; a hybrid has pipelines of about as many ranks as
    copies. What cannot run is left out: a pipeline of more ranks than layers, gradient averaging on
    more ranks than examples, a hybrid on fewer than four ranks. Memory is the weights, gradient,
    momentum and live activations of the fullest rank.
    """
    model = deep_model(num_layers, width, machine)
    alone = cost_model.step_seconds(
        _config("serial", 1, global_batch_size, num_layers), model, machine.prices
    )
    rows = []
    for strategy in STRATEGIES:
        if not _can_run(strategy, num_ranks, global_batch_size, num_layers):
            continue
        config = _config(strategy, num_ranks, global_batch_size, num_layers)
        seconds = cost_model.step_seconds(config, model, machine.prices)
        rows.append(
            {
                "strategy": strategy,
                "num_ranks": num_ranks,
                "global_batch_size": global_batch_size,
                "seconds": seconds,
                "speedup": alone / seconds,
                "efficiency": alone / seconds / num_ranks,
                "bubble": _bubble(config, model, machine),
                "memory_bytes": memory.memory_bytes(config, model),
            }
        )
    return pd.DataFrame(rows)


def _can_run(strategy: str, num_ranks: int, global_batch_size: int, num_layers: int) -> bool:
    if strategy == "hybrid":
        size = _pipeline_size(num_ranks)
        fits = size <= num_layers and num_ranks // size <= global_batch_size
        return num_ranks >= 4 and num_ranks % size == 0 and fits
    return num_ranks <= {"pipeline": num_layers, "gradient_averaging": global_batch_size}.get(
        strategy, num_ranks
    )


def _pipeline_size(num_ranks: int) -> int:
    """Return the power of two that is nearest above the square root of a power of two."""
    return int(2 ** (num_ranks.bit_length() // 2))


def _config(strategy: str, num_ranks: int, global_batch_size: int, num_layers: int) -> RunConfig:
    size = {"pipeline": num_ranks, "hybrid": _pipeline_size(num_ranks)}.get(strategy, 0)
    num_local = global_batch_size // (num_ranks // size) if size else 1
    return RunConfig(
        strategy=strategy,
        num_ranks=num_ranks,
        global_batch_size=global_batch_size,
        dataset="mnist",
        hidden=(1024,) * (num_layers - 1),
        pipeline_size=size,
        allreduce="mpi",
        num_microbatches=min(4 * size, MAX_MICROBATCHES, num_local) if size else 1,
    )


def _bubble(config: RunConfig, model: Model, machine: AssumedMachine) -> float:
    if config.num_stage_ranks == 1:
        return 0.0
    return schedules.bubble_fraction(
        cost_model.simulate(config, model, machine.prices), config.num_stage_ranks
    )
