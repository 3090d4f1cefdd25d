"""Pipeline schedules: in which order each rank computes and exchanges micro-batches; executed,
simulated and drawn.

A model is cut into consecutive stages; with p ranks, rank r holds the stages r, r + p, r + 2p, ...
A schedule is a pure function of four whole numbers, so every rank knows the others' orders without
a message.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

FORWARD, BACKWARD = "forward", "backward"
SEND_ACTIVATION, RECEIVE_ACTIVATION = "send activation", "receive activation"
SEND_GRADIENT, RECEIVE_GRADIENT = "send gradient", "receive gradient"
COMPUTATIONS = (FORWARD, BACKWARD)
SCHEDULES = ("sequential", "gpipe", "1f1b", "interleaved")


@dataclass(frozen=True, slots=True)
class Instruction:
    """One thing to do for one micro-batch at one stage. A receive is only begun: the computation
    waits for it."""

    action: str
    stage: int
    microbatch: int


@dataclass(frozen=True, slots=True)
class Pipeline:
    """The size of a pipeline: its ranks, the chunks of the model (stages) on each of them, the
    micro-batches."""

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
    """Yield what a rank does in a step, messages included.

    The receive that a computation needs is begun before the computation that precedes it, so that a
    message travels meanwhile; stages on the same rank hand over without a message.
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
    that one stage works at a time; `gpipe` (Huang et al. 2019) does all forward passes, then all
    backward passes; `1f1b` (Narayanan et al. 2019) begins backward as early as it can;
    `interleaved` (Narayanan et al. 2021) does so with several chunks a rank.
    """
    if schedule == "sequential":
        return _sequential(pipeline, rank)
    if schedule == "gpipe":
        return _gpipe(pipeline, rank)
    return _one_forward_one_backward(pipeline, rank)


def _sequential(pipeline: Pipeline, rank: int) -> Iterator[Instruction]:
    for microbatch in range(pipeline.num_microbatches):
        yield from (Instruction(FORWARD, stage, microbatch) for stage in pipeline.stages_of(rank))
        yield from (
            Instruction(BACKWARD, stage, microbatch) for stage in reversed(pipeline.stages_of(rank))
        )


def _gpipe(pipeline: Pipeline, rank: int) -> Iterator[Instruction]:
    """All forward, then all backward, the micro-batches in the same order both times: gradients add
    up alike."""
    for action, stages in (
        (FORWARD, pipeline.stages_of(rank)),
        (BACKWARD, pipeline.stages_of(rank)[::-1]),
    ):
        for stage in stages:
            yield from (
                Instruction(action, stage, microbatch)
                for microbatch in range(pipeline.num_microbatches)
            )


def _one_forward_one_backward(pipeline: Pipeline, rank: int) -> Iterator[Instruction]:
    """Fill the pipeline, then alternate one forward with one backward pass, then drain it.

    With several chunks, micro-batches go through them in groups of as many as there are ranks. A
    last group that is not full is scheduled as if it were, and what does not exist is left out:
    that cannot bring a deadlock, for the micro-batches do not depend on each other.
    """
    num_ranks = pipeline.num_ranks
    forward, backward = _in_groups(pipeline, rank, FORWARD), _in_groups(pipeline, rank, BACKWARD)
    if pipeline.num_chunks == 1:
        num_ahead = num_ranks - rank - 1
    else:
        num_ahead = 2 * (num_ranks - rank - 1) + (pipeline.num_chunks - 1) * num_ranks
    num_ahead = min(num_ahead, len(forward))
    order = forward[:num_ahead]
    for one_forward, one_backward in zip(forward[num_ahead:], backward, strict=False):
        order += [one_forward, one_backward]
    order += backward[len(forward) - num_ahead :]
    yield from (
        instruction for instruction in order if instruction.microbatch < pipeline.num_microbatches
    )


def _in_groups(pipeline: Pipeline, rank: int, action: str) -> list[Instruction]:
    """Return a rank's passes of one kind, in groups of micro-batches; the last group is filled
    up."""
    size = pipeline.num_ranks
    stages = pipeline.stages_of(rank) if action == FORWARD else pipeline.stages_of(rank)[::-1]
    return [
        Instruction(action, stage, microbatch)
        for start in range(0, pipeline.num_microbatches, size)
        for stage in stages
        for microbatch in range(start, start + size)
    ]


def _receive(computation: Instruction, pipeline: Pipeline) -> Iterator[Instruction]:
    if source_of(computation, pipeline) is not None:
        action = RECEIVE_ACTIVATION if computation.action == FORWARD else RECEIVE_GRADIENT
        yield Instruction(action, computation.stage, computation.microbatch)


def _send(computation: Instruction, pipeline: Pipeline) -> Iterator[Instruction]:
    target = computation.stage + (1 if computation.action == FORWARD else -1)
    if 0 <= target < pipeline.num_stages and pipeline.num_ranks > 1:
        action = SEND_ACTIVATION if computation.action == FORWARD else SEND_GRADIENT
        yield Instruction(action, computation.stage, computation.microbatch)


def source_of(computation: Instruction, pipeline: Pipeline) -> int | None:
    """Return the stage whose message a computation waits for, None where it needs none."""
    source = computation.stage + (-1 if computation.action == FORWARD else 1)
    return source if 0 <= source < pipeline.num_stages and pipeline.num_ranks > 1 else None


def peak_live_microbatches(schedule: str, pipeline: Pipeline, rank: int) -> int:
    """Return the largest number of forward passes whose backward pass is still to come, over all
    chunks of a rank."""
    live = peak = 0
    for computation in computations(schedule, pipeline, rank):
        live += 1 if computation.action == FORWARD else -1
        peak = max(peak, live)
    return peak


def ideal_bubble_fraction(num_ranks: int, num_microbatches: int) -> float:
    """Return (p - 1) / (m + p - 1), the idle fraction of GPipe with equal stages and free
    messages."""
    return (num_ranks - 1) / (num_microbatches + num_ranks - 1)


@dataclass(frozen=True, slots=True)
class Event:
    """A computation as it was simulated: where, what, and from when to when, in seconds."""

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
    """Return the computations of a step on all ranks, in the order in which they end, as this
    schedule would run.

    A computation begins when its rank is free and what it needs has arrived; `message_seconds` of
    the computation that sends is the time between its end and the arrival. Raises RuntimeError
    where ranks would wait for each other for ever.
    """
    orders = [list(computations(schedule, pipeline, rank)) for rank in range(pipeline.num_ranks)]
    done: dict[Instruction, float] = {}
    events: list[Event] = []
    free, position = [0.0] * pipeline.num_ranks, [0] * pipeline.num_ranks
    while len(events) < sum(map(len, orders)):
        num_before = len(events)
        for rank, order in enumerate(orders):
            while position[rank] < len(order):
                computation = order[position[rank]]
                arrival = _arrival(computation, pipeline, done, message_seconds)
                if arrival is None:
                    break
                start = max(free[rank], arrival)
                free[rank] = done[computation] = start + seconds(computation)
                events.append(
                    Event(
                        rank,
                        computation.action,
                        computation.stage,
                        computation.microbatch,
                        start,
                        free[rank],
                    )
                )
                position[rank] += 1
        if len(events) == num_before:
            raise RuntimeError(
                f"the {schedule} schedule of {pipeline} stops: its ranks wait for each other"
            )
    return sorted(events, key=lambda event: event.end)


def _arrival(
    computation: Instruction,
    pipeline: Pipeline,
    done: dict[Instruction, float],
    message_seconds: Seconds,
) -> float | None:
    """Return when everything a computation needs is there, None where some of it has not been
    computed yet."""
    stage, microbatch = computation.stage, computation.microbatch
    if computation.action == FORWARD:
        needed = [Instruction(FORWARD, stage - 1, microbatch)] if stage else []
    else:
        needed = [Instruction(FORWARD, stage, microbatch)]
        needed += (
            [Instruction(BACKWARD, stage + 1, microbatch)]
            if stage + 1 < pipeline.num_stages
            else []
        )
    if any(instruction not in done for instruction in needed):
        return None
    return max(
        (
            done[one]
            + (
                0.0
                if pipeline.rank_of(one.stage) == pipeline.rank_of(stage)
                else message_seconds(one)
            )
            for one in needed
        ),
        default=0.0,
    )


def bubble_fraction(events: Sequence[Event], num_ranks: int) -> float:
    """Return which fraction of the time from the first start to the last end the ranks do not
    compute."""
    span = max(event.end for event in events) - min(event.start for event in events)
    return 1 - sum(event.end - event.start for event in events) / (num_ranks * span)


def clock_table(schedule: str, pipeline: Pipeline) -> str:
    """Return a table in text, a line a rank and a column a tick: what runs when every pass takes
    one tick.

    F2 is the forward pass of micro-batch 2, B2 its backward pass; a letter after it tells a rank's
    chunks apart.
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
