"""All-reduces from plain messages, on ranks that are threads."""

import functools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from nnpar_lib.config.spread import ALGORITHMS as NAMES
from nnpar_lib.trainers.communication.algorithms import ALGORITHMS
from nnpar_lib.trainers.communication.algorithms.threads import (
    Mailboxes,
    ThreadMessages,
    allreduce,
    messages_of,
    on_threads,
)
from nnpar_lib.trainers.communication.algorithms.two_level import two_level

MAX_RANKS = 9
FLOATS = st.floats(-1e6, 1e6, width=32)


@st.composite
def addends(draw):
    """Return a tensor of each rank, of equal length: none, fewer numbers than ranks, or more."""
    size = draw(st.integers(1, MAX_RANKS))
    length = draw(st.integers(0, 2 * MAX_RANKS))
    numbers = st.lists(FLOATS, min_size=length, max_size=length)
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    return [torch.tensor(draw(numbers), dtype=dtype) for _ in range(size)]


def check_sums(sums, tensors):
    """Each rank has the sum to rounding, and all have the same bits."""
    exact = torch.stack(tensors).double().sum(0)
    scale = torch.stack(tensors).double().abs().sum(0)
    epsilon = len(tensors) * torch.finfo(tensors[0].dtype).eps
    assert ((sums[0].double() - exact).abs() <= epsilon * scale).all()
    assert len({total.numpy().tobytes() for total in sums}) == 1


@pytest.mark.parametrize("name", NAMES)
@settings(max_examples=40, deadline=None)
@given(tensors=addends())
def test_all_ranks_read_the_same_bits_of_the_sum(name, tensors):
    sums, _ = allreduce(ALGORITHMS[name], tensors)
    check_sums(sums, tensors)


@settings(max_examples=40, deadline=None)
@given(
    tensors=addends(),
    ranks_per_node=st.integers(1, MAX_RANKS),
    inside=st.sampled_from(NAMES),
    between=st.sampled_from(NAMES),
)
def test_two_levels_of_any_two_all_reduces_sum_over_nodes(tensors, ranks_per_node, inside, between):
    size = len(tensors)
    nodes = [Mailboxes(ranks_per_node) for _ in range(math.ceil(size / ranks_per_node))]
    roofs = Mailboxes(len(nodes))

    def sum_(messages):
        number, local = divmod(messages.rank, ranks_per_node)
        local_size = min(ranks_per_node, size - number * ranks_per_node)
        node = ThreadMessages(local, local_size, nodes[number])
        leaders = None if local else ThreadMessages(number, len(nodes), roofs)
        values = tensors[messages.rank].clone()
        levels = {"inside": ALGORITHMS[inside], "between": ALGORITHMS[between]}
        two_level(values, torch.empty_like(values), node, leaders, **levels)
        return values

    check_sums(on_threads(size, sum_), tensors)


def test_the_names_of_the_options_are_those_of_the_algorithms():
    assert tuple(ALGORITHMS) == NAMES


@functools.cache
def counts(name, size, length=840):
    """Return the steps and the numbers sent of the rank that has most of each."""
    _, groups = allreduce(ALGORITHMS[name], [torch.ones(length)] * size)
    num_sent = [sum(message.num_elements for message in group.sent) for group in groups]
    return max(group.num_steps for group in groups), max(num_sent)


@pytest.mark.parametrize("size", [1, 2, 4, 8])
def test_messages_are_as_many_and_as_long_as_published(size):
    rounds = size.bit_length() - 1
    least = 2 * 840 * (size - 1) / size
    assert counts("ring", size) == (2 * (size - 1), least)
    assert counts("recursive_doubling", size) == (rounds, 840 * rounds)
    assert counts("rabenseifner", size) == (2 * rounds, least)
    assert counts("tree", size)[0] <= 2 * rounds


@pytest.mark.parametrize("size", [3, 5, 6, 7])
def test_a_ring_sends_no_more_where_ranks_are_no_power_of_two_and_the_others_fold(size):
    rounds = size.bit_length() - 1
    assert counts("ring", size) == (2 * (size - 1), 2 * 840 * (size - 1) / size)
    assert counts("recursive_doubling", size)[0] == rounds + 2
    assert counts("rabenseifner", size)[0] == 2 * rounds + 2


def test_messages_can_be_looked_at():
    first, second, *rest = messages_of(ALGORITHMS["ring"], 2, 3)
    assert (first.step, first.source, first.target, first.num_elements) == (1, 0, 1, 2)
    assert (second.step, second.source, second.target, second.num_elements) == (1, 1, 0, 1)
    assert [message.step for message in rest] == [2, 2]


def test_both_sides_of_a_message_are_of_one_length():
    def wrong(values, received, messages):
        if messages.rank == 0:
            messages.send(values[:1], 1)
        else:
            messages.receive_(values, 0)

    with pytest.raises(ValueError, match="rank 1 expects 3 numbers from rank 0, which sent 1"):
        allreduce(wrong, [torch.ones(3)] * 2)
