"""ResNet-18 as a Sequential of atomic blocks: torchvision's network for one input channel and 10
classes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnpar_lib.config import RunConfig
from nnpar_lib.trainers.models.batch_norm import BatchNorm
from nnpar_lib.trainers.models.im2col import Convolution

# of the residual blocks; where the stride is 2, the number of channels doubles
STRIDES = (1, 1, 2, 1, 2, 1, 2, 1)


class ResidualBlock(nn.Module):
    """relu(norm(conv(relu(norm(conv(x))))) + shortcut(x)), the basic block of He et al. 2016."""

    def __init__(self, num_in: int, num_out: int, stride: int, way: str) -> None:
        super().__init__()
        self.conv1 = _convolution(num_in, num_out, 3, stride, way)
        self.norm1 = BatchNorm(num_out)
        self.conv2 = _convolution(num_out, num_out, 3, 1, way)
        self.norm2 = BatchNorm(num_out)
        self.shortcut = nn.Sequential()
        if stride > 1:
            self.shortcut.extend(
                [_convolution(num_in, num_out, 1, stride, way), BatchNorm(num_out)]
            )

    def forward(self, images: Tensor) -> Tensor:
        """Return [n, num_out, height / stride, width / stride]."""
        hidden = functional.relu(self.norm1(self.conv1(images)), inplace=True)
        output: Tensor = self.norm2(self.conv2(hidden))
        output += self.shortcut(images)
        return functional.relu(output, inplace=True)


def blocks(config: RunConfig, num_classes: int) -> Iterator[nn.Sequential]:
    """Yield the stem, eight residual blocks and the classifier, with torchvision's initial
    weights."""
    yield _stem(config)
    num_channels = itertools.accumulate(
        STRIDES, lambda width, stride: width * stride, initial=config.width
    )
    for (num_in, num_out), stride in zip(itertools.pairwise(num_channels), STRIDES, strict=True):
        yield nn.Sequential(ResidualBlock(num_in, num_out, stride, config.convolution))
    yield nn.Sequential(
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(num_out, num_classes, dtype=torch.float32)
    )


def _stem(config: RunConfig) -> nn.Sequential:
    """Return the first block: the published one for 224x224 pixels, or one that keeps 28x28."""
    size, stride = (7, 2) if config.stem == "imagenet" else (3, 1)
    convolution = _convolution(1, config.width, size, stride, config.convolution)
    stem = nn.Sequential(convolution, BatchNorm(config.width), nn.ReLU(inplace=True))
    if config.stem == "imagenet":
        stem.append(nn.MaxPool2d(3, stride=2, padding=1))
    return stem


def _convolution(num_in: int, num_out: int, size: int, stride: int, way: str) -> Convolution:
    layer = Convolution(
        num_in, num_out, size, way=way, stride=stride, padding=size // 2, bias=False
    )
    nn.init.kaiming_normal_(layer.weight, mode="fan_out", nonlinearity="relu")
    return layer
