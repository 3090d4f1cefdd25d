"""Every example is seen once an epoch, by one rank, in an order that no number of ranks changes."""

import dataclasses
import hashlib
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sklearn.datasets
import torch

from nnpar_lib.config import RunConfig
from nnpar_lib.config.training import NUM_TRAINING_EXAMPLES
from nnpar_lib.datasets import files
from nnpar_lib.trainers.data import batches as data
from nnpar_lib.trainers.data import digits as digits_of_scikit_learn

NUM_EXAMPLES = 103
BATCH_SIZE = 16
STEPS_PER_EPOCH = 7  # six full batches and one of 7
CONFIG = RunConfig(global_batch_size=BATCH_SIZE, seed=5)


def random_set(num_examples=NUM_EXAMPLES):
    random = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (num_examples, 28, 28), dtype=torch.uint8, generator=random)
    return data.DataSet.from_arrays(
        images, torch.arange(num_examples), images[:10], torch.arange(10)
    )


@pytest.fixture(scope="module")
def small():
    """A set whose labels are the numbers of its examples, so that a batch tells what is in it."""
    return random_set()


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


def test_an_epoch_visits_every_example_once_and_ends_with_a_short_batch():
    for epoch in range(3):
        steps = range(epoch * STEPS_PER_EPOCH, (epoch + 1) * STEPS_PER_EPOCH)
        batches = [data.global_batch_indices(NUM_EXAMPLES, BATCH_SIZE, 5, step) for step in steps]
        assert [len(batch) for batch in batches] == [16] * 6 + [7]
        assert sorted(torch.cat(batches).tolist()) == list(range(NUM_EXAMPLES))
        assert torch.equal(torch.cat(batches), data.epoch_order(NUM_EXAMPLES, 5, epoch))


def test_a_batch_size_that_divides_the_set_leaves_no_empty_batch():
    batches = [data.global_batch_indices(32, 16, 0, step) for step in range(4)]
    assert [len(batch) for batch in batches] == [16] * 4
    assert sorted(torch.cat(batches[2:]).tolist()) == list(range(32))


def test_order_differs_between_epochs_and_seeds():
    orders = [data.epoch_order(1000, seed, epoch) for seed in range(3) for epoch in range(3)]
    assert len({tuple(order.tolist()) for order in orders}) == len(orders)
    assert all(order.dtype == torch.int64 for order in orders)


@pytest.mark.parametrize("loading", ["memory", "loader"])
@pytest.mark.parametrize("size", [2, 3, 5, 16])
def test_global_batch_does_not_depend_on_the_number_of_ranks(small, size, loading):
    config = CONFIG.replace(data_loading=loading)
    alone = data.batch_source(small, config, 1, 0)
    ranks = [data.batch_source(small, config, size, rank) for rank in range(size)]
    for step in range(STEPS_PER_EPOCH + 2):
        whole = alone.batch(step)
        parts = [rank.batch(step) for rank in ranks]
        assert torch.equal(torch.cat([part.images for part in parts]), whole.images)
        assert torch.equal(torch.cat([part.labels for part in parts]), whole.labels)
        assert {part.num_global_examples for part in parts} == {len(whole.labels)}


def test_batches_hold_the_examples_that_their_labels_name(small):
    source = data.BatchSource(small, CONFIG, 1, 0)
    for step in (0, 3, STEPS_PER_EPOCH - 1, STEPS_PER_EPOCH):
        batch = source.batch(step)
        assert torch.equal(
            batch.labels, data.global_batch_indices(NUM_EXAMPLES, BATCH_SIZE, 5, step)
        )
        pixels = small.train_images[batch.labels].double() / 255
        torch.testing.assert_close(
            batch.images.double(), (pixels - small.mean) / small.std, rtol=0, atol=2e-6
        )


@pytest.mark.parametrize(("size", "rank"), [(1, 0), (3, 1), (16, 15)])
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_loader_gives_the_same_batches_as_memory(small, size, rank, dtype):
    config = CONFIG.replace(dtype=dtype)
    memory = data.batch_source(small, config, size, rank)
    loader = data.batch_source(small, config.replace(data_loading="loader"), size, rank)
    assert isinstance(loader, data.LoaderBatchSource)
    steps = [0, 1, 2, *range(STEPS_PER_EPOCH + 1), 40, 3]  # after warm-up or resuming, steps jump
    for step in steps:
        expected = memory.batch(step)
        batch = loader.batch(step)
        torch.testing.assert_close(batch.images, expected.images, rtol=0, atol=1e-6)
        assert batch.images.dtype == getattr(torch, dtype)
        assert torch.equal(batch.labels, expected.labels)
        assert batch.num_global_examples == expected.num_global_examples


