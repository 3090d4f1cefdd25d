"""`nnpar verify`: a table of differences by parameter, and an exit status that says whether they
are rounding."""

import re

import pytest

from nnpar_lib.cli.verify import cases
from nnpar_lib.config import RunConfig
from nnpar_lib.config.training import NUM_TRAINING_EXAMPLES
from tests.conftest import run_mpi, run_python

SMALL = ("-m", "nnpar_lib", "verify", "--hidden", "32,16", "--lr", 0.02, "--num-threads", 1)
ROW = re.compile(r"^\d\.\d\.(?:weight|bias) .*", re.MULTILINE)


def test_a_strategy_that_is_equal_ends_with_0():
    process = run_python(
        *SMALL, "--strategy", "gradient_averaging", "--num-ranks", 3, "--dtype", "float64"
    )
    assert process.returncode == 0, process.stdout + process.stderr
    assert "equal to serial training: gradient_averaging, 3 ranks" in process.stdout
    assert "uneven, empty" in process.stdout
    assert len(ROW.findall(process.stdout)) == 2 * 6 and "differs" not in process.stdout


def test_another_algorithm_ends_with_1_and_marks_what_differs():
    process = run_python(*SMALL, "--strategy", "weight_averaging", "--num-ranks", 2)
    assert process.returncode == 1, process.stderr
    assert "NOT equal to serial training: weight_averaging" in process.stdout
    assert all(line.endswith("differs") for line in ROW.findall(process.stdout))


def test_launched_ranks_are_used_and_the_first_one_prints():
    process = run_mpi(2, *SMALL, "--strategy", "pipeline")
    assert process.returncode == 0, process.stdout + process.stderr
    assert process.stdout.count("equal to serial training: pipeline, 2 ranks, float32") == 1


def test_what_it_cannot_compare_is_refused_in_one_line():
    process = run_python(*SMALL, "--strategy", "cpp", "--num-ranks", 2)
    assert process.returncode == 2 and process.stderr.count("\n") == 1
    assert "starts ranks of its own" in process.stderr


@pytest.mark.parametrize("num_ranks", [2, 3, 4])
def test_the_second_batch_size_leaves_ranks_without_examples(num_ranks):
    config = RunConfig(strategy="gradient_averaging", num_ranks=num_ranks)
    given, uneven = cases(config).values()
    last = NUM_TRAINING_EXAMPLES["digits"] % uneven.global_batch_size
    assert given.global_batch_size == config.global_batch_size
    assert 0 < last < num_ranks and uneven.global_batch_size % num_ranks > 0
