"""Tensor parallelism in pairs of layers: the first is split by its outputs, the second by its
inputs.

Between the two layers of a pair every rank works on its features without messages; the partial
results of the second are summed, with one all-reduce per pair and direction (Shoeybi et al. 2019,
Megatron-LM). A layer without a partner stays whole.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import torch
from torch import Tensor, nn
from torch.nn import functional

from nnpar_lib.config import RunConfig
from nnpar_lib.parts import part
from nnpar_lib.records.kinds import BY_INPUT, BY_OUTPUT, WHOLE
from nnpar_lib.trainers.communication.communicator import Communicator
from nnpar_lib.trainers.models import networks
from nnpar_lib.trainers.models.batch_norm import BatchNorm
from nnpar_lib.trainers.models.im2col import Convolution
from nnpar_lib.trainers.models.resnet import ResidualBlock
from nnpar_lib.trainers.timeline import BACKWARD, COMMUNICATE, FORWARD, Timeline

SPLIT_DIMENSION = {BY_OUTPUT: 0, BY_INPUT: 1}


class Exchange:
    """Sums tensors over the ranks that share the layers, and books the time."""

    def __init__(self, communicator: Communicator, timeline: Timeline) -> None:
        self.communicator = communicator
        self._timeline = timeline

    def sum(self, tensor: Tensor, activity: str) -> Tensor:
        """Return the sum over ranks; the time before it belongs to `activity` (collective)."""
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        self._timeline.lap(activity)
        self.communicator.allreduce_sum_(total)
        self._timeline.lap(COMMUNICATE)
        return total

    def free(self) -> None:
        """Do nothing: messages leave nothing behind."""


class _SumForward(torch.autograd.Function):
    """Sum over ranks in the forward pass; the gradient passes unchanged.

    All ranks continue from the same sum, so each already has the whole gradient.
    """

    @staticmethod
    def forward(
        context: torch.autograd.function.FunctionCtx, partial: Tensor, exchange: Exchange
    ) -> Tensor:
        return exchange.sum(partial, FORWARD)

    @staticmethod
    def backward(
        context: torch.autograd.function.FunctionCtx, gradient: Tensor
    ) -> tuple[Tensor, None]:
        return gradient, None


class _SumBackward(torch.autograd.Function):
    """Identity in the forward pass; sum the input gradients of the ranks' shares in the backward
    pass."""

    @staticmethod
    def forward(
        context: torch.autograd.function.FunctionCtx, inputs: Tensor, exchange: Exchange
    ) -> Tensor:
        context.exchange = exchange  # type: ignore[attr-defined]
        return inputs.view_as(inputs)

    @staticmethod
    def backward(
        context: torch.autograd.function.FunctionCtx, gradient: Tensor
    ) -> tuple[Tensor, None]:
        return context.exchange.sum(gradient, BACKWARD), None  # type: ignore[attr-defined]


class Shard(nn.Module):
    """A rank's share of a Linear or Convolution layer."""

    def __init__(
        self, layer: nn.Linear | nn.Conv2d, split: str, features: slice, exchange: Exchange
    ) -> None:
        super().__init__()
        weight = layer.weight.detach()
        bias = layer.bias
        self.split = split
        self._exchange = exchange
        self._apply_layer = layer.function if isinstance(layer, Convolution) else functional.linear
        share = weight[features] if split == BY_OUTPUT else weight[:, features]
        self.weight = nn.Parameter(share.clone())
        self.bias: nn.Parameter | None = None
        if bias is not None:
            bias_share = bias[features] if split == BY_OUTPUT else bias
            self.bias = nn.Parameter(bias_share.detach().clone())

    def forward(self, inputs: Tensor) -> Tensor:
        """Return this rank's outputs, or all outputs where the layer is split by its inputs."""
        if self.split == BY_OUTPUT:
            if inputs.requires_grad:
                inputs = _SumBackward.apply(inputs, self._exchange)  # type: ignore[no-untyped-call]
            return self._apply_layer(inputs, self.weight, self.bias)
        share = self._apply_layer(inputs, self.weight)
        total: Tensor = _SumForward.apply(share, self._exchange)  # type: ignore[no-untyped-call]
        return total if self.bias is None else total + self.bias.view(-1, *[1] * (total.dim() - 2))


class ShardedNorm(BatchNorm):
    """The normalisation of a rank's channels, with statistics of all examples on every rank."""

    split = BY_OUTPUT

    def __init__(self, whole: BatchNorm, channels: slice) -> None:
        super().__init__(len(whole.weight[channels]))
        self.to(whole.weight)


