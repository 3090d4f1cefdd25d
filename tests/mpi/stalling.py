"""Run by mpiexec on 3 ranks: one of them stops in the middle of a run, and does not come to the
next exchange."""

import os
import signal

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.communication.mpi import world
from nnpar_lib.trainers.loop.training import train
from nnpar_lib.trainers.tasks.runs import abort_all_on_error

STALL_SECONDS = 3.0


def stop(fraction, text):
    if world().rank == 1 and fraction > 0.3:
        os.kill(os.getpid(), signal.SIGSTOP)


if __name__ == "__main__":
    with abort_all_on_error():
        train(
            RunConfig(
                strategy="gradient_averaging",
                num_ranks=3,
                num_steps=40,
                num_threads=1,
                hidden=(16,),
                stall_seconds=STALL_SECONDS,
            ),
            world(),
            report=stop,
        )
