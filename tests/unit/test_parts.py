"""Items and blocks are divided: each once, evenly, or so that the slowest stage is fast."""

import itertools

import pytest

from nnpar_lib import parts


@pytest.mark.parametrize("size", [1, 2, 3, 4, 7, 16, 50])
def test_parts_cover_every_item_once_and_are_even(size):
    for num_items in range(60):
        slices = [parts.part(num_items, size, rank) for rank in range(size)]
        items = [list(range(num_items))[span] for span in slices]
        assert list(itertools.chain(*items)) == list(range(num_items))
        assert max(map(len, items)) - min(map(len, items)) <= 1


def never():
    raise AssertionError("this balance needs no seconds")


def test_stages_are_cut_by_layers_by_seconds_or_as_asked():
    seconds = [5.0, 1.0, 1.0, 1.0, 2.0]
    assert parts.stage_bounds("layers", 5, 2, never) == [slice(0, 3), slice(3, 5)]
    assert parts.stage_bounds("1,4", 5, 3, never) == [slice(0, 1), slice(1, 4), slice(4, 5)]
    assert parts.stage_bounds("measured", 5, 2, lambda: seconds) == [slice(0, 1), slice(1, 5)]


def test_a_partition_has_no_empty_part_and_the_smallest_maximum():
    assert parts.partition([1.0, 1.0, 1.0], 3) == [slice(0, 1), slice(1, 2), slice(2, 3)]
    assert parts.partition([1.0, 2.0, 3.0, 4.0], 2) == [slice(0, 3), slice(3, 4)]
    assert parts.partition([5.0, 1.0, 1.0], 3) == [slice(0, 1), slice(1, 2), slice(2, 3)]


def test_segments_cover_the_blocks_and_are_about_as_many_as_their_square_root():
    for num_blocks in range(1, 30):
        cut = parts.segments(num_blocks)
        assert [i for piece in cut for i in range(num_blocks)[piece]] == list(range(num_blocks))
        assert abs(len(cut) ** 2 - num_blocks) <= len(cut)
    assert parts.segments(5, 1) == [slice(0, 5)]
