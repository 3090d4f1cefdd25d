"""Layers cut inside: pairs of which the first is split by its outputs and the second by its inputs.

Between the two of a pair every rank works on its own features, without a message; the partial
results of the second are summed, one all-reduce a pair and direction (Shoeybi et al. 2019,
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
        self.communicator, self._timeline = communicator, timeline

    def sum(self, tensor: Tensor, activity: str) -> Tensor:
        """Return the sum over ranks; the time before it belongs to `activity` (collective)."""
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        self._timeline.lap(activity)
        self.communicator.allreduce_sum_(total)
        self._timeline.lap(COMMUNICATE)
        return total


class _SumForward(torch.autograd.Function):
    """Sum over ranks on the way forward; every rank then goes on with the same, so the gradient
    passes unchanged."""

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
    """Nothing on the way forward; on the way back the gradients that the ranks' shares give to
    their input add up."""

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
        self, layer: nn.Linear | nn.Conv2d, split: str, own: slice, exchange: Exchange
    ) -> None:
        super().__init__()
        weight, bias = layer.weight.detach(), layer.bias
        self.split, self._exchange = split, exchange
        self._apply_layer = layer.function if isinstance(layer, Convolution) else functional.linear
        self.weight = nn.Parameter((weight[own] if split == BY_OUTPUT else weight[:, own]).clone())
        self.bias = (
            None
            if bias is None
            else nn.Parameter((bias[own] if split == BY_OUTPUT else bias).detach().clone())
        )

    def forward(self, inputs: Tensor) -> Tensor:
        """Return this rank's outputs, or the whole outputs where the layer is split by its
        inputs."""
        if self.split == BY_OUTPUT:
            if inputs.requires_grad:
                inputs = _SumBackward.apply(inputs, self._exchange)  # type: ignore[no-untyped-call]
            return self._apply_layer(inputs, self.weight, self.bias)
        share = self._apply_layer(inputs, self.weight)
        total: Tensor = _SumForward.apply(share, self._exchange)  # type: ignore[no-untyped-call]
        return total if self.bias is None else total + self.bias.view(-1, *[1] * (total.dim() - 2))


class ShardedNorm(BatchNorm):
    """The normalisation of a rank's share of the channels: every rank sees all examples, so
    statistics are whole."""

    split = BY_OUTPUT

    def __init__(self, whole: BatchNorm, own: slice) -> None:
        super().__init__(len(whole.weight[own]))
        self.to(whole.weight)


def build(config: RunConfig, exchange: Exchange) -> nn.Sequential:
    """Return this rank's share of the model; a block at a time exists whole."""
    model = networks.network(config)
    for block, split in zip(networks.blocks(config), splits(config), strict=True):
        for name, layer in list(block.named_children()):
            if isinstance(layer, ResidualBlock):
                _shard_residual(layer, exchange)
            elif split != WHOLE and isinstance(layer, nn.Linear | nn.Conv2d):
                num_features = layer.weight.shape[SPLIT_DIMENSION[split]]
                own = part(num_features, exchange.communicator.size, exchange.communicator.rank)
                setattr(block, name, Shard(layer, split, own, exchange))
        model.append(block)
    return model


def _shard_residual(block: ResidualBlock, exchange: Exchange) -> None:
    """Split the two convolutions of a residual block as a pair, with the normalisation of the
    channels between them."""
    own = part(block.conv1.out_channels, exchange.communicator.size, exchange.communicator.rank)
    block.conv1 = Shard(block.conv1, BY_OUTPUT, own, exchange)  # type: ignore[assignment]
    block.norm1 = ShardedNorm(block.norm1, own)
    block.conv2 = Shard(block.conv2, BY_INPUT, own, exchange)  # type: ignore[assignment]


def splits(config: RunConfig) -> list[str]:
    """Return how the layer of each block is cut: neighbours of a kind in pairs, a last one of an
    odd number not."""
    if config.model == "resnet18":
        return [WHOLE] * config.num_blocks  # the pairs lie inside the residual blocks
    num_convolutions = len(config.channels) if config.model == "cnn" else 0
    return _pairs(num_convolutions) + _pairs(config.num_blocks - num_convolutions)


def whole_values(
    model: nn.Module, values: Sequence[Tensor], communicator: Communicator
) -> Iterator[Tensor]:
    """Yield values for the whole model's parameters, put together from those for the ranks' shares
    (collective)."""
    for dimension, value in zip(_split_dimensions(model), values, strict=True):
        yield value if dimension is None else _joined(value, dimension, communicator)


def local_values(
    model: nn.Module, whole: Sequence[Tensor], communicator: Communicator
) -> list[Tensor]:
    """Return a rank's shares of values for the parameters of the whole model."""
    shares = []
    for dimension, value in zip(_split_dimensions(model), whole, strict=True):
        own = part(
            0 if dimension is None else value.shape[dimension], communicator.size, communicator.rank
        )
        shares.append(
            value if dimension is None else value.narrow(dimension, own.start, own.stop - own.start)
        )
    return shares


def _split_dimensions(model: nn.Module) -> Iterator[int | None]:
    """Yield for each parameter the dimension along which ranks share it, None where each has all of
    it."""
    for module in model.modules():
        for name, _ in module.named_parameters(recurse=False):
            split = getattr(module, "split", WHOLE)
            yield None if _is_whole(split, name) else SPLIT_DIMENSION[str(split)]


@torch.no_grad()
def align_whole_parameters(model: nn.Module, communicator: Communicator) -> None:
    """Give all ranks the first one's copy of what is not split, running statistics too
    (collective).

    Every rank computes it from the same numbers, but a kernel may round in another order where
    memory lies otherwise.
    """
    for module in model.modules():
        for name, tensor in chain(
            module.named_parameters(recurse=False), module.named_buffers(recurse=False)
        ):
            if _is_whole(getattr(module, "split", WHOLE), name):
                communicator.broadcast_(tensor, 0)


def _joined(share: Tensor, dimension: int, communicator: Communicator) -> Tensor:
    """Return what the shares of all ranks make together along a dimension; one share at a time
    travels (collective)."""
    sizes = communicator.allgather_objects(share.shape[dimension])
    shape = list(share.shape)
    shape[dimension] = sum(sizes)
    share, whole = share.contiguous(), share.new_empty(shape)
    for source, place in enumerate(whole.split(sizes, dim=dimension)):
        piece = (
            share
            if source == communicator.rank
            else torch.empty_like(place, memory_format=torch.contiguous_format)
        )
        communicator.broadcast_(piece, source)
        place.copy_(piece)
    return whole


def _is_whole(split: str, name: str) -> bool:
    return split == WHOLE or (split == BY_INPUT and name == "bias")


def _pairs(num_layers: int) -> list[str]:
    return [BY_OUTPUT, BY_INPUT] * (num_layers // 2) + [WHOLE] * (num_layers % 2)