@pytest.mark.parametrize("loading", ["memory", "loader"])
def test_an_empty_part_is_a_batch_without_examples(small, loading):
    source = data.batch_source(small, CONFIG.replace(data_loading=loading, dtype="float64"), 16, 15)
    batch = source.batch(STEPS_PER_EPOCH - 1)
    assert batch.images.shape == (0, 1, 28, 28)
    assert batch.images.dtype == torch.float64
    assert (batch.labels.shape, batch.labels.dtype) == ((0,), torch.int64)
    assert batch.num_global_examples == NUM_EXAMPLES % BATCH_SIZE


@pytest.mark.parametrize("loading", ["memory", "loader"])
def test_a_seed_of_its_own_replaces_the_seed_of_the_config(small, loading):
    config = CONFIG.replace(data_loading=loading)
    labels = data.batch_source(small, config, 1, 0, seed=9).batch(2).labels
    expected = data.batch_source(small, config.replace(seed=9), 1, 0).batch(2).labels
    unchanged = data.batch_source(small, config, 1, 0).batch(2).labels
    assert torch.equal(labels, expected)
    assert not torch.equal(labels, unchanged)


@pytest.mark.parametrize("loading", ["memory", "loader"])
def test_batches_leave_the_global_generator_alone(small, loading):
    torch.manual_seed(123)
    before = torch.get_rng_state()
    source = data.batch_source(small, CONFIG.replace(data_loading=loading), 1, 0)
    source.batch(0)
    source.batch(5)
    assert torch.equal(torch.get_rng_state(), before)


def test_examples_are_counted_unless_another_rank_counts_them(small):
    assert data.BatchSource(small, CONFIG, 2, 1).batch(0).is_counted is True
    assert data.batch_source(small, CONFIG, 2, 1).batch(0).is_counted is True
    assert data.BatchSource(small, CONFIG, 2, 1, is_counted=False).batch(0).is_counted is False


def test_batches_are_copies_so_that_training_cannot_change_the_set(small):
    before = small.train_images.clone()
    data.BatchSource(small, CONFIG, 1, 0).batch(0).images.zero_()
    assert torch.equal(small.train_images, before)


def test_normalised_training_images_have_mean_0_and_deviation_1(digits):
    images = data.normalise(digits.train_images, digits, torch.float64)
    assert images.mean().item() == pytest.approx(0, abs=1e-9)
    assert images.std(correction=0).item() == pytest.approx(1, abs=1e-9)
    pixels = digits.train_images.double() / 255
    torch.testing.assert_close(
        images, (pixels - pixels.mean()) / pixels.std(correction=0), rtol=0, atol=1e-9
    )


def test_a_normalised_image_has_the_same_bits_wherever_it_stands(small):
    together = data.normalise(small.train_images, small, torch.float32)
    for start, stop in [(0, 1), (3, 50), (7, 9), (102, 103)]:
        assert torch.equal(
            data.normalise(small.train_images[start:stop], small, torch.float32),
            together[start:stop],
        )


def test_digits_have_the_shapes_and_the_number_that_the_config_says(digits):
    assert digits.train_images.shape == (NUM_TRAINING_EXAMPLES["digits"], 1, 28, 28)
    assert digits.test_images.shape == (360, 1, 28, 28)
    assert digits.train_images.dtype == digits.test_images.dtype == torch.uint8
    assert digits.train_labels.dtype == digits.test_labels.dtype == torch.int64
    assert len(digits.train_labels) == NUM_TRAINING_EXAMPLES["digits"]
    assert digits.train_images.max() > 250
    assert (
        digits.test_labels.bincount().min() >= 34
    )  # a fifth of about 180 in each of the ten classes
    assert digits.train_labels.bincount().min() >= 1100


def test_digits_are_those_that_scikit_learn_loads():
    pictures, labels = digits_of_scikit_learn.read()
    theirs = sklearn.datasets.load_digits()
    assert torch.equal(pictures, torch.from_numpy(theirs.images).float())
    assert torch.equal(labels, torch.from_numpy(theirs.target))


def test_digits_are_split_before_moved_copies_are_made(digits, monkeypatch):
    """Black out the test pictures at their source: no training picture may change."""
    pictures, labels = digits_of_scikit_learn.read()
    train, test = digits_of_scikit_learn.split(labels)
    assert sorted(torch.cat([train, test]).tolist()) == list(range(len(labels)))
    pictures[test] = 0
    monkeypatch.setattr(digits_of_scikit_learn, "read", lambda: (pictures, labels))
    train_images, _, test_images, _ = digits_of_scikit_learn.load()
    assert torch.equal(train_images, digits.train_images[:, 0])
    assert test_images.max() == 0


def test_no_test_digit_is_in_the_training_set(digits):
    train = {image.numpy().tobytes() for image in digits.train_images}
    assert not [image for image in digits.test_images if image.numpy().tobytes() in train]


