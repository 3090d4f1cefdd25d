import os
from pathlib import Path

import psutil
import pytest

from nnpar_lib.launch.cluster import SESSION_VARIABLE
from nnpar_lib.launch.engines import engines

FOLDER = str(Path(__file__).parent)


@pytest.fixture(scope="session", autouse=True)
def spmd_functions_importable():
    """Engines, and kernels that a test starts, inherit the path to the functions of these tests."""
    before = os.environ.get("PYTHONPATH")
    os.environ["PYTHONPATH"] = os.pathsep.join([FOLDER, *([before] if before else [])])
    yield
    os.environ.pop("PYTHONPATH")
    if before is not None:
        os.environ["PYTHONPATH"] = before


@pytest.fixture(scope="session")
def shared_engines(spmd_functions_importable):
    """Two engines for the tests that leave them as they were."""
    with engines(2) as running:
        yield running


def processes_of(session, variable=SESSION_VARIABLE):
    """Return the processes that belong to the engines of a session, or that carry another mark."""
    processes = []
    for process in psutil.process_iter():
        try:
            if (
                process.environ().get(variable) == session
                and process.status() != psutil.STATUS_ZOMBIE
            ):
                processes.append(process)
        except psutil.Error:
            continue
    return processes


def launchers_of(session, variable=SESSION_VARIABLE):
    """Return the processes that are mpiexec, by the names that each family of MPI gives it."""
    names = ("prterun", "orterun", "mpiexec")
    return [
        process for process in processes_of(session, variable) if process.name().startswith(names)
    ]


def process_of(session, word):
    """Return the process of a session whose command line holds a word, and no lifeline's."""
    processes = [
        process
        for process in processes_of(session)
        if any(word in part for part in process.cmdline())
        and "nnpar_lib.launch.lifeline" not in process.cmdline()
    ]
    return processes[0]
