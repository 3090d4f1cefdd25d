"""A run that was broken off goes on where it was, to the last bit; another strategy can go on from
its checkpoint."""

import pytest

from tests.conftest import mpi_results
from tests.mpi import resuming


def results():
    return mpi_results(4, "tests.mpi.resuming")


@pytest.mark.parametrize("name", resuming.BROKEN_OFF)
def test_a_resumed_run_ends_with_the_same_bits(name):
    outcome = results()["broken_off"][name]
    undisturbed, resumed = outcome["digests"]
    assert undisturbed == resumed
    assert outcome["resumed_at"] == [20]
    assert len(set(outcome["num_examples"])) == 1
    losses, resumed_losses = outcome["losses"]
    assert resumed_losses == pytest.approx(losses, rel=1e-6)


@pytest.mark.parametrize("name", resuming.BROKEN_OFF)
def test_evaluations_are_outside_the_clock(name):
    for seconds, seconds_before_the_last_evaluation in results()["broken_off"][name]["seconds"]:
        assert seconds == seconds_before_the_last_evaluation > 0


@pytest.mark.parametrize("optimizer", ["momentum", "adam", "adagrad"])
def test_strategies_and_numbers_of_ranks_read_each_others_checkpoints(optimizer):
    differences = results()["changed"][optimizer]
    assert len(differences) > 1  # there is state of the optimizer beside the parameters
    assert max(differences.values()) < 1e-9, differences
