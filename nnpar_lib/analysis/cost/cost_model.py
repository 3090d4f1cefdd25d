"""Predict the seconds of a training step from block profiles and message prices.

A message costs alpha + n beta (Hockney 1994). A ring all-reduce of n bytes on p ranks costs 2(p-1)
alpha + 2n(p-1)/p beta (Thakur et al. 2005). A pipeline is simulated with its own schedule. The
model assumes that each rank has a core of its own.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from nnpar_lib import parts, schedules
from nnpar_lib.analysis.cost.allreduce_algorithms import FORMULAS, Prices
from nnpar_lib.analysis.scaling.speedups import AlphaBeta
from nnpar_lib.config import RunConfig
from nnpar_lib.config.sections import architecture_options, resolved
from nnpar_lib.config.spread import PIPELINES
from nnpar_lib.records.kinds import BY_INPUT, BY_OUTPUT, WHOLE
from nnpar_lib.schedules import FORWARD, Event, Instruction, Pipeline

NOTHING = AlphaBeta(0, 0)
Architecture = tuple[object, ...]


def architecture(config: RunConfig) -> Architecture:
    """Return what tells networks apart: configs of equal architecture have equal blocks."""
    return tuple(resolved(config, name) for name in architecture_options(config))


@dataclass(frozen=True, kw_only=True)
class Block:
    """The cost of a block: seconds of each pass, fixed and per example, and bytes of its data."""

    forward: AlphaBeta
    backward: AlphaBeta
    parameter_bytes: int
    output_bytes_per_example: int
    layer_bytes_per_example: int = 0  # before activation and pooling: what tensor parallelism sums
    split: str = WHOLE

    def seconds(self, action: str, num_examples: float, num_shares: int = 1) -> float:
        """Return the seconds of a pass, on one of so many ranks that share the block."""
        cost = self.forward if action == FORWARD else self.backward
        return cost.seconds(num_examples / (1 if self.split == WHOLE else num_shares))


@dataclass(frozen=True, kw_only=True)
class Model:
    """The costs of a model on a machine: its blocks, loading examples, updating and clearing
    bytes."""

    blocks: Sequence[Block]
    load: AlphaBeta = NOTHING
    update: AlphaBeta = NOTHING
    clear: AlphaBeta = NOTHING

    @property
    def parameter_bytes(self) -> int:
        """Bytes of all weights."""
        return sum(block.parameter_bytes for block in self.blocks)

    def passes(self, num_examples: float, num_shares: int = 1) -> float:
        """Return the seconds of the forward and backward passes of all blocks."""
        return sum(
            block.seconds(action, num_examples, num_shares)
            for block in self.blocks
            for action in schedules.COMPUTATIONS
        )


@dataclass(frozen=True, kw_only=True)
class Machine:
    """The price of a message between two ranks, of a message in each kind of all-reduce, and of an
    addition of bytes."""

    message: AlphaBeta
    allreduces: Mapping[str, AlphaBeta]
    addition: AlphaBeta = NOTHING

    def allreduce(self, num_bytes: float, num_ranks: int, kind: str = "mpi") -> float:
        """Return the seconds of an all-reduce: by its formula, where it was not measured."""
        if kind not in self.allreduces and kind in FORMULAS:
            prices = Prices(message=self.message, addition=self.addition)
            return FORMULAS[kind](num_bytes, num_ranks, prices)
        return allreduce_seconds(self.allreduces.get(kind, self.message), num_bytes, num_ranks)


def allreduce_seconds(message: AlphaBeta, num_bytes: float, num_ranks: int) -> float:
    """Return the seconds of a ring all-reduce."""
    num_messages = 2 * (num_ranks - 1)
    return num_messages * message.seconds(num_bytes / num_ranks)


def step_seconds(config: RunConfig, model: Model, machine: Machine) -> float:
    """Return the predicted seconds of a step; a ValueError for a strategy without a model."""
    models: dict[str, Callable[[RunConfig, Model, Machine], float]] = {
        "serial": _data_parallel,
        "gradient_averaging": _data_parallel,
        "weight_averaging": _data_parallel,
        "pipeline": _pipeline,
        "hybrid": _pipeline,
        "tensor": _tensor,
        "sharded": _sharded,
    }
    if config.strategy not in models:
        raise ValueError(
            f"strategy {config.strategy!r} has no cost model; choose from {', '.join(models)}"
        )
    return models[config.strategy](config, model, machine)


def _data_parallel(config: RunConfig, model: Model, machine: Machine) -> float:
    """Each rank computes its part of the batch; the exchange of gradients is not hidden.

    The average of weights is too rare to count.
    """
    num_examples = -(-config.global_batch_size // config.num_ranks)
    seconds = model.load.seconds(num_examples) + model.passes(num_examples)
    if config.recompute:
        seconds += sum(block.seconds(FORWARD, num_examples) for block in model.blocks)
    shared = config.strategy == "gradient_averaging" and config.allreduce == "shared"
    seconds += model.update.seconds(model.parameter_bytes / (config.num_ranks if shared else 1))
    if config.strategy == "gradient_averaging":
        seconds += machine.allreduce(model.parameter_bytes, config.num_ranks, config.allreduce)
    return seconds


def _pipeline(config: RunConfig, model: Model, machine: Machine) -> float:
    """The simulated schedule, then the update.

    Copies of a pipeline also sum their gradients, which is not hidden.
    """
    num_copies = config.num_ranks // config.num_stage_ranks
    num_examples = -(-config.global_batch_size // num_copies)
    held = max(bytes_of_ranks(model, stage_bounds(config, model), config.pipeline))
    events = simulate(config, model, machine)
    return (
        model.load.seconds(num_examples)
        + max(event.end for event in events)
        + model.update.seconds(held)
        + model.clear.seconds(held)
        + machine.allreduce(held, num_copies)
    )


def _sharded(config: RunConfig, model: Model, machine: Machine) -> float:
    """Each rank computes its part of the batch and updates its part of the weights.

    A reduce-scatter and an all-gather of a block are the two halves of an all-reduce. Nothing of
    them is hidden.
    """
    p = config.num_ranks
    num_examples = -(-config.global_batch_size // p)

    def exchange(num_bytes: int) -> float:
        return machine.allreduce(num_bytes, p, config.allreduce)

    once = sum(map(exchange, exchanged_together(config, model)))
    again = sum(map(exchange, gathered_again(config, model))) / 2
    seconds = model.load.seconds(num_examples) + model.passes(num_examples)
    return seconds + model.update.seconds(model.parameter_bytes / p) + once + again


def exchanged_together(config: RunConfig, model: Model) -> list[int]:
    """Return the bytes of weights that the strategy sharded exchanges in one message: of all blocks
    where optimizer state alone is divided, else of each block."""
    sizes = [block.parameter_bytes for block in model.blocks]
    return [sum(sizes)] if config.shard == "optimizer" else sizes


def num_weight_slots(config: RunConfig, model: Model) -> int:
    """Return how many blocks' weights are whole at a time where ranks divide them."""
    return len(model.blocks) if config.shard != "weights" else 1 + config.prefetches


