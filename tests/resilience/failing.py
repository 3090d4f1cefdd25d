"""A run one of whose ranks raises, or interrupts itself, in the middle; run by mpiexec or called on
engines.

    mpiexec -n 2 python -m tests.resilience.failing STRATEGY raise|interrupt
"""

import os
import signal
import sys

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.communication.mpi import world
from nnpar_lib.trainers.loop.training import train
from nnpar_lib.trainers.tasks.runs import abort_all_on_error


def train_and_fail(strategy, way="raise"):
    """Train on two ranks, without a stall watch; rank 1 fails when a third of the steps is done."""

    def report(fraction, text):
        if world().rank == 1 and fraction > 0.3:
            if way == "interrupt":
                os.kill(os.getpid(), signal.SIGINT)
            else:
                raise ZeroDivisionError("the weights have turned to dust")

    train(
        RunConfig(
            strategy=strategy,
            num_ranks=2,
            num_steps=60,
            num_threads=1,
            hidden=(16,),
            average_every=10,
            stall_seconds=0,
        ),
        world(),
        report=report,
    )


if __name__ == "__main__":
    with abort_all_on_error():
        train_and_fail(*sys.argv[1:])
