"""Runs where the memory for messages is small, read-only or not there, in mounts of their own."""

import os
import shutil
import subprocess
import sys

import pytest

from tests.conftest import ROOT

pytestmark = pytest.mark.skipif(
    os.geteuid() != 0 or shutil.which("unshare") is None, reason="needs mounts, thus root"
)
SMALL = "mount -t tmpfs -o size={} tmpfs /dev/shm"


def run_with(mount, *options):
    """Train on two ranks in a shell that has made its own mounts; return the finished process."""
    words = [sys.executable, "-m", "nnpar_lib", "run", "--num-ranks", "2", *options]
    script = f"{mount} && exec {' '.join(words)} --num-threads 1 --num-steps 3"
    return subprocess.run(
        ["unshare", "-m", "bash", "-c", script],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=150,
        check=False,
    )


@pytest.mark.parametrize(
    "mount",
    [SMALL.format("64m"), SMALL.format("64k"), SMALL.format("64m,ro"), "umount -l /dev/shm"],
    ids=["64 MiB", "64 KiB", "read-only", "absent"],
)
def test_a_small_network_trains_whatever_the_memory_folder_is(mount):
    process = run_with(mount, "--strategy", "gradient_averaging", "--hidden", "16")
    assert process.returncode == 0, process.stderr


def test_gradients_that_do_not_fit_are_one_line_with_the_remedy():
    process = run_with(
        SMALL.format("64m"), "--strategy", "gradient_averaging", "--hidden", "4096,4096"
    )
    assert process.returncode == 2, process.stderr
    (line,) = (line for line in process.stderr.splitlines() if line.startswith("nnpar: "))
    assert "the shared memory of 2 ranks takes " in line and "take allreduce='mpi'" in line