def build(config: RunConfig, exchange: Exchange) -> nn.Sequential:
    """Return this rank's share of the model; only one block at a time exists whole."""
    model = networks.network(config)
    for block, split in zip(networks.blocks(config), splits(config), strict=True):
        for name, layer in list(block.named_children()):
            if isinstance(layer, ResidualBlock):
                _shard_residual(layer, exchange)
            elif split != WHOLE and isinstance(layer, nn.Linear | nn.Conv2d):
                features = _local_part(
                    layer.weight.shape[SPLIT_DIMENSION[split]], exchange.communicator
                )
                setattr(block, name, Shard(layer, split, features, exchange))
        model.append(block)
    return model


def _shard_residual(block: ResidualBlock, exchange: Exchange) -> None:
    """Split the convolutions of a residual block as a pair, with the normalisation between them."""
    channels = _local_part(block.conv1.out_channels, exchange.communicator)
    block.conv1 = Shard(block.conv1, BY_OUTPUT, channels, exchange)  # type: ignore[assignment]
    block.norm1 = ShardedNorm(block.norm1, channels)
    block.conv2 = Shard(block.conv2, BY_INPUT, channels, exchange)  # type: ignore[assignment]


def _local_part(num_features: int, communicator: Communicator) -> slice:
    return part(num_features, communicator.size, communicator.rank)


def splits(config: RunConfig) -> list[str]:
    """Return how the layer of each block is split: neighbours of the same kind form pairs.

    The last layer of an odd number stays whole.
    """
    if config.model == "resnet18":
        return [WHOLE] * config.num_blocks  # the pairs are inside the residual blocks
    num_convolutions = len(config.channels) if config.model == "cnn" else 0
    return _pairs(num_convolutions) + _pairs(config.num_blocks - num_convolutions)


def whole_values(
    model: nn.Module, values: Sequence[Tensor], communicator: Communicator
) -> Iterator[Tensor]:
    """Yield values for the whole model's parameters, joined from the ranks' shares (collective)."""
    for dimension, value in zip(_split_dimensions(model), values, strict=True):
        yield value if dimension is None else _joined(value, dimension, communicator)


def local_values(
    model: nn.Module, whole: Sequence[Tensor], communicator: Communicator
) -> list[Tensor]:
    """Return a rank's shares of values for the parameters of the whole model."""
    shares = []
    for dimension, value in zip(_split_dimensions(model), whole, strict=True):
        if dimension is None:
            shares.append(value)
        else:
            local = _local_part(value.shape[dimension], communicator)
            shares.append(value.narrow(dimension, local.start, local.stop - local.start))
    return shares


def _split_dimensions(model: nn.Module) -> Iterator[int | None]:
    """Yield for each parameter the dimension that is split over ranks, None where it is whole."""
    for module in model.modules():
        for name, _ in module.named_parameters(recurse=False):
            split = getattr(module, "split", WHOLE)
            yield None if _is_whole(split, name) else SPLIT_DIMENSION[str(split)]


@torch.no_grad()
def align_whole_parameters(model: nn.Module, communicator: Communicator) -> None:
    """Copy the first rank's whole parameters and running statistics to all ranks (collective).

    Every rank computes them from the same numbers, but the rounding of a kernel may depend on the
    alignment of memory.
    """
    for module in model.modules():
        for name, tensor in chain(
            module.named_parameters(recurse=False), module.named_buffers(recurse=False)
        ):
            if _is_whole(getattr(module, "split", WHOLE), name):
                communicator.broadcast_(tensor, 0)


def _joined(share: Tensor, dimension: int, communicator: Communicator) -> Tensor:
    """Return the shares of all ranks joined along a dimension; they are sent one at a time
    (collective)."""
    sizes = communicator.allgather_objects(share.shape[dimension])
    shape = list(share.shape)
    shape[dimension] = sum(sizes)
    share = share.contiguous()
    whole = share.new_empty(shape)
    for source, target in enumerate(whole.split(sizes, dim=dimension)):
        piece = share
        if source != communicator.rank:
            piece = torch.empty_like(target, memory_format=torch.contiguous_format)
        communicator.broadcast_(piece, source)
        target.copy_(piece)
    return whole


def _is_whole(split: str, name: str) -> bool:
    return split == WHOLE or (split == BY_INPUT and name == "bias")


def _pairs(num_layers: int) -> list[str]:
    return [BY_OUTPUT, BY_INPUT] * (num_layers // 2) + [WHOLE] * (num_layers % 2)
