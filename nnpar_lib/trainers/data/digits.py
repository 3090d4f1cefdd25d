"""The digits of scikit-learn, enlarged to the size of MNIST's; moved copies augment them."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from nnpar_lib.config.network import IMAGE_SIZE
from nnpar_lib.config.training import NUM_TRAINING_EXAMPLES
from nnpar_lib.datasets import files

# seed of the split and of the moves: the data set is the same in every run
SEED = 0
PICTURES_PER_TEST_PICTURE = 5
FILE = "datasets/data/digits.csv.gz"  # within scikit-learn
MAX_VALUE = 16.0
# the 8x8 pictures are enlarged to this size; a margin, as in MNIST, leaves room for moves
SIZE = 20
MAX_ROTATION_DEGREES = 10.0
MAX_SHIFT_PIXELS = 2.0
MAX_SCALE_CHANGE = 0.1


def load() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Return training images uint8 [12000, 28, 28] and labels int64, test images and labels.

    The pictures are split, then enlarged; moved copies are made of training pictures only.
    """
    pictures, labels = read()
    train, test = split(labels)
    images = _enlarge(pictures)
    num_copies = NUM_TRAINING_EXAMPLES["digits"] - len(train)
    sources = train[torch.arange(num_copies) % len(train)]
    train_images = torch.cat([images[train], _move(images[sources])])
    return (
        _to_bytes(train_images),
        labels[torch.cat([train, sources])],
        _to_bytes(images[test]),
        labels[test],
    )


def read() -> tuple[Tensor, Tensor]:
    """Return scikit-learn's pictures, float32 [1797, 8, 8] from 0 to 16, and labels, int64 [1797].

    Its file is read without importing it, which would cost every rank a second.
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or not spec.submodule_search_locations:
        raise files.DataError(
            "the data set digits comes with scikit-learn, which is missing; "
            "pip install scikit-learn"
        )
    table = torch.from_numpy(
        np.loadtxt(Path(spec.submodule_search_locations[0], FILE), delimiter=",")
    )
    return table[:, :-1].float().reshape(-1, 8, 8), table[:, -1].long()


def split(labels: Tensor) -> tuple[Tensor, Tensor]:
    """Return the indices of the training and the test pictures, int64: a fifth of each class is for
    tests."""
    random = np.random.default_rng(SEED)
    shuffled = random.permutation(len(labels))
    by_class = shuffled[np.argsort(labels.numpy()[shuffled], kind="stable")]
    is_test = np.arange(len(labels)) % PICTURES_PER_TEST_PICTURE == 0
    train = torch.from_numpy(random.permutation(by_class[~is_test]))
    test = torch.from_numpy(random.permutation(by_class[is_test]))
    return train, test


def _enlarge(pictures: Tensor) -> Tensor:
    """Turn pictures [N, 8, 8] with values 0..16 into [N, 28, 28] with values 0..1 and a margin."""
    margin = (IMAGE_SIZE - SIZE) // 2
    large = functional.interpolate((pictures / MAX_VALUE).unsqueeze(1), size=SIZE, mode="bilinear")
    return functional.pad(large, (margin,) * 4).squeeze(1)


def _move(images: Tensor) -> Tensor:
    """Rotate, scale and shift each image [N, 28, 28] a little, by a fixed random sequence."""
    random = np.random.default_rng(SEED)
    angle, scale, x, y = torch.from_numpy(random.uniform(-1, 1, (4, len(images)))).float()
    angle = angle * np.deg2rad(MAX_ROTATION_DEGREES)
    scale = 1 + scale * MAX_SCALE_CHANGE
    # the sampling grid spans -1..1
    shift = torch.stack([x, y], 1) * MAX_SHIFT_PIXELS * 2 / IMAGE_SIZE
    cos = torch.cos(angle) / scale
    sin = torch.sin(angle) / scale
    matrices = torch.stack(
        [torch.stack([cos, -sin, shift[:, 0]], 1), torch.stack([sin, cos, shift[:, 1]], 1)], 1
    )
    return torch.cat(
        [_sample(*chunk) for chunk in zip(images.split(1024), matrices.split(1024), strict=True)]
    )


def _sample(images: Tensor, matrices: Tensor) -> Tensor:
    """Move each image [n, 28, 28] by its matrix [n, 2, 3]; chunks of images fit the cache."""
    grid = functional.affine_grid(
        matrices, [len(images), 1, IMAGE_SIZE, IMAGE_SIZE], align_corners=False
    )
    return functional.grid_sample(images.unsqueeze(1), grid, align_corners=False).squeeze(1)


def _to_bytes(images: Tensor) -> Tensor:
    return (images * 255).round().to(torch.uint8)
