"""The checks that need no ranks: the notebooks' solutions pass, and wrong ones are told why."""

import itertools

import numpy as np
import pytest
import torch
from torch import nn

from nnpar_lib.course import exercises
from nnpar_lib.schedules import BACKWARD, FORWARD, Instruction
from tests.solutions import checks, notebooks, solutions, verdicts_of_stubs


@pytest.mark.parametrize(("notebook", "name", "check"), checks(on_ranks=False))
def test_the_solution_of_a_notebook_is_right(notebook, name, check):
    verdict = check(solutions(notebook)[name])
    assert verdict.is_right, verdict
    assert repr(verdict).startswith("Right: ")


@pytest.mark.parametrize("notebook", notebooks())
def test_what_a_notebook_gives_runs_and_says_that_it_is_not_written(notebook):
    verdicts = verdicts_of_stubs(notebook)
    assert verdicts
    assert all(text.endswith(" is not written yet") for text in verdicts)
    assert len(solutions(notebook)) == len(verdicts)


def test_every_check_is_asked_for_by_a_notebook():
    asked = checks(on_ranks=False) + checks(on_ranks=True)
    assert {check.__name__ for *_, check in asked} == set(exercises.__all__)


def unwritten(*arguments):
    raise NotImplementedError


@pytest.mark.parametrize("name", exercises.__all__)
def test_what_is_not_written_is_told_so_and_no_ranks_are_started(name):
    verdict = getattr(exercises, name)(unwritten)
    assert repr(verdict) == "unwritten is not written yet" and not verdict.is_right


def test_an_exception_of_the_student_is_a_line_with_its_line():
    def shard(num_examples, num_ranks, rank):
        share = num_examples / (num_ranks - num_ranks)
        return slice(0, share)

    verdict = exercises.check_shards(shard)
    assert "your function raised ZeroDivisionError: division by zero, in line" in repr(verdict)
    assert repr(verdict).endswith("of shard: share = num_examples / (num_ranks - num_ranks)")


def cross_entropy(model, inputs, labels, reduction="mean"):
    return nn.functional.cross_entropy(model(inputs), labels, reduction=reduction)


def floor_shards(n, p, r):
    return slice(r * (n // p), (r + 1) * (n // p))


def ceiling_shards(n, p, r):
    size = -(-n // p)
    return slice(min(n, r * size), min(n, (r + 1) * size))


def overlapping_shards(n, p, r):
    return slice(max(0, n * r // p - 1), n * (r + 1) // p)


def real_shards(n, p, r):
    return slice(n * r / p, n * (r + 1) / p)


def shards_from_the_end(n, p, r):
    return slice(n * (p - r - 1) // p, n * (p - r) // p)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (floor_shards, "with 7 examples on 3 ranks example 6 is in no rank's part"),
        (ceiling_shards, "with 7 examples on 3 ranks the parts have [3, 3, 1] examples"),
        (overlapping_shards, "example 3 is in the parts of ranks [0, 1]"),
        (real_shards, "is // meant?"),
        (shards_from_the_end, "do not follow the order of ranks"),
        (lambda n, p, r: (0, n), "a slice is asked for"),
    ],
)
def test_wrong_shards(function, words):
    assert words in repr(exercises.check_shards(function))


def means_of_portions(model, microbatches):
    model.zero_grad()
    for portion in microbatches:
        (cross_entropy(model, *portion) / len(microbatches)).backward()


def added_means(model, microbatches):
    model.zero_grad()
    for portion in microbatches:
        cross_entropy(model, *portion).backward()


def undivided(model, microbatches):
    model.zero_grad()
    for portion in microbatches:
        cross_entropy(model, *portion, reduction="sum").backward()


def not_cleared(model, microbatches):
    count = sum(len(labels) for _, labels in microbatches)
    for portion in microbatches:
        (cross_entropy(model, *portion, reduction="sum") / count).backward()


def cleared_too_often(model, microbatches):
    count = sum(len(labels) for _, labels in microbatches)
    for portion in microbatches:
        model.zero_grad()
        (cross_entropy(model, *portion, reduction="sum") / count).backward()


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (means_of_portions, "every portion's mean counts the same, though they have [4, 4, 3]"),
        (added_means, "the gradient is 2 times too large: the means of the portions are added"),
        (undivided, "the gradient is 8 times too large: the sum is not divided"),
        (not_cleared, "the gradients of the step before are still in it"),
        (cleared_too_often, "only the last portion is in it"),
        (lambda model, microbatches: model.zero_grad(), "a parameter has no gradient"),
    ],
)
def test_wrong_accumulations(function, words):
    assert words in repr(exercises.check_accumulation(function))


@torch.no_grad()
def copied_velocity(weight, gradient, velocity):
    velocity = 0.9 * velocity + gradient
    weight.sub_(0.1 * velocity)


@torch.no_grad()
def rebound_weight(weight, gradient, velocity):
    velocity.mul_(0.9).add_(gradient)
    weight = weight - 0.1 * velocity


def differentiated(weight, gradient, velocity):
    velocity.mul_(0.9).add_(gradient)
    weight -= 0.1 * velocity


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (copied_velocity, "after step 2 the weight moves by the gradient alone"),
        (rebound_weight, "after step 1 the weight is as before"),
        (differentiated, "your function raised RuntimeError: a leaf Variable"),
    ],
)
def test_wrong_updates(function, words):
    assert words in repr(exercises.check_momentum(function))


