"""Ranks that wait for one that will not come end the run, and say which one it is."""

import re

import pytest

from nnpar_lib.trainers.communication.stall import describe
from tests.conftest import run_mpi


@pytest.mark.every_mpi
def test_ranks_that_wait_in_vain_name_the_one_that_is_missing():
    process = run_mpi(3, "-m", "tests.mpi.stalling", timeout=120)
    assert process.returncode != 0
    (line,) = (line for line in process.stderr.splitlines() if line.startswith("nnpar: "))
    exchange = "(a barrier of a node's shared memory|an all-gather)"  # whichever comes next
    assert re.search(
        rf"stalled: rank 0 has waited \d+ s in {exchange}; missing: rank 1 \(does not answer\);"
        rf" waiting too: rank 2 in {exchange}",
        line,
    )


def test_a_deadlock_is_told_from_a_rank_that_is_missing():
    assert "none, the ranks wait for each other; waiting too: rank 0 in a barrier" in describe(
        1, 2, "a broadcast", 60.0, {0: "a barrier"}
    )
    assert "missing: rank 0 (is busy elsewhere)" in describe(1, 2, "a broadcast", 60.0, {0: ""})


STOP_RANK_1 = """
import os, signal, torch
from nnpar_lib.launch.environment import mpi_rank
from nnpar_lib.trainers.communication.algorithms import ring
from nnpar_lib.trainers.communication.mpi import world
def stop():
    if mpi_rank() == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
"""


@pytest.mark.every_mpi
@pytest.mark.parametrize(
    ("program", "words"),
    [
        ("stop(); world()", r"in the start of MPI; missing: a rank that does not start"),
        ("world(); stop(); world().sum(1)", r"in an all-reduce; missing: rank 1 \(does not answer"),
        (
            "world(); stop(); ring(torch.ones(4), torch.empty(4), world())",
            r"in an exchange, to rank 1 and from rank 1; missing: rank 1 \(does not answer",
        ),
        (
            "world(); stop(); world().start_reduce_scatter_sum_(torch.ones(4), [2, 2]).wait()",
            r"in a reduce-scatter; missing: rank 1 \(does not answer",
        ),
    ],
    ids=["before MPI", "before training", "in a ring", "in a reduce-scatter"],
)
def test_a_rank_that_stops_while_starting_is_missed(program, words):
    process = run_mpi(2, "-c", STOP_RANK_1 + program, timeout=120, NNPAR_STALL_SECONDS="5")
    assert process.returncode != 0
    assert re.search(rf"stalled: rank 0 has waited \d+ s {words}", process.stderr)


def test_outside_of_training_a_rank_may_take_its_time():
    program = """
import os, time
from nnpar_lib.trainers.communication.mpi import world
ranks = world()
if ranks.rank == 1:
    time.sleep(8)  # such as for a download
print("SUM", ranks.sum(1))
"""
    process = run_mpi(2, "-c", program, timeout=120, NNPAR_STALL_SECONDS="1")
    assert process.stdout.count("SUM 2.0") == 2, process.stderr


def test_where_mpi_lets_no_threads_talk_a_stall_is_judged_by_time():
    program = """
import os, signal, time
import mpi4py
mpi4py.rc.thread_level = "serialized"
from mpi4py import MPI
from nnpar_lib.trainers.communication.mpi import world
ranks = world()
if ranks.rank == 1:
    time.sleep(4)  # outside of training a rank may take its time
ranks.sum(1)
print("WENT ON", flush=True)
with ranks.stall_watch(2.0):
    if ranks.rank == 1:
        os.kill(os.getpid(), signal.SIGSTOP)
    ranks.sum(1)
"""
    process = run_mpi(2, "-c", program, timeout=120, NNPAR_STALL_SECONDS="1")
    assert process.returncode != 0
    assert process.stdout.count("WENT ON") == 2, process.stderr
    assert re.search(
        r"stalled: rank 0 has waited \d+ s in an all-reduce; missing: a rank that cannot be named",
        process.stderr,
    )
