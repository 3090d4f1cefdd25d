"""The program in C++ when something fails: ranks that stop or die, files that are none, too little
memory; nothing is left behind."""

import json
import os
import signal
import subprocess
import sys
import tempfile
import time

import psutil
import pytest

from nnpar_lib.config.environment import launched_rank
from nnpar_lib.launch import native
from nnpar_lib.launch.environment import mpi_environment, mpiexec_command, private_files
from tests.conftest import ROOT
from tests.cpp.test_program import call, complaints

LONG = ("--num-epochs", 5_000, "--hidden", 16, "--evaluate-every", 0)
END_SECONDS = 30


@pytest.fixture(scope="module")
def data():
    return native._data("digits")


@pytest.fixture
def ranks(build, data):
    """Return a function that starts ranks of the program that train for long, with some words."""
    processes = []
    with tempfile.TemporaryDirectory() as folder:

        def start(num_ranks, *words):
            program = [build("release"), "--data", data, *LONG, *words]
            process = subprocess.Popen(
                [*mpiexec_command(), "-n", str(num_ranks), *map(str, program)],
                cwd=ROOT,
                text=True,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                env={**os.environ, **mpi_environment(), **private_files(folder)},
            )
            processes.append(process)
            return process, running(psutil.Process(process.pid), num_ranks)

        yield start
        for process in processes:
            process.kill()
            process.communicate()


def running(parent, num_ranks):
    """Return the ranks below a process, in order, when all of them have computed for a moment."""
    deadline = time.monotonic() + END_SECONDS
    while time.monotonic() < deadline:
        ranks = [child for child in parent.children(recursive=True) if child.name() == "nnpar"]
        if len(ranks) == num_ranks and all(sum(rank.cpu_times()[:2]) > 0.7 for rank in ranks):
            return sorted(ranks, key=lambda rank: launched_rank(rank.environ()))
        time.sleep(0.1)
    raise AssertionError(f"{num_ranks} ranks have not started")


@pytest.mark.parametrize("allreduce", ["shared", "mpi", "overlapped"])
def test_ranks_that_wait_for_one_that_has_stopped_name_it(ranks, allreduce):
    process, started = ranks(3, "--stall-seconds", 2, "--allreduce", allreduce)
    started[1].suspend()
    _, errors = process.communicate(timeout=END_SECONDS)
    (line,) = (line for line in errors.splitlines() if line.startswith("nnpar: "))
    assert "stalled: rank 0 has waited" in line
    assert "missing: rank 1 (does not answer); waiting too: rank 2 in a" in line
    assert "raise stall_seconds" in line
    assert psutil.wait_procs(started, timeout=END_SECONDS)[1] == []


def test_ranks_whose_mpiexec_is_killed_end(ranks):
    process, started = ranks(2, "--stall-seconds", 0)
    process.kill()
    assert psutil.wait_procs(started, timeout=END_SECONDS)[1] == []


def test_alone_it_leaves_no_file_behind(build, data, tmp_path):
    (tmp_path / "temporary").mkdir()
    own_shared_memory = f"mount -t tmpfs tmpfs /dev/shm && export TMPDIR={tmp_path}/temporary"
    run = f"{build('release')} --data {data} --num-steps 2 > {tmp_path}/printed"
    listing = ("find", "/dev/shm", "$TMPDIR", "-mindepth", 1)
    process = in_mounts(f"{own_shared_memory} && {run}", *listing)
    assert process.returncode == 0 and process.stdout == ""
    assert (tmp_path / "printed").read_text()


@pytest.mark.parametrize("option", ["--weights", "--order", "--out", "--save-weights"])
def test_a_pipe_is_refused_as_a_file(build, data, tmp_path, option):
    os.mkfifo(tmp_path / "pipe")
    process = call(build("release"), "--data", data, option, tmp_path / "pipe")
    assert process.returncode == 2
    assert complaints(process) == [process.stderr.strip()]
    assert "pipe is no regular file; name a file" in process.stderr