def gradient_ignored(inputs, outputs, gradient):
    outputs.sum().backward()
    return inputs.grad


def gradient_passed_on(inputs, outputs, gradient):
    outputs.backward(gradient)
    return gradient


def weights_left_out(inputs, outputs, gradient):
    return torch.autograd.grad(outputs, inputs, gradient)[0]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (gradient_ignored, "does the backward pass begin with the gradient that has come from"),
        (gradient_passed_on, "what is returned has the shape of the outputs"),
        (weights_left_out, "the stage's weights have no gradient"),
        (lambda i, o, g: o.backward(g), "should be a tensor and is nothing; is there a return?"),
    ],
)
def test_wrong_backward_passes(function, words):
    assert words in repr(exercises.check_stage_backward(function))


def one_microbatch_at_a_time(pipeline, rank):
    for microbatch in range(pipeline.num_microbatches):
        yield Instruction(FORWARD, rank, microbatch)
        yield Instruction(BACKWARD, rank, microbatch)


def without_the_last(pipeline, rank):
    for action in (FORWARD, BACKWARD):
        for microbatch in range(pipeline.num_microbatches - 1):
            yield Instruction(action, rank, microbatch)


def reversed_on_odd_ranks(pipeline, rank):
    order = range(pipeline.num_microbatches)
    for action in (FORWARD, BACKWARD):
        for microbatch in reversed(order) if rank % 2 else order:
            yield Instruction(action, rank, microbatch)


def of_the_first_stage(pipeline, rank):
    yield Instruction(FORWARD, 0, 0)


def deadlocking(pipeline, rank):
    """The last rank has no work ahead of its first backward pass, and the others wait for none."""
    yield Instruction(FORWARD, rank, 0)
    yield Instruction(BACKWARD, rank, 0)
    rest = range(1, pipeline.num_microbatches)
    for microbatch in reversed(rest) if rank % 2 else rest:
        yield Instruction(FORWARD, rank, microbatch)
        yield Instruction(BACKWARD, rank, microbatch)


