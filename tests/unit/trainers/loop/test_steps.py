"""Steps come one at a time from one generator, with their sums and their events."""

import pytest
import torch

from nnpar_lib.trainers.communication.communicator import SingleCommunicator
from nnpar_lib.trainers.data.batches import Batch
from nnpar_lib.trainers.loop.agreement import Agreement, Decision
from nnpar_lib.trainers.loop.steps import StepSums, take_steps
from nnpar_lib.trainers.timeline import FORWARD, LOAD, Timeline


class CountingStepper:
    """Step number n has n + 1 examples and a loss of n; examples of odd steps are another
    rank's."""

    def __init__(self, timeline):
        self.batches = self
        self.timeline = timeline
        self.taken = []

    def batch(self, step):
        labels = torch.zeros(step + 1, dtype=torch.int64)
        return Batch(torch.zeros(step + 1, 1), labels, step + 1, is_counted=step % 2 == 0)

    def step(self, batch, step):
        self.taken.append((step, len(batch.labels)))
        self.timeline.lap(FORWARD)
        return torch.tensor(float(step))


def test_steps_are_taken_in_order_and_only_when_they_are_asked_for():
    timeline = Timeline(num_traced_steps=2)
    stepper = CountingStepper(timeline)
    steps = take_steps(stepper, timeline, 2, 5)
    assert stepper.taken == []
    assert next(steps).number == 2 and stepper.taken == [(2, 3)]
    assert [step.number for step in steps] == [3, 4]
    assert stepper.taken == [(2, 3), (3, 4), (4, 5)]
    assert [event[0] for event in timeline.events] == [LOAD, FORWARD] * 2


def test_steps_without_a_stop_do_not_end():
    timeline = Timeline()
    steps = take_steps(CountingStepper(timeline), timeline)
    assert [next(steps).number for _ in range(5)] == [0, 1, 2, 3, 4]


def test_sums_count_an_example_where_its_batch_is_counted():
    timeline = Timeline()
    sums = StepSums("cpu")
    for step in take_steps(CountingStepper(timeline), timeline, 0, 4):
        sums.add(step)
    assert (float(sums.loss_sum), sums.num_examples) == (0 + 1 + 2 + 3, 1 + 3)
    sums.clear()
    assert (float(sums.loss_sum), sums.num_examples) == (0, 0)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_ranks_agree_on_the_first_step_whose_loss_is_not_finite(value):
    agreement = Agreement(SingleCommunicator(), checkpoint_seconds=None)
    for loss in (1.0, 2.0, value, value):
        agreement.note(torch.tensor(loss))
    assert agreement.decide(14) == Decision(diverged_at=13, is_checkpoint_due=False)
    agreement.note(torch.tensor(1.0))
    assert agreement.decide(15) == Decision(diverged_at=None, is_checkpoint_due=False)


@pytest.mark.parametrize(("seconds", "is_due"), [(0.0, True), (1e6, False), (None, False)])
def test_a_checkpoint_is_due_when_its_interval_has_passed(seconds, is_due):
    agreement = Agreement(SingleCommunicator(), checkpoint_seconds=seconds)
    assert agreement.decide(1).is_checkpoint_due == is_due
