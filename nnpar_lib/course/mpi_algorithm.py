"""Which all-reduce MPI takes, told from the messages that it sends."""

from __future__ import annotations

from collections.abc import Iterable

import pandas as pd

from nnpar_lib.launch import mpi_messages
from nnpar_lib.launch.mpi_messages import Counts
from nnpar_lib.trainers.communication.algorithms import ALGORITHMS, threads

ITEMSIZE = 4  # bytes of a number: float32


def taken_by_mpi(sizes: Iterable[int], num_ranks: int) -> pd.DataFrame:
    """Return the messages of MPI's all-reduce of so many numbers, and the algorithms of ours that
    send as many, with as many bytes. The table is empty where this MPI does not tell."""
    rows: list[dict[str, object]] = []
    if not mpi_messages.are_told():
        return pd.DataFrame(rows)
    for size in sizes:
        counts = mpi_messages.count(size, num_ranks)
        rows.append(
            {
                "num_elements": size,
                "num_ranks": num_ranks,
                "messages": counts.num_messages,
                "bytes": counts.num_bytes,
                "as": ", ".join(matching(counts, size, num_ranks)) or "none of ours",
            }
        )
    return pd.DataFrame(rows)


def matching(counts: Counts, num_elements: int, num_ranks: int) -> list[str]:
    """Return the algorithms with these counts."""
    return [name for name in ALGORITHMS if counts_of(name, num_elements, num_ranks) == counts]


def counts_of(name: str, num_elements: int, num_ranks: int) -> Counts:
    """Return the messages of an algorithm, of all ranks together, counted on threads."""
    messages = threads.messages_of(ALGORITHMS[name], num_ranks, num_elements)
    num_sent = sum(message.num_elements for message in messages)
    return Counts(len(messages), ITEMSIZE * num_sent)
