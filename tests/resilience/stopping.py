"""A function for engines: a run one of whose ranks stops."""

import os
import signal

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.communication.mpi import world
from nnpar_lib.trainers.loop.training import train


def train_and_stop(rank, stall_seconds):
    def report(fraction, text):
        if world().rank == rank and fraction > 0.3:
            os.kill(os.getpid(), signal.SIGSTOP)

    train(
        RunConfig(
            strategy="gradient_averaging",
            allreduce="mpi",
            num_ranks=2,
            num_steps=40,
            num_threads=1,
            hidden=(16,),
            stall_seconds=stall_seconds,
        ),
        world(),
        report=report,
    )
