"""How items, blocks and widths are divided over ranks and stages: pure functions of whole numbers.

Ranks that execute a cut and models that predict its cost call the same functions, so both see the
same stages.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

LAYERS = "layers"
MEASURED = "measured"
BALANCES = (LAYERS, MEASURED)  # rules that cut a model; anything else lists the cuts


def part(num_items: int, size: int, rank: int) -> slice:
    """Return this rank's contiguous part of `num_items`.

    The parts of all ranks cover every item exactly once, in the order of ranks; their sizes differ
    by at most one, and some are empty where there are more ranks than items.
    """
    base, extra = divmod(num_items, size)
    start = rank * base + min(rank, extra)
    return slice(start, start + base + (rank < extra))


def slot_sizes(sizes: Sequence[int], num_slots: int) -> list[int]:
    """Return the size of each place for buffers that take turns: buffer i lies in i % `num_slots`.

    A buffer overwrites the one that was in its place before it.
    """
    return [max(sizes[slot::num_slots], default=0) for slot in range(num_slots)]


def partition(seconds: Sequence[float], num_stages: int) -> list[slice]:
    """Return consecutive, non-empty parts whose largest sum is minimal.

    The slowest stage sets the pace of a pipeline. Every cut is tried, for models have few blocks.
    """
    num_blocks = len(seconds)

    def slowest(bounds: Sequence[int]) -> float:
        return max(sum(seconds[start:stop]) for start, stop in itertools.pairwise(bounds))

    cuts = itertools.combinations(range(1, num_blocks), num_stages - 1)
    candidates = ((0, *inner, num_blocks) for inner in cuts)
    return _slices(min(candidates, key=slowest))


def explicit_cuts(balance: str) -> tuple[int, ...] | None:
    """Return the first blocks of the later stages, None where a rule chooses them."""
    return None if balance in BALANCES else tuple(map(int, balance.split(",")))


def stage_bounds(
    balance: str, num_blocks: int, num_stages: int, block_seconds: Callable[[], Sequence[float]]
) -> list[slice]:
    """Return the blocks of each stage of a pipeline.

    `balance` is `layers` (as many blocks in each stage as possible), `measured` (the slowest stage
    is as fast as possible) or a list of cuts such as `1,3`. `block_seconds` is called only for
    `measured`; it gives the seconds of each block, the same on all ranks.
    """
    cuts = explicit_cuts(balance)
    if cuts is not None:
        return _slices((0, *cuts, num_blocks))
    if balance == LAYERS:
        return [part(num_blocks, num_stages, stage) for stage in range(num_stages)]
    return partition(block_seconds(), num_stages)


def _slices(bounds: Sequence[int]) -> list[slice]:
    return [slice(start, stop) for start, stop in itertools.pairwise(bounds)]


def segments(num_blocks: int, num_segments: int = 0) -> list[slice]:
    """Return consecutive parts of a list of blocks whose activations are computed again.

    By default, 0, there are as many as the square root of the number of blocks. With n equal
    blocks of a layer, the inputs of sqrt(n) parts and the activations of one are then kept at a
    time, which is the least that parts of one size can need (Chen et al. 2016, section 4.1).
    """
    count = min(num_blocks, num_segments or round(math.sqrt(num_blocks)))
    return [part(num_blocks, count, index) for index in range(count)]