def gathered_again(config: RunConfig, model: Model) -> list[int]:
    """Return the bytes of the blocks that are gathered for the backward pass once more.

    The last ones are still there from the forward pass.
    """
    sizes = exchanged_together(config, model)
    return sizes[: max(0, len(sizes) - num_weight_slots(config, model))]


def _tensor(config: RunConfig, model: Model, machine: Machine) -> float:
    """Each rank computes its share of the features of all examples.

    Each pair of layers needs one all-reduce in each direction.
    """
    size = config.global_batch_size
    p = config.num_ranks
    exchanges = sum(machine.allreduce(size * num_bytes, p) for num_bytes in tensor_exchanges(model))
    held = sum(block.parameter_bytes / (1 if block.split == WHOLE else p) for block in model.blocks)
    return model.load.seconds(size) + model.passes(size, p) + model.update.seconds(held) + exchanges


def tensor_exchanges(model: Model) -> list[int]:
    """Return the bytes per example of each all-reduce of a step.

    There is one for the outputs of each pair of layers, and one for the gradient of its inputs.
    """
    outputs = [block.layer_bytes_per_example for block in model.blocks if block.split == BY_INPUT]
    inputs = [
        before.output_bytes_per_example
        for before, block in itertools.pairwise(model.blocks)
        if block.split == BY_OUTPUT
    ]
    return outputs + inputs


def simulate(config: RunConfig, model: Model, machine: Machine) -> list[Event]:
    """Return the passes of a step of one pipeline, as its schedule would run."""
    bounds = stage_bounds(config, model)
    pipeline = config.pipeline
    num_copies = config.num_ranks // config.num_stage_ranks
    size = config.global_batch_size / num_copies / pipeline.num_microbatches

    def seconds(instruction: Instruction) -> float:
        blocks = range(len(model.blocks))[bounds[instruction.stage]]
        if config.schedule in schedules.SPLITTING:
            return sum(_part_seconds(model, block, instruction.action, size) for block in blocks)
        actions = [instruction.action]
        if config.recompute and instruction.action == schedules.BACKWARD:
            actions.append(FORWARD)
        return sum(
            model.blocks[block].seconds(action, size) for block in blocks for action in actions
        )

    def arrival(instruction: Instruction) -> float:
        is_forward = instruction.action == FORWARD
        sender = instruction.stage if is_forward else instruction.stage - 1
        boundary = bounds[sender].stop - 1
        return machine.message.seconds(size * model.blocks[boundary].output_bytes_per_example)

    return schedules.simulate(config.schedule, pipeline, seconds, arrival)


