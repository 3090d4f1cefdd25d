"""Pipeline schedules: the order in which each rank computes and exchanges micro-batches.

The same schedule is executed, simulated and drawn. A model is cut into consecutive stages; with p
ranks, rank r holds the stages r, r + p, r + 2p, ... A schedule is a pure function of four whole
numbers, so every rank knows the order of every other rank without a message.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

FORWARD = "forward"
BACKWARD = "backward"  # all of it, or the gradients of the inputs where a schedule splits it
WEIGHT_GRADIENTS = "weight gradients"  # the other part of a split backward pass
SEND_ACTIVATION = "send activation"
RECEIVE_ACTIVATION = "receive activation"
SEND_GRADIENT = "send gradient"
RECEIVE_GRADIENT = "receive gradient"
COMPUTATIONS = (FORWARD, BACKWARD)
PASSES = (*COMPUTATIONS, WEIGHT_GRADIENTS)
SCHEDULES = ("sequential", "gpipe", "1f1b", "interleaved", "zero_bubble")
SPLITTING = ("zero_bubble",)  # schedules whose backward passes come in two parts


@dataclass(frozen=True, slots=True)
class Instruction:
    """One action for one micro-batch at one stage.

    A receive is only started; the computation that needs the message waits for it.
    """

    action: str
    stage: int
    microbatch: int


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The size of a pipeline: its ranks, micro-batches, and chunks (stages) of the model a rank."""

    num_ranks: int
    num_microbatches: int
    num_chunks: int = 1

    @property
    def num_stages(self) -> int:
        """Stages over all ranks."""
        return self.num_ranks * self.num_chunks

    def rank_of(self, stage: int) -> int:
        """Return the rank that holds a stage."""
        return stage % self.num_ranks

    def stages_of(self, rank: int) -> list[int]:
        """Return the stages that a rank holds, in the order of the model."""
        return list(range(rank, self.num_stages, self.num_ranks))


def instructions(schedule: str, pipeline: Pipeline, rank: int) -> Iterator[Instruction]:
    """Yield the actions of a rank in a step, messages included.

    The receive that a computation needs is started before the preceding computation, so that the
    message travels meanwhile. Stages on the same rank exchange no messages.
    """
    order = list(computations(schedule, pipeline, rank))
    yield from _receive(order[0], pipeline)
    for index, computation in enumerate(order):
        if index + 1 < len(order):
            yield from _receive(order[index + 1], pipeline)
        yield computation
        yield from _send(computation, pipeline)


def computations(schedule: str, pipeline: Pipeline, rank: int) -> Iterator[Instruction]:
    """Yield the forward and backward passes of a rank in the order of the schedule.

    `sequential` takes one micro-batch through all stages and back before the next one enters, so
    one stage works at a time. `gpipe` (Huang et al. 2019) does all forward passes, then all
    backward passes. `1f1b` (Narayanan et al. 2019) starts each backward pass as early as possible.
    `interleaved` (Narayanan et al. 2021) does the same with several chunks a rank. `zero_bubble`
    (ZB-H1 of Qi et al. 2023) splits each backward pass: the gradients of the inputs come first,
    and those of the weights fill the time in which 1F1B waits.
    """
    if schedule == "sequential":
        return _sequential(pipeline, rank)
    if schedule == "gpipe":
        return _gpipe(pipeline, rank)
    if schedule == "zero_bubble":
        return _zero_bubble(pipeline, rank)
    return _one_forward_one_backward(pipeline, rank)


def _sequential(pipeline: Pipeline, rank: int) -> Iterator[Instruction]:
    for microbatch in range(pipeline.num_microbatches):
        yield from (Instruction(FORWARD, stage, microbatch) for stage in pipeline.stages_of(rank))
        yield from (
            Instruction(BACKWARD, stage, microbatch) for stage in reversed(pipeline.stages_of(rank))
        )


def _gpipe(pipeline: Pipeline, rank: int) -> Iterator[Instruction]:
    """All forward passes, then all backward passes, both in the order of the micro-batches.

    With the same order in both directions gradients are summed in the order of the other schedules.
    """
    for action in COMPUTATIONS:
        for stage in _stages_in_order(pipeline, rank, action):
            for microbatch in range(pipeline.num_microbatches):
                yield Instruction(action, stage, microbatch)