def endless(pipeline, rank):
    while True:
        yield Instruction(FORWARD, rank, 0)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (one_microbatch_at_a_time, "rank 0 takes a forward pass after a backward pass: F0 B0 F1"),
        (without_the_last, "rank 0 takes the forward pass of micro-batch 1 never"),
        (reversed_on_odd_ranks, "ticks, where"),
        (of_the_first_stage, "takes the forward pass of micro-batch 1 never"),
        (endless, "yields more than 10000 items"),
    ],
)
def test_wrong_gpipes(function, words):
    assert words in repr(exercises.check_gpipe(function))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (solutions("05")["gpipe"], "rank 0 holds the activations of 2 micro-batches at once"),
        (one_microbatch_at_a_time, "with 2 ranks and 3 micro-batches a step takes 12 ticks"),
        (deadlocking, "the ranks [0, 1] wait for each other for ever: rank 0 in B1; rank 1 in F2"),
    ],
)
def test_wrong_1f1bs(function, words):
    assert words in repr(exercises.check_1f1b(function))


def by_ratio(batch_sizes, steps):
    names = []
    for more, fewer in itertools.pairwise(steps):
        ratio = fewer / more
        names.append("perfect scaling" if ratio < 0.574 else "diminishing returns")
    return [
        "maximal data parallelism" if fewer / more > 0.87 else name
        for name, (more, fewer) in zip(names, itertools.pairwise(steps), strict=True)
    ]


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (by_ratio, "from batch size 90 to 100 the steps go from 200 to 190"),
        (lambda sizes, steps: ["perfect scaling"] * (len(sizes) - 1), "and not 'perfect scaling'"),
        (lambda sizes, steps: ["perfect scaling"] * len(sizes), "have 4 pairs of neighbours"),
    ],
)
def test_wrong_regimes(function, words):
    assert words in repr(exercises.check_regimes(function))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda s, b, t0, t1: b, "B_crit alone knows nothing of the seconds of a step"),
        (lambda s, b, t0, t1: b * t0 / t1, "that is its square"),
        (lambda s, b, t0, t1: None, "returns None, which is no positive number"),
    ],
)
def test_wrong_optima(function, words):
    assert words in repr(exercises.check_time_optimal_batch(function))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (
            lambda n, t, m, u: (t - n * (u - t) / (m - n), m / u),
            "that is bytes over seconds, and the seconds have the latency in them",
        ),
        (
            lambda n, t, m, u: (t, (m - n) / (u - t)),
            "that is the small message's time, which has its bytes in it",
        ),
        (lambda n, t, m, u: (0, (u - t) / (m - n)), "that is beta, the seconds of a byte"),
        (lambda n, t, m, u: t, "two numbers are asked for"),
    ],
)
def test_wrong_prices_of_messages(function, words):
    assert words in repr(exercises.check_message_cost(function))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda n, p, a, b: 2 * (p - 1) * (a + b * n), "carries all n bytes, and not n/p"),
        (lambda n, p, a, b: (p - 1) * (a + b * n / p), "p - 1 more bring it round"),
        (
            lambda n, p, a, b: (p > 1) * a + 2 * (p - 1) / p * b * n,
            "with 940584 bytes on 2 ranks a ring takes 0.000114058 s and not 0.000104058; the"
            " latency is paid once",
        ),
        (lambda n, p, a, b: 2 * (p - 1) / p * b * n, "the latency is left out"),
    ],
)
def test_wrong_seconds_of_a_ring(function, words):
    assert words in repr(exercises.check_ring_seconds(function))


def products(sizes, num_examples, num_each=6):
    return sum(num_each * num_examples * n * m for n, m in itertools.pairwise(sizes))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (products, "the gradient of the first layer's inputs is counted"),
        (lambda sizes, n: products(sizes, n, 2), "that is the forward pass alone"),
        (lambda sizes, n: products(sizes, 1) - 2 * sizes[0] * sizes[1], "that is one example"),
        (lambda sizes, n: products(sizes, n, 4), "each layer has two products backward"),
    ],
)
def test_wrong_counts_of_operations(function, words):
    assert words in repr(exercises.check_training_flops(function))


