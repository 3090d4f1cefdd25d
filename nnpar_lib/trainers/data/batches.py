"""Data sets in memory, deterministic global batches, and each rank's part of a batch."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Protocol, Self

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, default_collate

from nnpar_lib.config import RunConfig
from nnpar_lib.config.network import IMAGE_SIZE
from nnpar_lib.config.training import NUM_TRAINING_EXAMPLES
from nnpar_lib.datasets import files, torchvision_operators
from nnpar_lib.parts import part
from nnpar_lib.trainers.data import digits


@dataclass(frozen=True, eq=False)
class DataSet:
    """A training and a test set of grey images in 10 classes.

    Images are uint8 [N, 1, 28, 28], labels int64 [N]; `mean` and `std` are those of the training
    pixels, scaled to [0, 1].
    """

    train_images: Tensor
    train_labels: Tensor
    test_images: Tensor
    test_labels: Tensor
    mean: float
    std: float

    def to(self, device: str) -> DataSet:
        """Return the same set on a device; itself where it is there already."""
        if self.train_images.device == torch.device(device):
            return self
        return DataSet(
            self.train_images.to(device),
            self.train_labels.to(device),
            self.test_images.to(device),
            self.test_labels.to(device),
            mean=self.mean,
            std=self.std,
        )

    @classmethod
    def from_arrays(
        cls, train_images: Tensor, train_labels: Tensor, test_images: Tensor, test_labels: Tensor
    ) -> Self:
        """Build a set from images [N, 28, 28] and labels; mean and std come from a histogram of the
        pixels."""
        counts = torch.bincount(train_images.flatten(), minlength=256).double()
        values = torch.arange(256, dtype=torch.float64) / 255
        mean = (counts * values).sum() / counts.sum()
        std = ((counts * (values - mean) ** 2).sum() / counts.sum()).sqrt()
        return cls(
            train_images.unsqueeze(1),
            train_labels,
            test_images.unsqueeze(1),
            test_labels,
            mean=mean.item(),
            std=std.item(),
        )


@dataclass(frozen=True, slots=True)
class Batch:
    """A rank's part of a global batch: normalised images [n, 1, 28, 28], labels int64 [n]; n may be
    0.

    `num_global_examples` is the size of the global batch, by which summed gradients are divided.
    Where several ranks work on the same examples, `is_counted` is true on one of them.
    """

    images: Tensor
    labels: Tensor
    num_global_examples: int
    is_counted: bool = True


@functools.cache
def load(name: str) -> DataSet:
    """Return a data set; each process reads it once.

    Raises a `files.DataError` where its files are missing or damaged.
    """
    dataset = DataSet.from_arrays(*digits.load()) if name == "digits" else _load_files(name)
    expected = NUM_TRAINING_EXAMPLES[name]
    if len(dataset.train_images) != expected:
        raise ValueError(
            f"{name} has {len(dataset.train_images)} training examples instead of {expected}"
        )
    return dataset


def normalise(images: Tensor, dataset: DataSet, dtype: torch.dtype) -> Tensor:
    """Return uint8 images of any shape as (pixel / 255 - mean) / std in a floating-point type.

    A multiplication and an addition, each rounded separately: the result for an image does not
    depend on its place in a batch.
    """
    return images.to(dtype).mul_(1 / (255 * dataset.std)).add_(-dataset.mean / dataset.std)


def epoch_order(num_examples: int, seed: int, epoch: int) -> Tensor:
    """Return the order of the examples in an epoch, int64: a function of seed and epoch alone."""
    return torch.from_numpy(np.random.default_rng([seed, epoch]).permutation(num_examples))


def global_batch_indices(num_examples: int, global_batch_size: int, seed: int, step: int) -> Tensor:
    """Return the indices of the examples in the global batch of a step, int64 [n].

    Steps count from 0 over the whole run. The last batch of an epoch may be short.
    """
    epoch, start = _locate(num_examples, global_batch_size, step)
    return epoch_order(num_examples, seed, epoch)[start : start + global_batch_size]


def _locate(num_examples: int, global_batch_size: int, step: int) -> tuple[int, int]:
    """Return the epoch of a step and the position in its order at which the batch begins."""
    epoch, step_in_epoch = divmod(step, -(-num_examples // global_batch_size))
    return epoch, step_in_epoch * global_batch_size


class GlobalOrder:
    """The same as `global_batch_indices`, but the order of the current epoch is kept."""

    def __init__(self, num_examples: int, global_batch_size: int, seed: int, device: str) -> None:
        self.num_examples = num_examples
        self.global_batch_size = global_batch_size
        self.seed = seed
        self.device = device
        self._epoch = -1
        self._order = torch.empty(0, dtype=torch.int64)

    def indices(self, step: int) -> Tensor:
        """Return the indices of the examples of a global batch, int64 [n] on the device."""
        epoch, start = _locate(self.num_examples, self.global_batch_size, step)
        if epoch != self._epoch:
            self._epoch = epoch
            self._order = epoch_order(self.num_examples, self.seed, epoch).to(self.device)
        return self._order[start : start + self.global_batch_size]


class Batches(Protocol):
    """What a training loop needs of a source of batches."""

    def batch(self, step: int) -> Batch:
        """Return this rank's part of the global batch of a step, counted from 0 over the run."""


