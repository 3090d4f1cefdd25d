"""Several runs, or ranks with folders of their own, on one checkpoint."""

import os
import shutil
import subprocess
import sys
import time

import pytest

from nnpar_lib.config import RunConfig
from nnpar_lib.launch import preflight
from nnpar_lib.records import checkpoint_file
from nnpar_lib.trainers.communication.communicator import SingleCommunicator
from nnpar_lib.trainers.loop.training import train
from tests.conftest import ROOT, mpiexec, run_python

SMALL = ("run", "--hidden", "16", "--num-threads", "1", "--num-warmup-steps", "0")
CONFIG = RunConfig(num_steps=4, hidden=(16,), num_threads=1, num_warmup_steps=0, evaluate_every=0)


@pytest.fixture
def long_run(tmp_path):
    """Return a run that trains until it is killed, and has written a checkpoint."""
    path = tmp_path / "run.ckpt"
    options = ("--num-epochs", "1000000", "--checkpoint-every", "0.1", "--checkpoint", str(path))
    process = subprocess.Popen([sys.executable, "-m", "nnpar_lib", *SMALL, *options], cwd=ROOT)
    while not path.exists():
        assert process.poll() is None
        time.sleep(0.05)
    yield process
    process.kill()
    process.wait()


def train_on(path):
    return run_python("-m", "nnpar_lib", *SMALL, "--num-epochs", 100_000, "--checkpoint", path)


def test_a_second_run_on_a_checkpoint_is_told_who_has_it(long_run, tmp_path):
    process = train_on(tmp_path / "run.ckpt")
    assert process.returncode == 2
    assert process.stderr.startswith(
        f"nnpar: {tmp_path}/run.ckpt is in use by process {long_run.pid} on {os.uname().nodename};"
    )
    assert process.stderr.count("\n") == 1
    assert long_run.poll() is None


def test_a_run_that_was_killed_leaves_its_checkpoint_free(long_run, tmp_path):
    path = tmp_path / "run.ckpt"
    long_run.kill()
    long_run.wait()
    (tmp_path / f"run.ckpt.{'a' * 32}.part").write_bytes(b"torn")
    (tmp_path / "run.ckpt.part").write_bytes(b"a file of somebody else")
    preflight.check(RunConfig(hidden=(16,), num_epochs=1_000_000, checkpoint=str(path)))
    assert sorted(file.name for file in tmp_path.iterdir()) == ["run.ckpt", "run.ckpt.part"]


def test_a_run_through_a_link_is_on_the_same_checkpoint(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "run.ckpt")
    with (
        checkpoint_file.locked(tmp_path / "run.ckpt"),
        pytest.raises(ValueError, match="is in use by process"),
    ):
        train(CONFIG.replace(checkpoint=str(tmp_path / "link")), SingleCommunicator())


@pytest.mark.parametrize("damage", ["none", "other", "damaged"])
def test_ranks_that_see_different_checkpoints_end_in_one_line(tmp_path, damage):
    folders = [tmp_path / "node0", tmp_path / "node1"]
    for folder in folders:
        folder.mkdir()
    path = folders[0] / "run.ckpt"
    train(CONFIG.replace(checkpoint=str(path)), SingleCommunicator())
    other = folders[1] / "run.ckpt"
    if damage == "other":
        train(CONFIG.replace(checkpoint=str(other), num_steps=2), SingleCommunicator())
    if damage == "damaged":
        shutil.copy(path, other)
        other.write_bytes(path.read_bytes()[:-1])
    command = (sys.executable, "-m", "nnpar_lib", *SMALL, "--num-steps", "8")
    options = ("--strategy", "gradient_averaging", "--checkpoint", "run.ckpt")
    words = []
    for folder in folders:
        words += [":", "-n", "1", "-wdir", folder, *command, *options]
    process = mpiexec(*words[1:], PYTHONPATH=str(ROOT))
    assert process.returncode == 2
    said = [line for line in process.stderr.splitlines() if line.startswith("nnpar: ")]
    expected = {
        "none": "run.ckpt is not the same checkpoint on all ranks: rank 0 has step 4 on ",
        "other": "run.ckpt is not the same checkpoint on all ranks: rank 0 has step 4 on ",
        "damaged": "run.ckpt is damaged",
    }
    assert len(said) == 1 and expected[damage] in said[0]
    assert "Traceback" not in process.stderr
