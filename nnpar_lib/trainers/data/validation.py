"""The training set cut in two: what is trained on, and what decides whether a goal is reached."""

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
CHUNK = 250  # examples that are classified before the mistakes are counted
MEMORY = 0.8  # of an example's score, which the next classification leaves


@functools.cache
def load_split(name: str) -> DataSet:
    """Return a data set whose training part lacks the validation examples, which stand in the place
    of the test set.

    The test set itself has no part in a study: what chooses metaparameters must not be what they
    are judged by.
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
    """Return which training examples are held out, int64.

    Those of digits are all copies of some pictures: a moved copy of a picture that is trained on
    would be no test.
    """
    num_examples = len(load(name).train_labels)
    if name == "digits":
        return _digits_held_out(num_examples, NUM_VALIDATION_EXAMPLES[name])
    order = np.random.default_rng(SPLIT_SEED).permutation(num_examples)
    return torch.from_numpy(order[: NUM_VALIDATION_EXAMPLES[name]])


def _digits_held_out(num_examples: int, num_wanted: int) -> Tensor:
    """Return every copy of the last pictures, whose number of copies is the smaller of the two that
    occur."""
    num_pictures = len(digits.split(digits.read()[1])[0])
    num_held_out = num_wanted // (num_examples // num_pictures)
    indices = torch.arange(
        num_examples
    )  # copies follow the pictures in their order, round after round
    return indices[indices % num_pictures >= num_pictures - num_held_out]


class Validator:
    """Counts mistakes on the validation examples, and stops as soon as there are more than matter.

    Examples that were mistaken most and last are looked at first: a model that is far from its goal
    is found out after a fraction of the examples. The answer is exact, whatever the order.
    """

    def __init__(self, data: DataSet, config: RunConfig) -> None:
        # bytes: as numbers, the sets of two engines would fill the cache that they share
        self._images, self._data, self._dtype = (
            data.test_images.to(config.device),
            data,
            getattr(torch, config.dtype),
        )
        self._labels = data.test_labels.to(config.device)
        self._scores = torch.zeros(len(self._labels), device=config.device)
        self.num_examples = len(self._labels)

    @torch.no_grad()
    def mistakes(self, predict: Callable[[Tensor], Tensor], most: int) -> int | None:
        """Return how many examples are predicted wrongly, None where they are more than `most`."""
        num_wrong = 0
        for chunk in self._scores.argsort(descending=True, stable=True).split(CHUNK):
            images = normalise(self._images[chunk], self._data, self._dtype)
            is_wrong = predict(images).argmax(dim=1) != self._labels[chunk]
            self._scores[chunk] = MEMORY * self._scores[chunk] + is_wrong
            num_wrong += int(is_wrong.sum())
            if num_wrong > most:
                return None
        return num_wrong