def _one_forward_one_backward(pipeline: Pipeline, rank: int) -> Iterator[Instruction]:
    """Fill the pipeline, then alternate one forward with one backward pass, then drain it.

    With several chunks, micro-batches pass through them in groups of as many as there are ranks. A
    last group that is not full is scheduled as if it were, and micro-batches that do not exist are
    left out. This cannot deadlock, because micro-batches do not depend on each other.
    """
    num_ranks = pipeline.num_ranks
    forward = _in_groups(pipeline, rank, FORWARD)
    backward = _in_groups(pipeline, rank, BACKWARD)
    if pipeline.num_chunks == 1:
        num_ahead = num_ranks - rank - 1
    else:
        num_ahead = 2 * (num_ranks - rank - 1) + (pipeline.num_chunks - 1) * num_ranks
    num_ahead = min(num_ahead, len(forward))
    order = forward[:num_ahead]
    for pair in zip(forward[num_ahead:], backward, strict=False):
        order += pair
    order += backward[len(forward) - num_ahead :]
    for instruction in order:
        if instruction.microbatch < pipeline.num_microbatches:
            yield instruction


def _zero_bubble(pipeline: Pipeline, rank: int) -> Iterator[Instruction]:
    """1F1B, whose backward passes B compute the gradients of inputs; those of weights, W, follow.

    Rank r begins with its weights after r + 1 passes B, and does what is left at the end. The
    clock table of 3 ranks and 4 micro-batches::

        rank 0 | F0 F1 F2 .  .  B0 W0 F3 B1 W1 B2 W2 B3 W3
        rank 1 | .  F0 F1 .  B0 F2 B1 W0 F3 B2 W1 B3 W2 W3
        rank 2 | .  .  F0 B0 F1 B1 F2 B2 W0 F3 B3 W1 W2 W3

    A micro-batch's activations, and the gradients that its W needs, stay until its W. So each rank
    holds up to as many micro-batches as there are ranks, which 1F1B does on the first rank alone.
    With free messages the bubble is (p - 1) (F + B - W) seconds, that of 1F1B (p - 1) (F + B + W).
    """
    waiting: deque[Instruction] = deque()
    for computation in _one_forward_one_backward(pipeline, rank):
        yield computation
        if computation.action == BACKWARD:
            waiting.append(replace(computation, action=WEIGHT_GRADIENTS))
            if len(waiting) > rank:
                yield waiting.popleft()
    yield from waiting


def _in_groups(pipeline: Pipeline, rank: int, action: str) -> list[Instruction]:
    """Return the passes of a rank in one direction, in full groups of micro-batches."""
    size = pipeline.num_ranks
    passes = []
    for start in range(0, pipeline.num_microbatches, size):
        for stage in _stages_in_order(pipeline, rank, action):
            for microbatch in range(start, start + size):
                passes.append(Instruction(action, stage, microbatch))
    return passes


def _stages_in_order(pipeline: Pipeline, rank: int, action: str) -> list[int]:
    """Return the stages of a rank in the order of a forward or a backward pass."""
    stages = pipeline.stages_of(rank)
    return stages if action == FORWARD else stages[::-1]


def _receive(computation: Instruction, pipeline: Pipeline) -> Iterator[Instruction]:
    if source_of(computation, pipeline) is not None:
        action = RECEIVE_ACTIVATION if computation.action == FORWARD else RECEIVE_GRADIENT
        yield Instruction(action, computation.stage, computation.microbatch)


def _send(computation: Instruction, pipeline: Pipeline) -> Iterator[Instruction]:
    if computation.action == WEIGHT_GRADIENTS:
        return
    target = computation.stage + (1 if computation.action == FORWARD else -1)
    if 0 <= target < pipeline.num_stages and pipeline.num_ranks > 1:
        action = SEND_ACTIVATION if computation.action == FORWARD else SEND_GRADIENT
        yield Instruction(action, computation.stage, computation.microbatch)


def source_of(computation: Instruction, pipeline: Pipeline) -> int | None:
    """Return the stage whose message a computation waits for, None where it needs none."""
    if computation.action == WEIGHT_GRADIENTS:
        return None
    source = computation.stage + (-1 if computation.action == FORWARD else 1)
    return source if 0 <= source < pipeline.num_stages and pipeline.num_ranks > 1 else None


def peak_live_microbatches(schedule: str, pipeline: Pipeline, rank: int) -> int:
    """Return the largest number of forward passes of a rank that await the end of their backward
    pass."""
    last = WEIGHT_GRADIENTS if schedule in SPLITTING else BACKWARD
    live = 0
    peak = 0
    for computation in computations(schedule, pipeline, rank):
        live += (computation.action == FORWARD) - (computation.action == last)
        peak = max(peak, live)
    return peak


