"""What can go wrong with a checkpoint, and what a user sees of it."""

import dataclasses
import subprocess
import sys

import pytest

from nnpar_lib.config import RunConfig
from nnpar_lib.launch import preflight
from nnpar_lib.records import checkpoint_file
from nnpar_lib.trainers.communication.communicator import SingleCommunicator
from nnpar_lib.trainers.loop.training import train
from tests.conftest import ROOT, run_python
from tests.resilience import kills

CONFIG = RunConfig(num_steps=4, hidden=(16,), num_threads=1, num_warmup_steps=0, evaluate_every=0)


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp("checkpoint") / "run.ckpt"
    train(CONFIG.replace(checkpoint=str(path)), SingleCommunicator())
    return path


def refused(path, **changes):
    with pytest.raises(ValueError) as caught:
        preflight.check(CONFIG.replace(checkpoint=str(path), **changes))
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"model": "cnn", "hidden": None},
            "a checkpoint of a run with model='mlp', and this one has 'cnn'",
        ),
        ({"hidden": (17,)}, "hidden=(16,), and this one has (17,)"),
        ({"optimizer": "adam"}, "optimizer='momentum', and this one has 'adam'"),
        ({"global_batch_size": 64}, "global_batch_size=128"),
        ({"num_steps": 3}, "is from step 4, beyond the 3 steps"),
    ],
)
def test_the_checkpoint_of_another_run_is_refused_before_anything_starts(written, changes, words):
    assert words in refused(written, **changes)


@pytest.mark.parametrize("num_bytes", [0, 5, 100, -1])
def test_a_truncated_checkpoint_is_refused_before_anything_starts(written, tmp_path, num_bytes):
    torn = tmp_path / "torn"
    torn.write_bytes(written.read_bytes()[:num_bytes])
    is_header_whole = num_bytes == -1  # then it is the digest that does not fit
    assert ("is damaged" if is_header_whole else "is no whole checkpoint") in refused(torn)


@pytest.fixture
def damaged(written, tmp_path):
    path = tmp_path / "damaged"
    contents = bytearray(written.read_bytes())
    contents[-100] ^= 1
    path.write_bytes(contents)
    return path


def test_a_damaged_checkpoint_is_refused(damaged):
    assert "is damaged" in refused(damaged)
    with pytest.raises(ValueError, match="is damaged"):
        train(CONFIG.replace(checkpoint=str(damaged)), SingleCommunicator())


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_a_damaged_checkpoint_is_one_line_in_a_shell(damaged, num_ranks):
    options = ["--strategy", "gradient_averaging", "--num-ranks", num_ranks, "--hidden", 16]
    process = run_python("-m", "nnpar_lib", "run", *options, "--checkpoint", damaged)
    assert process.returncode == 2
    assert process.stderr == f"nnpar: {refused(damaged)}\n"


def test_a_checkpoint_says_what_wrote_it_and_nothing_of_the_machine(written):
    header = dataclasses.asdict(checkpoint_file.read_header(written))
    assert header["progress"]["num_steps"] == 4
    assert header["config"]["hidden"] == [16]


def test_a_run_that_is_over_is_not_trained_again(written):
    before = written.read_bytes()
    record = train(CONFIG.replace(checkpoint=str(written)), SingleCommunicator())
    assert (record.num_steps, record.resumed_at, record.num_examples) == (4, [4], 512)
    assert written.read_bytes() == before


def test_a_full_disk_costs_the_new_checkpoint_and_neither_the_run_nor_the_old_one(
    written, tmp_path
):
    path = tmp_path / "run.ckpt"
    path.write_bytes(written.read_bytes())
    command = (  # in KiB: less than a checkpoint needs
        f"ulimit -f 8; exec {sys.executable} -m nnpar_lib run --hidden 16 --num-threads 1"
        f" --num-steps 6 --checkpoint {path}"
    )
    process = subprocess.run(
        ["bash", "-c", command], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert process.returncode == 0, process.stderr
    assert (
        f"the checkpoint of step 6 could not be written to {path} (File too large); the run"
        in process.stderr
    )
    assert checkpoint_file.read_header(path).progress["num_steps"] == 4
    assert [found.name for found in tmp_path.iterdir()] == ["run.ckpt"]


def test_a_checkpoint_is_for_one_run():
    with pytest.raises(ValueError, match="is for one run"):
        preflight.check_repeats([CONFIG.replace(checkpoint="run.ckpt")], 2)


def test_a_run_that_is_killed_ends_with_the_same_bits_once_it_is_resumed(tmp_path):
    process = run_python(
        "-m",
        "tests.resilience.kills",
        "--runs",
        1,
        "--kills",
        2,
        "--seed",
        1,
        "--out",
        tmp_path / "kills.jsonl",
    )
    assert process.returncode == 0, process.stderr
    found = kills.load(tmp_path / "kills.jsonl")
    assert [one["is_identical"] for one in found] == [True]
