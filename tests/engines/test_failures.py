"""Every way in which ranks, their helpers or the kernel can come to grief, with real processes and
real signals."""

import os
import signal
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path

import pytest
from conftest import launchers_of, process_of, processes_of

from nnpar_lib.launch import installation
from nnpar_lib.launch.engines import EnginesLost, RankError, engines

pytestmark = pytest.mark.every_mpi

WRONG_SETTINGS = {
    installation.OPENMPI: ("PRTE_MCA_rmaps_default_mapping_policy", "no_such_policy"),
    installation.MPICH: ("HYDRA_LAUNCHER", "no_such_launcher"),
    installation.INTEL: ("I_MPI_HYDRA_BOOTSTRAP", "no_such_launcher"),
}
KERNEL = str(Path(__file__).with_name("kernel.py"))
DELAY = 0.5


@pytest.fixture
def running(spmd_functions_importable):
    """Two engines that a test may kill. Whatever it did, nothing may be left, and the next test
    starts anew."""
    with engines(2) as started:
        yield started
    assert processes_of(started.session) == []


@pytest.fixture
def kernel(spmd_functions_importable):
    """A kernel process of its own with two engines, waiting in a call, and its session."""
    process = subprocess.Popen([sys.executable, KERNEL], stdout=subprocess.PIPE, text=True)
    session = process.stdout.readline().split()[1]
    time.sleep(DELAY)
    assert len(processes_of(session)) >= 6  # 2 lifelines, a controller, mpiexec and 2 engines
    yield process, session
    process.kill()
    process.wait()
    process.stdout.close()


def kill_soon(process):
    threading.Timer(DELAY, process.kill).start()


def seconds_of_failure(running, error_type, message):
    """Wait in a call for ever; return the seconds until it raises what it should, after `DELAY`."""
    start = time.monotonic()
    with pytest.raises(error_type, match=message):
        running.call("spmd_functions.wait_in_collective")
    return time.monotonic() - start - DELAY


def as_named(rank):
    """Return how a rank that died is named: Intel MPI ends the other one by the same signal."""
    return "rank 0 or 1" if installation.find().family == installation.INTEL else f"rank {rank}"


def seconds_until_gone(session, limit):
    start = time.monotonic()
    while processes_of(session) and time.monotonic() - start < limit:
        time.sleep(0.2)
    assert processes_of(session) == []
    return time.monotonic() - start


def test_a_rank_that_raises_while_the_other_waits_in_a_collective(running):
    start = time.monotonic()
    with pytest.raises(
        RankError, match="rank 1 raised ZeroDivisionError: the weights have turned to dust"
    ) as caught:
        running.call("spmd_functions.fail_in_collective", 1)
    assert time.monotonic() - start < 20
    assert caught.value.rank == 1
    assert "in fail_in_collective" in str(caught.value)
    with pytest.raises(EnginesLost, match=r"engines were stopped.*start new ones"):
        running.call("spmd_functions.who")
    assert processes_of(running.session) == []


def test_a_rank_that_is_killed_is_named(running):
    pid = dict(running.call("spmd_functions.who"))[1]
    threading.Timer(DELAY, os.kill, (pid, signal.SIGKILL)).start()
    assert seconds_of_failure(running, EnginesLost, f"{as_named(1)} died of signal 9") < 10


def test_a_rank_that_is_killed_between_two_calls_is_named(running):
    os.kill(dict(running.call("spmd_functions.who"))[0], signal.SIGKILL)
    time.sleep(1)
    with pytest.raises(EnginesLost, match=f"{as_named(0)} died of signal 9"):
        running.call("spmd_functions.who")


def test_mpiexec_is_killed(running):
    kill_soon(launchers_of(running.session)[0])
    assert seconds_of_failure(running, EnginesLost, "mpiexec died") < 10


def test_the_controller_is_killed(running):
    kill_soon(process_of(running.session, "ipyparallel.controller"))
    assert seconds_of_failure(running, EnginesLost, "the controller died") < 10


def test_an_interrupted_call_stops_the_engines(kernel):
    process, session = kernel
    start = time.monotonic()
    process.send_signal(signal.SIGINT)
    assert process.wait(10) == 3
    assert time.monotonic() - start < 20
    assert "interrupted" in process.stdout.read()
    assert processes_of(session) == []


def test_an_interrupted_start_leaves_nothing(spmd_functions_importable):
    mark = uuid.uuid4().hex
    process = subprocess.Popen(
        [sys.executable, KERNEL],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "NNPAR_TEST_MARK": mark},
    )
    try:
        while not launchers_of(mark, "NNPAR_TEST_MARK"):
            time.sleep(0.1)
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=10)[0] == "interrupted\n"
    finally:
        process.kill()  # a test that fails must not leave ranks that keep the cores busy
    assert processes_of(mark, "NNPAR_TEST_MARK") == []


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_a_killed_kernel_leaves_no_process_and_no_file(kernel, number):
    process, session = kernel
    folder = Path(process_of(session, "ipyparallel.controller").environ()["IPYTHONDIR"])
    assert folder.is_dir()
    process.send_signal(number)
    process.wait(5)
    assert seconds_until_gone(session, limit=30) < 30
    assert not folder.exists()


def test_engines_that_cannot_start_say_why(spmd_functions_importable, monkeypatch):
    monkeypatch.setenv(*WRONG_SETTINGS[installation.find().family])
    start = time.monotonic()
    with (
        pytest.raises(
            RuntimeError, match=r"(?s)2 engines did not start.*mpiexec ended with exit code"
        ),
        engines(2),
    ):
        pass
    assert time.monotonic() - start < 20


def test_engines_that_nobody_stopped_end_with_their_process(spmd_functions_importable):
    program = "from nnpar_lib.launch.engines import engines; print(engines(1).session)"
    process = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    seconds_until_gone(process.stdout.strip(), limit=10)
