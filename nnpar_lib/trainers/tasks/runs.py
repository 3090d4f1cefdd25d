"""The measuring protocol: interleaved repeats, idle ranks asleep, barriers, maxima over ranks."""

from __future__ import annotations

import dataclasses
import itertools
import json
import os
import platform
import sys
import time
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch

from nnpar_lib.config import RunConfig
from nnpar_lib.config.environment import launched_rank
from nnpar_lib.config.usage import INTERRUPT_STATUS, USAGE_STATUS, is_usage_error
from nnpar_lib.records.kinds import CONTROL, AllreduceRecord, MessageRecord, Record
from nnpar_lib.records.provenance import INITIAL_CORES, provenance
from nnpar_lib.records.store import to_json
from nnpar_lib.records.wire import PROGRESS_PREFIX, RECORD_PREFIX, leave_last_words
from nnpar_lib.trainers.communication import allreduce
from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.communication.mpi import world
from nnpar_lib.trainers.data import batches
from nnpar_lib.trainers.loop.placement import place
from nnpar_lib.trainers.loop.training import train
from nnpar_lib.trainers.timeline import Timeline

TURN_SECONDS = 1.0


class Listener(Protocol):
    """Gets the progress of a measurement on rank 0, and each record as soon as it is complete."""

    def progress(self, fraction: float, text: str) -> None:
        """Take the fraction done and a line of text."""

    def record(self, record: Record) -> None:
        """Take the record of a finished measurement."""


class PrintingListener:
    """Prints lines that a launcher reads: progress a few times a second, records in full."""

    def __init__(self, seconds_between: float = 0.5) -> None:
        self._seconds_between = seconds_between
        self._next = 0.0

    def progress(self, fraction: float, text: str) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self._seconds_between
            print(
                PROGRESS_PREFIX + json.dumps({"fraction": round(fraction, 4), "text": text}),
                flush=True,
            )

    def record(self, record: Record) -> None:
        print(RECORD_PREFIX + to_json(record), flush=True)


def run_interleaved(
    configs: Sequence[dict[str, Any]],
    num_repeats: int = 1,
    experiment: str = "",
    *,
    labels: Sequence[str] = (),
    done: Sequence[tuple[int, int]] = (),
    listener: Listener | None = None,
) -> list[dict[str, Any]]:
    """Run every config once, then all of them again, and so on (collective over the world).

    Successive runs have different configs, so that a drift of the machine affects all alike. A
    config runs on the first `num_ranks` ranks; the rest sleep. `labels`, where given, name the
    configs in the records; `done` has pairs (repeat, index of a config) to leave out. Return the
    records as dicts on rank 0, an empty list elsewhere.
    """
    ranks = world()
    listener = listener or PrintingListener()
    labels = labels or [""] * len(configs)
    named = [*zip(labels, map(RunConfig.from_parameters, configs), strict=True)]
    order = itertools.product(range(num_repeats), range(len(named)))
    is_done = set(map(tuple, done))
    todo = [(repeat, *named[index]) for repeat, index in order if (repeat, index) not in is_done]
    _prepare({config.dataset for *_, config in todo})
    records = []
    for number, (repeat, label, config) in enumerate(todo):
        group = ranks.first_ranks(config.num_ranks)
        if group is not None:
            report = _reporter(listener, number, len(todo)) if ranks.rank == 0 else _ignore
            record = train(
                config, group, report=report, experiment=experiment, label=label, repeat=repeat
            )
            if ranks.rank == 0:
                listener.record(record)
                records.append(dataclasses.asdict(record))
        ranks.idle_barrier()
    return records


def _prepare(datasets: Iterable[str]) -> None:
    """Do on all ranks at once what each would do at its first run, while the rest wait."""
    for dataset in datasets:
        batches.load(dataset)
    torch.optim.SGD([torch.zeros(1)])  # torch imports modules for nearly a second at the first


def describe_rank() -> dict[str, Any]:
    """Return this rank, its host and cores, and the sum of all ranks, a first all-reduce
    (collective)."""
    ranks = world()
    return {
        "rank": ranks.rank,
        "size": ranks.size,
        "host": platform.node(),
        "process": os.getpid(),
        "cores": sorted(INITIAL_CORES),
        "sum_of_ranks": int(ranks.sum(ranks.rank)),
    }


