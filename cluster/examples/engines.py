"""The cells of a notebook: a function of your own on all MPI ranks of its SLURM job.

As a notebook: jupytext --to ipynb --output engines.ipynb cluster/examples/engines.py
"""

# %%
# What ranks run lies in a module beside the notebook: they import it by its name.
from pathlib import Path

Path("my_mpi.py").write_text("""
from mpi4py import MPI

def mean_of_ranks(values):
    ranks = MPI.COMM_WORLD
    total = ranks.allreduce(values[ranks.rank])
    return ranks.rank, ranks.size, total / ranks.size, MPI.Get_processor_name()
""")

# %%
# The notebook's own process starts no MPI: it starts mpiexec, with one rank a task of the job.
import os

from nnpar_lib.launch.engines import engines

num_ranks = int(os.environ["SLURM_NTASKS"])
ranks = engines(num_ranks)

# %%
# A call goes to all ranks, returns what each returns, and raises where a rank raises or dies.
ranks.call("my_mpi.mean_of_ranks", [10.0 * rank for rank in range(num_ranks)])

# %%
ranks.stop()
