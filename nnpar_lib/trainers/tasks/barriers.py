"""The seconds of a barrier on some and on all ranks: what every exchange at least waits for."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

from nnpar_lib.config import RunConfig
from nnpar_lib.records.kinds import BarrierRecord
from nnpar_lib.records.provenance import provenance
from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.communication.mpi import world
from nnpar_lib.trainers.loop.placement import place
from nnpar_lib.trainers.tasks.runs import Listener, PrintingListener, mean_seconds

NUM_BARRIERS = 1000  # a repeat


def sweep_barriers(
    rank_counts: Sequence[int],
    num_repeats: int = 7,
    experiment: str = "barriers",
    *,
    listener: Listener | None = None,
) -> list[dict[str, Any]]:
    """Time barriers of the first 2, 4, ... ranks (collective over the world).

    Return the records as dicts on rank 0, an empty list elsewhere.
    """
    ranks = world()
    listener = listener or PrintingListener()
    records = []
    for count in rank_counts:
        group = ranks.first_ranks(count)
        if group is not None:
            record = _time(group, num_repeats, experiment)
            if ranks.rank == 0:
                listener.record(record)
                records.append(dataclasses.asdict(record))
        ranks.idle_barrier()
    return records


def _time(group: Communicator, num_repeats: int, experiment: str) -> BarrierRecord:
    placement = place(RunConfig(num_threads=1), group)
    mean_seconds(group, group.barrier, NUM_BARRIERS // 10)
    return BarrierRecord(
        num_ranks=group.size,
        seconds=[mean_seconds(group, group.barrier, NUM_BARRIERS) for _ in range(num_repeats)],
        provenance=provenance(),
        oversubscribed=placement.oversubscribed,
        experiment=experiment,
    )