@contextmanager
def abort_all_on_error() -> Iterator[None]:
    """End all ranks when this one raises, for the rest would wait for it in a collective.

    What is wrong with the user's input is one line and exit status 2, anything else a traceback. A
    process that was started alone just raises.
    """
    try:
        yield
    except BaseException as error:
        rank = launched_rank()
        if rank is None:
            raise
        text, status = _last_words(rank, error)
        if status == USAGE_STATUS and rank > 0:
            time.sleep(TURN_SECONDS)  # where all ranks say the same, rank 0 says it first
        sys.stdout.flush()
        sys.stderr.flush()
        leave_last_words(text)
        world().abort(status)


def _last_words(rank: int, error: BaseException) -> tuple[str, int]:
    """Return what a rank says of an error that ends it, and its exit status."""
    if is_usage_error(error):
        return f"nnpar: {' '.join(str(error).splitlines())}", USAGE_STATUS
    if isinstance(error, KeyboardInterrupt):
        return f"nnpar: rank {rank} was interrupted (KeyboardInterrupt)", INTERRUPT_STATUS
    trace = "".join(traceback.format_exception(error))
    return f"nnpar: rank {rank} raised {type(error).__name__}:\n{trace}", 1


def sweep_allreduces(
    kinds: Sequence[str],
    sizes: Sequence[int],
    num_ranks: int,
    num_repeats: int = 7,
    dtype: str = "float32",
    experiment: str = "allreduce",
    listener: Listener | None = None,
) -> list[dict[str, Any]]:
    """Time all-reduces of `sizes` numbers by each kind, interleaved (collective over the world).

    A kind that comes twice is a control the second time, and its record says so.
    A repeat is the mean of the all-reduces that fit about 20 ms, the maximum over ranks. Return the
    records as dicts on rank 0, an empty list elsewhere.
    """
    ranks = world()
    listener = listener or PrintingListener()
    group = ranks.first_ranks(num_ranks)
    records: list[AllreduceRecord] = []
    if group is not None:
        placement = place(RunConfig(num_threads=1), group)
        for done, size in enumerate(sizes):
            seconds = _time_kinds(group, kinds, size, num_repeats, getattr(torch, dtype))
            origin = provenance()
            for index, (kind, times) in enumerate(zip(kinds, seconds, strict=True)):
                records.append(
                    AllreduceRecord(
                        allreduce=kind,
                        num_ranks=num_ranks,
                        num_elements=size,
                        dtype=dtype,
                        seconds=times,
                        provenance=origin,
                        experiment=experiment,
                        label=CONTROL if kind in kinds[:index] else "",
                        oversubscribed=placement.oversubscribed,
                    )
                )
            if ranks.rank == 0:
                listener.progress((done + 1) / len(sizes), f"all-reduce of {size:,} numbers")
                for record in records[-len(kinds) :]:
                    listener.record(record)
    ranks.idle_barrier()
    return [dataclasses.asdict(record) for record in records] if ranks.rank == 0 else []


def sweep_messages(
    sizes: Sequence[int],
    num_repeats: int = 7,
    experiment: str = "messages",
    *,
    listener: Listener | None = None,
) -> list[dict[str, Any]]:
    """Time messages of `sizes` bytes between the first two ranks (collective over the world), in
    one direction and in both at once, and the addition of so many bytes.

    A repeat is half the mean of the round trips that fit about 20 ms. Return the records as dicts
    on rank 0, an empty list elsewhere. A world of one rank is a ValueError.
    """
    ranks = world()
    listener = listener or PrintingListener()
    group = ranks.first_ranks(2)
    records: list[MessageRecord] = []
    if group is not None:
        placement = place(RunConfig(num_threads=1), group)
        origin = provenance()
        for size in sizes:
            times = _time_messages(group, size, num_repeats)
            records.append(
                MessageRecord(
                    num_bytes=size,
                    seconds=[seconds / 2 for seconds in times["round trip"]],
                    exchange_seconds=times["exchange"],
                    add_seconds=times["addition"],
                    provenance=origin,
                    experiment=experiment,
                    oversubscribed=placement.oversubscribed,
                )
            )
            if ranks.rank == 0:
                listener.record(records[-1])
    ranks.idle_barrier()
    return [dataclasses.asdict(record) for record in records] if ranks.rank == 0 else []


