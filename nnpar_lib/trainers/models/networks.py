"""The networks, each a Sequential of atomic blocks that can be cut into stages."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from nnpar_lib import parts
from nnpar_lib.config import RunConfig
from nnpar_lib.config.network import IMAGE_SIZE
from nnpar_lib.trainers.models import recomputation, resnet
from nnpar_lib.trainers.models.im2col import Convolution

NUM_CLASSES = 10
MEMORY_FORMATS = {"contiguous": torch.contiguous_format, "channels_last": torch.channels_last}


def build(config: RunConfig) -> nn.Sequential:
    """Return the network of a config, from images [N, 1, 28, 28] to logits [N, 10].

    The weights are a function of `config.seed` and the architecture alone: they are drawn in
    float32 on the CPU and then converted to the config's device and dtype, so every rank, dtype and
    device starts from the same numbers. torch's global generators do not change.
    """
    return network(config, *blocks(config))


class Network(nn.Sequential):
    """Blocks in sequence that compute in the precision of their config; outputs have the type of
    weights.

    With `recompute`, the backward pass computes activations again, part by part; see
    `config.num_recomputed_parts`.
    """

    precision = "float32"
    recompute = False
    num_recomputed_parts = 0

    def forward(self, inputs: Tensor) -> Tensor:
        """Return the output of the last block."""
        if self.precision == "float32":
            return self._compute(inputs)
        with torch.autocast(inputs.device.type, torch.bfloat16):
            return self._compute(inputs).float()

    def _compute(self, inputs: Tensor) -> Tensor:
        if not (self.recompute and torch.is_grad_enabled()):
            return super().forward(inputs)  # type: ignore[no-untyped-call, no-any-return]
        all_blocks = list(self)
        for segment in parts.segments(len(all_blocks), self.num_recomputed_parts):
            inputs = recomputation.recomputed(all_blocks[segment], inputs)
        return inputs


class Flatten(nn.Flatten):
    """torch's layer, but its gradient keeps the memory format of the input.

    Otherwise the backward pass of the pooling before it would copy the gradient twice.
    """

    def forward(self, inputs: Tensor) -> Tensor:
        """Return [n, features]."""
        if inputs.requires_grad and _is_channels_last(inputs):
            inputs = inputs.view_as(inputs)
            inputs.register_hook(
                partial(torch.Tensor.contiguous, memory_format=torch.channels_last)
            )
        return super().forward(inputs)


def _is_channels_last(images: Tensor) -> bool:
    return images.dim() == 4 and images.is_contiguous(memory_format=torch.channels_last)


def network(config: RunConfig, *some_blocks: nn.Module) -> Network:
    """Return a network of these blocks of a model."""
    model = Network(*some_blocks)
    model.precision = config.precision
    model.recompute = config.recompute and config.reads("recompute")
    model.num_recomputed_parts = config.num_recomputed_parts
    return model


def blocks(config: RunConfig) -> Iterator[nn.Sequential]:
    """Yield the blocks of the network one at a time: a rank drops those that it does not hold."""
    dtype = getattr(torch, config.dtype)
    generator = torch.Generator().manual_seed(config.seed).get_state()
    remaining = _draw_blocks(config)
    while True:
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.set_state(generator)
            block = next(remaining, None)
            generator = torch.default_generator.get_state()
        if block is None:
            return
        block = block.to(device=config.device, dtype=dtype)
        yield block.to(memory_format=MEMORY_FORMATS[config.memory_format])  # type: ignore[call-overload]


def boundary_shapes(config: RunConfig) -> list[tuple[int, ...]]:
    """Return the shape of an example before each block and after the last; nothing is allocated."""
    shapes = []
    with torch.device("meta"):
        example = torch.empty(1, 1, IMAGE_SIZE, IMAGE_SIZE, dtype=torch.float32)
        for block in _draw_blocks(config):
            shapes.append(tuple(example.shape[1:]))
            example = block.eval()(example)
    return [*shapes, tuple(example.shape[1:])]


@contextmanager
def evaluating(*models: nn.Module) -> Iterator[None]:
    """Meanwhile, normalise with running statistics instead of a batch's, and do not update them."""
    for model in models:
        model.eval()
    yield
    for model in models:
        model.train()


def num_parameters(model: nn.Module) -> int:
    """Return the number of trainable parameters."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def _draw_blocks(config: RunConfig) -> Iterator[nn.Sequential]:
    builders = {"mlp": _mlp_blocks, "cnn": _cnn_blocks, "resnet18": _resnet18_blocks}
    return builders[config.model](config)


def _resnet18_blocks(config: RunConfig) -> Iterator[nn.Sequential]:
    return resnet.blocks(config, NUM_CLASSES)


def _mlp_blocks(config: RunConfig) -> Iterator[nn.Sequential]:
    return _linear_blocks(IMAGE_SIZE**2, config.hidden_widths)


def _cnn_blocks(config: RunConfig) -> Iterator[nn.Sequential]:
    """Yield convolutions without padding, pooling after the last of them, then linear layers.

    The pooling comes before the ReLU, which does not change the result and has fewer inputs then.
    """
    size = IMAGE_SIZE
    num_out = 1
    for index, (num_in, num_out) in enumerate(itertools.pairwise((1, *config.channels)), start=1):
        block = nn.Sequential(
            Convolution(num_in, num_out, config.kernel_size, way=config.convolution)
        )
        size -= config.kernel_size - 1
        if index == len(config.channels):
            block.append(nn.MaxPool2d(2))
            size //= 2
        yield block.append(nn.ReLU(inplace=True))
    yield from _linear_blocks(num_out * size**2, config.hidden_widths)


def _linear_blocks(num_features: int, hidden_widths: tuple[int, ...]) -> Iterator[nn.Sequential]:
    """Yield linear layers on flattened inputs; a ReLU follows each but the last."""
    widths = (num_features, *hidden_widths, NUM_CLASSES)
    for index, (num_in, num_out) in enumerate(itertools.pairwise(widths), start=1):
        layers: list[nn.Module] = [nn.Linear(num_in, num_out, dtype=torch.float32)]
        if index == 1:
            layers.insert(0, Flatten())
        if index < len(widths) - 1:
            layers.append(nn.ReLU(inplace=True))
        yield nn.Sequential(*layers)