def update_in_bfloat16(weight, gradient, master):
    weight.sub_(0.01 * gradient)
    master.copy_(weight)


def rounded_product(weight, gradient, master):
    master.sub_(0.01 * gradient)
    weight.copy_(master)


def master_alone(weight, gradient, master):
    master.sub_(gradient, alpha=0.01)


def weight_alone(weight, gradient, master):
    weight.sub_(gradient, alpha=0.01)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (update_in_bfloat16, "small updates are lost"),
        (rounded_product, "the update is rounded: 0.01 times a bfloat16 is a bfloat16"),
        (master_alone, "the weight is not the rounded master: it is as before"),
        (weight_alone, "after step 1 the master is as before"),
    ],
)
def test_wrong_updates_in_two_precisions(function, words):
    assert words in repr(exercises.check_master_weights(function))


def means_of_ranks(counts, sums, squares):
    means = sums / torch.tensor(counts)[:, None]
    return means.mean(0), (squares / torch.tensor(counts)[:, None]).mean(0) - means.mean(0) ** 2


def variances_of_ranks(counts, sums, squares):
    n = torch.tensor(counts)[:, None]
    variances = squares / n - (sums / n) ** 2
    return sums.sum(0) / n.sum(), (n * variances).sum(0) / n.sum()


def without_the_mean(counts, sums, squares):
    return sums.sum(0) / sum(counts), squares.sum(0) / sum(counts)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (means_of_ranks, "with [5, 1, 2] examples on 3 ranks every rank's mean counts the same"),
        (variances_of_ranks, "does not see how their means differ"),
        (without_the_mean, "the square of the mean is not subtracted"),
        (lambda counts, sums, squares: sums.sum(0), "a mean and a variance are asked for"),
    ],
)
def test_wrong_statistics(function, words):
    assert words in repr(exercises.check_statistics(function))


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda a, b, n: a == b, "are the same numbers in another order"),
        (lambda a, b, n: abs(a - b) < 1e-6, "are the same numbers in another order"),
        (lambda a, b, n: abs(a - b) <= np.finfo(type(a)).eps * a, "in another order"),
        (lambda a, b, n: abs(a - b) <= n * 1.2e-7 * a, "sums of which one went through float32"),
        (lambda a, b, n: np.isclose(a, b, rtol=1e-3), "of which the last number is missing"),
        (lambda a, b, n: abs(a - b), "True or False is asked for"),
    ],
)
def test_wrong_tests_of_rounding(function, words):
    assert words in repr(exercises.check_rounding(function))


def one_level(num_nodes, ranks_per_node):
    num_ranks = num_nodes * ranks_per_node
    yield from (("add", rank, 0) for rank in range(1, num_ranks))
    yield from (("copy", 0, rank) for rank in range(1, num_ranks))


def inside_nodes_alone(num_nodes, ranks_per_node):
    for leader in range(0, num_nodes * ranks_per_node, ranks_per_node):
        others = range(leader + 1, leader + ranks_per_node)
        yield from (("add", rank, leader) for rank in others)
        yield from (("copy", leader, rank) for rank in others)


def added_on_the_way_back(num_nodes, ranks_per_node):
    for action, sender, receiver in one_level(num_nodes, ranks_per_node):
        yield action.replace("copy", "add"), sender, receiver


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (one_level, "with 2 nodes of 2 the sums are right, but 4 messages cross between nodes"),
        (inside_nodes_alone, "rank 0 ends without the numbers of the ranks [2, 3]"),
        (added_on_the_way_back, "rank 1 ends with the numbers of the ranks [1] more than once"),
        (lambda nodes, size: [(0, 1)], "your function yields (0, 1); yield"),
        (lambda nodes, size: [("add", 0, nodes * size)], "a rank does not exist; the last is 1"),
    ],
)
def test_wrong_sums_over_nodes(function, words):
    assert words in repr(exercises.check_two_levels(function))