def _part_seconds(model: Model, block: int, action: str, num_examples: float) -> float:
    """Return the seconds of a block in a pass of a schedule that splits backward passes.

    The gradients of its inputs and those of its weights are as many operations, so each part is
    taken to be half of the backward pass; nobody needs the gradient of the first block's inputs.
    """
    cost = model.blocks[block]
    if action == FORWARD:
        return cost.seconds(FORWARD, num_examples)
    share_of_weights = 0.5 if block else 1.0
    is_second = action == schedules.WEIGHT_GRADIENTS
    share = share_of_weights if is_second else 1 - share_of_weights
    return share * cost.seconds(schedules.BACKWARD, num_examples)


def stage_bounds(config: RunConfig, model: Model) -> list[slice]:
    """Return the blocks of each stage, as ranks would cut a model with these costs."""
    size = config.global_batch_size / config.pipeline.num_microbatches

    def predicted_seconds() -> list[float]:
        return [
            sum(block.seconds(action, size) for action in schedules.COMPUTATIONS)
            for block in model.blocks
        ]

    num_stages = config.pipeline.num_stages
    return parts.stage_bounds(config.balance, len(model.blocks), num_stages, predicted_seconds)


def best_balance(config: RunConfig, model: Model) -> str:
    """Return the `balance` that names the cuts at which the slowest stage is as fast as can be."""
    bounds = stage_bounds(config.replace(balance="measured"), model)
    return ",".join(str(stage.start) for stage in bounds[1:])


def bytes_of_ranks(model: Model, bounds: Sequence[slice], pipeline: Pipeline) -> list[int]:
    """Return the bytes of the weights that each rank of a pipeline holds."""
    stages = [
        sum(block.parameter_bytes for block in model.blocks[stage_blocks])
        for stage_blocks in bounds
    ]
    return [
        sum(stages[stage] for stage in pipeline.stages_of(rank))
        for rank in range(pipeline.num_ranks)
    ]


def activation_bytes(
    config: RunConfig, model: Model, blocks: slice, num_examples: float, num_live: int = 1
) -> float:
    """Return the most bytes of activations that consecutive blocks keep at a time.

    Each block is taken to keep its output, for each of so many live micro-batches. Where they are
    recomputed, blocks keep the inputs of their segments, and the outputs inside one segment of one
    micro-batch. Images are not counted.
    """
    outputs = [block.output_bytes_per_example for block in model.blocks]
    if not config.recompute:
        return num_live * num_examples * sum(outputs[blocks])
    inside = outputs[blocks]
    entering = outputs[blocks.start - 1] if blocks.start else 0
    most = kept = 0
    for segment in parts.segments(len(inside), config.num_recomputed_parts):
        most = max(most, kept + sum(inside[segment]))
        kept += inside[segment.stop - 1]
    return num_examples * (num_live * entering + most)


def exchanged_bytes(config: RunConfig, model: Model) -> float:
    """Return the bytes that ranks hand on in a step, all of them together: (p - 1) buffers for each
    all-reduce, and half of it for an all-gather or a reduce-scatter alone.

    Every way to sum has to move at least as much: each rank's addend has to leave it but for the
    one that sums.
    """
    p = config.num_ranks
    size = config.global_batch_size
    if config.strategy == "gradient_averaging":
        return (p - 1) * model.parameter_bytes
    if config.strategy == "sharded":
        return (p - 1) * (model.parameter_bytes + sum(gathered_again(config, model)) / 2)
    if config.strategy == "tensor":
        return (p - 1) * size * sum(tensor_exchanges(model))
    if config.strategy in PIPELINES:
        bounds = stage_bounds(config, model)
        edges = sum(model.blocks[stage.stop - 1].output_bytes_per_example for stage in bounds[:-1])
        num_copies = p // config.num_stage_ranks
        moved = 2 * size * edges if config.num_stage_ranks > 1 else 0
        return moved + (num_copies - 1) * model.parameter_bytes
    return 0.0


def sent_bytes(config: RunConfig, model: Model) -> float:
    """Return the bytes that each rank of a data-parallel strategy sends in a step, over rings.

    Of P bytes of weights it is 2 P (p - 1) / p for an all-reduce, as for a reduce-scatter and an
    all-gather, and towards 3 P (p - 1) / p where weights are gathered again (Rajbhandari et al.
    2020).
    """
    return 2 * exchanged_bytes(config, model) / config.num_ranks


def crossover_batch(
    first: Callable[[int], float], second: Callable[[int], float], batches: Iterable[int]
) -> int | None:
    """Return the first of these batch sizes at which the faster of two strategies changes.

    `first` and `second` give the seconds of a step with a batch size. None where the same strategy
    is the faster one at all of them.
    """
    is_faster = {batch: first(batch) < second(batch) for batch in batches}
    at_smallest = next(iter(is_faster.values()), None)
    return next((batch for batch, faster in is_faster.items() if faster != at_smallest), None)