def seconds_per_event(count: int = 20_000) -> float:
    """Return the seconds that a traced run needs to book an activity and to keep its event."""
    timeline = Timeline(num_traced_steps=1)
    timeline.begin_step()
    start = time.perf_counter()
    for microbatch in range(count):
        timeline.lap("forward", 0, microbatch)
    return (time.perf_counter() - start) / count


def _ping_pong(group: Communicator, message: torch.Tensor) -> Callable[[], None]:
    """Return a function that sends a message from rank 0 to rank 1 and back.

    Each round trip has a new tag, as the messages of a pipeline do.
    """
    answer = torch.empty_like(message)
    tags = itertools.count()

    def round_trip() -> None:
        tag = next(tags) % 1000
        receive = group.start_receive_(answer, 1 - group.rank, tag)
        if group.rank == 1:
            receive.wait()
        send = group.start_send(message, 1 - group.rank, tag)
        if group.rank == 0:
            receive.wait()
        send.wait()

    return round_trip


def _time_messages(group: Communicator, size: int, num_repeats: int) -> dict[str, list[float]]:
    """Return the seconds of a round trip, an exchange and an addition, in turn, for each repeat.

    The numbers are changed before each exchange, as in an all-reduce: else the copy of the last
    time would still lie in the receiver's cache. The time of the change is taken off.
    """
    values = torch.zeros(max(1, size // 4))
    received = torch.zeros_like(values)
    peer = 1 - group.rank

    def exchange() -> None:
        group.exchange_(values, peer, received, peer)
        values.add_(received)

    operations: dict[str, Callable[[], object]] = {
        "round trip": _ping_pong(group, torch.zeros(size, dtype=torch.uint8)),
        "addition": lambda: values.add_(received),
        "exchange": exchange,
    }
    counts = {name: _count_for(group, operation) for name, operation in operations.items()}
    times: dict[str, list[float]] = {name: [] for name in operations}
    for _ in range(num_repeats):
        for name, operation in operations.items():
            times[name].append(mean_seconds(group, operation, counts[name]))
    pairs = zip(times["exchange"], times["addition"], strict=True)
    times["exchange"] = [max(step - addition, 1e-9) for step, addition in pairs]
    return times


def _time_kinds(
    group: Communicator, kinds: Sequence[str], size: int, num_repeats: int, dtype: torch.dtype
) -> list[list[float]]:
    """Return the seconds of each repeat, a list for each kind."""
    like = torch.zeros(size, dtype=dtype)
    bucket_bytes = RunConfig().bucket_kib * 1024
    reducers = [
        allreduce.build(kind, group, like, Timeline(), bucket_bytes=bucket_bytes) for kind in kinds
    ]
    counts = [_count_for(group, reducer.reduce_) for reducer in reducers]
    times: list[list[float]] = [[] for _ in kinds]
    for _ in range(num_repeats):
        for reducer, count, seconds in zip(reducers, counts, times, strict=True):
            seconds.append(mean_seconds(group, reducer.reduce_, count))
    for reducer in reducers:
        reducer.free()
    return times


def _count_for(group: Communicator, operation: Callable[[], object], seconds: float = 0.02) -> int:
    """Warm an operation up; return how many repeats fill this time, the same on all ranks."""
    mean_seconds(group, operation, 3)
    return max(3, min(2000, int(seconds / mean_seconds(group, operation, 3))))


def mean_seconds(group: Communicator, operation: Callable[[], object], count: int) -> float:
    """Return the mean seconds of an operation, the maximum over ranks (collective)."""
    group.barrier()
    start = time.perf_counter()
    for _ in range(count):
        operation()
    return group.max((time.perf_counter() - start) / count)


def _reporter(listener: Listener, done: int, total: int) -> Callable[[float, str], None]:
    return lambda fraction, text: listener.progress((done + fraction) / total, text)


def _ignore(fraction: float, text: str) -> None: ...
