"""Checkpoints of a run, in a form that any strategy and any number of ranks can read.

Parameters and the optimizer's tensors are written whole, whichever rank holds which part. A tensor
that is the same to the last bit on all ranks is written once; copies that differ, as between two
averages of weights, are all written. The same strategy on the same number of ranks continues with
the ranks' own copies, bit by bit; any other continues with their mean. No random state is kept: the
order of the examples is a function of the seed and the step.
"""

from __future__ import annotations

import contextlib
import hashlib
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from nnpar_lib.config import RunConfig
from nnpar_lib.records import checkpoint_file
from nnpar_lib.records.checkpoint_file import Header
from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.step.state import State
from nnpar_lib.trainers.strategies.base import Strategy

PARAMETER = "parameter"
RUNNING = "running"


def save(
    path: Path,
    config: RunConfig,
    strategy: Strategy,
    communicator: Communicator,
    progress: dict[str, Any],
) -> None:
    """Write a checkpoint (collective).

    Where there is no room, print a line and return: the run continues, the earlier file stays.
    """
    state = strategy.state()
    tensors = {}
    for name, value in _whole_tensors(state, strategy, communicator):
        if communicator.rank == 0:
            tensors[name] = value.detach().cpu().clone(memory_format=torch.contiguous_format)
    numbers = communicator.gather_objects((state.numbers, state.counters))
    if numbers is None:
        return
    header = Header(
        config=config.to_dict(),
        progress=progress,
        numbers=[values for values, _ in numbers],
        counters=[counters for _, counters in numbers],
    )
    try:
        checkpoint_file.write(path, tensors, header)
    except OSError as error:
        _print(
            f"the checkpoint of step {progress['num_steps']} could not be written to {path} "
            f"({error.strerror}); the run goes on, and an earlier checkpoint stays as it is"
        )


class CheckpointRefusedError(ValueError):
    """A run cannot use its checkpoint. All ranks raise it together, so none waits for another."""


@contextlib.contextmanager
def reserved(config: RunConfig, communicator: Communicator) -> Iterator[None]:
    """Keep the checkpoint of a config, where it has one, for this run (entering is collective).

    Raises a CheckpointRefusedError where another run has it.
    """
    if config.checkpoint is None:
        yield
        return
    with contextlib.ExitStack() as stack:
        problem = ""
        if communicator.rank == 0:  # which alone writes the file
            try:
                stack.enter_context(checkpoint_file.locked(Path(config.checkpoint)))
            except ValueError as error:
                problem = str(error)
        problem = communicator.broadcast_object(problem)
        if problem:
            raise CheckpointRefusedError(problem)
        yield


def restore(
    path: Path, config: RunConfig, strategy: Strategy, communicator: Communicator
) -> dict[str, Any] | None:
    """Bring the last checkpoint's state back and return its progress, None where there is no file
    (collective).

    Raises a CheckpointRefusedError where it is damaged, belongs to another run, or is not the same
    file on all ranks.
    """
    header = _agreed_header(path, config, communicator)
    if header is None:
        return None
    if header.format == checkpoint_file.OLD_FORMAT and communicator.rank == 0:
        _print(f"{path} is of an old format, which cannot show damage to its header")
    is_same = (
        header.config["strategy"] == config.strategy
        and header.config["num_ranks"] == communicator.size
    )
    tensors = _choose(checkpoint_file.read_tensors(path), communicator.rank if is_same else None)
    values = {kind: strategy.local_values(whole) for kind, whole in tensors.items()}
    numbers = header.numbers[communicator.rank] if is_same else _mean(header.numbers)
    counters = header.counters[communicator.rank] if is_same else {}
    parameters = values.pop(PARAMETER)
    running = values.pop(RUNNING, [])
    strategy.restore(State(parameters, values, numbers, counters, running))
    return header.progress


def _agreed_header(path: Path, config: RunConfig, communicator: Communicator) -> Header | None:
    """Return the header of the file that all ranks see, None where they see none (collective)."""
    header = None
    problem = ""
    try:
        header = checkpoint_file.check(path, config)
    except ValueError as error:
        problem = str(error)
    digest = None if header is None else header.sha256
    seen = "no file" if header is None else f"step {header.progress['num_steps']}"
    answers = communicator.allgather_objects((problem, digest, f"{seen} on {platform.node()}"))
    for rank_problem, _, _ in answers:
        if rank_problem:
            raise CheckpointRefusedError(rank_problem)
    for rank, (_, rank_digest, rank_seen) in enumerate(answers):
        if rank_digest != answers[0][1]:
            raise CheckpointRefusedError(
                f"{path} is not the same checkpoint on all ranks: rank 0 has {answers[0][2]}, rank"
                f" {rank} has {rank_seen}; name a file in a folder that all nodes share"
            )
    return header


def _whole_tensors(
    state: State, strategy: Strategy, communicator: Communicator
) -> Iterator[tuple[str, Tensor]]:
    """Yield the names and values of all tensors (collective)."""
    kinds = {
        PARAMETER: state.parameters,
        **state.optimizer,
        **({RUNNING: state.running} if state.running else {}),
    }
    names = dict.fromkeys(
        kind for rank_kinds in communicator.allgather_objects(list(kinds)) for kind in rank_kinds
    )
    nothing_yet = [
        torch.zeros_like(parameter) for parameter in state.parameters
    ]  # of a rank that has had no example
    for kind in names:
        for index, value in enumerate(strategy.whole_values(kinds.get(kind, nothing_yet))):
            yield from _copies(f"{kind}.{index}", value, communicator)


def _copies(name: str, value: Tensor, communicator: Communicator) -> Iterator[tuple[str, Tensor]]:
    """Yield a value once where it is the same on all ranks, else each rank's (collective)."""
    value = value.detach().cpu().contiguous()
    digest = hashlib.sha256(value.reshape(-1).view(torch.uint8).numpy().data).digest()
    if len(set(communicator.allgather_objects(digest))) == 1:
        yield name, value
        return
    for rank, copy in enumerate(communicator.gather_objects(value) or []):
        yield f"{name}@{rank}", copy


def _choose(tensors: dict[str, Tensor], rank: int | None) -> dict[str, list[Tensor]]:
    """Return the whole model's values by kind; of copies, those of a rank, or their mean."""
    copies: dict[str, dict[int, list[Tensor]]] = {}
    for name in sorted(
        tensors, key=lambda name: int((name + "@0").split("@")[1])
    ):  # copies in the order of ranks
        kind, index = name.split("@")[0].rsplit(".", 1)
        copies.setdefault(kind, {}).setdefault(int(index), []).append(tensors[name])
    return {
        kind: [_copy_or_mean(of_kind[index], rank) for index in sorted(of_kind)]
        for kind, of_kind in copies.items()
    }


def _copy_or_mean(copies: list[Tensor], rank: int | None) -> Tensor:
    if len(copies) == 1:
        return copies[0]
    return torch.stack(copies).mean(dim=0) if rank is None else copies[rank]


def _mean(numbers: list[dict[str, float]]) -> dict[str, float]:
    """Return the mean of each number over the ranks that have any."""
    filled = [values for values in numbers if values]
    if not filled:
        return {}
    return {
        name: sum(values.get(name, 0.0) for values in filled) / len(filled) for name in filled[0]
    }


def _print(message: str) -> None:
    print(f"nnpar: {message}", file=sys.stderr, flush=True)
