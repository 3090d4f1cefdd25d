"""What several kinds of test need: commands under the real mpiexec, and whether real MNIST is at
hand."""

import json
import os
import resource
import signal
import subprocess
import sys
import tempfile
from contextlib import contextmanager
from functools import cache
from pathlib import Path

import pytest

from nnpar_lib.datasets import files
from nnpar_lib.launch.environment import mpi_environment, mpiexec_command, private_files

# Shells start what runs in the background, and nohup what it protects, with these signals ignored.
# Tests that send them to processes of their own need the usual dispositions.
for ignored in (signal.SIGINT, signal.SIGHUP):
    if signal.getsignal(ignored) is signal.SIG_IGN:
        signal.signal(ignored, signal.default_int_handler)

ROOT = Path(__file__).parent.parent
DEVICE = os.environ.get(
    "NNPAR_DEVICE", "cpu"
)  # cuda: what does not depend on the device is tested on a GPU
CASES_VARIABLE = "NNPAR_TEST_CASES"
EACH_KIND = "each_kind"  # its value where a second MPI runs one case of a kind (tests/run)
EVERY_MPI_RANK_COUNTS = (2, 3)


def pytest_collection_modifyitems(items):
    """Put the report's file first: it takes longest, and a worker that began it late would end
    alone."""
    items.sort(key=lambda item: item.path.parent.name != "notebooks")


def run_python(*arguments, timeout=120, **environment):
    """Run this Python in the project's root; return the finished process with its output as
    text."""
    return subprocess.run(
        [sys.executable, *map(str, arguments)],
        cwd=ROOT,
        text=True,
        capture_output=True,
        timeout=timeout,
        env={**os.environ, **environment},
        check=False,
    )


def run_mpi(num_ranks, *arguments, timeout=180, **environment):
    """Run this Python on several ranks in the project's root; return the finished process."""
    return mpiexec("-n", num_ranks, sys.executable, *arguments, timeout=timeout, **environment)


def mpiexec(*arguments, timeout=60, **environment):
    """Run mpiexec in the project's root; return the finished process.

    Its files lie in a folder of its own: those that a killed mpiexec left stop a later one with the
    same process id.
    """
    with tempfile.TemporaryDirectory() as folder:
        variables = {**os.environ, **mpi_environment(), **private_files(folder), **environment}
        return subprocess.run(
            [*mpiexec_command(), *map(str, arguments)],
            cwd=ROOT,
            text=True,
            capture_output=True,
            timeout=timeout,
            check=False,
            env=variables,
        )


@contextmanager
def limited_files(num_bytes):
    """Meanwhile, no file grows beyond so many bytes, as on a full disk."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, limits[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)


def on_every_mpi(values, is_marked=lambda _: True):
    """Return the values of a parameter, those that every MPI is tested with marked so.

    Each begins with its number of ranks, or is that number.
    """
    parameters = []
    for value in values:
        num_ranks = value[0] if isinstance(value, tuple) else value
        is_repeated = num_ranks in EVERY_MPI_RANK_COUNTS and is_marked(value)
        marks = [pytest.mark.every_mpi] if is_repeated else []
        fields = value if isinstance(value, tuple) else (value,)
        parameters.append(pytest.param(*fields, marks=marks))
    return parameters


def selected(configs, each_kind):
    """Return the configs that this run of the tests asks for: all, or one of each kind."""
    if os.environ.get(CASES_VARIABLE) != EACH_KIND:
        return configs
    return {name: config for name, config in configs.items() if name in each_kind}


@cache
def mpi_results(num_ranks, module):
    """Return what a module of the tests prints after RESULT when it runs on several ranks; it runs
    once a session."""
    process = run_mpi(num_ranks, "-m", module, timeout=500)
    assert process.returncode == 0, process.stderr[-3000:]
    line = next(line for line in process.stdout.splitlines() if line.startswith("RESULT "))
    return json.loads(line.removeprefix("RESULT "))


@pytest.fixture(scope="session")
def real_mnist():
    """Skip where the files of MNIST are not in the data folder."""
    if not all(path.exists() for path in mnist_files()):
        pytest.skip("MNIST is not in the data folder: set NNPAR_DATA to test on it")


def mnist_files():
    folder = files.data_folder() / files.SUBFOLDERS["mnist"]
    return [folder / file.name for file in files.FILES["mnist"]]
