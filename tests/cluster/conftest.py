"""A SLURM with Bridges-2's partitions, all its nodes on this machine."""

import fcntl
import os
import shutil
import subprocess
import tempfile
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.conftest import ROOT

TESTBED = ROOT / "cluster" / "testbed" / "testbed.sh"


def install_slurm():
    if os.getuid() != 0:
        pytest.skip("a SLURM on this machine needs root")
    if not shutil.which("slurmctld") and shutil.which("apt-get"):
        for command in (["update", "-qq"], ["install", "-y", "-qq", "slurm-wlm"]):
            subprocess.run(
                ["apt-get", *command],
                capture_output=True,
                check=False,
                env={**os.environ, "DEBIAN_FRONTEND": "noninteractive"},
            )
    if not shutil.which("slurmctld"):
        pytest.skip("slurm-wlm is missing and cannot be installed from here")


@pytest.fixture(scope="module")
def testbed(tmp_path_factory):
    install_slurm()
    folder = tmp_path_factory.mktemp("testbed")
    with one_testbed_at_a_time():
        os.environ["SLURM_CONF"] = str(folder / "slurm.conf")
        subprocess.run([TESTBED, "start", folder], check=True, timeout=30)
        yield folder
        subprocess.run([TESTBED, "stop", folder], check=True, timeout=30)
        del os.environ["SLURM_CONF"]


@contextmanager
def one_testbed_at_a_time():
    """Wait until no other worker of the tests has a testbed: all of them use the same ports."""
    with open(Path(tempfile.gettempdir(), "nnpar-testbed.lock"), "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield
