"""One training run to its goals: against a plain loop that looks at every example."""

import itertools

import pytest
import torch

from nnpar_lib.config import RunConfig
from nnpar_lib.config.study import NUM_VALIDATION_EXAMPLES
from nnpar_lib.trainers import strategies
from nnpar_lib.trainers.communication.mpi import SingleCommunicator
from nnpar_lib.trainers.data.batches import BatchSource, load, normalise
from nnpar_lib.trainers.data.validation import Validator, load_split, validation_indices
from nnpar_lib.trainers.models import networks
from nnpar_lib.trainers.tasks.goal_run import check_steps, run_trial
from nnpar_lib.trainers.timeline import Timeline

CONFIG = RunConfig(
    dataset="digits", global_batch_size=100, lr=0.1, num_threads=1, binding="none", hidden=(32,)
)
GOALS = (0.5, 0.4, 0.3)


def trial(limits=(200, 200, 200), goals=GOALS, **changes):
    return run_trial(CONFIG.replace(**changes).to_dict(), goals, limits)


def error(model, data):
    images = normalise(data.test_images, data, torch.float32)
    with torch.no_grad():
        return float((model(images).argmax(dim=1) != data.test_labels).float().mean())


def plainly(num_steps):
    """Train, and classify all validation examples at each checked step; return errors by step."""
    data = load_split("digits")
    strategy = strategies.build(CONFIG, SingleCommunicator(), Timeline())
    source = BatchSource(data, CONFIG, size=1, rank=0)
    errors = {}
    checked = set(itertools.takewhile(lambda step: step <= num_steps, check_steps()))
    for step in range(num_steps):
        strategy.step(source.batch(step), step)
        if step + 1 in checked:
            errors[step + 1] = error(strategy.model, data)
    return errors


def test_steps_are_the_first_checked_ones_at_or_below_each_goal():
    errors = plainly(200)
    expected = [min(step for step, error in errors.items() if error <= goal) for goal in GOALS]
    assert trial()["steps"] == expected
    assert expected[0] > 3 and len(set(expected)) > 1  # or else nothing was tested


def test_a_trial_goes_no_further_than_it_must():
    outcome = trial()
    assert outcome["num_steps"] == outcome["steps"][-1]
    reached = outcome["steps"][0]
    stopped = trial(limits=(200, reached + 1, 200))
    assert stopped["steps"][0] == reached and stopped["steps"][1:] == [None, None]
    assert stopped["num_steps"] == reached + 1 and not stopped["diverged"]


def test_the_same_trial_gives_the_same_steps_and_another_seed_others():
    assert trial()["steps"] == trial()["steps"] != trial(seed=1)["steps"]


def test_a_run_that_is_not_a_number_has_diverged():
    outcome = trial(lr=1e6)
    assert outcome["diverged"] and outcome["steps"][-1] is None and outcome["num_steps"] < 200


def test_checks_are_at_most_three_percent_apart_or_one_step():
    steps = list(itertools.islice(check_steps(), 200))
    assert steps[:3] == [1, 2, 3]
    assert all(
        after == before + 1 or after <= 1.03 * before for before, after in itertools.pairwise(steps)
    )


def test_weights_that_are_averaged_now_and_then_are_looked_at_then():
    steps = list(itertools.islice(check_steps(7), 100))
    assert all(step % 7 == 0 for step in steps) and steps[:3] == [7, 14, 21]
    assert all(before < after <= 1.03 * before + 7 for before, after in itertools.pairwise(steps))


@pytest.mark.parametrize("most", [0, 300, 899, 1000])
def test_mistakes_are_counted_exactly_whatever_was_mistaken_before(most):
    data = load_split("digits")
    validator = Validator(data, CONFIG)
    for seed in range(3):
        model = networks.build(CONFIG.replace(seed=seed))
        exact = round(error(model, data) * validator.num_examples)
        assert validator.mistakes(model, most) == (exact if exact <= most else None)


def test_a_validator_asks_hard_examples_first():
    data = load_split("digits")
    validator = Validator(data, CONFIG)
    model = networks.build(CONFIG)
    asked = []
    model.register_forward_hook(lambda module, inputs, outputs: asked.append(len(inputs[0])))
    validator.mistakes(model, 1000)
    asked.clear()
    assert validator.mistakes(model, 200) is None and sum(asked) < 300


@pytest.mark.parametrize("name", ["digits"])
def test_what_is_held_out_is_not_trained_on(name):
    data = load_split(name)
    whole = load(name)
    held_out = validation_indices(name)
    assert len(held_out) == len(data.test_labels) == NUM_VALIDATION_EXAMPLES[name]
    assert len(data.train_labels) == len(whole.train_labels) - len(held_out)
    num_pictures = 1437
    pictures = set((held_out % num_pictures).tolist())
    trained_on = set(range(len(whole.train_labels))) - set(held_out.tolist())
    # no moved copy of a held-out picture either
    assert not pictures & {index % num_pictures for index in trained_on}
    assert data.test_labels.bincount(minlength=10).min() > 20


@pytest.mark.usefixtures("real_mnist")
def test_mnist_is_split_in_55_and_5_thousand():
    data = load_split("mnist")
    assert (len(data.train_labels), len(data.test_labels)) == (55_000, 5_000)
    assert data.test_labels.bincount().min() > 400
