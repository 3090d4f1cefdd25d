"""Exercises on pipelines: the order of GPipe and that of 1F1B."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from nnpar_lib import schedules
from nnpar_lib.course.checks import demand, items, judged
from nnpar_lib.schedules import BACKWARD, FORWARD, Instruction, Pipeline

PIPELINES = tuple(
    Pipeline(num_ranks, num_microbatches)
    for num_ranks, num_microbatches in ((1, 2), (2, 3), (3, 5), (4, 8), (4, 2))
)


@judged
def check_gpipe(function: Callable[..., Any]) -> str:
    """Write GPipe's order: `gpipe(pipeline, rank)` yields a rank's passes, one stage a rank.

    A pass is `Instruction(FORWARD, stage, microbatch)` or `Instruction(BACKWARD, stage,
    microbatch)`, of `nnpar_lib.schedules`; the stage of a rank has its number. GPipe (Huang et al.
    2019) takes all forward passes, then all backward passes. `pipeline.num_ranks` and
    `pipeline.num_microbatches` say how many there are.
    """
    for pipeline in PIPELINES:
        orders = _orders(function, pipeline)
        for rank, order in enumerate(orders):
            actions = [instruction.action for instruction in order]
            demand(
                actions == sorted(actions, reverse=True),
                f"{_where(pipeline)} rank {rank} takes a forward pass after a backward pass:"
                f" {_shown(order)}",
            )
        _check_time(orders, pipeline, "gpipe")
    return "all passes once, no rank waits for ever, and the bubble is (p - 1)/(m + p - 1)"


@judged
def check_1f1b(function: Callable[..., Any]) -> str:
    """Write the order of 1F1B: `one_forward_one_backward(pipeline, rank)`, as in GPipe's exercise.

    1F1B (Narayanan et al. 2019): rank r takes p - r - 1 forward passes ahead, or as many as there
    are micro-batches; then a forward and a backward pass in turn; then the backward passes that are
    left. It takes no longer than GPipe and holds the activations of at most p - r micro-batches.
    """
    for pipeline in PIPELINES:
        orders = _orders(function, pipeline)
        for rank, order in enumerate(orders):
            held = _most_held(order)
            needed = schedules.peak_live_microbatches("1f1b", pipeline, rank)
            demand(
                held <= needed,
                f"{_where(pipeline)} rank {rank} holds the activations of {held} micro-batches at"
                f" once, where {needed} are enough: {_shown(order)}",
            )
        _check_time(orders, pipeline, "1f1b")
    return "all passes once, no rank waits for ever, no longer than GPipe, and with less memory"


def _orders(function: Callable[..., Any], pipeline: Pipeline) -> list[list[Instruction]]:
    """Return the passes of all ranks, which are complete and can be executed."""
    orders = [items(function, pipeline, rank) for rank in range(pipeline.num_ranks)]
    for rank, order in enumerate(orders):
        _check_passes(order, pipeline, rank)
    _ticks(orders, pipeline)
    return orders


def _check_passes(order: list[Any], pipeline: Pipeline, rank: int) -> None:
    where = f"{_where(pipeline)} rank {rank}"
    for item in order:
        demand(
            isinstance(item, Instruction) and item.action in schedules.COMPUTATIONS,
            f"{where} yields {item!r}; yield Instruction(FORWARD or BACKWARD, stage, microbatch)",
        )
        demand(
            item.stage == rank,
            f"{where} computes stage {item.stage}; with one stage a rank its stage is {rank}",
        )
    for action in (FORWARD, BACKWARD):
        for microbatch in range(pipeline.num_microbatches):
            count = order.count(Instruction(action, rank, microbatch))
            demand(
                count == 1,
                f"{where} takes the {action} pass of micro-batch {microbatch}"
                f" {f'{count} times' if count else 'never'}",
            )
    last = pipeline.num_microbatches - 1
    demand(
        len(order) == 2 * (last + 1),
        f"{where} takes passes of micro-batches that do not exist; the last is {last}",
    )
    for microbatch in range(pipeline.num_microbatches):
        places = [
            order.index(Instruction(action, rank, microbatch)) for action in (FORWARD, BACKWARD)
        ]
        demand(
            places[0] < places[1],
            f"{where} takes the backward pass of micro-batch {microbatch} before its forward pass",
        )


def _ticks(orders: list[list[Instruction]], pipeline: Pipeline) -> int:
    """Return the time of a step in which every pass takes 1, or say which ranks wait for ever."""
    ends: dict[Instruction, int] = {}
    free = [0] * pipeline.num_ranks
    places = [0] * pipeline.num_ranks
    while any(place < len(order) for place, order in zip(places, orders, strict=True)):
        has_moved = False
        for rank, order in enumerate(orders):
            while places[rank] < len(order):
                instruction = order[places[rank]]
                arrival = _arrival(instruction, pipeline, ends)
                if arrival is None:
                    break
                free[rank] = max(free[rank], arrival) + 1
                ends[instruction] = free[rank]
                places[rank] += 1
                has_moved = True
        stuck = [rank for rank, order in enumerate(orders) if places[rank] < len(order)]
        demand(
            has_moved,
            f"{_where(pipeline)} the ranks {stuck} wait for each other for ever: "
            + "; ".join(f"rank {rank} in {_name(orders[rank][places[rank]])}" for rank in stuck),
        )
    return max(free)


def _arrival(
    instruction: Instruction, pipeline: Pipeline, ends: dict[Instruction, int]
) -> int | None:
    """Return when the input of a pass has arrived, None where it is not computed yet."""
    source = schedules.source_of(instruction, pipeline)
    if source is None:
        return 0
    return ends.get(Instruction(instruction.action, source, instruction.microbatch))


def _check_time(orders: list[list[Instruction]], pipeline: Pipeline, schedule: str) -> None:
    ticks = _ticks(orders, pipeline)
    events = schedules.simulate(schedule, pipeline, lambda _: 1.0)
    best = round(max(event.end for event in events))
    demand(
        ticks <= best,
        f"{_where(pipeline)} a step takes {ticks} ticks, where {best} are enough; rank 0 does"
        f" {_shown(orders[0])}",
    )


def _most_held(order: list[Instruction]) -> int:
    held = 0
    most = 0
    for instruction in order:
        held += 1 if instruction.action == FORWARD else -1
        most = max(most, held)
    return most


def _where(pipeline: Pipeline) -> str:
    return f"with {pipeline.num_ranks} ranks and {pipeline.num_microbatches} micro-batches"


def _shown(order: list[Instruction]) -> str:
    return " ".join(map(_name, order))


def _name(instruction: Instruction) -> str:
    return f"{instruction.action[0].upper()}{instruction.microbatch}"
