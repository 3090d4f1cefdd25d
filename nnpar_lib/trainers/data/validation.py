"""The training set cut in two: examples to train on, and examples that decide on a goal."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from nnpar_lib.config import RunConfig
from nnpar_lib.config.study import NUM_VALIDATION_EXAMPLES
from nnpar_lib.trainers.data import digits
from nnpar_lib.trainers.data.batches import DataSet, load, normalise

SPLIT_SEED = 0  # the split is the same in every run
CHUNK = 250  # examples that are classified before mistakes are counted
MEMORY = 0.8  # share of an example's score that remains after the next classification


@functools.cache
def load_split(name: str) -> DataSet:
    """Return a data set without its test set: validation examples, held out, take its place.

    A study must not choose metaparameters by the test set, by which they are judged.
    """
    data = load(name)
    held_out = torch.zeros(len(data.train_labels), dtype=torch.bool)
    held_out[validation_indices(name)] = True
    return DataSet(
        data.train_images[~held_out],
        data.train_labels[~held_out],
        data.train_images[held_out],
        data.train_labels[held_out],
        mean=data.mean,
        std=data.std,
    )


def validation_indices(name: str) -> Tensor:
    """Return the indices of the training examples that are held out, int64.

    Of digits, all copies of some pictures are held out: no moved copy of a training picture is
    among them.
    """
    num_examples = len(load(name).train_labels)
    if name == "digits":
        return _digits_held_out(num_examples, NUM_VALIDATION_EXAMPLES[name])
    order = np.random.default_rng(SPLIT_SEED).permutation(num_examples)
    return torch.from_numpy(order[: NUM_VALIDATION_EXAMPLES[name]])


def _digits_held_out(num_examples: int, num_wanted: int) -> Tensor:
    """Return every copy of the last pictures, each of which has the smaller number of copies."""
    num_pictures = len(digits.split(digits.read()[1])[0])
    num_held_out = num_wanted // (num_examples // num_pictures)
    indices = torch.arange(num_examples)  # copies follow in the order of pictures, in rounds
    return indices[indices % num_pictures >= num_pictures - num_held_out]


class Validator:
    """Counts mistakes on the validation examples, and stops when there are too many.

    Examples that were classified wrongly most often and most recently come first, so that a model
    far from its goal is rejected after a fraction of them. The order does not change the answer.
    """

    def __init__(self, data: DataSet, config: RunConfig) -> None:
        self._data = data
        self._dtype = getattr(torch, config.dtype)
        # bytes: as numbers, the sets of two engines would fill the cache that they share
        self._images = data.test_images.to(config.device)
        self._labels = data.test_labels.to(config.device)
        self._scores = torch.zeros(len(self._labels), device=config.device)
        self.num_examples = len(self._labels)

    @torch.no_grad()
    def mistakes(self, predict: Callable[[Tensor], Tensor], most: int) -> int | None:
        """Return the number of wrong predictions, None where there are more than `most`."""
        num_wrong = 0
        for chunk in self._scores.argsort(descending=True, stable=True).split(CHUNK):
            images = normalise(self._images[chunk], self._data, self._dtype)
            is_wrong = predict(images).argmax(dim=1) != self._labels[chunk]
            self._scores[chunk] = MEMORY * self._scores[chunk] + is_wrong
            num_wrong += int(is_wrong.sum())
            if num_wrong > most:
                return None
        return num_wrong
