"""What launchers say of a rank that died, as each family of MPI prints it."""

import pytest

from nnpar_lib.launch.lifeline import cause_of_death

OPENMPI = """
prterun noticed that process rank 1 with PID 4711 on node a exited on
signal 9 (Killed).
"""
MPICH = """
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   PID 4711 RUNNING AT a
=   EXIT CODE: 9
=   CLEANING UP REMAINING PROCESSES
=   YOU CAN IGNORE THE BELOW CLEANUP MESSAGES
===================================================================================
YOUR APPLICATION TERMINATED WITH THE EXIT STRING: Killed (signal 9)
"""
INTEL = """
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   RANK 0 PID 4710 RUNNING AT a
=   KILLED BY SIGNAL: 9 (Killed)
=   BAD TERMINATION OF ONE OF YOUR APPLICATION PROCESSES
=   RANK 1 PID 4711 RUNNING AT a
=   KILLED BY SIGNAL: 9 (Killed)
"""


@pytest.mark.parametrize(
    ("output", "cause"),
    [
        (OPENMPI, "rank 1 died of signal 9 (Killed)"),
        (MPICH, "rank 1 died of signal 9 (Killed)"),
        (INTEL, "rank 0 or 1 died of signal 9 (Killed)"),
        ("nnpar: stalled: rank 0 has waited" + OPENMPI, "stalled: rank 0 has waited"),
        ("it ended", ""),
    ],
)
def test_the_cause_of_death_is_read_from_each_launcher(output, cause):
    assert cause_of_death(output, {4710: 0, 4711: 1}) == cause


def test_a_process_whose_rank_is_not_known_is_named_by_its_number():
    assert cause_of_death(MPICH) == "process 4711 died of signal 9 (Killed)"
