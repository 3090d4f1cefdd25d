"""One all-reduce by MPI, of as many numbers as the first argument says, and nothing else."""

from __future__ import annotations

import sys

import torch

from nnpar_lib.trainers.communication.mpi import world


def main() -> None:
    """Sum over the ranks (collective)."""
    world().allreduce_sum_(torch.ones(int(sys.argv[1])))


if __name__ == "__main__":
    main()