class BatchSource:
    """Batches from a data set in memory as uint8, on the device that trains."""

    def __init__(
        self,
        dataset: DataSet,
        config: RunConfig,
        size: int,
        rank: int,
        *,
        seed: int | None = None,
        with_images: bool = True,
        is_counted: bool = True,
    ) -> None:
        self.with_images = with_images
        self.is_counted = is_counted
        self.size = size
        self.rank = rank
        self.dtype = getattr(torch, config.dtype)
        self.dataset = dataset.to(config.device)
        seed = config.seed if seed is None else seed
        self.order = GlobalOrder(
            len(dataset.train_images), config.global_batch_size, seed, config.device
        )

    def batch(self, step: int) -> Batch:
        """Return this rank's part of the global batch of a step, counted from 0 over the run."""
        indices = self.order.indices(step)
        local = indices[part(len(indices), self.size, self.rank)]
        of_images = local if self.with_images else local[:0]
        pixels = self.dataset.train_images.index_select(0, of_images)
        images = normalise(pixels, self.dataset, self.dtype)
        labels = self.dataset.train_labels.index_select(0, local)
        return Batch(images, labels, len(indices), self.is_counted)


class LoaderBatchSource:
    """The same batches through torch's DataLoader, image by image, as most programs load them."""

    def __init__(
        self, dataset: DataSet, config: RunConfig, size: int, rank: int, *, seed: int | None = None
    ) -> None:
        self.size = size
        self.rank = rank
        self.device = config.device
        self.dtype = getattr(torch, config.dtype)
        seed = config.seed if seed is None else seed
        self.order = GlobalOrder(len(dataset.train_images), config.global_batch_size, seed, "cpu")
        self.pictures = Pictures(dataset)
        self._next_step = 0
        self._iterator = self._start(0)

    def batch(self, step: int) -> Batch:
        """Return this rank's part of the global batch of a step, counted from 0 over the run."""
        if step != self._next_step:
            self._iterator = self._start(step)
        images, labels = next(self._iterator)
        self._next_step = step + 1
        return Batch(
            images.to(self.device, self.dtype),
            labels.to(self.device),
            len(self.order.indices(step)),
        )

    def _start(self, step: int) -> Iterator[list[Tensor]]:
        """Return a DataLoader's iterator over the steps from `step` on; torch's global generator is
        not used."""
        sampler = StepSampler(self.order, self.size, self.rank, step)
        return iter(
            DataLoader(
                self.pictures,
                batch_sampler=sampler,
                num_workers=0,
                collate_fn=_collate,
                generator=torch.Generator(),
            )
        )


class Pictures(Dataset[tuple[Tensor, int]]):
    """The training set as PIL images, which torchvision's ToTensor and Normalize convert singly."""

    def __init__(self, dataset: DataSet) -> None:
        torchvision_operators.declare_missing()
        from torchvision import transforms

        self.images = dataset.train_images.squeeze(1).cpu().numpy()
        self.labels = dataset.train_labels.cpu()
        normalise_image = transforms.Normalize((dataset.mean,), (dataset.std,))
        self.transform = transforms.Compose([transforms.ToTensor(), normalise_image])

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        from PIL import Image

        return self.transform(Image.fromarray(self.images[index])), int(self.labels[index])


class StepSampler:
    """This rank's indices for one step after another, without end."""

    def __init__(self, order: GlobalOrder, size: int, rank: int, first_step: int) -> None:
        self.order = order
        self.size = size
        self.rank = rank
        self.step = first_step

    def __iter__(self) -> Iterator[list[int]]:
        while True:
            indices = self.order.indices(self.step)
            yield indices[part(len(indices), self.size, self.rank)].tolist()
            self.step += 1


def _collate(examples: list[tuple[Tensor, int]]) -> Any:
    """Stack examples as DataLoader does; return an empty batch, which it cannot make, for none."""
    if examples:
        return default_collate(examples)
    return torch.empty(0, 1, IMAGE_SIZE, IMAGE_SIZE), torch.empty(0, dtype=torch.int64)


def batch_source(
    dataset: DataSet, config: RunConfig, size: int, rank: int, *, seed: int | None = None
) -> Batches:
    """Return the source of batches that `config.data_loading` names.

    `seed`, where given, replaces the config's for the order of the examples.
    """
    source = LoaderBatchSource if config.data_loading == "loader" else BatchSource
    return source(dataset, config, size, rank, seed=seed)


def _load_files(name: str) -> DataSet:
    """Read mnist or fashion_mnist; the kernel side downloads them before, for ranks never do."""
    files.check(name)
    torchvision_operators.declare_missing()
    from torchvision import datasets

    reader = {"mnist": datasets.MNIST, "fashion_mnist": datasets.FashionMNIST}[name]
    train = reader(str(files.data_folder()), train=True)
    test = reader(str(files.data_folder()), train=False)
    return DataSet.from_arrays(train.data, train.targets, test.data, test.targets)
