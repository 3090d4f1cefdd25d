"""The checks that run a student's function on ranks: solutions pass, and wrong ones are told
why."""

import sys

import cloudpickle
import pytest
import torch

from nnpar_lib.course import checks, exercises
from nnpar_lib.launch.engines import engines
from nnpar_lib.parts import part
from nnpar_lib.trainers.communication.algorithms import recursive_doubling, ring, tree
from tests import solutions
from tests.mpi import planted_bugs

# as those of a notebook: engines do not import this module, and all that it needs
cloudpickle.register_pickle_by_value(sys.modules[__name__])


@pytest.fixture(scope="module")
def four_engines():
    with engines(4) as running:
        yield running


@pytest.mark.parametrize(("notebook", "name", "check"), solutions.checks(on_ranks=True))
def test_the_solution_of_a_notebook_is_right(four_engines, notebook, name, check):
    verdict = check(solutions.solutions(notebook)[name], ranks=four_engines)
    assert verdict.is_right, verdict


def divided_by_own_part(model, part, communicator):
    planted_bugs.loss_sum(model(part.inputs), part.targets).backward()
    for parameter in model.parameters():
        total = planted_bugs.summed(parameter.grad, communicator)
        parameter.grad = total / max(1, len(part.targets))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (
            planted_bugs.mean_of_means,
            "with uneven parts on 2 ranks, in batch 1, of 7 examples: the mean of each rank's part"
            " counts the same, though the parts have 4 and 3 examples",
        ),
        (planted_bugs.padded_last_batch, "of rank 1's part is counted twice"),
        (planted_bugs.no_exchange, "nothing comes from the other ranks"),
        (
            divided_by_own_part,
            "or their sum is divided by the examples of one part: divide the sum by 8",
        ),
    ],
)
def test_wrong_means(four_engines, function, words):
    assert words in repr(exercises.check_mean_over_parts(function, ranks=four_engines))


def bias_on_every_rank(inputs, weight, bias, communicator):
    partial = inputs @ weight.T + bias
    return torch.from_numpy(communicator.allreduce(partial.numpy()))


def not_summed(inputs, weight, bias, communicator):
    return inputs @ weight.T + bias


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (bias_on_every_rank, "on rank 0 of 2 the bias is added 2 times, once by each rank"),
        (not_summed, "on rank 0 of 2 the outputs are those of the rank's own columns"),
        (lambda *_: None, "should be a tensor and is nothing; is there a return?"),
    ],
)
def test_wrong_layers(four_engines, function, words):
    assert words in repr(exercises.check_row_split(function, ranks=four_engines))


def not_gathered(weights, gradient, velocity, communicator):
    mine = part(len(weights), communicator.size, communicator.rank)
    velocity.mul_(0.9).add_(gradient[mine])
    weights[mine] -= 0.1 * velocity
    return weights


def forgotten_velocity(weights, gradient, velocity, communicator):
    mine = part(len(weights), communicator.size, communicator.rank)
    velocity = 0.9 * velocity + gradient[mine]
    return torch.cat(communicator.allgather(weights[mine] - 0.1 * velocity))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (not_gathered, "after step 1 on rank 0 of 2 the slice of rank 1 has its old weights"),
        (forgotten_velocity, "after step 1 rank 0's velocity is not 0.9 v + g: change it in place"),
    ],
)
def test_wrong_sharded_updates(four_engines, function, words):
    assert words in repr(exercises.check_zero_1(function, ranks=four_engines))


def own_counted_twice(values, received, messages):
    total = values.clone()
    ring(values, received, messages)
    values += total if messages.size > 1 and messages.rank == 0 else 0


def first_half_of_a_ring(values, received, messages):
    """Send all to the right once, and add what comes from the left."""
    if messages.size > 1:
        right, left = (messages.rank + 1) % messages.size, (messages.rank - 1) % messages.size
        messages.exchange_(values.clone(), right, received, left)
        values += received


def everything_round(values, received, messages):
    """The sums are right, but whole buffers travel."""
    right, left = (messages.rank + 1) % messages.size, (messages.rank - 1) % messages.size
    travelling = values.clone()
    for _ in range(messages.size - 1):
        messages.exchange_(travelling, right, received, left)
        travelling = received.clone()
        values += received


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (own_counted_twice, "on rank 0 of 2 the sum at place 0 has rank 0's number twice"),
        (first_half_of_a_ring, "on rank 0 of 3 the sum at place 0 has rank 1's number not at all"),
        (everything_round, "the sums are right, but a rank sends 24 numbers"),
        (lambda values, received, messages: values.copy_(received), "what was never received"),
    ],
)
def test_wrong_rings(four_engines, function, words):
    assert words in repr(exercises.check_ring(function, ranks=four_engines))


def one_exchange(values, received, messages):
    if messages.size > 1:
        partner = messages.rank ^ 1
        messages.exchange_(values, partner, received, partner)
        values += received


def same_partner_again(values, received, messages):
    distance = 1
    while distance < messages.size:
        partner = messages.rank ^ 1
        messages.exchange_(values, partner, received, partner)
        values += received
        distance *= 2


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (one_exchange, "on rank 0 of 4 the sum at place 0 has rank 2's number not at all"),
        (same_partner_again, "has rank 0's number twice and rank 1's number twice and rank 2's"),
    ],
)
def test_wrong_doublings(four_engines, function, words):
    assert words in repr(exercises.check_doubling(function, ranks=four_engines))


def test_a_doubling_is_right(four_engines):
    verdict = exercises.check_doubling(recursive_doubling, ranks=four_engines)
    assert verdict.is_right, verdict


def test_a_ring_is_right_and_a_tree_is_told_that_it_sends_more(four_engines):
    verdict = exercises.check_ring(ring, ranks=four_engines)
    assert verdict.is_right, verdict
    assert not exercises.check_ring(tree, ranks=four_engines).is_right


def test_an_exception_on_ranks_is_a_line_with_its_line(four_engines):
    def broken(weights, gradient, velocity, communicator):
        return weights - communicator.velocity

    text = repr(exercises.check_zero_1(broken, ranks=four_engines))
    assert "rank 0 raised AttributeError: " in text and "has no attribute 'velocity'" in text
    assert text.endswith("of broken: return weights - communicator.velocity")


def test_ranks_that_wait_for_each_other_are_told_by_a_check_with_its_own_engines(monkeypatch):
    monkeypatch.setattr(checks, "STALL_SECONDS", 2.0)

    def waiting(values, received, messages):
        if messages.size > 1:
            messages.receive_(received, (messages.rank - 1) % messages.size)
            messages.send(values, (messages.rank + 1) % messages.size)

    text = repr(exercises.check_ring(waiting))
    assert "of waiting for 2 s: the ranks wait for each other. Does every rank" in text
