"""Signals from outside: what a terminal, nohup or an operator sends to one or all processes of a
run."""

import os
import re
import signal
import subprocess
import sys
import time
import uuid

import psutil
import pytest

from tests.conftest import ROOT, run_python
from tests.resilience import kills

LONG_RUN = ("--hidden", "16", "--num-threads", "1", "--num-epochs", "1000000")
TWO_RANKS = ("--num-ranks", "2", "--strategy", "gradient_averaging")


class Run:
    """A run from the shell that a test sends signals to; nothing of it may stay."""

    def __init__(self, *options, is_nohup=False):
        self.mark = uuid.uuid4().hex
        nohup = ["env", "--ignore-signal=HUP"] if is_nohup else []
        self.process = subprocess.Popen(
            [*nohup, sys.executable, "-m", "nnpar_lib", "run", *options],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), kills.MARK: self.mark},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def wait_until_it_trains(self):
        for line in self.process.stdout:
            if ": step " in line:
                return

    def find(self, word):
        """Return the processes of the run that have this word in their command line."""
        return [p for p in kills.marked(self.mark) if word in p.cmdline()]

    def status(self):
        """Return the exit status and the rest of the output."""
        output, _ = self.process.communicate(timeout=120)
        return self.process.returncode, output

    def check_nothing_is_left(self):
        deadline = time.monotonic() + 30
        while (left := kills.marked(self.mark)) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert not left


@pytest.fixture
def start():
    runs = []

    def start_run(*options, is_nohup=False):
        runs.append(Run(*options, is_nohup=is_nohup))
        return runs[-1]

    yield start_run
    for run in runs:
        for process in kills.marked(run.mark):
            process.kill()
        run.process.wait()


def test_nohup_protects_a_run_on_two_ranks(start):
    run = start(*LONG_RUN[:4], "--num-epochs", "5", *TWO_RANKS, is_nohup=True)
    run.wait_until_it_trains()
    os.killpg(run.process.pid, signal.SIGHUP)  # as a terminal does that is closed
    status, output = run.status()
    assert status == 0 and "samples/s" in output, output


def test_a_hangup_of_the_parent_alone_leaves_nothing(start):
    run = start(*LONG_RUN, *TWO_RANKS)
    run.wait_until_it_trains()
    run.process.send_signal(signal.SIGHUP)
    run.process.communicate(timeout=120)
    run.check_nothing_is_left()


def test_a_lifeline_that_a_signal_ends_says_so(start):
    run = start(*LONG_RUN, *TWO_RANKS)
    run.wait_until_it_trains()
    (lifeline,) = run.find("nnpar_lib.launch.lifeline")
    lifeline.send_signal(signal.SIGHUP)
    status, _ = run.status()
    assert status == 128 + signal.SIGHUP
    run.check_nothing_is_left()


def test_a_killed_lifeline_leaves_nothing(start):
    run = start(*LONG_RUN, *TWO_RANKS)
    run.wait_until_it_trains()
    (lifeline,) = run.find("nnpar_lib.launch.lifeline")
    lifeline.kill()
    status, _ = run.status()
    assert status == 128 + signal.SIGKILL
    run.check_nothing_is_left()


def test_ranks_end_when_all_above_them_are_killed(start):
    run = start(*LONG_RUN, *TWO_RANKS)
    run.wait_until_it_trains()
    (mpiexec,) = [p for p in run.find("nnpar_lib") if re.search("mpiexec|prterun", p.exe())]
    (lifeline,) = run.find("nnpar_lib.launch.lifeline")
    above = [mpiexec, lifeline, psutil.Process(run.process.pid)]
    for process in above:
        process.send_signal(signal.SIGSTOP)  # so that none can act on the death of another
    for process in above:
        process.kill()
    run.process.wait()
    run.check_nothing_is_left()


@pytest.mark.parametrize("options", [(), TWO_RANKS], ids=["one rank", "two ranks"])
def test_an_interrupt_is_status_130_without_a_traceback(start, options):
    run = start(*LONG_RUN, *options)
    run.wait_until_it_trains()
    os.killpg(run.process.pid, signal.SIGINT)
    status, output = run.status()
    assert status == 130
    assert "Traceback" not in output
    run.check_nothing_is_left()


def test_a_table_that_nobody_reads_is_no_traceback():
    run = f"{sys.executable} -m nnpar_lib run --hidden 16 --num-steps 5"
    command = f"{run} | true; echo ${{PIPESTATUS[0]}}"
    process = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert "Traceback" not in process.stderr and "Error" not in process.stderr
    assert process.stdout.strip() == "141"


@pytest.mark.parametrize(
    "variables",
    [
        {"OMPI_COMM_WORLD_RANK": "first"},
        {"OMPI_COMM_WORLD_RANK": "0", "OMPI_COMM_WORLD_SIZE": "few"},
        {"SLURM_JOB_NUM_NODES": "many", "SLURM_JOB_ID": "1"},
    ],
)
def test_a_variable_that_is_no_number_is_one_line(variables):
    process = run_python("-m", "nnpar_lib", "run", *TWO_RANKS, "--hidden", 16, **variables)
    assert process.returncode == 2
    name, value = next(iter((n, v) for n, v in variables.items() if not v.isdigit()))
    assert process.stderr.startswith(f"nnpar: the environment variable {name}={value!r} is not a")
    assert process.stderr.count("\n") == 1
