"""An error of one rank is told by that rank, while the others wait for it in an exchange."""

import pytest

from nnpar_lib.launch.engines import RankError, engines
from tests.conftest import ROOT, run_mpi, run_python
from tests.resilience import kills

STRATEGIES = ("gradient_averaging", "weight_averaging")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_rank_that_raises_under_mpiexec_is_heard(strategy):
    process = run_mpi(2, "-m", "tests.resilience.failing", strategy, "raise", timeout=140)
    assert process.returncode != 0
    assert "ZeroDivisionError: the weights have turned to dust" in process.stderr


def test_a_rank_that_is_interrupted_ends_the_others():
    words = ("-m", "tests.resilience.failing", "gradient_averaging", "interrupt")
    process = run_mpi(2, *words, timeout=140)
    assert process.returncode != 0
    assert "KeyboardInterrupt" in process.stderr


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_rank_that_raises_on_engines_is_heard(strategy, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    with engines(2) as ranks:
        message = "rank 1 raised ZeroDivisionError: the weights have turned to dust"
        with pytest.raises(RankError, match=message):
            ranks.call("tests.resilience.failing.train_and_fail", strategy)
        assert kills.marked(ranks.session, "NNPAR_SESSION") == []


@pytest.mark.parametrize("num_ranks", [1, 2])
def test_an_error_about_the_input_is_one_line_on_any_number_of_ranks(num_ranks):
    strategy = "gradient_averaging" if num_ranks > 1 else "serial"
    options = ("--strategy", strategy, "--num-ranks", num_ranks, "--memory-budget-mib", 1)
    process = run_python("-m", "nnpar_lib", "run", "--hidden", "2000,2000", *options)
    assert process.returncode == 2, process.stderr
    (line,) = (line for line in process.stderr.splitlines() if line.startswith("nnpar: "))
    assert "the memory budget of 1 MiB a rank is too small" in line
    assert "Traceback" not in process.stderr