@pytest.mark.parametrize(
    ("words", "part"),
    [
        (("--out", "{}/nowhere/runs.jsonl"), "cannot be written"),
        (("--save-weights", "{}/nowhere/weights"), "cannot be written"),
        (("--out", "{}/same", "--save-weights", "{}/same"), "is named for two purposes"),
        (("--out", "{}/text"), "holds something else than records"),
    ],
)
def test_an_output_that_cannot_be_is_refused_before_training(build, data, tmp_path, words, part):
    (tmp_path / "text").write_text("hello")
    words = [word.format(tmp_path) for word in words]
    process = call(build("release"), "--data", data, "--num-epochs", 1_000_000, *words)
    assert process.returncode == 2
    assert complaints(process) == [process.stderr.strip()] and part in process.stderr
    assert (tmp_path / "text").read_text() == "hello"


@pytest.mark.parametrize(
    ("words", "parts"),
    [
        (("--num-threads", 1_000_000), ("--num-threads 1000000", "from 1 to 1024")),
        (
            ("--hidden", "12000,12000", "--num-threads", 1024),
            ("bytes of memory on this machine, which has", "left; take narrower layers"),
        ),
        (("--num-epochs", 1_000_000_000), ("needs at least 488", "fewer threads")),
    ],
)
def test_more_than_the_machine_has_is_one_line(build, data, words, parts):
    process = call(build("release"), "--data", data, *words)
    assert process.returncode == 2
    assert complaints(process) == [process.stderr.strip()]
    assert all(part in process.stderr for part in parts), process.stderr


def in_mounts(script, *words):
    """Run a command in a shell that has mounted something for itself; skip where it must not."""
    command = " ".join(map(str, words))
    process = subprocess.run(
        ["unshare", "--mount", "sh", "-c", f"{script} && exec {command}"],
        capture_output=True,
        text=True,
        timeout=60,
        env={**os.environ, **mpi_environment()},
        check=False,
    )
    if "unshare:" in process.stderr or "mount:" in process.stderr:
        pytest.skip("needs the right to mount")
    return process


def test_a_record_without_room_is_printed(build, data, tmp_path):
    full = f"mount -t tmpfs -o size=4k tmpfs {tmp_path} && echo '{{}}' >{tmp_path}/runs.jsonl"
    long = ("--global-batch-size", 12_000, "--num-epochs", 60, "--hidden", 16)
    out = tmp_path / "runs.jsonl"
    process = in_mounts(full, build("release"), "--data", data, *long, "--out", out)
    assert process.returncode == 1, process.stderr
    assert process.stdout.startswith('{"strategy": "cpp"')
    assert "could not be written to" in process.stderr and "is printed instead" in process.stderr


def test_a_record_without_room_is_printed_by_the_shell(tmp_path):
    out = tmp_path / "runs.jsonl"
    full = f"mount -t tmpfs -o size=4k tmpfs {tmp_path} && cd {ROOT}"
    words = ("--strategy", "cpp", "--hidden", 16, "--global-batch-size", 12_000)
    run = (sys.executable, "-m", "nnpar_lib", "run", *words, "--num-epochs", 60, "--out", out)
    process = in_mounts(full, *run)
    assert process.returncode == 1, process.stderr
    assert f"could not be written to {out}" in process.stderr
    (line,) = (line for line in process.stdout.splitlines() if line.startswith("{"))
    assert json.loads(line)["strategy"] == "cpp"


def test_too_little_shared_memory_is_one_line(build, data):
    words = ("--data", data, "--hidden", "4000,4000", "--num-steps", 2)
    small = "mount -t tmpfs -o size=64m tmpfs /dev/shm"
    process = in_mounts(small, *mpiexec_command(), "-n", 2, build("release"), *words)
    assert process.returncode != 0
    assert any("/dev/shm" in line and "--allreduce mpi" in line for line in complaints(process))


def test_signals_of_a_terminal_end_it(ranks):
    process, started = ranks(2)
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=END_SECONDS)
    assert psutil.wait_procs(started, timeout=END_SECONDS)[1] == []
