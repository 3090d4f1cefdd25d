"""Two levels: sum inside each node, then between nodes, where messages cost more."""

from __future__ import annotations

from torch import Tensor

from nnpar_lib.trainers.communication.algorithms.messages import Algorithm, Messages
from nnpar_lib.trainers.communication.algorithms.tree import broadcast


def two_level(
    values: Tensor,
    received: Tensor,
    node: Messages,
    leaders: Messages | None,
    *,
    inside: Algorithm,
    between: Algorithm,
) -> None:
    """Replace `values` by its sum over the ranks of all nodes, by any two all-reduces.

    `node` are the ranks of this rank's node and `leaders` the first ranks of all nodes, None on the
    others. A node hands its sum on once, whatever its number of ranks; nodes may differ in size.
    All ranks read the same bits: those of their leader.
    """
    inside(values, received, node)
    if leaders is not None:
        between(values, received, leaders)
    broadcast(values, node)
