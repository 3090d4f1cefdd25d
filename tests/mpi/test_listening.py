"""Ranks of one node wait for no connection from other machines."""

from tests.conftest import run_mpi

PROGRAM = """
import psutil
from nnpar_lib.trainers.communication.mpi import world
ranks = world()
ranks.sum(1)
sockets = psutil.Process().net_connections()
open_to_all = [s.laddr for s in sockets if s.status == "LISTEN" and s.laddr.ip[:4] != "127."]
print("OPEN", ranks.allgather_objects(open_to_all))
"""


def test_ranks_of_one_node_do_not_listen_on_the_network():
    process = run_mpi(2, "-c", PROGRAM, timeout=140)
    assert process.returncode == 0, process.stderr
    assert process.stdout.count("OPEN [[], []]") == 2
