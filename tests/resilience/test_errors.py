"""An error of one rank is told by that rank, while the others wait for it in an exchange."""

import pytest

from nnpar_lib.launch.engines import RankError, engines
from tests.conftest import ROOT, run_mpi
from tests.resilience import kills

STRATEGIES = ("gradient_averaging", "weight_averaging")


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_rank_that_raises_under_mpiexec_is_heard(strategy):
    process = run_mpi(2, "-m", "tests.resilience.failing", strategy, "raise", timeout=60)
    assert process.returncode != 0
    assert "ZeroDivisionError: the weights have turned to dust" in process.stderr


def test_a_rank_that_is_interrupted_ends_the_others():
    words = ("-m", "tests.resilience.failing", "gradient_averaging", "interrupt")
    process = run_mpi(2, *words, timeout=60)
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
