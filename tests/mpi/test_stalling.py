"""Ranks that wait for one that will not come end the run, and say which one it is."""

import time

from nnpar_lib.trainers.communication.stall import describe
from tests.conftest import run_mpi
from tests.mpi.stalling import STALL_SECONDS


def test_ranks_that_wait_in_vain_name_the_one_that_is_missing():
    start = time.monotonic()
    process = run_mpi(3, "-m", "tests.mpi.stalling", timeout=60)
    assert process.returncode != 0
    assert STALL_SECONDS < time.monotonic() - start < 40
    (line,) = (line for line in process.stderr.splitlines() if line.startswith("nnpar: "))
    assert "stalled: rank 0 has waited" in line and "in a barrier of a node's shared memory" in line
    assert (
        "missing: rank 1 (does not answer); waiting too: rank 2 in a barrier of a node's shared"
        " memory" in line
    )


def test_a_deadlock_is_told_from_a_rank_that_is_missing():
    assert "none, the ranks wait for each other; waiting too: rank 0 in a barrier" in describe(
        1, 2, "a broadcast", 60.0, {0: "a barrier"}
    )
    assert "missing: rank 0 (is busy elsewhere)" in describe(1, 2, "a broadcast", 60.0, {0: ""})