def test_moved_digits_differ_but_keep_their_ink_inside(digits):
    num_originals = 1437
    originals = digits.train_images[:num_originals]
    copies = digits.train_images[num_originals : 2 * num_originals]
    assert (originals != copies).flatten(1).any(dim=1).all()
    assert originals[:, 0, :4].max() == 0  # an empty margin, as pictures of MNIST have
    edge = torch.ones(28, 28, dtype=torch.bool)
    edge[1:-1, 1:-1] = False
    moved = digits.train_images[num_originals:, 0].double()
    assert moved[:, edge].sum() / moved.sum() < 0.001
    ink = copies.double().sum((1, 2, 3)) / originals.double().sum((1, 2, 3))
    assert ink.min() > 0.8
    assert ink.max() < 1.25


def test_digits_carry_the_right_labels(digits):
    """A test picture's nearest training picture, and a moved copy's nearest original, mostly show
    the same digit."""
    distances = torch.cdist(
        digits.test_images.flatten(1).float(), digits.train_images.flatten(1).float()
    )
    nearest = digits.train_labels[distances.argmin(dim=1)]
    assert (nearest == digits.test_labels).double().mean() > 0.97
    copies = torch.cdist(
        digits.train_images[1437:].flatten(1).float(), digits.train_images[:1437].flatten(1).float()
    )
    assert (
        digits.train_labels[copies.argmin(dim=1)] == digits.train_labels[1437:]
    ).double().mean() > 0.85


def fingerprint():
    digits = data.load("digits")
    order = data.epoch_order(1000, 3, 2)
    tensors = (
        digits.train_images,
        digits.train_labels,
        digits.test_images,
        digits.test_labels,
        order,
    )
    return hashlib.sha256(b"".join(tensor.numpy().tobytes() for tensor in tensors)).hexdigest()


@pytest.mark.slow
def test_digits_and_orders_are_the_same_in_another_process_with_other_seeds_and_threads():
    code = (
        "import torch, numpy, test_batches; torch.manual_seed(99); numpy.random.seed(99);"
        " torch.set_num_threads(1);print(test_batches.fingerprint())"
    )
    path = os.pathsep.join([str(Path(__file__).parent), *sys.path])
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": path, "PYTHONHASHSEED": "7"},
    )
    assert run.stdout.strip() == fingerprint()


def test_a_set_is_loaded_once_a_process(digits):
    assert data.load("digits") is digits


def test_a_set_of_another_size_than_the_config_counts_with_is_refused(monkeypatch):
    monkeypatch.setattr(data, "_load_files", lambda name: random_set())
    with pytest.raises(
        ValueError, match="fashion_mnist has 103 training examples instead of 60000"
    ):
        data.load.__wrapped__("fashion_mnist")


def test_a_missing_set_is_an_error_and_no_download_on_a_rank(monkeypatch, tmp_path):
    monkeypatch.setenv("NNPAR_DATA", str(tmp_path))
    monkeypatch.setattr(files, "_download", lambda dataset: pytest.fail("a rank downloads"))
    with pytest.raises(files.DataError, match="mnist is missing"):
        data.load.__wrapped__("mnist")


def test_mnist_is_read_as_it_was_published():
    try:
        files.check("mnist")
    except files.DataError as error:
        pytest.skip(f"needs the files of MNIST: {error}")
    mnist = data.load("mnist")
    assert mnist.train_images.shape == (60_000, 1, 28, 28)
    assert mnist.test_images.shape == (10_000, 1, 28, 28)
    assert (mnist.mean, mnist.std) == (
        pytest.approx(0.1307, abs=5e-5),
        pytest.approx(0.3081, abs=5e-5),
    )
    assert mnist.train_labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert mnist.test_labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert np.bincount(mnist.train_labels).tolist()[:2] == [5923, 6742]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("loading", ["memory", "loader"])
def test_batches_lie_on_the_gpu_and_are_those_of_the_cpu(small, loading):
    config = CONFIG.replace(data_loading=loading)
    on_gpu = data.batch_source(small, config.replace(device="cuda"), 3, 1).batch(STEPS_PER_EPOCH)
    on_cpu = data.batch_source(small, config, 3, 1).batch(STEPS_PER_EPOCH)
    assert on_gpu.images.is_cuda
    assert on_gpu.labels.is_cuda
    torch.testing.assert_close(on_gpu.images.cpu(), on_cpu.images, rtol=0, atol=1e-6)
    assert torch.equal(on_gpu.labels.cpu(), on_cpu.labels)


def test_a_set_on_its_device_is_not_copied(small):
    assert small.to("cpu") is small
    moved = small.to("meta")
    tensors = [getattr(moved, field.name) for field in dataclasses.fields(moved)][:4]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
    assert (moved.mean, moved.std) == (small.mean, small.std)
