"""All-reduces from plain messages, each in a file to be read: sends, receives and sums."""

from __future__ import annotations

from collections.abc import Mapping

from nnpar_lib.trainers.communication.algorithms.messages import Algorithm
from nnpar_lib.trainers.communication.algorithms.rabenseifner import rabenseifner
from nnpar_lib.trainers.communication.algorithms.recursive_doubling import recursive_doubling
from nnpar_lib.trainers.communication.algorithms.ring import ring
from nnpar_lib.trainers.communication.algorithms.tree import tree

__all__ = ["ALGORITHMS", "rabenseifner", "recursive_doubling", "ring", "tree"]

ALGORITHMS: Mapping[str, Algorithm] = {
    "ring": ring,
    "recursive_doubling": recursive_doubling,
    "rabenseifner": rabenseifner,
    "tree": tree,
}
