"""What a call on healthy engines gives back, prints and refuses."""

import os
import time

import pytest
from conftest import processes_of

from nnpar_lib.launch.engines import EnginesLost, RankError, engines


def test_results_come_in_the_order_of_mpi_ranks(shared_engines):
    results = shared_engines.call("spmd_functions.who")
    assert [rank for rank, _ in results] == [0, 1]
    assert len({pid for _, pid in results} - {os.getpid()}) == 2


def test_arguments_arrive(shared_engines):
    assert shared_engines.call("spmd_functions.add", 3, b=4) == [7, 8]


def test_other_output_is_echoed_by_rank(shared_engines, capsys):
    shared_engines.call("spmd_functions.print_from_all")
    shown = capsys.readouterr()
    assert {"[0] hello from 0", "[1] hello from 1", "[0] no newline at the end"} <= set(
        shown.out.splitlines()
    )
    assert "[1] a warning of 1" in shown.err.splitlines()


def test_output_of_one_call_is_not_shown_again_by_the_next(shared_engines, capsys):
    shared_engines.call("spmd_functions.print_from_all")
    capsys.readouterr()
    shared_engines.call("spmd_functions.who")
    assert capsys.readouterr().out == ""


def test_progress_arrives_while_the_ranks_work(shared_engines, capsys):
    seen = []
    start = time.monotonic()
    shared_engines.call(
        "spmd_functions.report_progress",
        progress=lambda fraction, text: seen.append((fraction, text, time.monotonic() - start)),
    )
    assert [entry[:2] for entry in seen] == [(0.0, "step 0"), (0.5, "step 1"), (1.0, "step 2")]
    assert seen[0][2] < 0.9 < seen[2][2]
    assert "NNPAR" not in capsys.readouterr().out


def test_a_summary_is_left_where_progress_was_shown(shared_engines, capsys):
    shared_engines.call("spmd_functions.report_progress")
    assert "spmd_functions.report_progress on 2 ranks in 2 s" in capsys.readouterr().err


def test_an_error_of_one_rank_is_told_and_the_engines_stay_usable(shared_engines):
    with pytest.raises(
        RankError, match="rank 1 raised ZeroDivisionError: the weights have turned to dust"
    ) as caught:
        shared_engines.call("spmd_functions.fail_alone", 1)
    error = caught.value
    assert (error.rank, error.ename, error.evalue) == (
        1,
        "ZeroDivisionError",
        "the weights have turned to dust",
    )
    assert "in fail_alone" in error.traceback and error.traceback in str(error)
    assert shared_engines.call("spmd_functions.add", 1, b=1) == [2, 3]


def test_of_two_errors_the_first_in_time_is_told(shared_engines):
    with pytest.raises(RankError, match="dust on rank 1") as caught:
        shared_engines.call("spmd_functions.fail_in_turn")
    assert caught.value.rank == 1
    assert "so did rank 0" in str(caught.value)


def test_a_result_that_cannot_be_sent_back_is_an_error_of_its_rank(shared_engines):
    with pytest.raises(RankError, match="rank 0 raised"):
        shared_engines.call("spmd_functions.return_a_generator")


def test_a_function_that_is_not_there_is_an_error_that_names_it(shared_engines):
    with pytest.raises(RankError, match="no_such_function"):
        shared_engines.call("spmd_functions.no_such_function")


@pytest.mark.parametrize("num_ranks", [0, -1, 1.0, True, "2"])
def test_an_impossible_number_of_ranks_is_refused_before_anything_starts(num_ranks):
    start = time.monotonic()
    with (
        pytest.raises(ValueError, match=f"num_ranks={num_ranks!r}.*at least 1"),
        engines(num_ranks),
    ):
        pass
    assert time.monotonic() - start < 0.5


def test_an_error_in_the_block_comes_through_and_nothing_is_left(spmd_functions_importable):
    raised = KeyError("mine")
    before = os.environ.copy()
    with pytest.raises(KeyError) as caught, engines(1) as running:
        assert running.call("spmd_functions.add", 1, b=1) == [2]
        assert processes_of(running.session)
        raise raised
    assert caught.value is raised
    assert processes_of(running.session) == []
    assert dict(os.environ) == before
    with pytest.raises(EnginesLost, match="work was over"):
        running.call("spmd_functions.who")


def test_engines_are_stopped_by_hand_as_often_as_one_likes(spmd_functions_importable):
    running = engines(1)
    assert running.call("spmd_functions.add", 1, b=1) == [2]
    running.stop()
    running.stop()
    assert processes_of(running.session) == []
    with pytest.raises(EnginesLost, match="work was over"):
        running.call("spmd_functions.who")