def ideal_bubble_fraction(num_ranks: int, num_microbatches: int) -> float:
    """Return (p - 1) / (m + p - 1), GPipe's idle fraction with equal stages and free messages."""
    return (num_ranks - 1) / (num_microbatches + num_ranks - 1)


@dataclass(frozen=True, slots=True)
class Event:
    """A simulated computation: its rank, what it computes, its start and end in seconds."""

    rank: int
    action: str
    stage: int
    microbatch: int
    start: float
    end: float


Seconds = Callable[[Instruction], float]


def simulate(
    schedule: str, pipeline: Pipeline, seconds: Seconds, message_seconds: Seconds = lambda _: 0.0
) -> list[Event]:
    """Return the computations of a step on all ranks, in the order in which they end.

    A computation starts when its rank is free and its inputs have arrived. `seconds` is the
    duration of a computation, and `message_seconds` the time between the end of a computation and
    the arrival of its output at another rank. Raises RuntimeError where ranks deadlock.
    """
    orders = [deque(computations(schedule, pipeline, rank)) for rank in range(pipeline.num_ranks)]
    done: dict[Instruction, float] = {}
    events: list[Event] = []
    free = [0.0] * pipeline.num_ranks
    while any(orders):
        num_before = len(events)
        for rank, order in enumerate(orders):
            while order:
                arrival = _arrival(order[0], pipeline, done, message_seconds)
                if arrival is None:
                    break
                computation = order.popleft()
                start = max(free[rank], arrival)
                free[rank] = start + seconds(computation)
                done[computation] = free[rank]
                events.append(_event(rank, computation, start, free[rank]))
        if len(events) == num_before:
            raise RuntimeError(
                f"the {schedule} schedule of {pipeline} stops: its ranks wait for each other"
            )
    return sorted(events, key=lambda event: event.end)


def _event(rank: int, computation: Instruction, start: float, end: float) -> Event:
    return Event(rank, computation.action, computation.stage, computation.microbatch, start, end)


def _arrival(
    computation: Instruction,
    pipeline: Pipeline,
    done: dict[Instruction, float],
    message_seconds: Seconds,
) -> float | None:
    """Return when all inputs of a computation have arrived, None where one is not computed yet."""
    needed = _inputs(computation, pipeline)
    if any(instruction not in done for instruction in needed):
        return None
    arrival = 0.0
    for instruction in needed:
        is_local = pipeline.rank_of(instruction.stage) == pipeline.rank_of(computation.stage)
        travel = 0.0 if is_local else message_seconds(instruction)
        arrival = max(arrival, done[instruction] + travel)
    return arrival


def _inputs(computation: Instruction, pipeline: Pipeline) -> list[Instruction]:
    """Return the computations whose outputs a computation needs."""
    stage = computation.stage
    microbatch = computation.microbatch
    if computation.action == FORWARD:
        return [Instruction(FORWARD, stage - 1, microbatch)] if stage else []
    if computation.action == WEIGHT_GRADIENTS:
        return [Instruction(BACKWARD, stage, microbatch)]
    needed = [Instruction(FORWARD, stage, microbatch)]
    if stage + 1 < pipeline.num_stages:
        needed.append(Instruction(BACKWARD, stage + 1, microbatch))
    return needed


def bubble_fraction(events: Sequence[Event], num_ranks: int) -> float:
    """Return the idle fraction of all ranks between the first start and the last end."""
    span = max(event.end for event in events) - min(event.start for event in events)
    return 1 - sum(event.end - event.start for event in events) / (num_ranks * span)


def clock_table(schedule: str, pipeline: Pipeline) -> str:
    """Return the schedule as text, a line a rank and a column a tick, each pass one tick long.

    F2 is the forward pass of micro-batch 2, B2 its backward pass, W2 the part of it for weights
    where the schedule splits it; a letter after the number names the chunk.
    """
    events = simulate(schedule, pipeline, lambda _: 1.0)
    num_ticks = round(max(event.end for event in events))
    rows = [["."] * num_ticks for _ in range(pipeline.num_ranks)]
    for event in events:
        chunk = chr(ord("a") + event.stage // pipeline.num_ranks) if pipeline.num_chunks > 1 else ""
        rows[event.rank][round(event.start)] = f"{event.action[0].upper()}{event.microbatch}{chunk}"
    width = max(len(cell) for row in rows for cell in row)
    return "\n".join(
        f"rank {rank} | " + " ".join(cell.ljust(width) for cell in row).rstrip()
        for rank, row in enumerate(rows)
    )
