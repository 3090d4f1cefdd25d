"""Ranks of one node wait for no connection from other machines."""

import pytest

from tests.conftest import run_mpi

PROGRAM = """
import psutil
from nnpar_lib.trainers.communication.mpi import world
def open_ports():
    sockets = psutil.Process().net_connections()
    return {s.laddr for s in sockets if s.status == "LISTEN" and s.laddr.ip[:4] != "127."}
inherited = open_ports()  # Hydra hands its own to the ranks
ranks = world()
ranks.sum(1)
open_to_all = sorted(open_ports() - inherited)
print("OPEN", ranks.allgather_objects(open_to_all))
"""


@pytest.mark.every_mpi
def test_ranks_of_one_node_do_not_listen_on_the_network():
    process = run_mpi(2, "-c", PROGRAM, timeout=140)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count(" [[], []]") == 2, process.stdout
