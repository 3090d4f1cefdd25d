"""The program in C++ as Python builds and starts it: whatever ends one of the processes, nothing is
left behind, and the cause is one line."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from nnpar_lib.config.environment import launched_rank
from nnpar_lib.launch import installation, native_build
from nnpar_lib.launch.private_folder import PREFIX
from tests.conftest import ROOT, run_python
from tests.cpp.test_faults import END_SECONDS, in_mounts

LONG = ("--strategy", "cpp", "--num-epochs", "5000", "--hidden", "16", "--evaluate-every", "0")


@pytest.fixture
def started(build):
    """Return a function that starts a long run from the shell, and returns it with its ranks."""
    build("release")
    native_build.build()
    runs = []

    def start(num_ranks, *words):
        command = [sys.executable, "-m", "nnpar_lib", "run", *LONG, "--num-ranks", str(num_ranks)]
        process = subprocess.Popen(
            [*command, "--num-threads", "1", *words],
            cwd=ROOT,
            text=True,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            start_new_session=True,  # a signal to one process is not one to all
        )
        runs.append(process)
        return process, wait_for_ranks(psutil.Process(process.pid), num_ranks)

    yield start
    for process in runs:
        process.kill()
        process.communicate()


def wait_for_ranks(parent, num_ranks):
    """Return the ranks below a process when each of them has computed for a moment."""
    deadline = time.monotonic() + 90
    while time.monotonic() < deadline:
        ranks = [child for child in parent.children(recursive=True) if child.name() == "nnpar"]
        if len(ranks) == num_ranks and all(sum(rank.cpu_times()[:2]) > 0.7 for rank in ranks):
            return sorted(ranks, key=lambda rank: launched_rank(rank.environ()) or 0)
        time.sleep(0.1)
    raise AssertionError(f"{num_ranks} ranks have not started")


def private_folder(rank):
    """Return the folder of a run, from the words of one of its processes."""
    words = rank.cmdline()
    return Path(words[words.index("--out") + 1]).parent


def assert_nothing_is_left(ranks, folder):
    assert psutil.wait_procs(ranks, timeout=END_SECONDS)[1] == []
    deadline = time.monotonic() + END_SECONDS
    while folder.exists() and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not folder.exists()


@pytest.mark.parametrize("num_ranks", [1, 2])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_to_the_parent_alone_ends_all(started, num_ranks, number):
    process, ranks = started(num_ranks)
    folder = private_folder(ranks[0])
    assert folder.name.startswith(PREFIX)
    process.send_signal(number)
    process.communicate(timeout=END_SECONDS)
    assert_nothing_is_left(ranks, folder)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_killed_lifeline_takes_all_with_it(started, num_ranks):
    process, ranks = started(num_ranks)
    folder = private_folder(ranks[0])
    (lifeline,) = psutil.Process(process.pid).children()
    lifeline.kill()
    _, errors = process.communicate(timeout=END_SECONDS)
    assert process.returncode == 1
    (line,) = errors.splitlines()
    assert "the program in C++ died of signal 9 (SIGKILL)" in line
    assert_nothing_is_left(ranks, folder)


@pytest.mark.every_mpi
def test_a_rank_that_dies_is_one_line_that_names_it(started):
    process, ranks = started(2)
    ranks[1].kill()
    _, errors = process.communicate(timeout=END_SECONDS)
    assert process.returncode == 1
    (line,) = errors.splitlines()
    is_mpich = installation.find().family == installation.MPICH  # which tells no rank
    name = f"process {ranks[1].pid}" if is_mpich else "rank 1"
    assert f"{name} died of signal 9 (Killed)" in line


def test_alone_too_its_death_is_one_line(started):
    process, ranks = started(1)
    ranks[0].kill()
    _, errors = process.communicate(timeout=END_SECONDS)
    assert process.returncode == 1
    (line,) = errors.splitlines()
    assert "the program in C++ died of signal 9 (SIGKILL)" in line


@pytest.mark.every_mpi
def test_a_rank_that_has_stopped_is_one_line_that_names_it(started):
    process, ranks = started(2, "--stall-seconds", "2")
    ranks[1].suspend()
    _, errors = process.communicate(timeout=END_SECONDS)
    assert process.returncode == 1
    (line,) = errors.splitlines()
    assert "stalled: rank 0 has waited" in line and "missing: rank 1 (does not answer)" in line


@pytest.mark.parametrize(
    "mounting",
    [
        "mount -t tmpfs -o size=64k tmpfs /dev/shm",
        "mount -t tmpfs -o ro tmpfs /dev/shm",
        "mount -t tmpfs tmpfs /dev && mknod /dev/null c 1 3 && mknod /dev/urandom c 1 9",
    ],
    ids=["small", "read-only", "absent"],
)
def test_without_shared_memory_another_folder_is_taken(build, mounting):
    build("release")
    words = ("-m", "nnpar_lib", "run", "--strategy", "cpp", "--num-ranks", 2, "--num-steps", 3)
    process = in_mounts(f"cd {ROOT} && {mounting}", sys.executable, *words)
    assert process.returncode == 0, process.stderr[-2000:]


@pytest.mark.parametrize("option", ["--memory-budget-mib", "--num-traced-steps", "--trace"])
def test_an_option_that_it_does_not_read_is_refused(option):
    process = run_python("-m", "nnpar_lib", "run", "--strategy", "cpp", option, "5")
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert "is not read by strategy cpp" in line


BUILD = """
import sys
from pathlib import Path
from nnpar_lib.config.environment import launched_rank
from nnpar_lib.launch import installation, native_build
native_build.build(Path(sys.argv[1]), ("-DNNPAR_MPI=OFF", "-DCMAKE_BUILD_TYPE=Debug"))
"""


def test_processes_may_build_at_the_same_time(tmp_path):
    command = [sys.executable, "-c", BUILD, str(tmp_path)]
    builders = [subprocess.Popen(command, cwd=ROOT) for _ in range(4)]
    assert [builder.wait() for builder in builders] == [0] * 4
    assert os.access(tmp_path / "nnpar", os.X_OK)


def test_what_is_up_to_date_is_not_built_again(build, monkeypatch):
    program = build("release")
    monkeypatch.setattr(sys, "executable", "/nowhere/python")  # there is no CMake beside it
    monkeypatch.setenv("PATH", f"{Path(native_build.find_tool('c++')).parent}")
    assert native_build.build(program.parent) == program


def test_a_checkout_that_is_read_only_is_built_in_the_folder_of_the_user(tmp_path):
    read_only = f"mount --bind {ROOT} {ROOT} && mount -o remount,ro,bind {ROOT} && cd {ROOT}"
    words = ("-m", "nnpar_lib", "run", "--strategy", "cpp", "--num-ranks", 2, "--num-steps", 3)
    home = f"NNPAR_HOME={tmp_path}"
    process = in_mounts(read_only, "env", home, sys.executable, *words)
    assert process.returncode == 0, process.stderr
    (program,) = tmp_path.glob("build-*/cpp/*-*/nnpar")
    assert os.access(program, os.X_OK)


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_an_mpi_that_has_no_compiler_is_one_line(tmp_path, num_ranks):
    launcher = tmp_path / "mpiexec"
    launcher.write_text("#!/bin/sh\necho 'mpiexec (Open MPI) 5.0.0'\n")
    launcher.chmod(0o755)
    words = ("-m", "nnpar_lib", "run", "--strategy", "cpp", "--num-ranks", num_ranks)
    process = run_python(*words, NNPAR_MPIEXEC=str(launcher), NNPAR_HOME=str(tmp_path / "home"))
    assert process.returncode == 2
    (line,) = process.stderr.splitlines()
    assert f"Open MPI 5.0.0 has no mpicxx beside {launcher}" in line
    assert "set NNPAR_MPIEXEC" in line
