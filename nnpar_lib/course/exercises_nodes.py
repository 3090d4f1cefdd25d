"""An exercise on nodes: an all-reduce on two levels, inside nodes and between them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from typing import Any

from nnpar_lib.course.checks import demand, items, judged

NODES = ((1, 2), (2, 2), (3, 2), (2, 4), (3, 1))  # nodes, ranks of each
ADD = "add"
COPY = "copy"


@judged
def check_two_levels(function: Callable[..., Any]) -> str:
    """Sum over nodes: `two_levels(num_nodes, ranks_per_node)` yields messages in their order.

    Rank r is on node r // ranks_per_node. A message is `("add", sender, receiver)`: the receiver
    adds the sender's sum to its own, or `("copy", sender, receiver)`: it takes the sender's sum
    instead of its own. In the end every rank has the sum of all ranks. Every message carries the
    whole buffer, and only 2(N - 1) of them may cross between N nodes.
    """
    for num_nodes, ranks_per_node in NODES:
        num_ranks = num_nodes * ranks_per_node
        where = f"with {num_nodes} node{'s' * (num_nodes > 1)} of {ranks_per_node}"
        messages = items(function, num_nodes, ranks_per_node)
        sums = [Counter({rank: 1}) for rank in range(num_ranks)]
        for message in messages:
            _send(message, sums, where)
        for rank, held in enumerate(sums):
            _check_sum(held, rank, num_ranks, where)
        _check_crossings(messages, num_nodes, ranks_per_node, where)
    return f"the sum on every rank, and as few messages between nodes as can be, {len(NODES)} times"


def _send(message: Any, sums: list[Counter[int]], where: str) -> None:
    demand(
        isinstance(message, tuple | list) and len(message) == 3 and message[0] in (ADD, COPY),
        f'{where} your function yields {message!r}; yield ("add" or "copy", sender, receiver)',
    )
    action, sender, receiver = message
    demand(
        sender in range(len(sums)) and receiver in range(len(sums)),
        f"{where} in {message!r} a rank does not exist; the last is {len(sums) - 1}",
    )
    demand(sender != receiver, f"{where} rank {sender} sends to itself")
    sums[receiver] = sums[sender] + (sums[receiver] if action == ADD else Counter())


def _check_sum(held: Counter[int], rank: int, num_ranks: int, where: str) -> None:
    """Say which ranks' numbers are missing in a sum, or are there more than once."""
    missing = [source for source in range(num_ranks) if not held[source]]
    demand(
        not missing,
        f"{where} rank {rank} ends without the numbers of the ranks {missing}",
    )
    repeated = [source for source in range(num_ranks) if held[source] > 1]
    demand(
        not repeated,
        f"{where} rank {rank} ends with the numbers of the ranks {repeated} more than once: does it"
        " add a sum in which they are already?",
    )


def _check_crossings(messages: list[Any], num_nodes: int, size: int, where: str) -> None:
    crossing = sum(sender // size != receiver // size for _, sender, receiver in messages)
    fewest = 2 * (num_nodes - 1)
    demand(
        crossing <= fewest,
        f"{where} the sums are right, but {crossing} messages cross between nodes, where {fewest}"
        " are enough: add up inside each node first, and let only its leader talk to others",
    )
