"""Schedules: every pass once and in order, nobody waits for ever, memory and bubbles as the papers
say."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from nnpar_lib import schedules
from nnpar_lib.schedules import (
    BACKWARD,
    FORWARD,
    PASSES,
    SCHEDULES,
    SPLITTING,
    WEIGHT_GRADIENTS,
    Instruction,
    Pipeline,
)

PIPELINES = st.builds(
    Pipeline,
    num_ranks=st.integers(1, 6),
    num_microbatches=st.integers(1, 13),
    num_chunks=st.integers(1, 4),
)
NAMES = st.sampled_from(SCHEDULES)


def actions(name):
    return (FORWARD, BACKWARD, *([WEIGHT_GRADIENTS] if name in SPLITTING else []))


def everything(name, pipeline):
    return [
        list(schedules.instructions(name, pipeline, rank)) for rank in range(pipeline.num_ranks)
    ]


@given(NAMES, PIPELINES)
def test_every_pass_happens_once_on_its_rank_and_in_order(name, pipeline):
    for rank in range(pipeline.num_ranks):
        order = list(schedules.computations(name, pipeline, rank))
        wanted = {
            Instruction(action, stage, microbatch)
            for action in actions(name)
            for stage in pipeline.stages_of(rank)
            for microbatch in range(pipeline.num_microbatches)
        }
        assert len(order) == len(wanted) and set(order) == wanted
        for done, one in enumerate(order):
            if one.action == BACKWARD:
                assert Instruction(FORWARD, one.stage, one.microbatch) in order[:done]
            if one.action == WEIGHT_GRADIENTS:
                assert Instruction(BACKWARD, one.stage, one.microbatch) in order[:done]


@given(NAMES, PIPELINES)
def test_gradients_of_a_stage_are_summed_in_the_order_of_the_micro_batches(name, pipeline):
    for rank in range(pipeline.num_ranks):
        order = list(schedules.computations(name, pipeline, rank))
        for stage in pipeline.stages_of(rank):
            for action in actions(name):
                assert [
                    computation.microbatch
                    for computation in order
                    if (computation.stage, computation.action) == (stage, action)
                ] == list(range(pipeline.num_microbatches))


@given(NAMES, PIPELINES)
def test_every_message_is_sent_once_and_received_once_by_the_neighbour(name, pipeline):
    sent, received = Counter(), Counter()
    for rank, order in enumerate(everything(name, pipeline)):
        for one in order:
            kind, direction = one.action.split(" ")[-1], 1 if "activation" in one.action else -1
            if one.action.startswith("send"):
                sent[kind, one.stage + direction, one.microbatch] += 1
            elif one.action.startswith("receive"):
                assert pipeline.rank_of(one.stage) == rank
                received[kind, one.stage, one.microbatch] += 1
    assert sent == received
    assert all(count == 1 for count in sent.values())


def run_with_synchronous_sends(orders, pipeline):
    """Execute with sends that complete only when the receive has been posted, all awaited at the
    end of the step.

    Buffers belong to a micro-batch: a received one lives until its computation, a stored input
    until its backward.
    """
    posted, sent, live = set(), set(), set()
    position = [0] * len(orders)
    moved = True
    while moved:
        moved = False
        for rank, order in enumerate(orders):
            while position[rank] < len(order):
                one = order[position[rank]]
                kind = (
                    "activation"
                    if one.action
                    in (
                        FORWARD,
                        schedules.SEND_ACTIVATION,
                        schedules.RECEIVE_ACTIVATION,
                    )
                    else "gradient"
                )
                key = (kind, one.stage, one.microbatch)
                if one.action.startswith("receive"):
                    assert key not in posted, "a buffer is received into twice"
                    posted.add(key)
                elif one.action.startswith("send"):
                    target = one.stage + (1 if kind == "activation" else -1)
                    sent.add((kind, target, one.microbatch))
                elif one.action == WEIGHT_GRADIENTS:
                    live.remove(("for weights", one.stage, one.microbatch))
                else:
                    if schedules.source_of(one, pipeline) is not None and not (
                        key in posted and key in sent
                    ):
                        break
                    activation = ("stored", one.stage, one.microbatch)
                    assert (activation in live) == (one.action == BACKWARD), (
                        "a buffer is reused while it is live"
                    )
                    live ^= {activation}
                    if one.action == BACKWARD and WEIGHT_GRADIENTS in {i.action for i in order}:
                        live.add(("for weights", one.stage, one.microbatch))
                position[rank] += 1
                moved = True
    finished = all(at == len(order) for at, order in zip(position, orders, strict=True))
    return finished and sent <= posted and not live


@given(NAMES, PIPELINES)
def test_no_rank_waits_for_ever_even_if_sends_wait_for_their_receives(name, pipeline):
    assert run_with_synchronous_sends(everything(name, pipeline), pipeline)


def test_the_execution_with_synchronous_sends_sees_a_deadlock():
    pipeline = Pipeline(2, 1)
    first, second = everything("gpipe", pipeline)
    assert not run_with_synchronous_sends(
        [first, [one for one in second if one.action != "send gradient"]], pipeline
    )


@given(st.integers(1, 6), st.integers(1, 13))
def test_1f1b_never_holds_more_live_micro_batches_than_stages(num_ranks, num_microbatches):
    pipeline = Pipeline(num_ranks, num_microbatches)
    for rank in range(num_ranks):
        assert schedules.peak_live_microbatches("1f1b", pipeline, rank) == min(
            num_microbatches, num_ranks - rank
        )
        assert schedules.peak_live_microbatches("gpipe", pipeline, rank) == num_microbatches
        assert schedules.peak_live_microbatches("sequential", pipeline, rank) == 1


@given(st.integers(1, 6), st.integers(1, 13))
def test_zero_bubble_never_holds_more_than_1f1b_on_its_first_rank(num_ranks, num_microbatches):
    pipeline = Pipeline(num_ranks, num_microbatches)
    most = schedules.peak_live_microbatches("1f1b", pipeline, 0)
    for rank in range(num_ranks):
        held = schedules.peak_live_microbatches("zero_bubble", pipeline, rank)
        assert held == most == min(num_ranks, num_microbatches)


@given(
    st.integers(1, 6),
    st.integers(1, 13),
    st.floats(0.1, 10),
    st.floats(0.1, 10),
    st.floats(0.1, 10),
)
def test_equal_stages_leave_the_bubble_of_zero_bubbles_paper(
    num_ranks, num_microbatches, forward, backward, weights
):
    pipeline = Pipeline(num_ranks, num_microbatches)
    seconds = {FORWARD: forward, BACKWARD: backward, WEIGHT_GRADIENTS: weights}
    split = schedules.simulate("zero_bubble", pipeline, lambda one: seconds[one.action])
    seconds[BACKWARD] += weights
    whole = schedules.simulate("1f1b", pipeline, lambda one: seconds[one.action])
    span = max(event.end for event in split)
    assert span <= max(event.end for event in whole) + 1e-9
    if weights <= min(forward, backward) and num_microbatches >= num_ranks:
        busy = num_microbatches * (forward + backward + weights)
        assert span == pytest.approx(busy + (num_ranks - 1) * (forward + backward - weights))


@given(
    st.sampled_from(("gpipe", "1f1b")),
    st.integers(1, 6),
    st.integers(1, 13),
    st.floats(0.1, 10),
    st.floats(0.1, 10),
)
def test_equal_stages_leave_the_bubble_of_the_formula(
    name, num_ranks, num_microbatches, forward, backward
):
    pipeline = Pipeline(num_ranks, num_microbatches)
    events = schedules.simulate(
        name, pipeline, lambda one: forward if one.action == FORWARD else backward
    )
    expected = schedules.ideal_bubble_fraction(num_ranks, num_microbatches)
    assert schedules.bubble_fraction(events, num_ranks) == pytest.approx(expected, abs=1e-9)


@given(NAMES, PIPELINES, st.floats(0, 5))
def test_the_simulation_respects_what_depends_on_what(name, pipeline, message):
    events = schedules.simulate(name, pipeline, lambda one: 1.0 + one.stage, lambda _: message)
    ended = {
        Instruction(event.action, event.stage, event.microbatch): event.end for event in events
    }
    for event in events:
        if event.action == WEIGHT_GRADIENTS:
            assert event.start >= ended[Instruction(BACKWARD, event.stage, event.microbatch)]
            continue
        step = -1 if event.action == FORWARD else 1
        source = Instruction(event.action, event.stage + step, event.microbatch)
        if source in ended:
            delay = message if pipeline.num_ranks > 1 else 0
            assert event.start >= ended[source] + delay - 1e-9
    for rank in range(pipeline.num_ranks):
        own = sorted(
            (event for event in events if event.rank == rank), key=lambda event: event.start
        )
        assert all(one.end <= other.start + 1e-9 for one, other in pairwise(own))


def test_chunks_shrink_the_bubble():
    spans = {
        chunks: max(
            event.end
            for event in schedules.simulate(
                "interleaved", Pipeline(4, 8, chunks), lambda _, chunks=chunks: 1 / chunks
            )
        )
        for chunks in (1, 2, 4)
    }
    assert spans[1] > spans[2] > spans[4]


def test_the_clock_table_reads_like_the_schedule():
    assert schedules.clock_table("1f1b", Pipeline(2, 3)).splitlines() == [
        "rank 0 | F0 F1 .  B0 F2 B1 .  B2",
        "rank 1 | .  F0 B0 F1 B1 F2 B2 .",
    ]


def test_the_clock_table_of_zero_bubble_is_that_of_its_docstring():
    assert schedules.clock_table("zero_bubble", Pipeline(3, 4)).splitlines() == [
        "rank 0 | F0 F1 F2 .  .  B0 W0 F3 B1 W1 B2 W2 B3 W3",
        "rank 1 | .  F0 F1 .  B0 F2 B1 W0 F3 B2 W1 B3 W2 W3",
        "rank 2 | .  .  F0 B0 F1 B1 F2 B2 W0 F3 B3 W1 W2 W3",
    ]


def test_the_clock_table_names_chunks_by_letters():
    assert schedules.clock_table("interleaved", Pipeline(2, 2, 2)).splitlines() == [
        "rank 0 | F0a F1a F0b F1b .   B0b .   B1b B0a B1a",
        "rank 1 | .   F0a F1a F0b B0b F1b B1b B0a B1a .",
    ]
    assert schedules.clock_table("gpipe", Pipeline(1, 2)) == "rank 0 | F0 F1 B0 B1"


@given(NAMES, PIPELINES)
def test_what_is_executed_is_the_order_of_the_schedule(name, pipeline):
    for rank, order in enumerate(everything(name, pipeline)):
        passes = [instruction for instruction in order if instruction.action in PASSES]
        assert passes == list(schedules.computations(name, pipeline, rank))


@given(st.integers(2, 5), st.integers(2, 4), st.integers(3, 5))
def test_interleaved_fills_the_pipeline_as_narayanan_does(num_ranks, num_chunks, num_groups):
    pipeline = Pipeline(num_ranks, num_groups * num_ranks, num_chunks)
    for rank in range(num_ranks):
        num_ahead = 2 * (num_ranks - rank - 1) + (num_chunks - 1) * num_ranks
        assert schedules.peak_live_microbatches("interleaved", pipeline, rank) == num_ahead + 1


def test_a_schedule_that_deadlocks_is_an_error(monkeypatch):
    def backward_first(schedule, pipeline, rank):
        return iter([Instruction(BACKWARD, rank, 0), Instruction(FORWARD, rank, 0)])

    monkeypatch.setattr(schedules, "computations", backward_first)
    with pytest.raises(RuntimeError, match=r"the gpipe schedule of .* wait for each other"):
        schedules.simulate("gpipe", Pipeline(2, 1), lambda _: 1.0)


def test_a_message_takes_the_time_of_its_sender_and_none_inside_a_rank():
    sent = []

    def message_seconds(source):
        sent.append(source)
        return 10.0 if source.action == FORWARD else 100.0

    events = schedules.simulate("gpipe", Pipeline(2, 1), lambda _: 1.0, message_seconds)
    assert [event.start for event in events] == [0, 11, 12, 113]
    assert set(sent) == {Instruction(FORWARD, 0, 0), Instruction(BACKWARD, 1, 0)}
    events = schedules.simulate("gpipe", Pipeline(1, 1, 2), lambda _: 1.0, message_seconds)
    assert [event.start for event in events] == [0, 1, 2, 3]


def test_a_bubble_is_idle_time_between_the_first_start_and_the_last_end():
    events = [
        schedules.Event(0, FORWARD, 0, 0, 5.0, 6.0),
        schedules.Event(1, FORWARD, 1, 0, 6.0, 9.0),
    ]
    assert schedules.bubble_fraction(events, 2) == 0.5
